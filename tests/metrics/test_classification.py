import pytest
import torch

from metrics.classification import accuracy, error


def test_accuracy_counts_by_hand_and_error_is_the_rest():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.5, 0.0]])
    y = torch.tensor([0, 2, 2, 1])  # the last one is a tie, which goes to class 0
    assert accuracy(p, y).value == 0.5
    assert error(p, y).value == 0.5
    assert accuracy(p[:3], y[:3]).value == pytest.approx(2 / 3, abs=1e-15)
    assert accuracy(p, y).n == 4
    assert accuracy(p, y).settings["scale"] == "fraction"


def test_accuracy_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(200, 7, generator=generator).softmax(1)
    y = torch.randint(7, (200,), generator=generator)
    hits = sum(
        int(max(range(7), key=row.__getitem__) == label) for row, label in zip(p.tolist(), y.tolist(), strict=True)
    )
    assert accuracy(p, y).value == hits / 200


def test_logits_are_refused():
    with pytest.raises(ValueError, match="logits"):
        accuracy(torch.tensor([[3.0, -1.0]]), torch.tensor([0]))
