"""Which examples go where: stratified subsets and disjoint parts, as tensors of indices."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from data.errors import UserError


def stratified(y: Tensor, size: int, generator: torch.Generator, part: str = "subset") -> Tensor:
    """Sorted indices (size,) of a random subset of the labels `y` (n,) that keeps the class proportions.

    Class c receives size * n_c / n examples, rounded by the largest-remainder rule, so that each count is off by less
    than one. Raises `UserError` if `size` exceeds n or is smaller than the number of classes that occur; it names the
    option data.`part`.
    """
    occurring = len(torch.unique(y))
    if not occurring <= size <= len(y):
        of = "training examples" if part == "subset" else "examples left to test on"
        raise UserError(
            f"data.{part}={size} must lie between the number of classes ({occurring}) and the number of "
            f"{of} ({len(y)})."
        )
    return _proportional(y, size, generator)


def fewer(y: Tensor, positions: Tensor, size: int | None, generator: torch.Generator) -> Tensor:
    """`size` of the test examples at `positions`, in their order, class proportions of their labels `y` kept.

    None keeps all.
    """
    return positions if size is None else positions[stratified(y[positions], size, generator, "test")]


def carve(n: int, sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
    """Disjoint random parts of range(n): one of each size, by name, and `rest` with what is left.

    The indices of a part are in random order, so that each slice of a part is a random sample as well.
    Raises `UserError` if the parts do not fit.
    """
    _check_fit(n, sizes)
    order = torch.randperm(n, generator=generator)
    pieces = torch.split(order, [*sizes.values(), n - sum(sizes.values())])
    return dict(zip([*sizes, "rest"], pieces, strict=True))


def carve_stratified(y: Tensor, sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
    """Like `carve`, for the labels `y` (n,), with the class proportions kept in each part."""
    _check_fit(len(y), sizes)
    rest = torch.arange(len(y))
    parts: dict[str, Tensor] = {}
    for name, size in sizes.items():
        chosen = _proportional(y[rest], size, generator)
        parts[name] = rest[chosen[torch.randperm(size, generator=generator)]]
        left = torch.ones(len(rest), dtype=torch.bool)
        left[chosen] = False
        rest = rest[left]
    return {**parts, "rest": rest[torch.randperm(len(rest), generator=generator)]}


def _check_fit(n: int, sizes: Mapping[str, int]) -> None:
    if sum(sizes.values()) > n:
        asked = " + ".join(f"data.{name}={size}" for name, size in sizes.items())
        raise UserError(f"{asked} is more than the {n} examples there are to divide; make them smaller.")


def _proportional(y: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Sorted indices of `size` examples, class proportions kept; integer arithmetic, so that the rounding is exact."""
    n = len(y)
    counts = torch.bincount(y)
    quota, remainder = size * counts // max(n, 1), size * counts % max(n, 1)
    short = size - int(quota.sum())
    quota[remainder.argsort(descending=True, stable=True)[:short]] += 1
    shuffled = torch.randperm(n, generator=generator)
    by_class = shuffled[y[shuffled].argsort(stable=True)]
    rank = torch.arange(n) - (counts.cumsum(0) - counts)[y[by_class]]  # 0, 1, ... within each class
    return by_class[rank < quota[y[by_class]]].sort().values
