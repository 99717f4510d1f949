"""White-box access to an objective: what candidate models predict for the goals, and gradients back to the request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from attacks.crafting.attack import AttackGoal
from attacks.crafting.functionals import averaged
from attacks.crafting.objective import CandidatePredictions, Objective
from data.errors import UserError
from data.examples import Examples
from models.dropout import dropout_layers, sample_masks
from models.passes import INFERENCE_ROWS, joined, models_at_once, passes, room, rows_at_once
from models.progress import progress
from models.victim import ModelStack, Tensors, forward
from unlearning.procedure import Differentiable, Request
from unlearning.service import OpenService

Unlearned = Callable[[Tensor], Sequence[ModelStack]]  # rows of deletion weights (m, n) -> m models of every victim
# m models of every victim, their own targets (m, T, *shape) and labels (m, T) -> what each is shown in place of them
Shown = Callable[[Sequence[ModelStack], Tensor, Tensor], Tensor]
EXAMPLES = 64  # at least so many with every model, in a pass of products with many models


class WhiteBoxObjective:
    """The goals of one attack, as an opened service shows them.

    `samples` > 1 draws that many dropout masks once, so that every candidate goes through the same ones. With `shown`
    every candidate sees other inputs than the targets, its own worst ones near them say; slopes hold them fixed.
    """

    def __init__(
        self, service: OpenService, goals: Sequence[AttackGoal], reference: Examples, rng: torch.Generator,
        samples: int, shown: Shown | None = None,
    ) -> None:  # fmt: skip
        if len({len(goal.labels) for goal in goals}) != 1:
            raise UserError("The goals of one attack need equally many targets each.")
        self.service, self.reference, self.shown = service, reference, shown
        self.x = torch.stack([goal.x for goal in goals])
        self.labels = torch.stack([goal.labels for goal in goals])
        self.dtype, device = self.x.dtype, self.x.device
        self.direction = torch.tensor([goal.direction for goal in goals], dtype=self.dtype, device=device)
        module = service.victims[0].module
        if samples > 1 and not dropout_layers(module):
            raise UserError("The MC-dropout functional needs a model with dropout; set model.dropout above 0.")
        masks = sample_masks(module, rng, (samples,), self.dtype) if samples > 1 else {}
        self.samples = max(1, samples)
        self.masks: Tensors = {name: mask.to(self.x) for name, mask in masks.items()}
        one = [victim.copies(1) for victim in service.victims]
        with torch.no_grad():
            self._of_victims = torch.cat([self._log_p(each, reference.x, None) for each in one], dim=1)
        mean = averaged(self._of_victims)[0]  # in logarithms: the probability of a badly wrong label can underflow
        self.reference_labels = mean.argmax(-1)
        self.reference_loss = -mean.gather(-1, reference.y[:, None]).mean()

    def start(self, deleted: Tensor) -> list[ModelStack]:
        """The victims themselves, once for every row of `deleted` (m, n), whatever it deletes."""
        return [victim.copies(len(deleted)) for victim in self.service.victims]

    def now(self) -> CandidatePredictions:
        """What is predicted for every goal before anything is deleted."""
        one = [victim.copies(1) for victim in self.service.victims]
        every = torch.arange(len(self.labels), device=self.x.device)
        with torch.no_grad():
            x = self._shown(one, self.x.flatten(0, 1)[None], self.labels.flatten()[None])[0]
            log_p = torch.cat([self._log_p(each, x, None)[0] for each in one])
        mine = log_p.unflatten(1, self.labels.shape).transpose(0, 1)
        return self._candidates(mine, self._of_victims.expand(len(every), -1, -1, -1), every)

    def after(self, deleted: Tensor, owner: Tensor) -> CandidatePredictions:
        """What is predicted after each row of `deleted` (M, n), for the goals `owner` (M,).

        Models are made in batches, of which only their predictions are held on to.
        """
        batches = []
        with progress("trying deletions", len(deleted)) as tick:
            size = models_at_once(self.service.victims[0])
            for rows, owners in zip(deleted.split(size), owner.split(size), strict=True):
                batches.append(self._predicted(self.service.unlearn(rows), owners))
                tick(len(rows))
        log_p, reference = (torch.cat([batch[k] for batch in batches]) for k in (0, 1))
        return self._candidates(log_p, reference, owner)

    def models_after(self, request: Request) -> list[ModelStack]:
        """One model of every victim after a request, with the copies that it brings."""
        return [victim.copies(1) for victim in self.service.forget(request).victims]

    def predicted(self, models: Sequence[ModelStack], owner: Tensor) -> CandidatePredictions:
        """What m models of every victim predict for the goals `owner` (m,)."""
        return self._candidates(*self._predicted(models, owner), owner)

    def slopes(
        self, deleted: Tensor, objective: Objective, unlearned: Unlearned, owner: Tensor | None = None,
        service: OpenService | None = None,
    ) -> Tensor:  # fmt: skip
        """dL/dw (m, n) of the goals `owner` (m,), or all, at `deleted` (m, n), of which `unlearned` makes models.

        Models are made in batches. What the loss asks of their predictions is pulled back through them chunk by chunk,
        so that the activations of one chunk are all that is held. `service` is as in `request_slopes`.
        """
        total, every = torch.zeros_like(deleted), torch.arange(len(deleted), device=self.x.device)
        with progress("slopes of the objective", len(deleted)) as tick:
            for rows in every.split(self.pulled_at_once()):
                models, goals = unlearned(deleted[rows]), rows if owner is None else owner[rows]
                cotangents = self.pulled(models, goals, objective)[1]
                total[rows] = self.request_slopes(models, deleted[rows], cotangents, service=service)
                tick(len(rows))
        return total

    def request_slopes(
        self,
        models: Sequence[ModelStack],
        deleted: Tensor,
        cotangents: Sequence[Tensor],
        submitted: Examples | None = None,
        service: OpenService | None = None,
    ) -> Tensor:
        """dL/dw (m, n) at the deletion weights (m, n), and copies, that made the models, from dL/dtheta' of each.

        They were made by `service`, where that is another than the one that is attacked: the provider later on, or with
        another approximation of its derivative.
        """
        made_by, total = service or self.service, torch.zeros_like(deleted)
        procedure: Differentiable = made_by.procedure  # type: ignore[assignment]
        for victim, each, cotangent in zip(made_by.victims, models, cotangents, strict=True):
            total += procedure.request_vjp(made_by.task, victim, each, deleted, cotangent, submitted)
        return total

    def pulled(
        self, models: Sequence[ModelStack], owner: Tensor, objective: Objective
    ) -> tuple[CandidatePredictions, list[Tensor]]:
        """What m models of every victim predict for the goals `owner` (m,), and dL/dtheta' (m, p) of each victim's."""
        x = self._shown(models, self.x[owner], self.labels[owner])
        predicted = [part.requires_grad_() for part in self._predicted_at(models, x)]
        loss = objective.loss(self._candidates(predicted[0], predicted[1], owner)).sum()
        wanted = torch.autograd.grad(loss, predicted, materialize_grads=True)
        cotangents = []
        for k, each in enumerate(models):
            own, shared = (part[:, k * self.samples : (k + 1) * self.samples] for part in wanted)
            cotangents.append(self._pulled(each, x, 0, own) + self._pulled(each, self.reference.x, None, shared))
        return self._candidates(predicted[0].detach(), predicted[1].detach(), owner), cotangents

    def pulled_at_once(self) -> int:
        """Of how many models to take slopes at once: some products of theirs see each of them with every example."""
        victim, x = self.service.victims[0], self.service.task.records.x
        return min(models_at_once(victim), rows_at_once(victim, x, room(x.device), EXAMPLES))

    def _candidates(self, log_p: Tensor, reference: Tensor, owner: Tensor) -> CandidatePredictions:
        return CandidatePredictions(
            log_p=log_p,
            labels=self.labels[owner],
            direction=self.direction[owner],
            reference=reference,
            reference_labels=self.reference_labels,
            reference_truth=self.reference.y,
            reference_loss=self.reference_loss,
        )

    def _predicted(self, models: Sequence[ModelStack], owner: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of M candidates on the targets of the goals `owner`, and on the reference examples."""
        return self._predicted_at(models, self._shown(models, self.x[owner], self.labels[owner]))

    def _shown(self, models: Sequence[ModelStack], x: Tensor, labels: Tensor) -> Tensor:
        return x if self.shown is None else self.shown(models, x, labels)

    def _predicted_at(self, models: Sequence[ModelStack], x: Tensor) -> tuple[Tensor, Tensor]:
        """The same on inputs of their own (M, T, *shape) in place of the targets."""
        with torch.no_grad():
            own = torch.cat([self._log_p(each, x, 0) for each in models], dim=1)
            return own, torch.cat([self._log_p(each, self.reference.x, None) for each in models], dim=1)

    def _log_p(self, models: ModelStack, x: Tensor, dim: int | None) -> Tensor:
        """Log-probabilities (M, S, T, K) of every model, on its own inputs (dim 0) or on shared ones (None)."""
        which, parts = self._passes(models, x, dim)

        def log_p(rows: slice, part: slice) -> Tensor:
            return self._pass(models.select(rows), _part(x, dim, rows, part), dim)

        return joined(which, parts, log_p, dim=2)

    def _pulled(self, models: ModelStack, x: Tensor, dim: int | None, slopes: Tensor) -> Tensor:
        """sum of d<slopes, log-probabilities> / d theta for every model (M, p); `slopes` is (M, S, T, K)."""
        which, parts = self._passes(models, x, dim)
        rows = []
        for some in which:
            chosen = models.select(some)
            leaves = {name: value.detach().requires_grad_() for name, value in chosen.moving.items()}
            open_to_slopes = ModelStack(chosen.module, leaves, chosen.buffers, mask=chosen.mask)
            total: Tensor | None = None
            for part in parts:
                log_p = self._pass(open_to_slopes, _part(x, dim, some, part), dim)
                pieces = torch.autograd.grad(
                    log_p, list(leaves.values()), slopes[some, :, part], materialize_grads=True
                )
                flat = torch.cat([piece.reshape(len(chosen), -1) for piece in pieces], dim=1)
                total = flat.double() if total is None else total + flat
            assert total is not None  # there is at least one part, if an empty one
            rows.append(total.to(x.dtype))
        return torch.cat(rows)

    def _passes(self, models: ModelStack, x: Tensor, dim: int | None) -> tuple[list[slice], list[slice]]:
        return passes(models, x if dim is None else x[0], INFERENCE_ROWS, len(models), self.samples)

    def _pass(self, models: ModelStack, x: Tensor, dim: int | None) -> Tensor:
        def one(parameters: Tensors, buffers: Tensors, masks: Tensors, inputs: Tensor) -> Tensor:
            return forward(models.module, parameters, {**buffers, **masks}, inputs).log_softmax(-1)

        if self.masks:
            sampled = vmap(one, in_dims=(None, None, 0, None))
            return vmap(sampled, in_dims=(0, 0, None, dim))(models.moving, models.buffers, self.masks, x)
        return vmap(one, in_dims=(0, 0, None, dim))(models.moving, models.buffers, {}, x)[:, None]


def _part(x: Tensor, dim: int | None, models: slice, inputs: slice) -> Tensor:
    return x[inputs] if dim is None else x[models, inputs]
