"""Candidate batches: drawing them, and how far their gradients are from one that is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.examples import Examples
from models.behaviour import behaviour, fresh_copy
from models.stepwise import State, Stepwise
from models.victim import Victim, unflatten

Norm = Literal["sum_tensor", "global"]
NUMBERS = 2**21  # in the inputs and the gradients that are held at once
CLOSE = 1e-3  # to how much of their length gradients by products must be those by autograd; they are to about 1e-6


class Compares(Protocol):
    """Gradients of the mean loss, at the weights of a model in training, in the mode in which it is trained."""

    def distances(self, wanted: Tensor, drawn: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """How far the gradient of each row of `drawn` (m, n) is from that of `wanted` (n,): (m,); the latter's norm.

        All are positions in the records. `step` is the number of the step to come, for which the model draws.
        """
        ...


def comparing(learner: Stepwise, start: Victim, records: Examples, norm: Norm) -> Compares:
    """Compares gradients by `norm`: the sum of the l2 norms of the parameters, one by one, or the l2 norm of all.

    `start` is what `learner` began with. Networks that are linear layers and activations have the gradients of all
    candidates from one pass; others from one pass each: for convolutions mapped over candidates would be slower (3
    times on a processor).
    """
    if _only_linear_layers(start, records.x):
        found = SideBySide(learner, start, records, norm)
        if found.agrees():
            return found
    return OneByOne(learner, start, records, norm)


class OneByOne:
    """A pass for every candidate, for any model; what a pass changes in buffers is undone."""

    def __init__(self, learner: Stepwise, start: Victim, records: Examples, norm: Norm) -> None:
        self._learner, self._records, self._norm = learner, records, norm
        self._sizes = [value.numel() for value in start.moving.values()]

    def distances(self, wanted: Tensor, drawn: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """See `Compares`."""
        goal = self._slope(wanted, step).clone()
        gaps = torch.stack([self._norms(self._slope(rows, step) - goal) for rows in drawn])
        return _total(gaps, self._norm), _total(self._norms(goal), self._norm)

    def _slope(self, rows: Tensor, step: int) -> Tensor:
        before = {name: value.clone() for name, value in self._learner.state.buffers.items()}
        some = self._records[rows.to(self._records.y.device)]
        slope = self._learner.slope(some.x, some.y, step)
        self._learner.load(State(self._learner.state.weights, before, {}), moments=False)
        return slope

    def _norms(self, gradient: Tensor) -> Tensor:
        return torch.stack([part.norm() for part in gradient.split(self._sizes)])


class SideBySide:
    """All candidates in one pass, for linear layers: the gradient of a weight is d' x, with what enters the layer, x,
    and the gradients of what leaves it, d, of one candidate.
    """

    def __init__(self, learner: Stepwise, start: Victim, records: Examples, norm: Norm) -> None:
        self._learner, self._records, self._norm, self._start = learner, records, norm, start
        self._module = fresh_copy(start.module).to(records.x.device, records.x.dtype)
        pieces = unflatten(learner.state.weights, start.moving)  # views: they change with every step
        for name, parameter in self._module.named_parameters():
            parameter.data = pieces[name]
        self._seen: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._layers = [layer for layer in self._module.modules() if isinstance(layer, nn.Linear)]
        for layer in self._layers:
            layer.register_forward_hook(self._note)
        self._widest = max(layer.weight.numel() for layer in self._layers)
        self._inputs, self._room = records.x.new_empty(0), records.x.new_empty(0)

    def _note(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen.append((layer, inputs[0].detach(), output))

    def distances(self, wanted: Tensor, drawn: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """See `Compares`."""
        self._learner.gradients.count += len(wanted) + drawn.numel()
        nothing = [value.new_zeros(1, *value.shape) for value in self._module.parameters()]
        goal = [gap.clone() for gap in self._gaps(wanted[None], nothing)]
        of_goal = torch.stack([each.norm() for each in goal])
        size = max(1, NUMBERS // max(len(wanted) * self._records.x[0].numel(), self._widest))
        gaps = torch.cat([self._norms(part, goal) for part in drawn.split(size)])
        return _total(gaps, self._norm), _total(of_goal, self._norm)

    def _norms(self, part: Tensor, goal: list[Tensor]) -> Tensor:
        return torch.stack([torch.linalg.vector_norm(gap.flatten(1), dim=1) for gap in self._gaps(part, goal)], dim=1)

    def _gaps(self, part: Tensor, goal: list[Tensor]) -> Iterator[Tensor]:
        """Of every parameter its gradients for the rows of `part` (m, n) less `goal`; overwritten by the next."""
        m, n = part.shape
        entering, leaving = self._passed(part.reshape(-1).to(self._records.y.device))
        goals = iter(goal)
        for layer, x, slope in zip(self._layers, entering, leaving, strict=True):
            x, slope = x.view(m, n, -1), slope.view(m, n, -1)
            out = _part(self._room, (m, *layer.weight.shape))
            self._room = out if out.numel() > self._room.numel() else self._room
            yield torch.baddbmm(next(goals), slope.mT, x, beta=-1, alpha=1 / n, out=out)
            if layer.bias is not None:
                yield slope.mean(dim=1) - next(goals)

    def _passed(self, rows: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What entered each layer, and the gradients of the sum of losses in what left it; in the order of layers."""
        x = _part(self._inputs, (len(rows), *self._records.x.shape[1:]))
        self._inputs = x if x.numel() > self._inputs.numel() else self._inputs
        torch.index_select(self._records.x, 0, rows, out=x)
        self._seen.clear()
        logits = self._module(x)
        seen = {layer: (entered, left) for layer, entered, left in self._seen}
        left = [seen[layer][1] for layer in self._layers]
        loss = F.cross_entropy(logits, self._records.y.index_select(0, rows), reduction="sum")
        slopes = torch.autograd.grad(loss, left)
        self._seen.clear()
        return [seen[layer][0] for layer in self._layers], list(slopes)

    def agrees(self) -> bool:
        """Whether the gradients of two candidates are those that training computes; tried on the first records."""
        rows = torch.arange(min(4, len(self._records) // 2 * 2)).view(2, -1)
        self._seen.clear()
        self._module(self._records.x[:2])
        if [(layer, x.dim()) for layer, x, _ in self._seen] != [(layer, 2) for layer in self._layers]:
            return False
        before = self._learner.gradients.count
        nothing = [value.new_zeros(1, *value.shape) for value in self._module.parameters()]
        own = torch.cat([gap.flatten(1).clone() for gap in self._gaps(rows, nothing)], dim=1)
        some = [self._records[each.to(self._records.y.device)] for each in rows]
        plain = torch.stack([self._learner.slope(each.x, each.y, 0).clone() for each in some])
        self._learner.gradients.count = before
        return bool((own - plain).norm() <= CLOSE * plain.norm())


def distinct(count: int, size: int, rows: int, rng: torch.Generator) -> Tensor:
    """Rows (rows, size) of distinct numbers below `count`, each row drawn uniformly.

    Repeats within a row are drawn again until there are none. No number is treated unlike another, so that every set
    is as likely as any other.
    """
    if count < 2 * size:  # too many repeats
        return torch.rand(rows, count, generator=rng).argsort(dim=1)[:, :size]
    found = torch.randint(count, (rows, size), generator=rng)
    while True:
        ordered, order = found.sort(dim=1, stable=True)
        repeats = ordered[:, 1:] == ordered[:, :-1]
        again = int(repeats.sum())
        if not again:
            return found
        row, place = repeats.nonzero(as_tuple=True)
        found[row, order[row, place + 1]] = torch.randint(count, (again,), generator=rng)


def _only_linear_layers(victim: Victim, x: Tensor) -> bool:
    """Whether all parameters move, belong to linear layers, and training is as it is in eval mode."""
    if behaviour(victim.module, x).apart or dict(victim.module.named_buffers()):
        return False
    layers = [(name, layer) for name, layer in victim.module.named_modules() if type(layer) is nn.Linear]
    names = [f"{name}.{own}".lstrip(".") for name, layer in layers for own, _ in layer.named_parameters()]
    return bool(names) and names == list(victim.moving) == [name for name, _ in victim.module.named_parameters()]


def _part(room: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Memory of this shape: of what is there, where that is enough."""
    size = torch.Size(shape).numel()
    return room.view(-1)[:size].view(shape) if room.numel() >= size else room.new_empty(shape)


def _total(norms: Tensor, norm: Norm) -> Tensor:
    return norms.sum(-1) if norm == "sum_tensor" else torch.linalg.vector_norm(norms, dim=-1)
