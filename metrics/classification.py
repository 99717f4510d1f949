"""Accuracy and error of predicted probabilities."""

import torch
from torch import Tensor

from metrics.measurement import Measurement, checked_labels, checked_probabilities


def accuracy(probabilities: Tensor, labels: Tensor) -> Measurement:
    """Share of examples whose most probable class is the label, in [0, 1] (a tie goes to the lowest class).

    `probabilities` (n, K), `labels` (n,) integers. Raises ValueError for anything else.
    """
    p = checked_probabilities(probabilities)
    y = checked_labels(labels, *p.shape)
    value = float((p.argmax(1) == y).double().mean())
    return Measurement(value, len(y), {"scale": "fraction", "direction": "higher is better", "classes": p.shape[1]})


def error(probabilities: Tensor, labels: Tensor) -> Measurement:
    """Share of examples whose most probable class is not the label, in [0, 1]: 1 - accuracy.

    `probabilities` (n, K), `labels` (n,) integers. Raises ValueError for anything else.
    """
    right = accuracy(probabilities, labels)
    return Measurement(1.0 - right.value, right.n, {**right.settings, "direction": "lower is better"})


def macro_f1(probabilities: Tensor, labels: Tensor) -> Measurement:
    """The mean over the classes that occur of F1 = 2 TP / (2 TP + FP + FN), in [0, 1].

    Classes that occur are those of the labels or of the predictions. With one label an example, the micro-averaged F1,
    of the sums over classes, is the accuracy. `probabilities` (n, K), `labels` (n,) integers. Raises ValueError for
    anything else.
    """
    p = checked_probabilities(probabilities)
    y = checked_labels(labels, *p.shape)
    guessed, classes = p.argmax(1), p.shape[1]
    right = torch.bincount(y[guessed == y], minlength=classes).double()
    total = torch.bincount(y, minlength=classes) + torch.bincount(guessed, minlength=classes)
    occurs = total > 0
    value = float((2 * right[occurs] / total[occurs]).mean())
    settings: dict[str, object] = {"scale": "fraction", "direction": "higher is better", "average": "macro"}
    return Measurement(value, len(y), settings | {"classes": int(occurs.sum())})
