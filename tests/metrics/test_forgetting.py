"""Distances between an unlearned model and the retrained one."""

import math

import pytest
import torch

from metrics.forgetting import disagreement, relative_distance, total_variation

P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
Q = torch.tensor([[0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])


def test_total_variation_by_hand() -> None:
    assert total_variation(P, Q).value == pytest.approx((0.5 + 0.0) / 2, abs=1e-7)
    assert total_variation(P, P).value == 0
    assert total_variation(torch.eye(3), torch.eye(3).roll(1, 0)).value == 1


def test_disagreement_counts_labels() -> None:
    assert disagreement(P, Q).value == 0.5
    assert disagreement(P, Q).n == 2


def test_relative_distance_is_zero_for_retraining_and_one_for_nothing() -> None:
    retrained, original = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 6.0])
    assert relative_distance(retrained, retrained, original).value == 0
    assert relative_distance(original, retrained, original).value == 1
    assert relative_distance(torch.tensor([1.0, 7.0]), retrained, original).value == 1
    assert math.isnan(relative_distance(original, original, original).value)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        total_variation(P, Q[:1])
    with pytest.raises(ValueError, match="one length"):
        relative_distance(P[0], P[0], Q[0][:2])
