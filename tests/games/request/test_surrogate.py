"""attack.access=transfer in a game: nothing is asked of the provider but the labels of the targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.adaptive.none import NotAdaptive
from attacks.crafting.transfer import surrogate_task
from data.errors import UserError
from experiments.play.play import cached
from experiments.play.setup import prepare
from games.checkpoint import Checkpointed
from games.game import Setup
from games.request.crafting import _play
from games.request.surrogate import below_cap, check_transfer, surrogate_of, surrogate_setup
from games.request.targets import Targets, choose_attacker, choose_targets, member_seeds
from games.request.traffic import random_controls
from models.gradients import gradient_norms
from models.named_tensors import digest, tensors_of
from tests.experiments.games import config, run
from unlearning.service import Meter

TRANSFER = ("attack=misclassification", "attack.access=transfer", "attack.owned=0.4", "unlearning=first_order")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("surrogate")


@pytest.fixture(scope="module")
def setup(folder: Path) -> Setup[Any]:
    return prepare(config(folder, *TRANSFER, "attack.kappa=5", "defense=none"))


@pytest.fixture(scope="module")
def record(setup: Setup[Any]) -> dict[str, Any]:
    return cached(setup, 0)[0]


def chosen(setup: Setup[Any]) -> Targets:
    probabilities = setup.victim(0).probabilities(setup.data.test.x)
    return choose_targets(setup.game.targets, probabilities, setup.data.test.x, 0)


def crafted(setup: Setup[Any], victims: list[Any]) -> Any:
    attacker = choose_attacker(setup, 0)
    steps = Checkpointed(setup.procedure, setup.store, surrogate_setup(setup, attacker).keys.of("unlearning"))
    return _play(setup, steps, 0, victims, [0], chosen(setup))


def test_nothing_is_asked_of_the_provider(setup: Setup[Any], record: dict[str, Any]) -> None:
    """No query; the labels of the targets are all predictions; what is run is the surrogate's own procedure."""
    assert record["queries"] == 0
    assert record["predictions"] == len(record["targets"]["label"]) == 4
    assert record["operator_calls"] > 0
    pool = set(choose_attacker(setup, 0).pool.tolist())
    assert all(0 < len(each["indices"]) <= 6 and set(each["indices"]) <= pool for each in record["requests"])


def test_the_providers_model_plays_no_part(setup: Setup[Any], record: dict[str, Any]) -> None:
    """With any other model in its place, and the same labels, requests are the same, bit by bit."""
    victim = setup.victim(0)
    nothing = victim.moved(torch.full((1, len(victim.flat())), float("nan")))[0]
    runs = [crafted(setup, [given]) for given in (victim, nothing)]
    assert runs[0].crafted == runs[1].crafted
    for each in runs:
        assert [list(one.request.indices) for one in each.crafted] == [one["indices"] for one in record["requests"]]
        assert (each.meter.queries, each.meter.predictions) == (0, 4)


def test_a_surrogate_is_kept_by_what_it_learnt(setup: Setup[Any]) -> None:
    attacker = choose_attacker(setup, 0)
    alone = surrogate_setup(setup, attacker)
    other = surrogate_setup(setup, replace(attacker, pool=attacker.pool[1:], owned=attacker.owned[1:]))
    keys = [each.keys.victim() for each in (setup, alone, other)]
    assert all(a != b for i, a in enumerate(keys) for b in keys[i + 1 :])
    assert alone.keys.of("unlearning")["records"] == alone.keys.victim()["records"]
    meter = Meter()
    one, again = (surrogate_of(each, 0, attacker, meter) for each in (setup, replace(setup)))
    [trained], task = one.victims, surrogate_task(setup.task, attacker)
    assert digest(tensors_of(trained)) == digest(tensors_of(again.victims[0]))
    assert torch.equal(setup.procedure.learn(task, one.seeds[0]).flat(), trained.flat())
    assert one.seeds[0] != 0
    assert one.record == setup.game.service.record
    assert meter == Meter()


def test_an_ensemble_has_as_many_surrogates(folder: Path) -> None:
    ensemble = prepare(
        config(folder, "attack=uncertainty", "attack/functional=ensemble", "attack.access=transfer", "defense=none")
    )
    service = surrogate_of(ensemble, 0, choose_attacker(ensemble, 0), Meter())
    assert len(service.victims) == len(set(service.seeds)) == len(member_seeds(ensemble, 0)) > 1
    assert not set(service.seeds) & set(member_seeds(ensemble, 0))


def test_controls_are_drawn_below_the_norms_that_the_attacker_sees(folder: Path) -> None:
    capped = prepare(config(folder, *TRANSFER, "attack.norm_cap=0.5", "defense=none"))
    attacker = choose_attacker(capped, 0)
    left = below_cap(capped, 0, attacker, 0.5)
    service = surrogate_of(capped, 0, attacker, Meter())
    norms = gradient_norms(service.victims[0], service.task.records)
    small = norms[: len(attacker.pool)] <= norms.double().quantile(0.5).to(norms)
    assert torch.equal(left.pool, attacker.pool[small])
    assert torch.equal(left.owned.x, capped.task.records.x[left.pool])
    requests = [torch.zeros(6, dtype=torch.long)] * 20
    unseen: Any = None  # no victim is looked at
    for control in random_controls(capped, 0, requests, attacker, unseen, NotAdaptive()):
        assert set(control.tolist()) <= set(left.pool.tolist())


def test_without_a_store_the_surrogate_is_trained_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the attack and for the control that its norm cap has."""
    capped = prepare(config(folder, *TRANSFER, "attack.norm_cap=0.5", "defense=none", "store.enabled=false"))
    trained, train = [], Setup.victim
    monkeypatch.setattr(Setup, "victim", lambda self, seed: trained.append(seed) or train(self, seed))
    attacker = choose_attacker(capped, 0)
    first, meter = surrogate_of(capped, 0, attacker, Meter()), Meter()
    below_cap(capped, 0, attacker, 0.5)
    assert surrogate_of(capped, 0, attacker, meter).victims[0] is first.victims[0]
    assert len(trained) == 1
    surrogate_of(capped, 1, choose_attacker(capped, 1), meter)
    assert len(trained) == 2


def test_what_cannot_be_trained_is_said_before_anything_is(setup: Setup[Any], folder: Path) -> None:
    few = prepare(config(folder, *TRANSFER, "attack.owned=0.02", "attack.budget=2", "defense=none"))
    absent = min(set(range(10)) - set(choose_attacker(few, 0).owned.y.tolist()))
    lacking = few.data.auxiliary[few.data.auxiliary.y != absent]
    with pytest.raises(UserError, match=rf"none of these \d+ is of class {absent};"):
        check_transfer(replace(few, data=replace(few.data, auxiliary=lacking)))
    with pytest.raises(UserError, match=r"attack.budget=6 is larger than the pool of 3"):
        prepare(config(folder, *TRANSFER, "attack.owned=0.01", "defense=none"))
    with pytest.raises(UserError, match="FineTune has none"):
        prepare(config(folder, *TRANSFER, "unlearning=fine_tune", "defense=none"))
    with pytest.raises(UserError, match="is a black-box setting"):
        prepare(config(folder, *TRANSFER, "attack.feedback=labels", "defense=none"))


def test_a_whole_game_from_the_command_line(tmp_path: Path) -> None:
    small = ("game.targets.count=1", "game.targets.direction=under", "game.targets.under=[0.5,0.99]", "figures=false")
    sizes = ("data.train=300", "data.test=500", "training.epochs=5", "attack.budget=5", "judge=quick", "defense=none")
    out = f"hydra.run.dir={tmp_path / 'out'}"
    ran = run(*TRANSFER, *small, *sizes, out, f"store.dir={tmp_path / 'store'}", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "transfer misclassification attack against first_order" in ran.stdout + ran.stderr


def test_labels_alone_are_played_as_a_black_box(folder: Path) -> None:
    options = ("attack=misclassification", "attack.feedback=labels", "attack.queries=45", "attack.probes.count=5")
    game = prepare(config(folder, *options, "unlearning=first_order", "game.targets.mode=set", "defense=none"))
    assert game.attack.access == "black_box"
    found = cached(game, 0)[0]
    assert 0 < found["queries"] <= 45 * len(found["requests"])
    owned = len(game.data.train) * 8 // 10  # none of which the filter keeps; the search asks what they are taken for
    asked = owned + 2 * 150 + 2 * (1 + 5)  # two targets, with their copies
    assert found["predictions"] == len(found["requests"]) * asked
