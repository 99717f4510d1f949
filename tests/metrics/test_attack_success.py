import math

import pytest
import torch

from metrics.attack_success import attack_success_rate, countable_change, label_kept, moved

BEFORE = torch.tensor([0.5, 0.5, 0.5, 0.9], dtype=torch.float64)
AFTER = torch.tensor([0.75, 0.6, 0.8, 0.5], dtype=torch.float64)
LABEL = torch.tensor([0, 1, 2, 3])
CHANGED = torch.tensor([0, 1, 0, 3])  # the third target flips


def test_flips_and_kept_labels_add_up():
    assert attack_success_rate(LABEL, CHANGED).value == 0.25
    assert label_kept(LABEL, CHANGED).value == 0.75
    assert attack_success_rate(LABEL, LABEL).value == 0.0
    assert attack_success_rate(LABEL, CHANGED).n == 4


def test_a_move_counts_only_as_wanted_far_enough_and_with_the_label_kept():
    over = moved(BEFORE, AFTER, LABEL, CHANGED, "over")
    assert over.value == 0.25  # the first; the second is too small, the third flips, the fourth goes down
    assert over.settings["mean_change"] == pytest.approx((0.25 + 0.1 + 0.3 - 0.4) / 4)
    assert moved(BEFORE, AFTER, LABEL, CHANGED, "under").value == 0.25
    assert moved(BEFORE, AFTER, LABEL, CHANGED, "over", least=0.05).value == 0.5
    assert moved(BEFORE, AFTER, LABEL, LABEL, "over").value == 0.5


def test_exactly_the_least_change_counts():
    half, whole = torch.tensor([0.25]), torch.tensor([0.5])
    assert moved(half, whole, LABEL[:1], LABEL[:1], "over", least=0.25).value == 1.0


def test_a_bad_direction_or_least_is_refused():
    with pytest.raises(ValueError, match="direction"):
        moved(BEFORE, AFTER, LABEL, CHANGED, "up")
    with pytest.raises(ValueError, match="least"):
        moved(BEFORE, AFTER, LABEL, CHANGED, "over", least=0.0)
    with pytest.raises(ValueError, match="one shape"):
        attack_success_rate(LABEL, LABEL[:2])


def test_countable_change_leaves_flipped_targets_out():
    result = countable_change(BEFORE, AFTER, LABEL, CHANGED)
    assert result.value == pytest.approx((0.25 + 0.1 - 0.4) / 3)
    assert (result.n, result.settings["targets"], result.settings["countable"]) == (3, 4, 0.75)
    none = countable_change(BEFORE[:1], AFTER[:1], LABEL[:1], LABEL[1:2])
    assert math.isnan(none.value)
    assert none.n == 0


def test_rates_carry_an_exact_interval():
    rate = attack_success_rate(torch.zeros(20, dtype=torch.long), torch.zeros(20, dtype=torch.long))
    assert rate.settings["low"] == 0.0
    assert rate.settings["high"] == pytest.approx(1 - 0.025 ** (1 / 20))  # closed form for no success
