"""How a filter told sequences of batches apart: the attack's, those of its random control, and benign ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from defenses.defense import Verdict
from metrics.clustered import clustered_auroc
from metrics.intervals import rate_interval


def told_apart(
    attacked: Sequence[Verdict], control: Sequence[Verdict], benign: Mapping[str, Sequence[Verdict]], parts: int,
    directions: Sequence[str], asks: Sequence[bool],
) -> dict[str, Any]:  # fmt: skip
    """By direction the shares of sequences with an alarm, something in quarantine, and the AUROC of sequences.

    Verdicts are in sequences of `parts`, one after the other. The score of a sequence is its largest of a record; that
    of an attack is compared with those of the random controls, which have the same benign records, so that pairs are
    what counts as independent. Sequences in which the attacker `asks` for nothing are left out. Of `benign` ones, by
    who asks, 1 for each with an alarm.
    """
    scores, random = _largest(attacked, parts), _largest(control, parts)
    alarms, false = _alarms(attacked, parts), _alarms(control, parts)
    found: dict[str, Any] = {"parts": parts}
    for direction in dict.fromkeys(directions):
        mine = [i for i, each in enumerate(directions) if each == direction and asks[i]]
        found[direction] = None
        if mine:
            both, place = torch.cat([scores[mine], random[mine]]), torch.arange(len(mine)).repeat(2)
            found[direction] = {
                "streams": len(mine), "caught": _rate(alarms[mine]), "caught_random": _rate(false[mine]),
                "auroc": clustered_auroc(both, torch.arange(len(both)) < len(mine), place).as_dict(),
            }  # fmt: skip
    found["benign"] = {kind: _alarms(verdicts, parts).double().tolist() for kind, verdicts in benign.items()}
    return found


def _largest(verdicts: Sequence[Verdict], parts: int) -> Tensor:
    each = torch.stack([found.scores.double().max() for found in verdicts]).cpu()
    return each.reshape(-1, parts).amax(1)


def _alarms(verdicts: Sequence[Verdict], parts: int) -> Tensor:
    each = torch.stack([~found.accepted.all() for found in verdicts]).cpu()
    return each.reshape(-1, parts).any(1)


def _rate(alarms: Tensor) -> dict[str, Any]:
    found = rate_interval(int(alarms.sum()), len(alarms))
    return {"value": found.mean, "n": found.n, "settings": {"low": found.low, "high": found.high}}
