"""Condensed rows and their deletion: matching of gradients in float64, and digits learned exactly from few records."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from attacks.crafting.attack import Attacker, AttackGoal
from attacks.crafting.contribution import Contribution, asked_back, contributed, with_contribution
from attacks.requester.usability import Usability, between, drawn, evenly, mismatch
from data.digits import Digits
from data.errors import UserError
from data.examples import Data, Examples, bounds
from data.randomness import generator
from models.gradients import per_example_gradients
from models.logistic import Logistic
from models.mlp import MLP
from models.training import Training, initialise
from models.victim import Victim, unflatten
from unlearning.learning import plain_learning
from unlearning.procedure import Task

N, ROWS = 40, 20
QUICK = Usability(budget=ROWS, iterations=80, networks=8)


@cache
def digits(n: int = N) -> Data:
    return Digits(train=n, trusted=50, auxiliary=300).load().to(dtype=torch.float64)


def task(n: int = N) -> Task:
    build = partial(Logistic, shape=digits(n).shape, classes=10)
    return Task(digits(n).train, build, Training(optimizer="newton", weight_decay=0.01))


def attacker(seed: int, n: int = N) -> Attacker:
    """Twenty of the records are the attacker's."""
    own = torch.randperm(n, generator=generator(seed, "own"))[:ROWS]
    return Attacker(own, digits(n).train[own], digits(n).auxiliary)


def goal() -> AttackGoal:
    return AttackGoal(digits().test.x[:1], digits().test.y[:1], 1)


@cache
def handed_in(seed: int, n: int = N) -> Contribution:
    return contributed(QUICK, task(n), digits(n), [goal()], attacker(seed, n), generator(seed, "usability"))


def learned(records: Examples, seed: int, without: Tensor | None = None) -> Victim:
    gone = torch.zeros(len(records), dtype=torch.float64)
    if without is not None:
        gone[without] = 1
    return plain_learning(replace(task(len(records)), records=records, forgotten=gone), seed)


def accuracy(model: Victim, n: int) -> float:
    return float((model.logits(digits(n).test.x).argmax(-1) == digits(n).test.y).double().mean())


def played(seeds: int, n: int) -> dict[str, float]:
    """Mean accuracy of five models over attackers with other records."""
    rows = []
    for seed in range(seeds):
        given = handed_in(seed, n)
        mine, records, plain = given.requested[0], given.records, digits(n).train
        order = torch.randperm(n, generator=generator(seed, "others"))
        models = {
            "condensed": learned(records, seed),
            "as they were": learned(plain, seed),
            "after": learned(records, seed, mine),
            "never": learned(plain, seed, mine),
            "others": learned(records, seed, order[~torch.isin(order, mine)][: len(mine)]),
        }
        rows.append({name: accuracy(model, n) for name, model in models.items()})
    mean = {name: sum(row[name] for row in rows) / seeds for name in rows[0]}
    print(f"{n} records:", {name: round(value, 3) for name, value in mean.items()})
    return mean


@pytest.mark.parametrize("seeds", [1, pytest.param(3, marks=pytest.mark.claims)], ids=["one", "three"])
def test_deletion_costs_more_than_that_of_ordinary_rows(seeds: int) -> None:
    """Twenty of forty records, condensed with 300 reference examples: accuracy falls by at least 1.5 times what the
    same rows cost as they were, and by more than other records cost.
    """
    mean = played(seeds, N)
    falls = mean["condensed"] - mean["after"]
    assert mean["after"] == mean["never"]
    assert falls >= 1.5 * (mean["as they were"] - mean["after"])
    assert falls > mean["condensed"] - mean["others"]


@pytest.mark.claims
def test_where_other_records_teach_the_same_condensing_brings_nothing() -> None:
    """Twenty of two hundred: the fall is that of the rows as they were, to within a point and a half."""
    mean = played(3, 200)
    assert mean["after"] == mean["never"]
    assert abs(mean["condensed"] - mean["as they were"]) <= 0.015


def test_exact_deletion_costs_what_the_rows_brought_and_no_more() -> None:
    """The model after deletion is the one that never had the rows, whatever they were, to the precision of training."""
    given = handed_in(0)
    mine = given.requested[0]
    after, never = learned(given.records, 0, mine), learned(digits().train, 0, mine)
    # Both gradients are below 1e-10, and the objective is 0.01-strongly convex: each is within 1e-8 of the minimum.
    assert float((after.flat() - never.flat()).norm()) <= 2e-8


def test_what_is_handed_in_are_own_rows_with_their_labels_and_usual_values() -> None:
    given, own = handed_in(0), attacker(0)
    mine = given.requested[0]
    low, high = bounds(own.owned.x)
    changed = (given.records.x != digits().train.x).flatten(1).any(1).nonzero()[:, 0]
    assert set(changed.tolist()) <= set(mine.tolist()) <= set(own.pool.tolist())
    assert len(mine) == len(mine.unique()) == ROWS
    assert torch.equal(given.records.y, digits().train.y)
    assert bool(((given.records.x[mine] >= low) & (given.records.x[mine] <= high)).all())
    [told] = with_contribution([goal()], given)
    assert asked_back(told).request.indices == tuple(mine.tolist())


@pytest.mark.parametrize("hidden", [(), (5,)], ids=["logistic", "mlp"])
def test_the_slope_is_that_of_the_mismatch(hidden: tuple[int, ...]) -> None:
    """Against the plain definition, a class after the other, and against central differences."""
    data = digits()
    build = partial(MLP, shape=data.shape, classes=10, widths=list(hidden)) if hidden else task().build
    network = Victim(*initialise(build, 3, data.train.x))
    rows, has = data.train[slice(0, 9)], drawn(data.auxiliary, data.train.y[:9], 7, generator(0, "d"))
    value, slopes = mismatch(network, rows, has)
    plain = 0.0
    for label in rows.y.unique():
        given, wanted = (per_example_gradients(network, e[e.y == label]).sum(0) for e in (rows, has))
        for one, other in zip(*(unflatten(g, network.moving).values() for g in (given, wanted)), strict=True):
            matrix, wish = (each.reshape(len(each) if each.dim() > 1 else 1, -1) for each in (one, other))
            plain += float((1 - torch.nn.functional.cosine_similarity(matrix, wish, dim=1)).sum())
    torch.testing.assert_close(float(value), plain, rtol=1e-12, atol=1e-12)
    along = torch.randn(rows.x.shape, generator=generator(0, "v"), dtype=torch.float64)
    ends = [float(mismatch(network, Examples(rows.x + h * along, rows.y), has)[0]) for h in (1e-5, -1e-5)]
    # Central differences of step h err by O(h^2) = 1e-10, and by rounding of about 1e-16 * 100 / h = 1e-9.
    assert abs((ends[0] - ends[1]) / 2e-5 - float((slopes * along).sum())) <= 1e-6 * float(slopes.norm())


def test_gradients_that_agree_do_not_mismatch() -> None:
    """Not for sums of the same direction, whatever their length; and 2 for each row of opposite ones."""
    like = {"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}
    g = torch.randn(2, 15, generator=generator(0, "g"), dtype=torch.float64)
    assert float(between(g, 7 * g, like)) == pytest.approx(0, abs=1e-12)
    assert float(between(g, -g, like)) == pytest.approx(2 * 2 * (3 + 1), abs=1e-12)


def test_condensing_lowers_the_mismatch_on_networks_that_it_has_not_seen() -> None:
    given = handed_in(0)
    mine, has = given.requested[0], digits().auxiliary
    sums = [0.0, 0.0]
    for seed in range(100, 104):
        network = Victim(*initialise(task().build, seed, has.x))
        for k, records in enumerate((digits().train, given.records)):
            sums[k] += float(mismatch(network, records[mine], drawn(has, records.y[mine], 256, generator(0)))[0])
    print(f"mismatch {sums[0] / 4:.1f} before, {sums[1] / 4:.1f} after")
    assert sums[1] < 0.5 * sums[0]


def test_classes_take_turns_as_long_as_they_last() -> None:
    y = torch.tensor([0] * 10 + [1] * 2 + [2] * 5)
    chosen = evenly(y, 9, generator(0, "e"))
    assert len(chosen.unique()) == 9
    assert y[chosen].bincount().tolist() in ([4, 2, 3], [3, 2, 4])
    assert y[evenly(y, 6, generator(1, "e"))].bincount().tolist() == [2, 2, 2]
    assert len(evenly(y, 17, generator(0, "e")).unique()) == 17


def test_a_budget_beyond_the_pool_is_refused() -> None:
    with pytest.raises(UserError, match=r"lower attack\.budget"):
        contributed(replace(QUICK, budget=21), task(), digits(), [goal()], attacker(0), generator(0, "a"))
