"""What owners may hand in, and what a verdict must be."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.digits import Digits
from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from defenses.verification.verification import Prepared, Verdict, Verification, prepared, verified

DATA = Digits(train=100, test=1397).load()
USERS = (torch.tensor([3, 5]), torch.tensor([8]))
FINE = Verdict(passed=True, statistic=1.0, threshold=2.0, level=0.05, power=None, reason="Fine.")


class Mine(Verification):
    name = "mine"

    def __init__(self, given: Any) -> None:
        self.given = given

    def prepare(self, data, users, rng):
        return Prepared(self.given)

    def verify(self, case):
        return self.given


def changed(row: int, value: float = 1.5) -> Examples:
    x = DATA.train.x.clone()
    x[row] = value
    return Examples(x, DATA.train.y)


def test_owners_change_their_own_records_and_no_others() -> None:
    assert prepared(Mine(changed(5)), DATA, USERS, generator(0)).records.x[5].mean() == 1.5
    for given, sentence in (
        (changed(4), "changes a record that belongs to nobody who asks"),
        (changed(8, float("inf")), "hands in a record that is not finite"),
        (DATA.train[:50], "must give as many records as there were"),
    ):
        with pytest.raises(UserError, match=sentence):
            prepared(Mine(given), DATA, USERS, generator(0))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (7, r"verify\(\) must give a Verdict, and gave a int"),
        (replace(FINE, level=1.2), "the level of a verdict is a rate, and it is 1.2"),
        (replace(FINE, power=float("nan")), "the power of a verdict is a rate"),
        (replace(FINE, statistic=3.0), "passes with a statistic of 3, which exceeds its threshold 2"),
        (replace(FINE, threshold=True), "the threshold of a verdict is a number"),
    ],
)
def test_a_verdict_is_one_that_can_be_printed(given: Any, sentence: str) -> None:
    case: Any = SimpleNamespace(task=SimpleNamespace(records=DATA.train))
    assert verified(Mine(FINE), case) is FINE
    with pytest.raises(UserError, match=sentence):
        verified(Mine(given), case)
