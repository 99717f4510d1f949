"""Accuracy and error of predicted probabilities."""

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
