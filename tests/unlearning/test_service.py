"""The threat model in the types: a `Service` has nothing to open, and its queries are counted facts."""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import models.passes
import unlearning.service
from data.errors import UserError
from data.examples import Examples
from models.solver import Solver
from models.victim import ModelStack
from tests.attacks.checks import bed, closed, opened
from tests.testbed import Testbed, testbed
from tests.unlearning import test_every_procedure as every
from unlearning.first_order import FirstOrder
from unlearning.influence_replacement import InfluenceReplacement
from unlearning.procedure import Procedure, Request, forget
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.service import BudgetSpent, Meter, OpenService, Predictor, serve


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


def test_nothing_but_its_verbs() -> None:
    """No public name, slots included, holds a model, a task, a procedure or a meter; and none can be added."""
    service, _ = closed(bed(0), FirstOrder(), 5)
    shown = Predictor([bed(0).victim])
    for black_box, verbs in (
        (shown, ["predict"]),
        (service, ["answers", "forget", "forget_each", "predict", "queries_left"]),
    ):
        assert [name for name in dir(black_box) if not name.startswith("_")] == verbs
        assert all(inspect.ismethod(getattr(black_box, verb)) for verb in verbs)
        assert not hasattr(black_box, "__dict__")
        for kind in type(black_box).__mro__:
            assert all(name.startswith("_") for name in getattr(kind, "__slots__", ()))
        for name in ("victim", "victims", "parameters", "task", "records", "procedure", "meter", "provider"):
            with pytest.raises(AttributeError):
                getattr(black_box, name)
        for name in ("victim", "predict", "queries_left"):
            with pytest.raises(AttributeError):
                setattr(black_box, name, None)


def test_a_predictor_counts_and_cannot_forget() -> None:
    of, meter = bed(0), Meter()
    shown = Predictor([of.victim], meter)
    assert torch.equal(shown.predict(of.test.x[:7]), of.victim.probabilities(of.test.x[:7]))
    assert (meter.predictions, meter.queries) == (7, 0)
    assert not hasattr(shown, "forget")


def test_predictions_are_plain_probabilities() -> None:
    of = bed(0)
    service, meter = closed(of, FirstOrder(), 5)
    p = service.predict(of.test.x[:7])
    assert torch.equal(p, of.victim.probabilities(of.test.x[:7]))
    assert p.grad_fn is None
    assert not p.requires_grad
    assert (meter.predictions, meter.queries, meter.operator_calls) == (7, 0, 0)


def test_label_only_feedback_shows_labels_and_no_more() -> None:
    """By no public name, that of the base class included; before a request and after one, each rolled back."""
    of, x = bed(0), bed(0).test.x[:50]
    service, meter = closed(of, FirstOrder(rate=8.0), 5, "labels")
    child = service.forget_each([Request((1, 2)), Request((3,))])[0]
    after = forget(FirstOrder(rate=8.0), of.task, of.victim, Request((1, 2)), of.seed)
    for shown, model in ((service, of.victim), (child, after), (child.forget(Request((4,))), None)):
        for answer in (shown.predict(x), Predictor.predict(shown, x)):
            assert answer.dtype == x.dtype
            assert set(answer.unique().tolist()) == {0.0, 1.0}
            assert bool((answer.sum(1) == 1).all())
            if model is not None:
                assert torch.equal(answer.argmax(1), model.logits(x).argmax(1))
    assert (meter.queries, service.queries_left()) == (3, 2)
    assert Predictor([of.victim], labels_only=True).predict(x).sum() == 50


@pytest.mark.parametrize("procedure", [Retrain(), SecondOrder(), FirstOrder()], ids=lambda p: type(p).__name__)
def test_queries_equal_operator_calls(procedure: Procedure) -> None:
    counting = Counting(procedure)
    service, meter = closed(bed(0), counting, 10)
    service.forget_each([Request((1, 2)), Request((3,)), Request((4, 5, 6))])
    child = service.forget(Request((7,)))
    child.forget(Request((8,)))
    assert counting.models == meter.queries == meter.operator_calls == 5
    assert service.queries_left() == child.queries_left() == 5


def test_results_are_those_of_the_public_verb() -> None:
    """Requests asked together equal requests asked alone; a child of a trial deletes the union."""
    of = bed(0)
    service, _ = closed(of, Retrain(), 10)
    together = service.forget_each([Request((1, 2)), Request((3,))])
    x = of.test.x[:20]
    for request, child in zip((Request((1, 2)), Request((3,))), together, strict=True):
        alone = forget(Retrain(), of.task, of.victim, request, of.seed)
        assert (child.predict(x) - alone.probabilities(x)).abs().max() < 1e-9
    union = forget(Retrain(), of.task, of.victim, Request((1, 2, 9)), of.seed)
    assert (together[0].forget(Request((9,))).predict(x) - union.probabilities(x)).abs().max() < 1e-9
    assert (service.predict(x) - of.victim.probabilities(x)).abs().max() == 0  # rolled back


def copies_of(of: Testbed, *indices: int) -> Request:
    """A request whose copies differ from the provider's records, in x and in the label of the first."""
    x, y = of.task.records.x[list(indices)] + 1, of.task.records.y[list(indices)].clone()
    y[0] = (y[0] + 1) % 3
    return Request(indices, Examples(x, y))


def test_copies_reach_only_procedures_that_compute_with_them() -> None:
    of, x = bed(0), bed(0).test.x[:20]
    for procedure, same in ((Retrain(), True), (FirstOrder(), False)):
        service, _ = closed(of, procedure, 10)
        plain, copied = service.forget_each([Request((0, 1)), copies_of(of, 0, 1)])
        assert ((plain.predict(x) - copied.predict(x)).abs().max() < 1e-9) == same


@pytest.mark.parametrize("feedback", ["score", "sequential", "opened"])
@pytest.mark.parametrize("procedure", [Retrain(), FirstOrder(rate=3.0), SecondOrder(), InfluenceReplacement()])
def test_copies_come_one_request_after_the_other(procedure: Procedure, feedback: str) -> None:
    """With and without copies, in turn: what the public verb gives on the model and the records that are left."""
    of, x = bed(0), bed(0).test.x[:20]
    meter = Meter()
    provider = OpenService(of.task, procedure, (of.victim,), (of.seed,), meter)
    service = provider if feedback == "opened" else serve(provider, 3, feedback)  # type: ignore[arg-type]
    task, victim = of.task, of.victim
    for request in (copies_of(of, 0, 1), Request((2, 3)), copies_of(of, 4)):
        service = service.forget(request)
        victim, task = forget(procedure, task, victim, request, of.seed), task.without(request)
        found = service.victims[0].probabilities(x) if isinstance(service, OpenService) else service.predict(x)
        torch.testing.assert_close(found, victim.probabilities(x), rtol=1e-9, atol=1e-12)
    assert meter.operator_calls == 3
    assert meter.queries == (0 if feedback == "opened" else 3)


@pytest.mark.parametrize("feedback", ["score", "labels"])
@pytest.mark.parametrize("copied", [False, True])
def test_answers_are_those_of_the_services_and_hold_few_models(
    feedback: str, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `forget_each` and `predict` say, and cost; models are let go of before the next are made."""
    of = bed(0)
    requests: list[Request] = [Request((i, i + 1)) for i in range(8)]
    if copied:
        requests = [copies_of(of, *request.indices) for request in requests]
    one, other = (closed(of, FirstOrder(), 20, feedback) for _ in range(2))
    expected = torch.stack([each.predict(of.test.x[:5]) for each in one[0].forget_each(requests)])
    monkeypatch.setattr(models.passes, "ACTIVATIONS", 2 * len(of.victim.flat()))
    held, made, original = list[int](), list[weakref.ref[object]](), unlearning.service.Predictor.predict

    def counted(self: Predictor, x: Tensor) -> Tensor:
        made.append(weakref.ref(self._victims[0]))
        held.append(sum(each() is not None for each in made))
        return original(self, x)

    monkeypatch.setattr(unlearning.service.Predictor, "predict", counted)
    found = other[0].answers(requests, of.test.x[:5])
    torch.testing.assert_close(found, expected)
    assert one[1].queries == other[1].queries == 8
    assert one[1].operator_calls == other[1].operator_calls
    assert other[0].queries_left() == 12
    assert max(held) <= 2


def test_nothing_is_tried_where_requests_are_for_good() -> None:
    service, meter = closed(bed(0), FirstOrder(), 5, "sequential")
    with pytest.raises(UserError, match="forget\\(\\) carries a request out"):
        service.answers([Request((1,))], bed(0).test.x[:2])
    assert meter.queries == 0


@pytest.mark.parametrize("name", every.NAMES)
def test_every_procedure_takes_a_request_with_copies_after_another(name: str) -> None:
    task = every.task(name)
    provider = OpenService(task, every.procedure(name), (every.victim(name),), (0,))
    copies = Examples(task.records.x[:2] + 0.1, task.records.y[:2])
    for feedback in ("score", "sequential"):
        service = serve(provider, 2, feedback).forget(Request((0, 1), copies))  # type: ignore[arg-type]
        service = service.forget(Request((2, 3), copies))
        assert service.queries_left() == 0
        assert service.predict(task.records.x[:5]).isfinite().all()
    opened = provider.forget(Request((0, 1), copies)).forget(Request((2, 3), copies))
    assert opened.task.forgotten is not None
    assert opened.task.forgotten.nonzero()[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("feedback", ["score", "sequential"])
def test_the_budget_is_a_wall(feedback: str) -> None:
    counting = Counting(FirstOrder())
    service, meter = closed(bed(0), counting, 2, feedback)
    if feedback == "score":
        with pytest.raises(BudgetSpent, match="budget of 2"):
            service.forget_each([Request((i,)) for i in range(3)])
        assert (counting.models, meter.queries, service.queries_left()) == (0, 0, 2)
    for i in range(2):
        service = service.forget(Request((i,)))
    assert service.queries_left() == 0
    with pytest.raises(BudgetSpent):
        service.forget(Request((5,)))
    assert counting.models == meter.queries == 2
    with pytest.raises(UserError, match="at least 1"):
        serve(opened(bed(0), FirstOrder()), 0)


def test_a_refused_request_costs_nothing() -> None:
    counting = Counting(FirstOrder())
    service, meter = closed(bed(0), counting, 5)
    for request in (Request(()), Request((300,)), Request((-1,)), Request((4, 4))):
        with pytest.raises(UserError):
            service.forget(request)
    with pytest.raises(UserError, match="takes one Request"):
        service.forget([Request((1,))])  # type: ignore[arg-type]
    child = service.forget(Request((1,)))
    with pytest.raises(UserError, match="deleted before"):
        child.forget(Request((1, 2)))
    assert counting.models == meter.queries == 1


def test_sequential_deletions_are_for_good() -> None:
    of = bed(0)
    first, meter = closed(of, Retrain(), 5, "sequential")
    with pytest.raises(UserError, match="one request at a time"):
        first.forget_each([Request((1,)), Request((2,))])
    second = first.forget(Request((1, 2)))
    with pytest.raises(UserError, match="for good"):
        first.forget(Request((3,)))
    third = second.forget(Request((3,)))
    with pytest.raises(UserError, match="deleted before"):
        third.forget(Request((2,)))
    union = forget(Retrain(), of.task, of.victim, Request((1, 2, 3)), of.seed)
    x = of.test.x[:50]
    assert (third.predict(x) - union.probabilities(x)).abs().max() < 1e-9
    assert meter.queries == 2


def test_several_victims_answer_with_their_mean() -> None:
    of, other = bed(0), testbed(0)
    moved = of.victim.moved(0.1 * torch.ones(1, 33, dtype=torch.float64).cumsum(1))[0]
    meter = Meter()
    procedure = SecondOrder(solver=Solver(tolerance=1e-10))
    service = serve(OpenService(of.task, procedure, (of.victim, moved), (0, 1), meter), 3)
    x = other.test.x[:5]
    assert torch.equal(service.predict(x), (of.victim.probabilities(x) + moved.probabilities(x)) / 2)
    service.forget(Request((1,)))
    assert (meter.queries, meter.operator_calls) == (1, 2)


def test_white_box_access_counts_its_operator_calls() -> None:
    service = opened(bed(0), FirstOrder())
    service.unlearn(torch.zeros(4, 300, dtype=torch.float64))
    assert service.meter.operator_calls == 4
