"""What is asked of the provider: controls of the request's own size, streams alike, calibration apart from all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.adaptive.none import NotAdaptive
from data.errors import UserError
from experiments.play.setup import prepare
from games.game import Setup
from games.request.settings import TargetSettings
from games.request.targets import choose_attacker, choose_targets, reserved_records
from games.request.traffic import Traffic, benign_batches, stream_pair, traffic
from tests.experiments.games import config

NOBODY = torch.empty(0, dtype=torch.long)
REQUESTS = [torch.tensor([3, 1, 2]), NOBODY]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup[Any]:
    overrides = ("game.stream.calibration_batches=4", "game.stream.benign_batches=3")
    return prepare(config(tmp_path_factory.mktemp("traffic"), *overrides))


@pytest.fixture(scope="module")
def asked(setup: Setup[Any]) -> Traffic:
    victim = setup.victim(0)
    probabilities = victim.probabilities(setup.data.test.x)
    chosen = choose_targets(
        TargetSettings(count=1, over=(0.3, 0.65), under=(0.7, 0.97)), probabilities, setup.data.test.x, 0
    )
    pool = choose_attacker(setup, 0).pool
    return traffic(setup, 0, chosen, [pool[:3], NOBODY], [victim], NotAdaptive())


def test_controls_have_the_size_of_their_request(asked: Traffic) -> None:
    assert [len(each) for each in asked.random] == [3, 0]
    assert [len(each) for each in asked.nearest] == [3, 0]
    assert len(asked.random[0].unique()) == 3


def test_calibration_is_disjoint_from_everything_that_is_judged(setup: Setup, asked: Traffic) -> None:
    calibrated = set(torch.cat(list(asked.calibration)).tolist())
    assert calibrated <= set(reserved_records(setup, 0).tolist())
    assert len(asked.calibration) == 4
    assert all(len(batch) == len(batch.unique()) == 24 for batch in asked.calibration)
    judged = [
        *asked.requests, *asked.random, *asked.nearest, *(s.positions for s in asked.streams),
        *(s.positions for s in asked.random_streams), *(batch for group in asked.benign.values() for batch in group),
        asked.probe, choose_attacker(setup, 0).pool,
    ]  # fmt: skip
    assert not calibrated & set(torch.cat(judged).tolist())
    assert list(asked.benign) == ["uniform", "outlier"]


def test_another_seed_reserves_other_records(setup: Setup[Any]) -> None:
    assert not torch.equal(reserved_records(setup, 0), reserved_records(setup, 1))


def test_a_stream_and_that_of_its_control_share_their_benign_records(setup: Setup, asked: Traffic) -> None:
    mine, control = asked.streams[0], asked.random_streams[0]
    assert len(mine.positions) == len(mine.positions.unique()) == len(asked.calibration[0]) == 24
    assert set(mine.positions[mine.malicious].tolist()) == set(asked.requests[0].tolist())
    assert set(control.positions[control.malicious].tolist()) == set(asked.random[0].tolist())
    assert torch.equal(mine.malicious, control.malicious)
    assert torch.equal(mine.positions[~mine.malicious], control.positions[~control.malicious])


def test_an_empty_request_gives_a_benign_stream_of_full_size(setup: Setup[Any]) -> None:
    mine, control = stream_pair(setup, 0, (1,), REQUESTS[1], REQUESTS[1], NOBODY)
    assert len(mine.positions) == 24
    assert not mine.malicious.any()
    assert torch.equal(mine.positions, control.positions)


def test_benign_batches_differ_by_kind_and_number(setup: Setup[Any]) -> None:
    first, second = benign_batches(setup, 0, "uniform", 2, 20, NOBODY)
    assert len(first.unique()) == 20
    assert not torch.equal(first, second)
    assert torch.equal(first, benign_batches(setup, 0, "uniform", 1, 20, NOBODY)[0])
    assert not torch.equal(first, benign_batches(setup, 0, "per_class", 1, 20, NOBODY)[0])


def test_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"raise game\.stream\.reserved"):
        prepare(config(tmp_path, "game.stream.reserved=0.05"))
    prepare(config(tmp_path, "game.stream.reserved=0", "defense=none"))  # nothing is calibrated
    with pytest.raises(UserError, match="that are not reserved"):
        prepare(config(tmp_path, "game.stream.benign_per_malicious=50"))
