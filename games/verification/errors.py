"""The verification errors of a replayed proof, in numbers that a record can hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from proofs.reader import Proof
    from proofs.replay import Replay

LEVELS = (0.05, 0.5, 0.95, 0.99, 1.0)
POINTS = 100  # of a distribution function


def described_errors(
    replay: Replay | None, proof: Proof | None, log: Proof | None, deleted: Tensor
) -> dict[str, Any] | None:  # fmt: skip
    """Quantiles and distribution of VE over the replayed intervals, and of VE relative to how far each moved.

    Where the provider works on a log of the original training, also by whether the interval, and the one before it, had
    deleted records in that log (`overlapping`). None where nothing was replayed.
    """
    if replay is None or proof is None or not replay.steps:
        return None
    errors = torch.tensor(replay.weights, dtype=torch.float64)
    moves = torch.tensor(replay.moves, dtype=torch.float64)
    found: dict[str, Any] = {
        "all": _quantiles(errors),
        "relative": _quantiles(errors / moves.clamp_min(torch.finfo(torch.float64).tiny)),
        "moves": _quantiles(moves),
        "buffers": max(replay.buffers, default=0.0),
        "moments": max(replay.moments, default=0.0),
        "distribution": _distribution(errors),
    }
    if log is not None and log.steps == proof.steps:
        now, before = _overlaps(log, replay.steps, deleted)
        found["overlap"] = float(now.double().mean())
        groups = {"overlapping": now, "other": ~now, "after_overlapping": before, "after_other": ~before}
        found |= {name: _quantiles(errors[group]) for name, group in groups.items() if bool(group.any())}
    return found


def _quantiles(values: Tensor) -> dict[str, float]:
    finite = values[values.isfinite()]
    if not len(finite):
        return {"n": 0}
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    # torch.quantile takes at most 16 million values, a proof has fewer
    found = dict(zip((f"p{round(100 * level)}" for level in LEVELS), finite.quantile(levels).tolist(), strict=True))
    return {**found, "n": len(values), "zero": float((values == 0).double().mean())}


def _distribution(errors: Tensor) -> dict[str, list[float]]:
    """The share of errors at most as large as each of some thresholds, which lie at equal ratios."""
    finite = errors[errors.isfinite() & (errors > 0)]
    if not len(finite):
        return {"thresholds": [], "share": []}
    low, high = math.log10(float(finite.min())), math.log10(float(finite.max()))
    thresholds = torch.logspace(low, high, POINTS, dtype=torch.float64)
    thresholds[-1] = finite.max()
    share = torch.searchsorted(errors.sort().values, thresholds, right=True).double() / len(errors)
    return {"thresholds": thresholds.tolist(), "share": share.tolist()}


def _overlaps(log: Proof, steps: list[int], deleted: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the interval that ends at each step, and the one before it, had deleted records in the log."""
    mask = torch.zeros(log.header.records.n, dtype=torch.bool)
    mask[deleted.cpu()] = True
    every, found = log.header.every, [False]
    touched = False
    for step in log.read(1):
        touched = touched or bool(mask[step.batch].any())
        if log.header.is_checkpoint(step.number):
            found.append(touched)
            touched = False
    of = torch.tensor(found)
    places = torch.tensor([-(-step // every) for step in steps])
    return of[places], of[places - 1]
