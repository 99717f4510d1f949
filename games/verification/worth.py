"""What a released model is worth beside the original and honest retraining: utility, and what it remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metrics.classification import accuracy, macro_f1
from metrics.detection import auroc
from metrics.margins import margins
from models.victim import Victim
from unlearning.provable import retained

if TYPE_CHECKING:
    from data.examples import Data, Examples
    from games.verification.releasing import Controls
    from unlearning.procedure import Task


def worth(
    task: Task, data: Data, deleted: Tensor, model: Victim, original: Victim, controls: Controls
) -> dict[str, Any]:
    """Of the released model, the original, and naive retraining: by the recipe, and with as many updates as either.

    `test`, `deleted` and `retained`: accuracy and macro-averaged F1 on those examples (micro-averaged F1 of one label
    each is accuracy). `membership`: how well the margins of deleted records are told from those of test examples (AUC).
    Records of the training file, or changed by their owners, are no draws of the test examples, so that only its
    difference to naive retraining says something. `distance` to the original and to naive retraining is over the
    parameters, in units of the distance between these two.
    """
    left = retained(task, deleted)
    parts = {"test": data.test, "deleted": task.records[deleted], "retained": task.records[left]}
    naive = controls.naive.victim
    models = {
        "released": model, "original": original, "naive": naive, "equal": controls.equal.victim,
        "equal_to_original": controls.equal_to_original.victim,
    }  # fmt: skip
    measured = {id(each): _measured(each, parts) for each in models.values()}  # controls may be one model
    found: dict[str, Any] = {name: dict(measured[id(each)]) for name, each in models.items()}
    if not original.flat().shape == naive.flat().shape == model.flat().shape:
        return found  # a committee has no distance to one model
    unit = float((original.flat() - naive.flat()).norm())
    for name, other in (("original", original), ("naive", naive)):
        gap = float((model.flat() - other.flat()).norm())
        found["released"][f"distance_to_{name}"] = gap / unit if unit else None
    return found


def _measured(model: Victim, parts: dict[str, Examples]) -> dict[str, Any]:
    logits = {name: model.logits(part.x) for name, part in parts.items()}
    found: dict[str, Any] = {}
    for name, part in parts.items():
        probabilities = logits[name].softmax(dim=-1)
        found[name] = {
            "accuracy": accuracy(probabilities, part.y).value,
            "macro_f1": macro_f1(probabilities, part.y).value,
        }
    members = torch.cat([margins(logits[name][None], parts[name].y)[0] for name in ("deleted", "test")])
    known = torch.zeros(len(members), dtype=torch.bool)
    known[: len(parts["deleted"])] = True
    found["membership"] = auroc(members.double(), known).value
    return found
