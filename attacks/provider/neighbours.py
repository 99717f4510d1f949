"""Substitutes for deleted records: the most similar retained ones of the same class, or any of that class."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.last_layer import features
from models.victim import Victim
from unlearning.task import Task

Space = Literal["pixels", "features"]
NUMBERS = 2**21  # in the inputs, and in the similarities, that are held at once


def nearest_retained(
    task: Task, deleted: Tensor, retained: Tensor, space: Space = "pixels", victim: Victim | None = None, k: int = 1
) -> Tensor:
    """Positions (d, k) of the `k` retained records of the same class that are most similar to each of `deleted` (d,).

    Similarity is the cosine <a, b> / (||a|| ||b||), the most similar first. `retained` (r,) are the positions that may
    be named. In space pixels a and b are the inputs less the smallest value of their channel (of a table: of their
    feature) over all records. Where some pixel is black, which is so in every data set of ours, these are the raw
    pixels, in units of the channel's standard deviation: what counts is where there is ink. With the inputs as the
    model gets them, background counts as well: for 9% of 1,000 digits of MNIST another record is nearest then. In
    space features a and b are what enters the last layer of `victim`.

    Retained records are seen in parts, so that memory is bounded. Ties go to the earlier of `retained`, where they are
    ties to the last bit. Raises UserError where a class has fewer than k retained records.

    Source: Zhang, Chen, Shen, Li, "Verification of Machine Unlearning is Fragile", ICML 2024; `features` is ours.
    """
    records = task.records
    device = records.y.device
    deleted, retained = deleted.to(device), retained.to(device)
    points = _Points(records, space, victim)
    found = torch.empty(len(deleted), k, dtype=torch.long, device=device)
    for rows, pool in _classes(records, deleted, retained, k):
        size = max(1, NUMBERS // max(k, min(len(pool), points.rows)))
        for some in rows.split(size):
            found[some] = pool[_most_similar(points, deleted[some], pool, k)]
    return found.cpu()


def random_retained(task: Task, deleted: Tensor, retained: Tensor, rng: torch.Generator, k: int = 1) -> Tensor:
    """Positions (d, k) of retained records of the same class as each of `deleted` (d,), drawn uniformly, each alone.

    A control for `nearest_retained`. Raises UserError where a class has no retained record.
    """
    deleted, retained = deleted.cpu(), retained.cpu()
    found = torch.empty(len(deleted), k, dtype=torch.long)
    labels = Examples(task.records.y.cpu(), task.records.y.cpu())
    for rows, pool in _classes(labels, deleted, retained, 1):
        found[rows] = pool[torch.randint(len(pool), (len(rows), k), generator=rng)]
    return found


class _Points:
    """Records as points of length 1, made of some of them at a time."""

    def __init__(self, records: Examples, space: Space, victim: Victim | None) -> None:
        if space == "features" and victim is None:
            raise ValueError("Features are those of a model; give `victim`.")
        self.records, self.victim = records, victim if space == "features" else None
        over = [dim for dim in range(records.x.dim()) if dim != 1]
        self.least = records.x.amin(dim=over, keepdim=True)
        self.rows = max(1, NUMBERS // max(1, records.x[0].numel()))

    def at(self, positions: Tensor) -> Tensor:
        """The points (n, f) of the records at `positions`."""
        x = self.records.x.index_select(0, positions)
        points = x.sub_(self.least).flatten(1) if self.victim is None else features(self.victim, x)
        return F.normalize(points, dim=1, out=points)


def _classes(records: Examples, deleted: Tensor, retained: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
    """For every class of `deleted` which of them are of it, and the retained positions of it."""
    labels, classes_left = records.y[deleted], records.y[retained]
    found = []
    for label in labels.unique():
        pool = retained[classes_left == label]
        if len(pool) < k:
            there = "no record" if not len(pool) else f"only {len(pool)} records"
            raise UserError(
                f"Of class {int(label)} {there} would be left, and {k} must stand in for each deleted record; delete "
                "fewer (game.users, game.records)."
            )
        found.append(((labels == label).nonzero()[:, 0], pool))
    return found


def _most_similar(points: _Points, deleted: Tensor, pool: Tensor, k: int) -> Tensor:
    """Places (d, k) in `pool` of the records most similar to each of `deleted`, found part by part."""
    own = torch.cat([points.at(some) for some in deleted.split(points.rows)])
    best = own.new_full((len(deleted), 0), 0.0)
    where = torch.empty(len(deleted), 0, dtype=torch.long, device=pool.device)
    for number, part in enumerate(pool.split(points.rows)):
        similar = own @ points.at(part).mT
        if k == 1:
            values, places = similar.max(dim=1, keepdim=True)  # the first of equals
        else:
            values, places = (each[:, :k] for each in similar.sort(dim=1, descending=True, stable=True))
        best, where = torch.cat([best, values], 1), torch.cat([where, places + number * points.rows], 1)
        order = best.argsort(dim=1, descending=True, stable=True)[:, :k]
        best, where = best.gather(1, order), where.gather(1, order)
    return where
