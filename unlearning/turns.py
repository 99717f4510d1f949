"""Requests that are carried out one after the other, on several providers that began as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.passes import models_at_once
from models.victim import ModelStack
from unlearning.service import OpenService


def deleted_of(root: OpenService, providers: Sequence[OpenService]) -> Tensor:
    """What is deleted already of each of the providers, 0/1 weights (g, n)."""
    like = root.task.records.x
    nothing, earlier = like.new_zeros(len(root.task.records)), [each.task.forgotten for each in providers]
    return torch.stack([nothing if each is None else each.to(nothing) for each in earlier])


def carried_on(root: OpenService, providers: Sequence[OpenService], asked: Sequence[Tensor]) -> list[OpenService]:
    """The providers after everything in `asked`, positions for each, but what is gone already was deleted in one call.

    `root` is what all of them were at first. An exact procedure gives what it would give for all deletions at once,
    whatever their order, so that all are carried out together from the root; of any other the models depend on the
    path, and each goes its own. Where nothing is asked, nothing is carried out.
    """
    gone, found = deleted_of(root, providers), list(providers)
    new = torch.zeros_like(gone)
    for row, positions in zip(new, asked, strict=True):
        row[positions] = 1
    new = new * (1 - gone)
    moved = new.any(1).nonzero()[:, 0].tolist()
    if root.procedure.exact:
        size = models_at_once(root.victims[0])
        for part in (moved[first : first + size] for first in range(0, len(moved), size)):
            _replaced(found, part, root.unlearn((gone + new)[part]))
    else:
        for each in moved:
            _replaced(found, [each], found[each].unlearn(new[each][None]))
    for each in moved:
        found[each] = replace(found[each], task=replace(root.task, forgotten=gone[each] + new[each]))
    return found


def _replaced(providers: list[OpenService], which: Sequence[int], stacks: Sequence[ModelStack]) -> None:
    for row, each in enumerate(which):
        providers[each] = replace(providers[each], victims=tuple(stack[row] for stack in stacks))
