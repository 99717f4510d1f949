import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.uncertainty import (
    adaptive_ece,
    auroc_of_confidence,
    brier,
    confidence,
    ece,
    ece_floor,
    entropy,
    mean_confidence,
    mean_entropy,
    nll,
    reliability,
)


def draw(seed: int, n: int = 300, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p = (2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)).softmax(1)
    return p, torch.randint(classes, (n,), generator=generator)


def two_class(confidences: list[float], right: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    c = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([c, 1 - c], 1), torch.tensor([0 if r else 1 for r in right])


def ece_by_loop(p: torch.Tensor, y: torch.Tensor, bins: int) -> float:
    total, n = 0.0, len(y)
    top, guess = p.max(1)
    for b in range(bins):
        rows = [i for i in range(n) if b / bins < float(top[i]) <= (b + 1) / bins]
        if rows:
            gap = np.mean([float(guess[i] == y[i]) for i in rows]) - np.mean([float(top[i]) for i in rows])
            total += len(rows) / n * abs(gap)
    return total


def test_entropy_and_confidence_closed_forms():
    p = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(entropy(p), torch.tensor([0.0, math.log(3), math.log(2)], dtype=torch.float64))
    torch.testing.assert_close(confidence(p), torch.tensor([1.0, 1 / 3, 0.5], dtype=torch.float64))
    assert mean_entropy(p).value == pytest.approx((math.log(3) + math.log(2)) / 3)
    assert mean_entropy(p).settings["scale"] == "nats"
    assert mean_confidence(p).value == pytest.approx((1 + 1 / 3 + 0.5) / 3)


def test_perfectly_calibrated_two_bins_give_zero():
    p, y = two_class([0.75] * 4 + [0.6] * 5, [True] * 3 + [False] + [True] * 3 + [False] * 2)
    assert ece(p, y).value == pytest.approx(0, abs=1e-15)


def test_always_sure_and_half_right_gives_one_half_in_the_last_bin():
    p, y = two_class([1.0] * 4, [True, False, True, False])
    assert ece(p, y).value == 0.5
    assert reliability(p, y).count.tolist() == [0] * 14 + [4]


def test_edges_belong_to_the_lower_bin():
    p, y = two_class([0.5, 0.75, 1.0], [True, True, True])
    assert reliability(p, y, bins=4).count.tolist() == [0, 1, 1, 1]


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_ece_equals_the_loop_and_the_diagram(seed, n, bins):
    p, y = draw(seed, n)
    value = ece(p, y, bins).value
    assert value == pytest.approx(ece_by_loop(p, y, bins), abs=1e-12)
    diagram = reliability(p, y, bins)
    gaps = (diagram.accuracy - diagram.confidence).abs().nan_to_num() * diagram.count / n
    assert value == pytest.approx(float(gaps.sum()), abs=1e-12)
    assert len(diagram.edges) == bins + 1
    assert torch.isnan(diagram.accuracy).equal(diagram.count == 0)


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_adaptive_ece_equals_array_split(seed, n, bins):
    p, y = draw(seed, n)
    top, correct = p.max(1).values.numpy(), (p.argmax(1) == y).double().numpy()
    parts = np.array_split(np.argsort(top, kind="stable"), bins)
    expected = sum(len(i) / n * abs(correct[i].mean() - top[i].mean()) for i in parts if len(i))
    assert adaptive_ece(p, y, bins).value == pytest.approx(expected, abs=1e-12)


def test_adaptive_ece_equals_ece_when_the_bins_align():
    generator = torch.Generator().manual_seed(1)
    c = (torch.arange(15, dtype=torch.float64).repeat_interleave(10) + torch.arange(1, 11).repeat(15) / 10) / 15 - 1e-9
    c = c[c > 0.5]  # two classes cannot be less sure; 7.5 bins remain, so take the seven whole ones
    c = c[-70:]
    p, y = torch.stack([c, 1 - c], 1), torch.randint(2, (70,), generator=generator)
    assert adaptive_ece(p, y, bins=7).value == pytest.approx(ece(p, y, bins=15).value, abs=1e-12)


def test_the_floor_is_what_calibrated_labels_score():
    p, _ = draw(3, 400)
    floor = ece_floor(p, torch.Generator().manual_seed(0), repetitions=300)
    generator = torch.Generator().manual_seed(1)
    by_hand = [ece(p, torch.multinomial(p, 1, generator=generator)[:, 0]).value for _ in range(300)]
    spread = np.std(by_hand) / math.sqrt(300)
    assert abs(floor.value - np.mean(by_hand)) < 4 * math.sqrt(2) * spread
    assert floor.value > 10 * spread  # not 0: finite samples alone give this much
    assert floor.value < floor.settings["p95"]
    again = ece_floor(p, torch.Generator().manual_seed(0), repetitions=300)
    assert again.value == floor.value


def test_the_floor_of_one_example_has_a_closed_form():
    floor = ece_floor(torch.tensor([[0.7, 0.3]]), torch.Generator().manual_seed(0), repetitions=200_000)
    assert floor.value == pytest.approx(2 * 0.7 * 0.3, abs=0.002)  # |1 - c| with probability c, c otherwise


def test_uniform_prediction_has_brier_one_minus_one_over_k_and_nll_ln_k():
    p, y = torch.full((6, 5), 0.2, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    assert brier(p, y).value == pytest.approx(0.8, abs=1e-15)
    assert nll(p, y).value == pytest.approx(math.log(5), abs=1e-15)
    assert brier(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).value == 2.0


def test_scores_agree_with_sklearn():
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    p, y = draw(5)
    assert nll(p, y).value == pytest.approx(log_loss(y.numpy(), p.numpy(), labels=range(4)), rel=1e-12)
    binary = torch.stack([1 - p[:, 0], p[:, 0]], 1)
    label = (y == 0).long()
    assert brier(binary, label).value == pytest.approx(2 * brier_score_loss(label.numpy(), p[:, 0].numpy()), rel=1e-12)
    correct = (p.argmax(1) == y).numpy()
    expected = roc_auc_score(correct, p.max(1).values.numpy())
    assert auroc_of_confidence(p, y).value == pytest.approx(expected, rel=1e-12)
    assert auroc_of_confidence(p, y).floor == 0.5


def test_nll_of_an_excluded_label_is_infinite():
    assert nll(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).value == math.inf


@pytest.mark.parametrize(("right", "why"), [(True, "every prediction is right"), (False, "every prediction is wrong")])
def test_auroc_of_confidence_says_when_it_does_not_exist(right, why):
    result = auroc_of_confidence(*two_class([0.9, 0.8], [right, right]))
    assert math.isnan(result.value)
    assert result.settings["undefined"] == why
    assert result.n == 2
