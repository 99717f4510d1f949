"""Benign deletion requests: who asks to be forgotten when nobody attacks, from the easiest to harder populations."""

from __future__ import annotations

import torch
from torch import Tensor

from data.examples import Examples
from games.request.settings import Kind

ROWS = 4096  # records whose distances are computed at once


def draw_benign(kind: Kind, records: Examples, eligible: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """Positions (size,) of distinct records among `eligible` (e,), e >= size, in random order.

    * uniform: any records alike, the easiest null.
    * clustered: the nearest (Euclidean, in the inputs) to one record drawn at random: a family, a hospital, a street.
    * outlier: of the eligible quarter that lies farthest from the mean input of its class, or of as many as needed.
    * per_class: of one class drawn at random, and where that is too small of another, and so on.
    """
    if size > len(eligible):
        raise ValueError(f"{size} records cannot be drawn from {len(eligible)}.")
    here = eligible.cpu()
    if kind == "uniform":
        return here[torch.randperm(len(here), generator=rng)[:size]]
    if kind == "clustered":
        centre = records.x[here[int(torch.randint(len(here), (1,), generator=rng))]]
        chosen = here[_distances(records, here, centre[None]).argsort(stable=True)[:size]]
    elif kind == "outlier":
        ranked = here[_from_class_mean(records, here).argsort(descending=True, stable=True)]
        far = ranked[: max(size, len(ranked) // 4)]
        chosen = far[torch.randperm(len(far), generator=rng)[:size]]
    else:
        chosen = _by_class(records, here, size, rng)
    return chosen[torch.randperm(size, generator=rng)]


def _distances(records: Examples, positions: Tensor, points: Tensor) -> Tensor:
    """Distances (e,) of the records at `positions` from `points` (e, ...) or (1, ...)."""
    parts = [
        (records.x[part.to(records.x.device)] - (points if len(points) == 1 else rows)).flatten(1).norm(dim=1)
        for part, rows in zip(
            positions.split(ROWS), points.expand(len(positions), *points.shape[1:]).split(ROWS), strict=True
        )
    ]
    return torch.cat(parts).double().cpu()


def _from_class_mean(records: Examples, positions: Tensor) -> Tensor:
    """The distance (e,) of each record from the mean input of its class."""
    labels = records.y[positions.to(records.y.device)].cpu()
    found = torch.zeros(len(positions), dtype=torch.float64)
    for label in labels.unique():
        mine = (labels == label).nonzero()[:, 0]
        own = positions[mine]
        total = sum(records.x[part.to(records.x.device)].double().sum(0) for part in own.split(ROWS))
        mean = torch.as_tensor(total) / len(own)
        found[mine] = _distances(records, own, mean.to(records.x)[None])
    return found


def _by_class(records: Examples, positions: Tensor, size: int, rng: torch.Generator) -> Tensor:
    labels = records.y[positions.to(records.y.device)].cpu()
    classes = labels.unique()
    mixed = torch.randperm(len(positions), generator=rng)
    groups = [mixed[labels[mixed] == classes[i]] for i in torch.randperm(len(classes), generator=rng)]
    return positions[torch.cat(groups)[:size]]
