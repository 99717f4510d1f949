"""What was attacked is measured on judged models as the attack itself sees it."""

from __future__ import annotations

import math

import pytest
import torch

from attacks.crafting.attacked import attacked, log_probabilities
from attacks.crafting.functionals import (
    Confidence,
    ConformalSetSize,
    EnsembleEntropy,
    Entropy,
    Functional,
    LogitGap,
    Margin,
    McDropout,
    label_of,
)
from attacks.requester.random import Random
from data.errors import UserError
from data.randomness import generator
from metrics.conformal import empty_share
from models.mlp import MLP
from models.training import initialise
from models.victim import Victim, stack
from tests.attacks.checks import bed, crafted, unlearned

ALL = [
    Confidence(),
    Entropy(),
    Margin(),
    LogitGap(),
    McDropout(samples=3),
    McDropout(samples=4, quantity="epistemic"),
    EnsembleEntropy(members=2),
    EnsembleEntropy(members=2, quantity="epistemic"),
    ConformalSetSize(alpha=0.3),
]
CLASSES, CALIBRATION = 3, 9


def victims(count: int, dropout: float, first: int) -> list[Victim]:
    def build() -> MLP:
        return MLP(shape=(4,), classes=CLASSES, widths=[5], dropout=dropout)

    return [Victim(*initialise(build, seed, torch.zeros(1, 4).double())) for seed in range(first, first + count)]


@pytest.mark.parametrize("functional", ALL, ids=label_of)
def test_each_target_is_judged_under_its_own_model(functional: Functional) -> None:
    """Three models, five targets: the value is the functional of one model and one target alone."""
    dropout, rows = (0.5 if functional.samples > 1 else 0.0), torch.tensor([2, 0, 0, 1, 2])
    models = [stack(victims(3, dropout, 10 * member)) for member in range(functional.members)]
    x = torch.randn(5 + CALIBRATION, 4, generator=generator(0, "x"), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1])
    truth = torch.arange(CALIBRATION) % CLASSES
    log_p = log_probabilities(functional, models, x, generator(0, "masks"))
    assert log_p.shape == (3, functional.samples * functional.members, 5 + CALIBRATION, CLASSES)
    assert torch.equal(log_p, log_probabilities(functional, models, x, generator(0, "masks")))
    found = attacked(functional, log_p, labels, rows, truth)
    for t, row in enumerate(rows.tolist()):
        one = [stack([each[row]]) for each in models]
        alone = log_probabilities(functional, one, torch.cat([x[t : t + 1], x[5:]]), generator(0, "masks"))[0]
        expected = functional(alone[:, :1], labels[t : t + 1], (alone[:, 1:], truth))
        assert float(found[t]) == pytest.approx(float(expected[0]), abs=1e-12)


def test_it_is_one_minus_confidence_for_a_removal() -> None:
    of = bed(0)
    goals = of.goals(of.targets(4))
    models = unlearned(of, crafted(Random(budget=9), of, goals))
    x, labels = torch.cat([goal.x for goal in goals]), torch.cat([goal.labels for goal in goals])
    log_p = log_probabilities(Confidence(), [models], x, generator(0, "unused"))
    found = attacked(Confidence(), log_p, labels, torch.arange(4), labels[:0])
    expected = [1 - float(models[i].probabilities(x)[i, labels[i]]) for i in range(4)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_dropout_is_asked_for_where_there_is_none() -> None:
    with pytest.raises(UserError, match=r"model\.dropout above 0"):
        log_probabilities(McDropout(), [stack(victims(1, 0.0, 0))], torch.zeros(1, 4).double(), generator(0, "m"))


def test_every_functional_says_what_it_measures() -> None:
    assert len({label_of(each) for each in ALL}) == len(ALL)
    assert label_of(ConformalSetSize(alpha=0.25)) == "smoothed size of the conformal set (alpha = 0.25), in classes"

    class Mine:
        """A user's own functional without a label."""

    assert label_of(Mine()) == "Mine"  # type: ignore[arg-type]


def test_the_share_of_empty_sets() -> None:
    sets = torch.tensor([[True, False], [False, False], [False, False], [True, True]])
    found = empty_share(sets, 0.1)
    assert (found.value, found.n, found.settings["alpha"]) == (0.5, 4, 0.1)
    assert math.isclose(empty_share(sets[:1]).value, 0)
