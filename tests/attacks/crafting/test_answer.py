"""What is wrong with an attack's answer is a sentence that names the attack and what it gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attacks.crafting.answer import check_budget, checked_results, lent
from attacks.crafting.attack import AttackResult
from attacks.requester.random import Random
from data.errors import UserError
from data.examples import Examples
from tests.attacks.checks import bed, closed, opened
from unlearning.procedure import Request
from unlearning.retrain import Retrain

POOL = torch.tensor([10, 11, 12, 13])


def asked(*indices: Any, objective: Any = 0.0, curve: Any = ()) -> AttackResult:
    return AttackResult(Request(indices), objective, curve)


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (None, "one AttackResult for each of 1 goals, and gave NoneType"),
    "more": ([asked(10), asked(11)], "for each of 1 goals, and gave 2 of them"),
    "positions": ([POOL], "gave a Tensor for a goal; write AttackResult"),
    "positions for a request": ([AttackResult((10,), 0.0)], "gave a AttackResult for a goal"),  # type: ignore[arg-type]
    "no whole number": ([asked(1.5)], "by whole numbers"),
    "twice": ([asked(10, 10)], "asks to delete a record twice"),
    "too many": ([asked(10, 11, 12)], "asks to delete 3 records, and attack.budget is 2"),
    "another's": ([asked(10, 0)], r"asks to delete record 0, which is not in attacker.pool"),
    "objective": ([asked(10, objective="low")], "numbers as objective and curve"),
    "curve": ([asked(10, curve=("high",))], "numbers as objective and curve"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_named(case: str) -> None:
    answer, said = WRONG[case]
    with pytest.raises(UserError, match=rf"attack=random: craft\(\) .*{said}"):
        checked_results(Random(budget=2), "craft", answer, 1, POOL)


def test_a_right_answer_keeps_its_order_and_its_copies() -> None:
    copies = Examples(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    answer = AttackResult(Request((torch.tensor(13), torch.tensor(10)), copies), torch.tensor(1.5), (2, 1.5))  # type: ignore[arg-type]
    (result,) = checked_results(Random(budget=2), "craft", [answer], 1, POOL)
    assert result.request.indices == (13, 10)
    assert {type(i) for i in result.request.indices} == {int}
    assert result.request.examples is copies
    assert (result.objective, result.curve) == (1.5, (2.0, 1.5))


def test_what_is_lent_is_what_others_read() -> None:
    of = bed(0)
    goals = of.goals(of.targets(2))
    names = set(lent([opened(of)], goals, of.attacker()))
    assert names >= {"attacker.owned.x", "attacker.pool", "attacker.reference.y", "goals[1].labels", "task.records.x"}
    assert any(name.startswith("the victim's ") for name in names)
    black = set(lent([closed(of, Retrain(), 1)[0]], goals, of.attacker()))
    assert black == {name for name in names if not name.startswith(("task", "the victim's"))}


def test_a_budget_beyond_the_pool_is_refused() -> None:
    check_budget(2, 2)
    with pytest.raises(UserError, match=r"attack.budget=3 is larger than the pool of 2 records"):
        check_budget(3, 2)
