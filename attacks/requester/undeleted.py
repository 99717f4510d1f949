"""Undeleted: a requester deletes records of its own, and reconstructs other people's from what is published exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Protocol

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting.requester import OPTIONS
from data.bounds import at_most

ALIGNED = 1e-6  # largest part of a feature's direction outside of what is determined, for its row to count as known


@plain_dataclass(frozen=True, eq=False)
class Release:
    """A published result: of how many `records`, after how many deletions of the attacker's own, and the `value`."""

    records: int
    deleted: int
    value: Tensor


@plain_dataclass(frozen=True, eq=False)
class Staircase:
    """Other people's numbers: `values` (v,) with their `ranks` (v,) among these numbers, from 0 and rising."""

    ranks: Tensor
    values: Tensor


@plain_dataclass(frozen=True, eq=False)
class Moments:
    """What is known of A = X'X + decay I (d, d) and b = X'y (d,) of everybody else's records.

    `rank` independent equations are known of the `unknowns`, d (d + 3) / 2; `known` (d,) are the rows of A, and entries
    of b, that they determine. With all of them A and b are the solution, else the one of smallest norm.
    """

    a: Tensor
    b: Tensor
    rank: int
    known: Tensor

    @property
    def unknowns(self) -> int:
        """Entries of a symmetric matrix and a vector."""
        return len(self.b) * (len(self.b) + 3) // 2

    @property
    def solvable(self) -> bool:
        """Whether all is determined."""
        return self.rank == self.unknowns


class Reconstructor(Protocol):
    """An attacker of the undeleted game: what it contributes, in the order in which it deletes, and what it reads."""

    def numbers(self, low: float, high: float) -> Tensor: ...
    def values(self, releases: Sequence[Release]) -> Staircase: ...
    def records(self, features: int, rng: torch.Generator) -> tuple[Tensor, Tensor]: ...
    def moments(self, x: Tensor, y: Tensor, releases: Sequence[Release]) -> Moments: ...


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Undeleted:
    """Own records that are deleted one after the other while a statistic of all that is left is published exactly.

    Median: `above` sentinels above and `below` sentinels below all other numbers; every one deleted moves the rank of
    the lower median among the others by 1/2, so that m deletions publish m/2 + 1 of their values. Those above go first.
    Ridge regression: `own` records drawn from N(0, `scale`^2), null is as many as there are features, which is what it
    takes. Who owns them asked for nothing but their deletion, and other people's records were deleted by nobody.
    Source: Cohen, Kohen, Nissim and Stemmer, FORC 2026, arXiv 2602.16697 (the leak, from the abstract); both
    constructions are ours.
    """

    game: ClassVar[str] = "undeleted"
    name: ClassVar[str] = "undeleted"
    above: Annotated[int, Field(ge=0), at_most(1_000_000, "each is deleted")] = 100
    below: Annotated[int, Field(ge=0), at_most(1_000_000, "each is deleted")] = 0
    own: Annotated[int, Field(ge=0), at_most(10_000, "each is deleted")] | None = None
    scale: Annotated[float, Field(gt=0)] = 1.0

    def numbers(self, low: float, high: float) -> Tensor:
        """Its sentinels (m,), float64: beyond the range of the numbers that occur, by the length of that range."""
        reach = max(high - low, 1.0)
        return torch.cat([torch.full((count,), at, dtype=torch.float64) for count, at in
                          ((self.above, high + reach), (self.below, low - reach))])  # fmt: skip

    def values(self, releases: Sequence[Release]) -> Staircase:
        """Other people's numbers."""
        return staircase(releases, self.above, self.below)

    def records(self, features: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Its records x (m, d) and y (m,), float64."""
        count = features if self.own is None else self.own
        drawn = self.scale * torch.randn(count, features + 1, generator=rng, dtype=torch.float64)
        return drawn[:, :-1], drawn[:, -1]

    def moments(self, x: Tensor, y: Tensor, releases: Sequence[Release]) -> Moments:
        """What it learns of everybody else's records."""
        return solved(*ridge_system(x, y, releases))


def unchanged(releases: Sequence[Release], own: int) -> list[Release]:
    """The releases of as many other people as the first, of whose `own` records of the attacker's it had all.

    Who else has deleted is not known, nor what: with fewer people the equations are about other unknowns.
    """
    others = [each.records - (own - each.deleted) for each in releases]
    return [each for each, there in zip(releases, others, strict=True) if there == others[0]]


def staircase(releases: Sequence[Release], above: int, below: int) -> Staircase:
    """The other numbers that lower medians publish, when `above` sentinels are deleted first, and then `below`.

    With a sentinels left above, b below and n other numbers, the lower median of all is the other number of rank
    floor((n + a + b - 1) / 2) - b, where that is one. What is published of one rank several times is averaged. Releases
    after other people's deletions do not count: their ranks are among fewer numbers.
    """
    found: dict[int, list[Tensor]] = {}
    for each in unchanged(releases, above + below):
        over, under = max(0, above - each.deleted), below - max(0, each.deleted - above)
        others = each.records - over - under
        rank = (each.records - 1) // 2 - under
        if 0 <= rank < others:
            found.setdefault(rank, []).append(each.value)
    ranks = sorted(found)
    values = [torch.stack(found[rank]).mean() for rank in ranks]
    return Staircase(torch.tensor(ranks), torch.stack(values) if values else torch.zeros(0, dtype=torch.float64))


def ridge_system(x: Tensor, y: Tensor, releases: Sequence[Release]) -> tuple[Tensor, Tensor]:
    """W and C (d, r) of the equations A w_k - b = c_k that r releases w_k give, for own records x (m, d) and y (m,).

    Everybody together has (A + S'S) w = b + S't for the own records S, t that are left, those of rows `deleted` and
    on; so that c_k = S'(t - S w_k), which the attacker can compute. Releases after other people's deletions do not
    count: their A and b are others.
    """
    counted = unchanged(releases, len(x))
    sides = [x[e.deleted :].T @ (y[e.deleted :] - x[e.deleted :] @ e.value) for e in counted]
    return torch.stack([each.value for each in counted], dim=1), torch.stack(sides, dim=1)


def solved(w: Tensor, c: Tensor) -> Moments:
    """The symmetric A and the b with the smallest sum_k ||A w_k - b - c_k||^2, for W and C (d, r), in float64.

    Without their means over k it is A W = C. With W = U S V' the entries of U'AU are, since A is symmetric,
    (s_j M_ij + s_i M_ji) / (s_i^2 + s_j^2) for M = U'CV, where any of the two s is not 0, and b is the mean of
    A w_k - c_k: O(d^3), and no system of d (d + 3) / 2 unknowns is ever written down. With q singular values that are
    not 0 (q = r - 1 in general) d (1 + q) - q (q - 1) / 2 equations are independent: all of them at r = d + 1.
    """
    d = len(w)
    mean_w, mean_c = w.mean(1, keepdim=True), c.mean(1, keepdim=True)
    u, s, vh = torch.linalg.svd(w - mean_w, full_matrices=True)
    q = _rank(s, w)
    strengths = torch.cat([s[:q], s.new_zeros(d - q)])
    m = torch.cat([u.T @ (c - mean_c) @ vh[:q].T, s.new_zeros(d, d - q)], dim=1) * strengths
    squares = strengths[:, None].square() + strengths.square()
    a = u @ torch.where(squares > 0, (m + m.T) / squares.clamp_min(torch.finfo(w.dtype).tiny), 0.0) @ u.T
    outside = u[:, q:].norm(dim=1)
    known = outside < ALIGNED
    return Moments(a, (a @ mean_w - mean_c)[:, 0], d * (1 + q) - q * (q - 1) // 2, known)


def _rank(s: Tensor, w: Tensor) -> int:
    """How many singular values of the differences of w (d, r) are not rounding: of w, or of who solved for it."""
    eps = torch.finfo(w.dtype).eps
    return int((s > torch.maximum(eps**0.5 * s[0], eps * max(w.shape) * torch.linalg.matrix_norm(w))).sum())


def reconstruct(moments: Moments, decay: float, binary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Records of users who alone have some feature: which features (k,), and their x (k, d) and y (k,).

    A feature j of `binary` (d,), 0 or 1, that c users have stands as A_jj = c + `decay`. Where c = 1 row j of A - decay
    I is that user's x, and b_j the user's y. Only rows that are determined count.
    """
    counts = moments.a.diagonal() - decay
    alone = (binary & moments.known & ((counts - 1).abs() < 0.5)).nonzero()[:, 0]
    x = moments.a[alone] - decay * torch.eye(len(counts), dtype=moments.a.dtype)[alone]
    return alone, x, moments.b[alone]


def untouched(
    x: Tensor, y: Tensor, releases: Sequence[Release], decay: float, features: Tensor
) -> tuple[Tensor, Tensor]:
    """Records x (k, d) and y (k,) of the users who alone have the `features` (k,), though nobody but others deletes.

    These others do not have the features, so that the k rows R of A + S'S that belong to them stay what they are, and
    R w_k with them: R is orthogonal to all differences of w, and spans what is, once d - k of these are independent.
    Among its own features R is (1 + decay) I + S'S, since every one of the users has one of them; that gives its scale.
    Own records S, t = `x` (m, d), `y` (m,) stay, and may be none. Empty where the differences leave another space. Our
    observation.
    """
    w = torch.stack([each.value for each in releases], dim=1)
    u, s, _ = torch.linalg.svd(w - w.mean(1, keepdim=True), full_matrices=True)
    q = _rank(s, w)
    if len(w) - q != len(features):
        return x.new_zeros(0, x.shape[1]), y.new_zeros(0)
    left, own, identity = u[:, q:].T, (x.T @ x)[features], torch.eye(len(w), dtype=w.dtype)[features]
    scale = torch.linalg.solve(left[:, features].T, (own[:, features] + (1 + decay) * identity[:, features]).T).T
    rows = scale @ left
    return rows - own - decay * identity, rows @ w[:, 0] - (x.T @ y)[features]
