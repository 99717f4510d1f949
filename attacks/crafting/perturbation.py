"""Adversarial examples of many models at once: the worst inputs near given ones, by projected gradient ascent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import vmap

from attacks.crafting.copies import Around, Norm
from attacks.crafting.functionals import averaged, margins
from data.bounds import at_most
from data.examples import bounds
from models.passes import INFERENCE_ROWS, joined, passes
from models.victim import ModelStack, forward


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Perturbation:
    """x + e with ||e|| <= `radius` in the `norm` linf or l2, and how e is searched for.

    The radius is in units of what enters the model. `steps` of ascent of `step` radii each, along the sign of the slope
    (linf) or the slope scaled to unit length (l2), from e = 0, projected after each. With no `rivals` ascent is on the
    cross-entropy of the label y, and the e of largest loss is kept; else it is on f_k - f_y for each of the so many
    most likely other labels k, and the e of smallest margin is kept, which is exact for linear models where all labels
    are rivals. Sources: Madry et al., ICLR 2018 (projected gradient descent; there from a random start); Gowal et al.,
    arXiv 1910.09338 (one ascent for each rival).
    """

    norm: Norm = "linf"
    radius: Annotated[float, Field(gt=0)] = 0.1
    steps: Annotated[int, Field(ge=1), at_most(100_000, "each is a pass of every model")] = 10
    step: Annotated[float, Field(gt=0, le=2)] = 0.25
    rivals: Annotated[int, Field(ge=0)] = 0

    def within(self, records: Tensor) -> Nearby:
        """The same, within the least and the largest value of any of the records (n, *shape), by channel."""
        return Nearby(self, *bounds(records))


@plain_dataclass(frozen=True, eq=False)
class Nearby:
    """A perturbation whose results stay between `low` and `high`, which broadcast against inputs."""

    perturbation: Perturbation
    low: Tensor
    high: Tensor

    def worst(self, models: Sequence[ModelStack], x: Tensor, labels: Tensor) -> Tensor:
        """The worst inputs (m, T, *shape) near x, own ones (m, T, *shape) of each of m models, for its labels (m, T).

        `models` are one stack of m models for every victim; what they predict is the mean of the victims.
        """
        which, parts = passes(models[0], x[0], INFERENCE_ROWS, len(x), len(models))

        def climbed(rows: slice, part: slice) -> Tensor:
            return self._climbed([each.select(rows) for each in models], x[rows, part], labels[rows, part])

        return joined(which, parts, climbed, dim=1)

    def probabilities(self, models: Sequence[ModelStack], x: Tensor, labels: Tensor) -> Tensor:
        """What m models predict (m, T, K) for the worst inputs near x (T, *shape), whose labels are (T,)."""
        count = len(models[0])
        own, wanted = x.expand(count, *x.shape), labels.expand(count, len(labels))
        which, parts = passes(models[0], x, INFERENCE_ROWS, count, len(models))

        def predicted(rows: slice, part: slice) -> Tensor:
            chosen = [each.select(rows) for each in models]
            with torch.no_grad():
                return _log_p(chosen, self._climbed(chosen, own[rows, part], wanted[rows, part])).exp()

        return joined(which, parts, predicted, dim=1)

    def _climbed(self, models: Sequence[ModelStack], x: Tensor, labels: Tensor) -> Tensor:
        """The same as `worst`, in one pass."""
        origin, how = x.flatten(0, 1), self.perturbation
        around = Around(origin, self.low, self.high, how.norm, how.radius)
        best, most = origin.clone(), torch.full_like(labels, -torch.inf, dtype=x.dtype).flatten()
        for rival in self._rivals(models, x, labels):
            there = origin
            for step in range(how.steps + 1):
                value, slopes = _values(models, there.reshape(x.shape), labels, rival)
                better = value > most
                best[better], most = there[better], torch.maximum(most, value)
                if step < how.steps:
                    there = around.moved(there, -slopes, how.step)
        return best.reshape(x.shape)

    def _rivals(self, models: Sequence[ModelStack], x: Tensor, labels: Tensor) -> Sequence[Tensor | None]:
        """The labels (m, T) towards which to go, one after the other; None is away from the own."""
        if self.perturbation.rivals == 0:
            return [None]
        with torch.no_grad():
            others = _log_p(models, x).scatter(2, labels[..., None], -torch.inf)
        return list(others.topk(min(self.perturbation.rivals, others.shape[2] - 1), dim=2).indices.unbind(2))


def _values(models: Sequence[ModelStack], x: Tensor, labels: Tensor, rival: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is to be large (m * T,), for every model on its own inputs (m, T, *shape), and slopes (m * T, *shape)."""
    with torch.enable_grad():
        moving = x.detach().requires_grad_()
        log_p = _log_p(models, moving)
        own = log_p.gather(2, labels[..., None])
        climbed = -own if rival is None else log_p.gather(2, rival[..., None]) - own
        [slopes] = torch.autograd.grad(climbed.sum(), [moving])
    value = climbed[..., 0] if rival is None else -margins(log_p, labels)
    return value.detach().flatten(), slopes.flatten(0, 1)


def _log_p(models: Sequence[ModelStack], x: Tensor) -> Tensor:
    """Log-probabilities (m, T, K), those of the mean prediction where there are several victims."""
    run = vmap(forward, in_dims=(None, 0, 0, 0))
    each = [run(one.module, one.moving, one.buffers, x).log_softmax(-1) for one in models]
    return each[0] if len(each) == 1 else averaged(torch.stack(each, dim=1))
