"""The functional that was attacked, on judged models: what became of what the attack moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.crafting.functionals import Functional
from data.errors import UserError
from models.dropout import dropout_layers, sample_masks
from models.victim import ModelStack


def log_probabilities(functional: Functional, models: Sequence[ModelStack], x: Tensor, rng: torch.Generator) -> Tensor:
    """Log-probabilities (m, S, n, K) of m models on inputs `x` (n, ...), as `functional` samples them.

    `models` are one ensemble of m models for each victim. S is the functional's dropout masks times the victims; a
    generator of the same seed gives the same masks, so that states are compared through the same ones.
    """
    if functional.samples == 1:
        return torch.stack([each.logits(x).log_softmax(-1) for each in models], dim=1)
    module = models[0].module
    if not dropout_layers(module):
        raise UserError("The MC-dropout functional needs a model with dropout; set model.dropout above 0.")
    masks = sample_masks(module, rng, (functional.samples,), x.dtype)
    sampled = []
    for victims in models:
        for k in range(functional.samples):
            thinned = {name: mask[k].to(x.device).expand(len(victims), -1) for name, mask in masks.items()}
            ensemble = ModelStack(victims.module, victims.parameters, {**victims.buffers, **thinned})
            sampled.append(ensemble.logits(x).log_softmax(-1))
    return torch.stack(sampled, dim=1)


def attacked(
    functional: Functional, log_p: Tensor, labels: Tensor, row_of_target: Tensor, calibration_labels: Tensor
) -> Tensor:
    """u (T,) of every target under its own model, in the functional's unit, float64.

    Args:
        functional: what was attacked.
        log_p: (m, S, T + C, K), what `log_probabilities` gives for the T targets and then the C calibration examples.
        labels: (T,), as predicted by the victim, which the functional refers to.
        row_of_target: (T,), which of the m models judges each target.
        calibration_labels: (C,), true labels; they are used by calibrated functionals only.
    """
    own = log_p.detach().double()[row_of_target]
    count = len(labels)
    targets = torch.arange(count, device=own.device)
    on_target = own[targets, :, targets][:, :, None]  # (T, S, 1, K)
    calibration = (own[:, :, count:], calibration_labels) if functional.calibrated else None
    return functional(on_target, labels[:, None], calibration)[:, 0]
