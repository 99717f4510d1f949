"""A server that publishes a statistic of all records that are left, after each deletion or as its policy says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from attacks.requester.undeleted import Release
from defenses.disclosure.limited_release import Discloses

OWN, OTHER = "own", "other"  # whose record is deleted
Statistic = Callable[[int, int], tuple[int, Tensor]]  # deletions of own and others' records -> records left, result


def releases(statistic: Statistic, deletions: Sequence[str], policy: Discloses, rng: torch.Generator) -> list[Release]:
    """What is published: one result before anything is deleted, and then whenever one is due."""
    gone, pending, found = {OWN: 0, OTHER: 0}, 0, []
    for deletion in (None, *deletions):
        if deletion is not None:
            gone[deletion] += 1
            pending += 1
        if deletion is None or policy.due(pending):
            records, exact = statistic(gone[OWN], gone[OTHER])
            found.append(Release(records, gone[OWN], policy.shown(exact, rng)))
            pending = 0
    return found


def in_turns(own: int, others: int, between: int) -> Iterator[str]:
    """Deletions of `own` records, each followed by `between` of other people's, of which there are `others`."""
    for _ in range(own):
        yield OWN
        taken = min(between, others)
        others -= taken
        yield from [OTHER] * taken


def median(own: Tensor, others: Tensor) -> Statistic:
    """The lower median of numbers, float64; records are deleted in the order in which they stand."""

    def statistic(gone: int, left: int) -> tuple[int, Tensor]:
        numbers = torch.cat([own[gone:], others[left:]])
        return len(numbers), numbers.median()  # the lower one of two

    return statistic


def ridge(own: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], decay: float) -> Statistic:
    """w = (X'X + decay I)^{-1} X'y of all records (x, y) that are left, float64."""
    (x, y), (other_x, other_y) = own, others
    whole = other_x.T @ other_x, other_x.T @ other_y
    identity = torch.eye(x.shape[1], dtype=x.dtype)

    def statistic(gone: int, left: int) -> tuple[int, Tensor]:
        s, t, deleted = x[gone:], y[gone:], other_x[:left]
        a = whole[0] - deleted.T @ deleted + s.T @ s + decay * identity
        b = whole[1] - deleted.T @ other_y[:left] + s.T @ t
        return len(s) + len(other_x) - left, torch.linalg.solve(a, b)

    return statistic
