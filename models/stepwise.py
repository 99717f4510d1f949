"""Training one model step by step, with everything that a step depends on in plain view: what proofs record and replay.

A step is a function of the state (weights, buffers, moments of the optimiser), a batch and a learning rate:
U(w; b) = one update from the mean loss over b. Replaying it from the same state gives the same bits on the same machine
and number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import UserError
from data.randomness import derive, generator, reseed, seeded
from models.behaviour import behaviour, fresh_copy
from models.descent import Diverged
from models.dropout import dropout_layers, sample_masks
from models.training import Training
from models.victim import Tensors, Victim, unflatten

MOMENTS = {"sgd": ("velocity",), "adam": ("exp_avg", "exp_avg_sq")}


@dataclass
class Gradients:
    """Counts gradient evaluations, one for the loss of one example, and updates of weights.

    Where somebody computes gradients that nobody counts, they are not `known`.
    """

    count: int = 0
    known: bool = True
    updates: int = 0


@dataclass(frozen=True, eq=False)
class State:
    """A model in training, between two steps.

    `weights` (p,) are the parameters that move, one after the other, `buffers` those that training changes, `moments`
    what the optimiser carries on: (p,) each, and the number of its steps (1,) of Adam. None of them is a copy: they
    change with the next step.
    """

    weights: Tensor
    buffers: Tensors
    moments: Tensors

    def clone(self) -> State:
        """The same in memory of its own."""
        parts = ({name: value.clone() for name, value in kept.items()} for kept in (self.buffers, self.moments))
        return State(self.weights.clone(), *parts)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a record of training begins with: the recipe, the number of steps, and the seed of initialisation and draws.

    `begins` says where the weights come from: `seed` (freshly drawn from it), or `model` (the model before deletion).
    """

    training: Training
    steps: int
    seed: int
    begins: str = "seed"


class Recorder(Protocol):
    """Takes down a training run, step by step."""

    def begin(self, opening: Opening, state: State) -> None:
        """The state before the first step."""
        ...

    def step(self, batch: Tensor, lr: float, state: State, inputs: Tensor | None = None) -> None:
        """A step was made: positions of its batch in the records, in order; its learning rate; the state after it.

        `inputs` are those of the batch, where they are not those of the records.
        """
        ...

    def end(self) -> None:
        """There are no more steps."""
        ...


class Stepwise:
    """One model in training, like `victim` at first.

    `seed` gives what the model itself draws in a step, with the number of the step. Raises UserError for Newton's
    method, which has no steps.
    """

    def __init__(
        self, victim: Victim, training: Training, like: Tensor, seed: int, gradients: Gradients | None = None
    ) -> None:
        if training.optimizer == "newton":
            raise UserError("Newton's method has no steps to take down; use training=sgd or training=adam.")
        self._victim, self._seed, self._training = victim, seed, training
        self.gradients = gradients or Gradients()
        self._behaves = behaviour(victim.module, like)
        self._module = fresh_copy(victim.module).to(like.device, like.dtype)
        self._module.train(self._behaves.apart)
        self._flat = victim.flat().clone()
        self._slope = torch.zeros_like(self._flat)
        self._pieces, slopes = (list(unflatten(flat, victim.moving).values()) for flat in (self._flat, self._slope))
        for name, parameter in self._module.named_parameters():
            parameter.requires_grad_(name in victim.moving)
        own = dict(self._module.named_parameters())
        self._values = [own[name] for name in victim.moving]
        for value, piece, slope in zip(self._values, self._pieces, slopes, strict=True):
            value.data, value.grad = piece, slope
        self._slopes = slopes
        self._set_buffers(victim.buffers)
        moments = {name: torch.zeros_like(self._flat) for name in MOMENTS[training.optimizer]}
        if training.optimizer == "sgd" and training.momentum == 0:
            moments = {}
        self._count = torch.zeros(1)
        self._moments = moments | ({"step": self._count} if training.optimizer == "adam" else {})
        self._views = {name: list(unflatten(flat, victim.moving).values()) for name, flat in moments.items()}
        mask = [victim.mask[name].flatten() if name in victim.mask else None for name in victim.moving]
        self._pruned = [None if each is None else (each == 0) for each in mask]
        self._layers = dropout_layers(self._module)

    @property
    def state(self) -> State:
        """The state as it is now; no copy."""
        now = dict(self._module.named_buffers())
        return State(self._flat, {name: now[name] for name in self._behaves.keeps}, self._moments)

    def load(self, state: State, moments: bool = True) -> None:
        """Go on from `state`, with the moments that it has or, without, with those of the last step."""
        self._flat.copy_(state.weights)
        self._set_buffers(state.buffers)
        if moments:
            for name, value in state.moments.items():
                self._moments[name].copy_(value)

    def _set_buffers(self, values: Tensors) -> None:
        own = dict(self._module.named_buffers())
        with torch.no_grad():
            for name, value in values.items():
                if name in own:
                    own[name].copy_(value)

    @contextmanager
    def losses(self, x: Tensor, y: Tensor, step: int) -> Iterator[Tensor]:
        """The losses (n,) at the weights, in training mode, with what the model draws in the step of this number.

        Buffers move as in a step.
        """
        drawn = self._behaves.draws
        with seeded(0) if drawn else nullcontext():
            if drawn:
                reseed(derive(self._seed, "draws of the model", step))
            self._draw_masks(len(y), x, step)
            if self._behaves.mixes:  # statistics of a single example are none
                self._module.train(len(y) > 1)
            yield F.cross_entropy(self._module(x), y, reduction="none")

    def slope(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """The gradient (p,) of the mean loss at the weights, as in a step; overwritten by the next call."""
        self._slope.zero_()
        self.gradients.count += len(y)
        with self.losses(x, y, step) as losses:
            self.loss = losses.sum() / len(y)
            self.loss.backward()  # type: ignore[no-untyped-call]
        return self._slope

    def step(self, x: Tensor, y: Tensor, lr: float, step: int) -> None:
        """One update from a batch: U(w; b)."""
        self.slope(x, y, step)
        self.update(lr)

    @torch.no_grad()
    def update(self, lr: float) -> None:
        """Move the weights by the optimiser's rule along the last gradient."""
        self.gradients.updates += 1
        if self._training.optimizer == "adam":
            self._adam(lr)
        else:
            velocity = self._views.get("velocity")
            along = self._slopes
            if velocity is not None:
                torch._foreach_mul_(velocity, self._training.momentum)
                torch._foreach_add_(velocity, self._slopes)
                along = velocity
            torch._foreach_add_(along, self._pieces, alpha=self._training.weight_decay)
            torch._foreach_add_(self._pieces, along, alpha=-lr)
        for piece, zero in zip(self._pieces, self._pruned, strict=True):
            if zero is not None:
                piece.view(-1).masked_fill_(zero, 0)

    def _adam(self, lr: float) -> None:
        from torch.optim.adam import adam

        steps = [self._count.view(()).clone() for _ in self._pieces]
        adam(
            self._pieces, self._slopes, self._views["exp_avg"], self._views["exp_avg_sq"], [], steps,
            foreach=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=lr,
            weight_decay=self._training.weight_decay, eps=1e-8, maximize=False,
        )  # fmt: skip
        self._count += 1

    def _draw_masks(self, size: int, x: Tensor, step: int) -> None:
        if self._layers:
            rng = generator(self._seed, "dropout", step)
            masks = sample_masks(self._module, rng, (size,), x.dtype).values()
            for layer, mask in zip(self._layers.values(), masks, strict=True):
                layer.mask = mask.to(x)

    def check_finite(self) -> None:
        """Raise `Diverged` where the loss or a weight is not finite."""
        if not (bool(torch.isfinite(self.loss)) and bool(torch.isfinite(self._flat).all())):
            raise Diverged(f"Training diverged: the loss is not finite; lower training.lr (now {self._training.lr:g}).")

    def victim(self) -> Victim:
        """The model as it is now."""
        parameters = unflatten(self._flat.clone(), self._victim.moving)
        buffers = self._victim.buffers | {name: value.clone() for name, value in self.state.buffers.items()}
        return Victim(self._victim.module, parameters, buffers, mask=self._victim.mask)
