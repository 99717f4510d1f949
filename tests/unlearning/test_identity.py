"""What learns a victim: eight procedures share one, and a setting of forgetting trains none again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data.errors import UserError
from models.solver import Solver
from models.victim import Victim
from tests.unlearning.test_every_procedure import NAMES, everything, procedure, task
from unlearning.identity import learner_of
from unlearning.procedure import Procedure
from unlearning.retrain import Retrain
from unlearning.sisa import Sisa

OWN_LEARNING = {
    "amnesiac": set(), "unrolling_sgd": set(), "sisa": {"shards", "slices", "aggregation", "weighted"},
    "certified": {"radius"}, "certified_removal": {"sigma", "noise"},
}  # fmt: skip
PLAIN = ("unlearning.learning.plain_learning", {})
OTHER = {
    "order": "first", "curvature_of": "original", "mechanism": "classical", "schedule": "cosine", "noise": "derived",
    "rate": 3.0, "loss_cap": 0.7, "aggregation": "vote", "smallest_eigenvalue": 0.01,
}  # fmt: skip


def derived(name: str) -> Any:
    """The procedure with noise from the seed, so that two victims can be compared."""
    of: Any = procedure(name)
    return replace(of, noise="derived") if name in ("certified", "certified_removal") else of


def changed(name: str, value: Any) -> Any:
    """Another value of a setting that is allowed too."""
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, Solver):
        return replace(value, max_iterations=value.max_iterations + 1, tolerance=value.tolerance / 2)
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 0.9


def free(name: str) -> list[str]:
    read = OWN_LEARNING.get(name, set())
    return [field.name for field in dataclasses.fields(derived(name)) if field.name not in {*read, "noise"}]


def same(one: Victim, other: Victim) -> bool:
    left, right = everything(one), everything(other)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=4)
@given(st.data())
def test_other_settings_of_forgetting_learn_the_same_victim_bit_by_bit(name: str, data: st.DataObject) -> None:
    of, seed = derived(name), data.draw(st.integers(0, 2))
    chosen = data.draw(st.sets(st.sampled_from(free(name)))) if free(name) else set()
    other = replace(of, **{key: changed(key, getattr(of, key)) for key in chosen})
    assert learner_of(of) == learner_of(other)
    assert same(of.learn(task(name), seed), other.learn(task(name), seed))


@pytest.mark.parametrize("name", NAMES)
def test_what_learns_is_named_with_the_settings_that_it_reads(name: str) -> None:
    of: Any = procedure(name)
    where, read = learner_of(of)
    assert set(read) == OWN_LEARNING.get(name, set())
    assert (where, read) == PLAIN if name not in OWN_LEARNING else where == f"{type(of).__module__}.{type(of).__name__}"
    assert all(value == getattr(of, key) for key, value in read.items())
    assert of.learns_with == tuple(read)


@pytest.mark.parametrize(("name", "change"), [("sisa", {"shards": 2}), ("certified", {"radius": 0.5}),
                                              ("certified_removal", {"sigma": 5.0})])  # fmt: skip
def test_settings_that_learning_reads_learn_another_victim(name: str, change: dict[str, Any]) -> None:
    of, other = derived(name), replace(derived(name), **change)
    assert learner_of(of) != learner_of(other)
    one, two = of.learn(task(name), 0), other.learn(task(name), 0)
    assert one.flat().shape != two.flat().shape or not torch.equal(one.flat(), two.flat())


@dataclass(frozen=True)
class Own(Procedure):
    """Learns in a way of its own, and says nothing about its settings."""

    rate: float = 1.0
    solver: Solver = dataclasses.field(default_factory=Solver)

    def learn(self, task: Any, seed: int) -> Any: ...

    def forget(self, *_: Any) -> Any: ...


class Lower(Own):
    """Forgets otherwise, and learns as above."""

    def forget(self, *_: Any) -> Any: ...


class OtherEpochs(Sisa):
    """Replaces something that SISA learns with."""

    def epochs(self, training: Any) -> int:
        return 1


class SisaThatForgetsOtherwise(Sisa):
    def forget(self, *_: Any, **__: Any) -> Any: ...


class Says(Own):
    learns_with = ("rate",)


class NoDataclass(Procedure):
    def __init__(self, rate: Any) -> None:
        self._rate = rate

    def learn(self, task: Any, seed: int) -> Any: ...

    def forget(self, *_: Any) -> Any: ...


class Elsewhere:
    """Derives from nothing."""

    def __init__(self) -> None:
        self.rate = 2

    def learn(self, task: Any, seed: int) -> Any: ...


HERE = "tests.unlearning.test_identity"


def test_a_class_that_says_nothing_learns_with_all_its_settings() -> None:
    assert Own.learns_with is None
    where, read = learner_of(Own())
    assert where == f"{HERE}.Own"
    assert read["rate"] == 1.0
    assert read["solver"]["method"] == Solver().method
    assert learner_of(Lower()) == (where, read)
    assert learner_of(Says(rate=2.0)) == (f"{HERE}.Own", {"rate": 2.0})
    assert learner_of(NoDataclass([1, (2, None)])) == (f"{HERE}.NoDataclass", {"_rate": [1, [2, None]]})
    assert learner_of(Elsewhere()) == (f"{HERE}.Elsewhere", {"rate": 2})


def test_whoever_replaces_a_part_of_learning_learns_otherwise() -> None:
    assert learner_of(OtherEpochs())[0] == f"{HERE}.OtherEpochs"
    assert learner_of(SisaThatForgetsOtherwise()) == learner_of(Sisa())
    assert learner_of(Retrain(solver=Solver(damping=3.0))) == PLAIN


def test_settings_that_are_no_plain_data_are_named() -> None:
    with pytest.raises(UserError, match=r"NoDataclass: its _rate is a Tensor.*say in learns_with"):
        learner_of(NoDataclass(Tensor()))
