"""How much goes through models at once: one rule for whatever runs many models, or many inputs, bounded in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

INFERENCE_ROWS = 2**18  # inputs of one forward pass, over all models of a stack, at most
ACTIVATIONS = 2**24  # numbers that the layers of all models may put out in one pass; more only where a GPU has the room
_sizes: WeakKeyDictionary[nn.Module, dict[torch.Size, int]] = WeakKeyDictionary()


class Models(Protocol):
    """One model, or many of one architecture stacked (those have a length): `models.victim.Victim` and `ModelStack`."""

    @property
    def module(self) -> nn.Module: ...
    @property
    def moving(self) -> Mapping[str, Tensor]: ...
    @property
    def buffers(self) -> Mapping[str, Tensor]: ...


def rows_at_once(models: Models, x: Tensor, bound: int, count: int = 1) -> int:
    """How many of the inputs `x` to treat at once with `count` models: at most `bound` over all of them, and no more
    than keeps their activations in bounds.
    """
    return max(1, min(bound // count, room(x.device) // (count * activations(models, x))))


def passes(models: Models, x: Tensor, bound: int, number: int, count: int = 1) -> tuple[list[slice], list[slice]]:
    """Which of `number` models, and which of the inputs `x` (n, ...), to treat in one pass: each slice with each.

    As many inputs of one model as there is room for, and then as many models as there is room left; `count` is how
    often a model sees an input. On a processor that order costs nothing, and a pass of few models needs few parameters.
    """
    rows = min(max(1, len(x)), rows_at_once(models, x, bound, count))
    together = rows_at_once(models, x, bound, count * rows)
    return _slices(number, together), _slices(len(x), rows)


def joined(
    which: Sequence[slice], parts: Sequence[slice], results: Callable[[slice, slice], Tensor], dim: int
) -> Tensor:
    """What `results` gives for each of the models in `which` and inputs in `parts`, models first, inputs at `dim`.

    Memory for all of it is taken once: small results that stay between the large numbers of passes that go would keep
    a process from using their memory again, and it would grow with every pass.
    """
    whole: Tensor | None = None
    between = (slice(None),) * (dim - 1)
    for rows in which:
        for part in parts:
            found = results(rows, part)
            if whole is None:
                shape = list(found.shape)
                shape[0], shape[dim] = which[-1].stop, parts[-1].stop
                whole = found.new_empty(shape)
            whole[(rows, *between, part)] = found
    assert whole is not None  # there is always a slice, if an empty one
    return whole


def _slices(size: int, step: int) -> list[slice]:
    """Slices of at most `step` that cover range(size); one that is empty where there is nothing."""
    return [slice(first, min(first + step, size)) for first in range(0, max(1, size), step)]


def models_at_once(models: Models) -> int:
    """How many models to hold at once: as many as have no more parameters than layers may put out in one pass.

    A procedure that makes them, and what is measured on them, takes several times that memory; so what runs over any
    number of requests takes them in batches of this size, and keeps of a batch what it measured.
    """
    first = next(iter(models.moving.values()))
    total = sum(value.numel() for value in models.moving.values())
    size = total // max(1, len(models)) if isinstance(models, Sized) else total
    return max(1, room(first.device) // max(1, size))


def room(device: torch.device) -> int:
    """Numbers that the layers of all models may put out in one pass: on a GPU a sixteenth of its memory, as float32.

    Its whole memory, not what is free just now, which would make results depend on what else runs.
    """
    if device.type != "cuda":
        return ACTIVATIONS
    return max(ACTIVATIONS, torch.cuda.get_device_properties(device).total_memory // 64)


def activations(models: Models, x: Tensor) -> int:
    """Numbers that all layers of one model put out for one input, and at least a sixteenth of the input's own."""
    known = _sizes.setdefault(models.module, {})
    if x.shape[1:] not in known:
        known[x.shape[1:]] = _measured_activations(models, x)
    return known[x.shape[1:]]


def _measured_activations(models: Models, x: Tensor) -> int:
    """The same, counted in one forward pass of the first model; `x` may be empty."""
    one, total = x.new_zeros(1, *x.shape[1:]), [0]
    tensors = {**models.buffers, **models.moving}
    if isinstance(models, Sized):
        tensors = {name: value[0] for name, value in tensors.items()}

    def count(module: nn.Module, inputs: object, output: object) -> None:
        total[0] += output.numel() if isinstance(output, Tensor) else 0

    handles = [m.register_forward_hook(count) for m in models.module.modules() if not list(m.children())]
    try:
        with torch.no_grad():
            functional_call(models.module, tensors, (one,))
    finally:
        for handle in handles:
            handle.remove()
    return max(1, total[0], one.numel() // 16)
