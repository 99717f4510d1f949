"""How a white-box attack looks at candidate models: predictions on its aims, and gradients back to the request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import vmap

from attacks.attack import Aim
from attacks.functionals import averaged
from attacks.objective import Objective, Outlook
from data.errors import UserError
from data.examples import Examples
from models.dropout import dropout_layers, sample_masks
from models.victim import Ensemble, Tensors, forward
from unlearning.procedure import Differentiable
from unlearning.service import OpenService


class Viewpoint:
    """The aims of one attack, seen through an opened service.

    `samples` > 1 draws that many dropout masks once, so that every candidate is seen through the same ones.
    """

    def __init__(
        self, service: OpenService, aims: Sequence[Aim], reference: Examples, rng: torch.Generator, samples: int
    ) -> None:
        if len({len(aim.labels) for aim in aims}) != 1:
            raise UserError("The aims of one attack need equally many targets each.")
        self.service, self.reference = service, reference
        self.x = torch.stack([aim.x for aim in aims])
        self.labels = torch.stack([aim.labels for aim in aims])
        self.dtype, device = self.x.dtype, self.x.device
        self.direction = torch.tensor([aim.direction for aim in aims], dtype=self.dtype, device=device)
        module = service.victims[0].module
        if samples > 1 and not dropout_layers(module):
            raise UserError("The MC-dropout functional needs a model with dropout; set model.dropout above 0.")
        masks = sample_masks(module, rng, (samples,), self.dtype) if samples > 1 else {}
        self.masks: Tensors = {name: mask.to(self.x) for name, mask in masks.items()}
        before = self._reference_log_p(self.start_one())
        mean = averaged(before)[0]  # in logarithms: the probability of a badly wrong label can underflow
        self.reference_labels = mean.argmax(-1)
        self.reference_loss = -mean.gather(-1, reference.y[:, None]).mean()

    def start_one(self) -> list[Ensemble]:
        """The victims themselves, as ensembles of one model."""
        return [victim.copies(1) for victim in self.service.victims]

    def start(self) -> list[Ensemble]:
        """The victims themselves, once for every aim."""
        rows = len(self.labels)
        return [victim.copies(rows) for victim in self.service.victims]

    def now(self) -> Outlook:
        """The outlook of every aim before anything is deleted."""
        return self.outlook(self.start(), torch.arange(len(self.labels), device=self.x.device))

    def after(self, deleted: Tensor, owner: Tensor) -> Outlook:
        """The outlook after each row of `deleted` (M, n), for the aims `owner` (M,)."""
        return self.outlook(self.service.unlearn(deleted), owner)

    def outlook(self, models: Sequence[Ensemble], owner: Tensor) -> Outlook:
        """Predictions of M candidate models for the aims `owner` (M,); differentiable in the parameters."""
        log_p = torch.cat([self._log_p(each, self.x[owner], 0) for each in models], dim=1)
        return Outlook(
            log_p, self.labels[owner], self.direction[owner], self._reference_log_p(models),
            self.reference_labels, self.reference.y, self.reference_loss,
        )  # fmt: skip

    def _reference_log_p(self, models: Sequence[Ensemble]) -> Tensor:
        return torch.cat([self._log_p(each, self.reference.x, None) for each in models], dim=1)

    def _log_p(self, models: Ensemble, x: Tensor, dim: int | None) -> Tensor:
        """Log-probabilities (M, S, T, K) of every model, on its own inputs (dim 0) or on shared ones (None)."""

        def one(parameters: Tensors, buffers: Tensors, masks: Tensors, inputs: Tensor) -> Tensor:
            return forward(models.module, parameters, {**buffers, **masks}, inputs).log_softmax(-1)

        if self.masks:
            sampled = vmap(one, in_dims=(None, None, 0, None))
            return vmap(sampled, in_dims=(0, 0, None, dim))(models.parameters, models.buffers, self.masks, x)
        return vmap(one, in_dims=(0, 0, None, dim))(models.parameters, models.buffers, {}, x)[:, None]

    def slopes(self, deleted: Tensor, objective: Objective, models: Sequence[Ensemble]) -> Tensor:
        """dL/dw (m, n) of every aim at its own deletion weights, of which `models` are the unlearned models."""
        leaves = [
            Ensemble(e.module, {n: v.detach().requires_grad_() for n, v in e.parameters.items()}, e.buffers)
            for e in models
        ]
        outlook = self.outlook(leaves, torch.arange(len(self.labels), device=self.x.device))
        wrt = [value for each in leaves for value in each.parameters.values()]
        pieces = iter(torch.autograd.grad(objective.loss(outlook).sum(), wrt))
        total = torch.zeros_like(deleted)
        procedure: Differentiable = self.service.procedure  # type: ignore[assignment]
        for victim, each in zip(self.service.victims, models, strict=True):
            cotangent = torch.cat([next(pieces).reshape(len(each), -1) for _ in each.parameters], dim=1)
            total += procedure.pull_back(self.service.task, victim, each, deleted, cotangent)
        return total
