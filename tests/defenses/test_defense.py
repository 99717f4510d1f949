"""What a filter says is checked, and its verdict is what counts: a filter may judge a whole batch by one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from defenses.defense import Context, Verdict, calibrated, reviewed
from tests.attacks.checks import bed

REQUESTS = torch.tensor([5, 2, 9])


def context() -> Context:
    of = bed(0)
    return Context(of.task, of.victim, of.victim, of.trusted)


@dataclass(frozen=True)
class OneClass:
    """A set-level filter: a batch of one class is quarantined as a whole, though no record of it has a high score."""

    name = "one_class"

    def review(self, context: Context, requests: Tensor) -> Verdict:
        mixed = len(context.task.records.y[requests].unique()) > 1
        return Verdict(torch.zeros(len(requests)), torch.full((len(requests),), mixed), float("inf"))


def test_a_batch_is_judged_as_a_whole() -> None:
    y = bed(0).task.records.y
    alike, mixed = (y == 1).nonzero()[:4, 0], torch.cat([(y == k).nonzero()[:1, 0] for k in range(3)])
    assert reviewed(OneClass(), context(), alike).accepted.tolist() == [False] * 4
    assert reviewed(OneClass(), context(), mixed).accepted.tolist() == [True] * 3


NONE = torch.zeros(3, dtype=torch.bool)
WRONG: dict[str, tuple[Any, str]] = {
    "no verdict": (NONE, "gave a Tensor instead of a Verdict"),
    "lists": (Verdict([0.0] * 3, [True] * 3, 0.0), "not both tensors"),  # type: ignore[arg-type]
    "numbers for accepted": (Verdict(torch.zeros(3), torch.zeros(3), 0.0), "instead of bool"),
    "one for all": (Verdict(torch.zeros(1), NONE[:1], 0.0), "instead of bool"),
    "no score": (Verdict(torch.tensor([0.0, float("nan"), 1.0]), NONE, 0.0), "not 3 finite numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_verdict_that_is_none_is_named(case: str) -> None:
    verdict, said = WRONG[case]

    class Odd:
        name = "odd"

        def review(self, context: Context, requests: Tensor) -> Any:
            return verdict

    with pytest.raises(UserError, match=rf"defense=odd: review\(\) of 3 requested records .*{said}"):
        reviewed(Odd(), context(), REQUESTS)


def test_a_filter_that_writes_into_the_requests_is_named() -> None:
    class Writes(OneClass):
        def review(self, context: Context, requests: Tensor) -> Verdict:
            return super().review(context, requests.sub_(1))

    with pytest.raises(UserError, match="defense=one_class writes into requests"):
        reviewed(Writes(), context(), REQUESTS.clone())


def test_a_threshold_may_be_infinite_and_must_be_a_number() -> None:
    class Never:
        name = "never"
        given: Any = float("inf")

        def threshold(self, context: Context) -> Any:
            return self.given

    assert calibrated(Never(), context()) == float("inf")
    for given in (float("nan"), None, "high"):
        Never.given = given
        with pytest.raises(UserError, match=r"defense=never: threshold\(\) must give a number"):
            calibrated(Never(), context())
