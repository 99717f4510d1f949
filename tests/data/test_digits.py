"""The digits that come with scikit-learn."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pydantic import ValidationError

from data.digits import Digits
from data.errors import UserError
from data.examples import Data

PARTS = ("train", "test", "trusted", "auxiliary")


@pytest.fixture(scope="module")
def digits() -> Data:
    return Digits().load()


def test_counts_types_and_classes(digits: Data) -> None:
    assert [len(getattr(digits, part)) for part in PARTS] == [1000, 497, 150, 150]
    assert digits.shape == (1, 8, 8)
    assert digits.train.x.dtype == torch.float32
    assert digits.train.y.dtype == torch.int64
    assert len(digits.classes) == 10


def test_the_file_may_lie_elsewhere(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then scikit-learn reads it, to the same numbers; otherwise it is not imported at all."""
    monkeypatch.setattr("data.digits.find_spec", lambda name: None)
    for part in PARTS:
        there, elsewhere = getattr(digits, part), getattr(Digits().load(), part)
        assert torch.equal(there.x, elsewhere.x)
        assert torch.equal(there.y, elsewhere.y)


def test_parts_are_all_of_the_images(digits: Data) -> None:
    """The parts together have the labels, and after undoing the scale the pixels, of scikit-learn's 1,797 images."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = torch.cat([getattr(digits, part).y for part in PARTS])
    assert labels.bincount().tolist() == torch.from_numpy(bunch.target).bincount().tolist()
    pixels = torch.cat([getattr(digits, part).x for part in PARTS]) * digits.std + digits.mean
    rows = (pixels * 16).round().long().reshape(-1, 64)
    original = torch.from_numpy(bunch.images).long().reshape(-1, 64)
    assert torch.equal(rows.unique(dim=0, return_counts=True)[0], original.unique(dim=0))
    assert len(original.unique(dim=0)) == 1797  # so that equal sets of rows mean disjoint parts


def test_training_part_is_standardised(digits: Data) -> None:
    # 64,000 values of size < 3, each with a float32 rounding error below 3 * 2^-24 = 1.8e-7
    assert digits.mean.shape == digits.std.shape == (1, 1, 1)
    assert abs(digits.train.x.double().mean().item()) < 2e-7
    assert abs(digits.train.x.double().std(correction=0).item() - 1) < 4e-7


def test_same_seed_same_split_and_other_seed_another(digits: Data) -> None:
    assert torch.equal(Digits().load().trusted.x, digits.trusted.x)
    assert not torch.equal(Digits(split_seed=1).load().trusted.y, digits.trusted.y)


def test_subset_keeps_scale_and_other_parts(digits: Data) -> None:
    smaller = Digits(subset=100).load()
    assert len(smaller.train) == 100
    assert torch.equal(smaller.mean, digits.mean)
    assert torch.equal(smaller.test.x, digits.test.x)
    expected = digits.train.y.bincount().double() / 10
    assert bool(((smaller.train.y.bincount() - expected).abs() < 1).all())


def test_fewer_test_examples_or_all_that_are_left(digits: Data) -> None:
    assert torch.equal(Digits(test=50).load().test.x, digits.test.x[:50])
    every = Digits(train=500, test=None).load()
    assert [len(part) for part in (every.train, every.test, every.trusted, every.auxiliary)] == [500, 997, 150, 150]


def test_too_many_and_wrong_settings() -> None:
    with pytest.raises(UserError, match=r"data\.train=1500 .* more than the 1797"):
        Digits(train=1500).load()
    with pytest.raises(ValidationError, match="trusted"):
        Digits(trusted=1)
    with pytest.raises(ValidationError, match="root"):
        Digits(root="somewhere")


def test_yaml_states_the_defaults() -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "data" / "digits.yaml")
    assert instantiate(config) == Digits()
    assert set(config) == {"_target_", *asdict(Digits())}
