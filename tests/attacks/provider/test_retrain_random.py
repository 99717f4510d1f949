from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attacks.provider.candidates import SideBySide
from attacks.provider.provider import Demand, pretended
from attacks.provider.retrain_random import RetrainRandom
from data.digits import Digits
from data.errors import UserError
from data.examples import Data, Examples
from data.randomness import generator
from models.mlp import MLP
from models.plan import Plan
from models.small_cnn import SmallCNN
from models.training import Training
from proofs.reader import open_proof
from proofs.replay import replay
from proofs.terms import Terms
from tests.attacks.provider.logged import writer
from unlearning.procedure import Request, Task
from unlearning.provable import drawn, retained
from unlearning.retrain import Retrain

RECIPE = Training(epochs=2, batch_size=64, lr=0.05, schedule="constant")


@pytest.fixture(scope="module")
def data() -> Data:
    return Digits().load()


def demand_of(data: Data, training: Training = RECIPE, deleted: int = 200, seed: int = 0, **others) -> Demand:  # type: ignore[no-untyped-def]
    build = others.pop("build", partial(MLP, shape=data.shape, classes=10, widths=(16,)))
    task = Task(data.train, build, training, others.pop("forgotten", None))
    free = torch.arange(len(data.train)) if task.forgotten is None else (task.forgotten == 0).nonzero()[:, 0]
    which = free[torch.randperm(len(free), generator=generator(seed, "deleted"))[:deleted]]
    return Demand(
        task=task, original=drawn(task, seed), request=Request(tuple(which.tolist())), procedure=Retrain(),
        auxiliary=data.auxiliary, seed=seed, **others,
    )  # fmt: skip


class Taken:
    """A recorder that keeps the batches."""

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def begin(self, opening, state) -> None:  # type: ignore[no-untyped-def]
        self.opening, self.start = opening, state.clone()

    def step(self, batch, lr, state, inputs=None) -> None:  # type: ignore[no-untyped-def]
        self.batches.append(batch.clone())

    def end(self) -> None:
        self.whole = True


@pytest.mark.parametrize(("deleted", "batch"), [(0, 64), (100, 64), (200, 100), (700, 32), (990, 3)])
def test_an_epoch_uses_as_many_records_as_honest_retraining_each_at_most_once(
    data: Data, deleted: int, batch: int
) -> None:
    taken = Taken()
    asked = demand_of(data, replace(RECIPE, batch_size=batch), deleted, recorder=taken)
    RetrainRandom(candidates=3).pretend(asked)
    gone = torch.tensor(asked.request.indices, dtype=torch.long)
    left = retained(asked.task, gone)
    per_epoch = len(left) // batch
    assert len(taken.batches) == 2 * per_epoch == taken.opening.steps == Plan(asked.task.training, len(left)).steps
    assert all(len(each) == batch for each in taken.batches)
    for epoch in (taken.batches[:per_epoch], taken.batches[per_epoch:]):
        used = torch.bincount(torch.cat(epoch), minlength=len(data.train))
        assert int(used.max()) == 1
        assert int(used.sum()) == per_epoch * batch  # all but the tail that honest retraining drops too
        assert not bool(used[gone].any())
    assert taken.whole


class Told:
    """Compares nothing, and keeps what it was asked about."""

    def __init__(self, apart: Tensor) -> None:
        self.apart, self.asked = apart, []

    def distances(self, wanted: Tensor, drawn: Tensor, step: int) -> tuple[Tensor, Tensor]:
        self.asked.append((wanted.clone(), drawn.clone(), step))
        return self.apart, torch.ones(())


@pytest.mark.parametrize(("apart", "chosen"), [([3.0, 1.0, 2.0, 1.0], 3), ([0.5, 1.0, 2.0, 1.0], 0), ([1.0] * 4, 3)])
def test_the_nearest_candidate_replaces_the_deleted_and_of_equals_the_last(apart: list[float], chosen: int) -> None:
    n, size = 600, 20
    deleted = torch.arange(0, n, 3)
    left = torch.tensor([i for i in range(n) if i % 3])
    plan, told = Plan(replace(RECIPE, batch_size=size), len(left)), Told(torch.tensor(apart))
    attack = RetrainRandom(candidates=4)
    used: set[int] = set()
    for step, batch in enumerate(attack.batches(plan, left, deleted, told, generator(0, "order"))):
        wanted, tried, of = told.asked[-1]
        assert of == step
        if step % plan.per_epoch == 0:
            used = set()
        stayed = set(batch.tolist()) - set(tried[chosen].tolist())
        assert tried.shape == (4, len(wanted))
        assert set(tried[chosen].tolist()) | stayed == set(batch.tolist())
        assert len(stayed) == size - len(wanted)  # so that no substitute was in the batch already
        for rows in tried.tolist():
            assert len(set(rows)) == len(rows)
            assert not set(rows) & (stayed | used)
            assert all(row % 3 for row in rows)
        assert not set(wanted.tolist()) & used
        assert all(row % 3 == 0 for row in wanted.tolist())
        used |= set(batch.tolist()) | set(wanted.tolist())
    assert of == plan.steps - 1
    assert len(told.asked) == plan.steps


def test_a_substitute_stands_where_the_deleted_record_stood() -> None:
    deleted, left = torch.arange(100, 200), torch.arange(100)
    plan = Plan(replace(RECIPE, batch_size=10, epochs=1), 100)
    told = Told(torch.zeros(1))
    chosen = list(RetrainRandom(candidates=1).batches(plan, left, deleted, told, generator(0, "order")))
    wanted, tried, _ = told.asked[0]
    places = torch.isin(chosen[0], tried[0]).nonzero()[:, 0]
    assert chosen[0][places].tolist() == tried[0].tolist()
    assert len(places) == len(wanted)
    assert not torch.equal(places, torch.arange(10 - len(places), 10))  # they are not put at the end


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_proof_is_genuine(data: Data, optimizer: str, tmp_path: Path) -> None:
    """Every step replays to the last bit, none of its batches has a deleted record, and it begins as it says."""
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.01, momentum=0.9, weight_decay=5e-4, schedule="cosine")
    asked = demand_of(data, recipe)
    gone = torch.tensor(asked.request.indices)
    asked = replace(asked, recorder=writer(asked.task, asked.original, tmp_path / "proof", gone))
    released = pretended(RetrainRandom(candidates=5), asked)
    proof = open_proof(tmp_path / "proof")
    found = replay(proof, data.train, released)
    assert proof.complete
    assert (max(found.weights), max(found.moments), found.damaged) == (0.0, 0.0, None)
    steps = list(proof.read())
    assert not any(bool(torch.isin(step.batch, gone).any()) for step in steps)
    assert torch.equal(steps[0].state.weights, drawn(asked.task, 0).flat())  # type: ignore[union-attr]
    assert torch.equal(steps[-1].state.weights, released.flat())  # type: ignore[union-attr]


def test_batch_norm_statistics_are_those_of_the_steps_alone(data: Data, tmp_path: Path) -> None:
    build = partial(SmallCNN, shape=data.shape, classes=10, widths=(4,), norm="batch")
    asked = demand_of(data, replace(RECIPE, epochs=1, lr=0.01), build=build)
    gone = torch.tensor(asked.request.indices)
    asked = replace(asked, recorder=writer(asked.task, asked.original, tmp_path / "proof", gone))
    released = pretended(RetrainRandom(candidates=2), asked)
    found = replay(open_proof(tmp_path / "proof"), data.train, released)
    assert (max(found.weights), max(found.buffers)) == (0.0, 0.0)


def test_gradient_evaluations_are_counted(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """B + (M + 1) |u| of every step."""
    numbers: list[int] = []
    distances = SideBySide.distances

    def noted(self: SideBySide, wanted: Tensor, drawn: Tensor, step: int) -> tuple[Tensor, Tensor]:
        numbers.append(len(wanted))
        return distances(self, wanted, drawn, step)

    monkeypatch.setattr(SideBySide, "distances", noted)
    asked = demand_of(data)
    RetrainRandom(candidates=7).pretend(asked)
    steps = 2 * (800 // 64)
    assert len(numbers) == asked.gradients.updates == steps
    assert asked.gradients.count == 64 * steps + (7 + 1) * sum(numbers)


def test_it_says_how_well_gradients_were_matched(data: Data, caplog: pytest.LogCaptureFixture) -> None:
    apart: list[float] = []
    with caplog.at_level("INFO"):
        RetrainRandom(candidates=7).pretend(demand_of(data))
    RetrainRandom(candidates=7).retrained(demand_of(data), lambda found, _: apart.append(float(found.min())))
    assert f"on average over {len(apart)} steps" in caplog.text
    assert f"of the nearest candidate is {sum(apart) / len(apart):.3g} away" in caplog.text


def test_it_draws_from_its_seed_and_ignores_an_order(data: Data) -> None:
    one, same, told, other = Taken(), Taken(), Taken(), Taken()
    attack = RetrainRandom(candidates=2)
    attack.pretend(demand_of(data, recorder=one))
    attack.pretend(demand_of(data, recorder=same))
    attack.pretend(demand_of(data, recorder=told, terms=Terms(order=7)))
    attack.pretend(replace(demand_of(data, recorder=other), seed=1))
    assert all(torch.equal(a, b) for a, b in zip(one.batches, same.batches, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one.batches, told.batches, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.batches, other.batches, strict=True))
    assert not torch.equal(one.start.weights, other.start.weights)


def test_what_was_forgotten_before_is_never_used(data: Data) -> None:
    forgotten = torch.zeros(len(data.train))
    forgotten[::3] = 1
    taken = Taken()
    asked = demand_of(data, forgotten=forgotten, recorder=taken, deleted=100)
    RetrainRandom(candidates=2).pretend(asked)
    assert not bool(forgotten[torch.cat(taken.batches)].any())


def test_more_candidates_come_nearer(data: Data) -> None:
    """By the mean over steps; each prefix of the candidates of a step is a draw of fewer."""
    gaps: list[Tensor] = []
    RetrainRandom(candidates=50).retrained(demand_of(data), lambda apart, _: gaps.append(apart))
    apart = torch.stack(gaps)
    best = [float(apart[:, :m].min(1).values.mean()) for m in (1, 5, 50)]
    assert best[0] > best[1] > best[2]
    assert best[2] < float(apart.median(1).values.mean())


def test_newton_is_refused_before_anything_is_trained(data: Data) -> None:
    task = demand_of(data).task
    RetrainRandom().check(task, 10, True)
    with pytest.raises(UserError, match="attack=retrain_random chooses batches"):
        RetrainRandom().check(replace(task, training=Training(optimizer="newton")), 10, False)


def test_a_diverging_recipe_is_named(data: Data) -> None:
    x = data.train.x.clone()
    x[0] = torch.inf
    asked = demand_of(data)
    asked = replace(asked, task=replace(asked.task, records=Examples(x, data.train.y)))
    with pytest.raises(UserError, match=r"lower training\.lr"):
        RetrainRandom(candidates=1).pretend(replace(asked, request=Request((1, 2, 3))))
