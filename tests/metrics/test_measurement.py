import dataclasses
import json

import pytest
import torch

from metrics.measurement import Measurement, checked_labels, checked_probabilities, checked_values


def test_as_dict_is_plain_and_complete():
    record = Measurement(0.5, 4, {"bins": 15}, 0.1).as_dict()
    assert json.loads(json.dumps(record)) == {"value": 0.5, "n": 4, "settings": {"bins": 15}, "floor": 0.1}


def test_a_measurement_is_frozen_and_has_no_floor_by_default():
    measurement = Measurement(1.0, 2)
    assert measurement.floor is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        measurement.value = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "bad",
    [
        torch.tensor([[2.0, -1.0]]),
        torch.tensor([[0.3, 0.3]]),
        torch.tensor([[float("nan"), 1.0]]),
        torch.zeros(0, 3),
        torch.tensor([0.5, 0.5]),
    ],
)
def test_what_is_not_a_distribution_is_refused(bad):
    with pytest.raises(ValueError, match=r"robabilities"):
        checked_probabilities(bad)


@pytest.mark.parametrize(
    "bad", [torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0]), torch.tensor([0])]
)
def test_bad_labels_are_refused(bad):
    with pytest.raises(ValueError, match="Labels"):
        checked_labels(bad, 2, 3)


def test_nan_and_empty_values_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        checked_values(torch.tensor([0.0, float("nan")]), "Scores")
    with pytest.raises(ValueError, match="Scores"):
        checked_values(torch.zeros(0), "Scores")
