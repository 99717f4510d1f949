"""The threat model in the types: a `Service` has nothing to open, and its queries are counted facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.solver import Solver
from models.victim import ModelStack
from tests.attacks.checks import bed, closed, opened
from tests.testbed import testbed
from unlearning.first_order import FirstOrder
from unlearning.procedure import Procedure, Request, forget
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.service import BudgetSpent, Meter, Service, serve


@dataclass
class Counting:
    """A procedure that counts how many models it was asked for."""

    inner: Procedure
    models: int = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def forget(self, task, victim, deleted: Tensor, seed: int, submitted: Examples | None = None) -> ModelStack:  # type: ignore[no-untyped-def]
        self.models += len(deleted)
        return self.inner.forget(task, victim, deleted, seed, submitted)


def test_nothing_but_three_functions() -> None:
    service, _ = closed(bed(0), FirstOrder(), 5)
    assert [name for name in dir(service) if not name.startswith("_")] == ["forget", "predict", "queries_left"]
    for name in ("victim", "victims", "parameters", "task", "records", "procedure", "meter"):
        with pytest.raises(AttributeError):
            getattr(service, name)
    with pytest.raises(FrozenInstanceError):
        service.queries_left = lambda: 10**9  # type: ignore[misc]
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        service.victim = bed(0).victim  # type: ignore[attr-defined]


def test_predictions_are_plain_probabilities() -> None:
    of = bed(0)
    service, meter = closed(of, FirstOrder(), 5)
    p = service.predict(of.test.x[:7])
    assert torch.equal(p, of.victim.probabilities(of.test.x[:7]))
    assert p.grad_fn is None
    assert not p.requires_grad
    assert (meter.predictions, meter.queries, meter.operator_calls) == (7, 0, 0)


@pytest.mark.parametrize("procedure", [Retrain(), SecondOrder(), FirstOrder()], ids=["O1", "O3", "O2"])
def test_queries_equal_operator_calls(procedure: Procedure) -> None:
    counting = Counting(procedure)
    service, meter = closed(bed(0), counting, 10)
    service.forget([Request((1, 2)), Request((3,)), Request((4, 5, 6))])
    child = service.forget([Request((7,))])[0]
    child.forget([Request((8,))])
    assert counting.models == meter.queries == meter.operator_calls == 5
    assert service.queries_left() == child.queries_left() == 5


def test_results_are_those_of_the_public_verb() -> None:
    """Requests asked together equal requests asked alone; a child of a trial deletes the union."""
    of = bed(0)
    service, _ = closed(of, Retrain(), 10)
    together = service.forget([Request((1, 2)), Request((3,))])
    x = of.test.x[:20]
    for request, child in zip((Request((1, 2)), Request((3,))), together, strict=True):
        alone = forget(Retrain(), of.task, of.victim, request, of.seed)
        assert (child.predict(x) - alone.probabilities(x)).abs().max() < 1e-9
    union = forget(Retrain(), of.task, of.victim, Request((1, 2, 9)), of.seed)
    assert (together[0].forget([Request((9,))])[0].predict(x) - union.probabilities(x)).abs().max() < 1e-9
    assert (service.predict(x) - of.victim.probabilities(x)).abs().max() == 0  # rolled back


def test_copies_reach_only_procedures_that_compute_with_them() -> None:
    of = bed(0)
    copies = Examples(of.task.records.x[:2] + 1, of.task.records.y[:2])
    for procedure, same in ((Retrain(), True), (FirstOrder(), False)):
        service, _ = closed(of, procedure, 10)
        plain, copied = service.forget([Request((0, 1)), Request((0, 1), copies)])
        x = of.test.x[:20]
        assert ((plain.predict(x) - copied.predict(x)).abs().max() < 1e-9) == same


@pytest.mark.parametrize("feedback", ["score", "sequential"])
def test_the_budget_is_a_wall(feedback: str) -> None:
    counting = Counting(FirstOrder())
    service, meter = closed(bed(0), counting, 2, feedback)
    if feedback == "score":
        with pytest.raises(BudgetSpent, match="budget of 2"):
            service.forget([Request((i,)) for i in range(3)])
        assert (counting.models, meter.queries, service.queries_left()) == (0, 0, 2)
    for i in range(2):
        service = service.forget([Request((i,))])[0]
    assert service.queries_left() == 0
    with pytest.raises(BudgetSpent):
        service.forget([Request((5,))])
    assert counting.models == meter.queries == 2
    with pytest.raises(UserError, match="at least 1"):
        serve(bed(0).task, FirstOrder(), [bed(0).victim], [0], Meter(), 0)


def test_a_refused_request_costs_nothing() -> None:
    counting = Counting(FirstOrder())
    service, meter = closed(bed(0), counting, 5)
    for request in (Request(()), Request((300,)), Request((-1,)), Request((4, 4))):
        with pytest.raises(UserError):
            service.forget([request])
    child = service.forget([Request((1,))])[0]
    with pytest.raises(UserError, match="deleted before"):
        child.forget([Request((1, 2))])
    assert counting.models == meter.queries == 1


def test_sequential_deletions_are_for_good() -> None:
    of = bed(0)
    first, meter = closed(of, Retrain(), 5, "sequential")
    with pytest.raises(UserError, match="one request at a time"):
        first.forget([Request((1,)), Request((2,))])
    second = first.forget([Request((1, 2))])[0]
    with pytest.raises(UserError, match="for good"):
        first.forget([Request((3,))])
    third = second.forget([Request((3,))])[0]
    with pytest.raises(UserError, match="deleted before"):
        third.forget([Request((2,))])
    union = forget(Retrain(), of.task, of.victim, Request((1, 2, 3)), of.seed)
    x = of.test.x[:50]
    assert (third.predict(x) - union.probabilities(x)).abs().max() < 1e-9
    assert meter.queries == 2


def test_several_victims_answer_with_their_mean() -> None:
    of, other = bed(0), testbed(0)
    moved = of.victim.moved(0.1 * torch.ones(1, 33, dtype=torch.float64).cumsum(1))[0]
    meter = Meter()
    service = serve(of.task, SecondOrder(solver=Solver(tolerance=1e-10)), [of.victim, moved], [0, 1], meter, 3)
    x = other.test.x[:5]
    assert torch.equal(service.predict(x), (of.victim.probabilities(x) + moved.probabilities(x)) / 2)
    service.forget([Request((1,))])
    assert (meter.queries, meter.operator_calls) == (1, 2)


def test_white_box_access_counts_its_operator_calls() -> None:
    service = opened(bed(0), FirstOrder())
    service.unlearn(torch.zeros(4, 300, dtype=torch.float64))
    assert service.meter.operator_calls == 4
    reach: Callable[[], object] = lambda: Service(lambda x: x, lambda r: [], lambda: 0).task  # type: ignore[attr-defined]  # noqa: E731
    with pytest.raises(AttributeError):
        reach()
