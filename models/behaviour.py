"""How a module behaves, found out by running it on two examples: what training and functional calls must know of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from data.randomness import global_states, reseed, seeded
from models.written_out import FusedCalls, WrittenOut

_known: WeakKeyDictionary[nn.Module, Behaviour] = WeakKeyDictionary()


@dataclass(frozen=True)
class Behaviour:
    """What a module does beside mapping inputs to logits.

    `apart`: training mode may differ from eval mode, so that models are trained one by one, in training mode. `draws`:
    it draws from a global generator there. `mixes`: what it gives or keeps there depends on the batch as a whole.
    `keeps` are the buffers that training changes. `changes_input`: it writes into the tensor that it is given. `fused`:
    it uses a kernel of torch that cannot be mapped over or differentiated twice, and that `written_out` replaces.
    """

    apart: bool = False
    draws: bool = False
    mixes: bool = False
    keeps: tuple[str, ...] = ()
    changes_input: bool = False
    fused: bool = False


def behaviour(module: nn.Module, x: Tensor) -> Behaviour:
    """How a module in eval mode behaves on inputs like `x` (n, ...); found out once for each module."""
    if module not in _known:
        _known[module] = _observed(module, pair(x))
    return _known[module]


def learned_buffers(module: nn.Module) -> tuple[str, ...]:
    """Names of the buffers that training changes, of a module whose behaviour is known."""
    return _known[module].keeps if module in _known else ()


def adapt(module: nn.Module, x: Tensor) -> None:
    """Let a module, in place, leave its input as it is and use differentiable operations, where it does not already.

    The numbers are those of the same module written so by hand.
    """
    found = behaviour(module, x)
    if found.changes_input:
        module.register_forward_pre_hook(_own_copies)
    if found.fused:
        written_out = WrittenOut()
        module.register_forward_pre_hook(written_out.begin)
        module.register_forward_hook(written_out.end, always_call=True)


def pair(x: Tensor) -> Tensor:
    """Two of the inputs `x` (n, ...), different ones if there are."""
    first = x[:1]
    rows = (x[i : i + 1] for i in range(1, min(len(x), 64)))
    other = [row for row in rows if not torch.equal(row, first)]
    return torch.cat([first, other[0] if other else first])


def fresh_copy(module: nn.Module) -> nn.Module:
    """A deep copy; what a forward pass left in a plain attribute, with its graph, is shared and not copied."""
    shared: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor):
                try:
                    copy.deepcopy(value)
                except RuntimeError:
                    shared[id(value)] = value
    return copy.deepcopy(module, shared)


def _observed(module: nn.Module, x: Tensor) -> Behaviour:
    with torch.no_grad(), seeded(0), FusedCalls() as calls:
        still = _copy(module, x)
        given = x.clone()
        calm = still(given)
        changes = not same(given, x)
        reads: list[str] = []
        moving = _copy(module, x).train()
        before = {name: value.clone() for name, value in moving.named_buffers()}
        given = x.clone()
        with _reading_of_mode(moving, reads):
            reseed(0)
            begun = global_states(x.device)
            lively = moving(given)
            draws = global_states(x.device) != begun
        now = dict(moving.named_buffers())
        keeps = tuple(name for name in now if name not in before or not same(now[name], before[name]))
        changes = changes or not same(given, x)
        apart = draws or bool(keeps) or bool(reads) or not same(calm, lively)
        return Behaviour(apart, draws, apart and (bool(keeps) or _mixes(module, x)), keeps, changes, calls.seen)


def _mixes(module: nn.Module, x: Tensor) -> bool:
    """Whether in training mode, with the same draws, what one example gives depends on the other."""
    given = []
    for inputs in (x, torch.cat([x[:1], x[:1]])):
        reseed(0)
        given.append(_copy(module, x).train()(inputs.clone()))
    return not same(given[0][:1], given[1][:1])


def _copy(module: nn.Module, x: Tensor) -> nn.Module:
    return fresh_copy(module).to(x.device, x.dtype)


def same(left: object, right: object) -> bool:
    """Equality, bit by bit, of two tensors; what is no tensor is for others to judge."""
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return True
    return left.shape == right.shape and bool(((left == right) | ((left != left) & (right != right))).all())


@contextmanager
def _reading_of_mode(module: nn.Module, reads: list[str]) -> Iterator[None]:
    """Note the modules, other than torch's own, that look at `self.training`: they may do so to act differently."""
    changed: list[tuple[nn.Module, type]] = []
    for name, part in module.named_modules():
        kind = type(part)
        if kind.__module__.partition(".")[0] == "torch":
            continue

        def read(self: nn.Module, name: str = name) -> bool:
            reads.append(name)
            return bool(vars(self)["training"])

        def write(self: nn.Module, value: bool) -> None:
            vars(self)["training"] = value

        try:
            part.__class__ = type(kind.__name__, (kind,), {"training": property(read, write)})
        except TypeError:  # a class that cannot be derived from is judged by what it gives
            continue
        changed.append((part, kind))
    try:
        yield
    finally:
        for part, kind in changed:
            part.__class__ = kind  # type: ignore[assignment]


def _own_copies(module: nn.Module, inputs: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(each.clone() if isinstance(each, Tensor) else each for each in inputs)
