"""A trained model as data: `Victim` (one model) and `ModelStack` (many of one architecture, stacked)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from models.mask import check_mask, pruned, pruned_vectors
from models.passes import INFERENCE_ROWS, joined, passes
from models.progress import progress

Tensors = dict[str, Tensor]
_frozen: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()


def frozen_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that require no gradient, as the module was when it was first asked for."""
    if module not in _frozen:
        _frozen[module] = tuple(name for name, value in module.named_parameters() if not value.requires_grad)
    return _frozen[module]


def forward(module: nn.Module, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Logits (n, classes) of `module` run with the given tensors; its own parameters are never read."""
    logits: Tensor = functional_call(module, {**buffers, **parameters}, (x,))
    return logits


@dataclass(frozen=True, eq=False)
class Victim:
    """An architecture with its parameters and buffers as flat dicts of tensors; never mutated, always replaced.

    `module` gives the structure only and is in eval mode, which functional transforms need where there is batch-norm.
    `moving` are the parameters that training and forgetting move, and all that gradients, curvature and norms are
    about; `parameters` has the frozen ones too (of the module's own, those that require no gradient), which stand among
    the buffers as well, so that nothing moves them.
    What a provider keeps beside the model, and never shows: `history`, what was recorded while learning, which no
    request changes; and `ledger`, what belongs to this very model, such as a budget that requests use up.
    `mask` is empty for a dense model; of a pruned one it has 0 where a parameter is exactly zero and stays so, whatever
    parameters are given, and 1 elsewhere. Gradients and curvature of a pruned model are about what is left of it.
    """

    module: nn.Module
    parameters: Tensors
    buffers: Tensors
    history: Tensors = field(default_factory=dict)
    ledger: Tensors = field(default_factory=dict)
    mask: Tensors = field(default_factory=dict)
    moving: Tensors = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _set_apart(self)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, classes), without gradient."""
        _, parts = passes(self, x, INFERENCE_ROWS, 1)
        with torch.no_grad():

            def logits(_: slice, part: slice) -> Tensor:
                return forward(self.module, self.moving, self.buffers, x[part])[None]

            return joined([slice(0, 1)], parts, logits, dim=1)[0]

    def probabilities(self, x: Tensor) -> Tensor:
        """Predicted probabilities (n, classes)."""
        return self.logits(x).softmax(dim=-1)

    def flat(self) -> Tensor:
        """All parameters that move, as one vector (p,)."""
        return flatten(self.moving)

    def clone(self) -> Victim:
        """The same model in memory of its own: one taken out of an ensemble keeps the whole ensemble alive."""
        parameters, buffers, ledger, mask = (
            {name: value.clone() for name, value in kept.items()}
            for kept in (self.moving, self.buffers, self.ledger, self.mask)
        )
        return Victim(self.module, parameters, buffers, self.history, ledger, mask)

    def pruned(self, vectors: Tensor) -> Tensor:
        """Vectors (..., p) with zeros where this model is pruned."""
        return pruned_vectors(vectors, self.mask, self.moving) if self.mask else vectors

    def moved(self, step: Tensor) -> ModelStack:
        """Models at `parameters + step`, one for each row of `step` (m, p)."""
        shifts = unflatten(step, self.moving)
        return self._descended({name: value + shifts[name] for name, value in self.moving.items()}, len(step))

    def copies(self, count: int) -> ModelStack:
        """`count` models like this one."""
        parameters = {n: value.expand(count, *value.shape).contiguous() for n, value in self.moving.items()}
        return self._descended(parameters, count)

    def _descended(self, parameters: Tensors, count: int) -> ModelStack:
        buffers, ledger, mask = (
            {name: value.expand(count, *value.shape) for name, value in kept.items()}
            for kept in (self.buffers, self.ledger, self.mask)
        )
        return ModelStack(self.module, parameters, buffers, self.history, ledger, mask)


@dataclass(frozen=True, eq=False)
class ModelStack:
    """`m` models of one architecture: parameters, buffers, ledger and mask have a leading dimension m.

    The models descend from one victim, whose `history` they share.
    """

    module: nn.Module
    parameters: Tensors
    buffers: Tensors
    history: Tensors = field(default_factory=dict)
    ledger: Tensors = field(default_factory=dict)
    mask: Tensors = field(default_factory=dict)
    moving: Tensors = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _set_apart(self)

    def __len__(self) -> int:
        return len(next(iter(self.moving.values())))

    def __getitem__(self, index: int) -> Victim:
        parameters, buffers, ledger, mask = self._map(lambda value: value[index])
        return Victim(self.module, parameters, buffers, self.history, ledger, mask)

    def select(self, rows: Tensor | slice) -> ModelStack:
        """The models at these positions, in their order."""
        parameters, buffers, ledger, mask = self._map(lambda value: value[rows])
        return ModelStack(self.module, parameters, buffers, self.history, ledger, mask)

    def pruned(self, vectors: Tensor) -> Tensor:
        """Vectors (m, p), one for each model, or any number for a single one, with zeros where it is pruned."""
        if not self.mask:
            return vectors
        return pruned_vectors(vectors, self.mask, {name: value[0] for name, value in self.moving.items()})

    def _map(self, change: Callable[[Tensor], Tensor]) -> Iterator[Tensors]:
        for tensors in (self.moving, self.buffers, self.ledger, self.mask):
            yield {name: change(value) for name, value in tensors.items()}

    def logits(self, x: Tensor) -> Tensor:
        """Logits (m, n, classes) of every model on the same `x` (n, ...), without gradient."""
        run = vmap(forward, in_dims=(None, 0, 0, None))
        which, parts = passes(self, x, INFERENCE_ROWS, len(self))
        with torch.no_grad(), progress("predicting", len(which) * len(parts)) as tick:

            def logits(rows: slice, part: slice) -> Tensor:
                tick()
                some = self.select(rows)
                found: Tensor = run(self.module, some.moving, some.buffers, x[part])
                return found

            return joined(which, parts, logits, dim=1)

    def probabilities(self, x: Tensor) -> Tensor:
        """Predicted probabilities (m, n, classes)."""
        return self.logits(x).softmax(dim=-1)

    def flat(self) -> Tensor:
        """All parameters that move, as a matrix (m, p)."""
        return torch.cat([value.reshape(len(self), -1) for value in self.moving.values()], dim=1)


def _set_apart(models: Victim | ModelStack) -> None:
    """Fill in `moving`; frozen parameters, given among the parameters or the buffers, come to stand in both.

    What is pruned is set to zero.
    """
    given = models.parameters
    if models.mask:
        given = pruned(given, models.mask)
        object.__setattr__(models, "parameters", given)
    frozen = {
        name: given[name] if name in given else models.buffers[name]
        for name in frozen_names(models.module)
        if name in given or name in models.buffers
    }
    moving = {name: value for name, value in given.items() if name not in frozen} if frozen else given
    object.__setattr__(models, "moving", moving)
    if frozen:
        both = {**moving, **frozen}
        order = [name for name, _ in models.module.named_parameters() if name in both]
        object.__setattr__(models, "parameters", {name: both[name] for name in order})
        object.__setattr__(models, "buffers", {**models.buffers, **frozen})
    check_mask(models.mask, moving)


def stack(victims: Sequence[Victim]) -> ModelStack:
    """Many victims of one architecture as a `ModelStack`; raises ValueError where their histories differ."""
    return _joined(victims, torch.stack)


def concatenate(parts: Sequence[ModelStack]) -> ModelStack:
    """Several stacks of one architecture as one; raises ValueError where their histories differ."""
    return _joined(parts, torch.cat)


def _joined(models: Sequence[Victim] | Sequence[ModelStack], join: Callable[[list[Tensor]], Tensor]) -> ModelStack:
    first = models[0]
    if not all(_same(each.history, first.history) for each in models):
        raise ValueError(
            "These models have histories of their own, and a stack has one: keep them in a list, or stack them without "
            "it, dataclasses.replace(victim, history={}), where only predictions are asked for."
        )
    parameters, buffers, ledger = (
        {name: join([getattr(each, kind)[name] for each in models]) for name in getattr(first, kind)}
        for kind in ("moving", "buffers", "ledger")
    )
    masked = [name for name in first.moving if any(name in each.mask for each in models)]
    mask = {
        name: join([each.mask[name] if name in each.mask else torch.ones_like(each.moving[name]) for each in models])
        for name in masked
    }
    return ModelStack(first.module, parameters, buffers, first.history, ledger, mask)


def _same(one: Tensors, other: Tensors) -> bool:
    if one is other:
        return True
    return one.keys() == other.keys() and all(
        value is other[n] or torch.equal(value, other[n]) for n, value in one.items()
    )


def flatten(parameters: Mapping[str, Tensor]) -> Tensor:
    """Parameters as one vector (p,), in the order of the dict."""
    return torch.cat([value.reshape(-1) for value in parameters.values()])


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> Tensors:
    """The inverse of `flatten`; leading dimensions of `flat` (..., p) are kept."""
    pieces = flat.split([value.numel() for value in like.values()], dim=-1)
    return {
        name: piece.reshape((*flat.shape[:-1], *value.shape))
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }
