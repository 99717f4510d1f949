"""How deletions will probably move a black box, from its predictions on the attacker's own records: a linear forecast.

A model that is linear in its inputs and takes one Newton step has logits that a deletion moves by an inner product of
inputs times a residual, both of which the attacker can compute. For other models it is a guess, to begin a search with.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.crafting.functionals import averaged
from attacks.crafting.objective import CandidatePredictions, Objective
from data.examples import Examples
from unlearning.service import Predictor

SHRINKAGE = 1.0  # of the covariance of the pool's inputs, in units of its mean variance
SOFTENED = 0.01  # is added to the probability of every class where all that is answered is a label


def similarities(owned: Tensor, targets: Tensor, answers: Tensor) -> Tensor:
    """1 + (x_i - mu)' C^{-1} (x_t - mu) for records (c, *shape) and targets (T, *shape), shape (c, T).

    mu is the mean of the records and C their shrunk covariance, in which record i counts with 1 - sum_k p_k(x_i)^2,
    the trace of its curvature, from the service's `answers` p (c, K): the kernel of softmax regression after one Newton
    step, but that all classes share C. SHRINKAGE was chosen on digits.
    """
    records, points = owned.flatten(1), targets.flatten(1)
    counts = 1 - answers.square().sum(-1)
    mean = records.mean(0)
    centred = records - mean
    covariance = (centred * counts[:, None]).T @ centred / counts.sum().clamp_min(1e-12)
    covariance.diagonal().add_(SHRINKAGE * covariance.diagonal().mean().clamp_min(1e-12))
    similar: Tensor = 1 + centred @ torch.linalg.solve(covariance, (points - mean).T)
    return similar


def responses(similar: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
    """Directions (c, T, K) in which deleting each record pushes the targets' logits, up to a positive scale.

    similarity(x_i, x_t) (p(x_i) - e_{y_i}): what softmax regression does, from the `answers` p (c, K) of the service to
    the attacker's own copies, whose `labels` y are (c,).
    """
    return similar[:, :, None] * (answers - F.one_hot(labels, answers.shape[1]))[:, None]


def wanted(objective: Objective, now: CandidatePredictions) -> Tensor:
    """d objective / d logits of the targets (T, K) at what is predicted `now` for one goal, samples averaged."""
    logits = averaged(now.log_p)[:, None].requires_grad_()
    loss = objective.loss(replace(now, log_p=logits.log_softmax(-1))).sum()
    [slope] = torch.autograd.grad(loss, logits)
    return slope[0, 0]


def forecast_gains(
    service: Predictor, owned: Examples, targets: Tensor, objective: Objective, now: CandidatePredictions, soften: bool
) -> Tensor:
    """How much the deletion of each record is forecast to lower `objective`, (c,), up to a positive scale.

    `now` is what the service predicts for the targets before. With `soften` answers are labels, and are taken for
    probabilities that are nearly sure: an error in every record, instead of none in those whose label is right.
    """
    answers = service.predict(owned.x)
    if soften:
        answers, now = softened(answers), replace(now, log_p=softened(averaged(now.log_p).exp()).log()[:, None])
    pushes = responses(similarities(owned.x, targets, answers), answers, owned.y)
    return -(pushes * wanted(objective, now)).sum((1, 2))


def softened(p: Tensor) -> Tensor:
    """Probabilities (..., K) with the same added to every class, and 1 in sum again."""
    return (p + SOFTENED) / (1 + p.shape[-1] * SOFTENED)
