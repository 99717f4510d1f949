"""The summary and the table on a record written by hand, whose answers are known."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.summary import score, summarise
from experiments.table import plus_minus, rate, show, signed


def state(confidence: list[float], kept: list[float] | None = None, models: int = 2) -> dict[str, Any]:
    return {
        "confidence": confidence, "entropy": [0.5] * len(confidence), "kept": kept or [1.0] * len(confidence),
        "models": {name: [0.9] * models for name in ("accuracy", "ece", "conformal_set_size")},
    }  # fmt: skip


def record(shift: float = 0.0) -> dict[str, Any]:
    before = [0.5, 0.6]
    own = {
        "before": state(before, models=1), "after": state([0.8 + shift, 0.7], [1.0, 1.0]),
        "defended": state([0.55, 0.65]), "processed": state(before), "stream": state(before),
        "random": state([0.5, 0.5], [1.0, 0.0]), "benign": state(before, models=3),
    }  # fmt: skip
    fresh = {
        "seeds": [1, 2, 3], "nothing": [state([0.4, 0.7], [1.0, 0.0], 1)] * 3, "after": [state([0.7, 0.7])] * 3,
        "random": [state([0.5, 0.6])] * 3, "defended": [state([0.5, 0.6])] * 3,
        "models": {name: state(before)["models"] for name in ("nothing", "after", "random", "defended")},
    }  # fmt: skip
    return {
        "seed": 0, "targets": {"direction": ["over", "over"], "aim": [0, 1], "position": [0, 1], "label": [0, 0]},
        "requests": [{"indices": [1, 2], "direction": "over"}, {"indices": [3], "direction": "over"}],
        "victim_seed": own, "fresh_seeds": fresh, "queries": 0, "operator_calls": 4, "certificate": None,
        "detection": {"over": None, "defense": "none", "benign_only_rejected": [0.0]},
    }  # fmt: skip


def test_effect_is_paired_with_the_random_control() -> None:
    part = summarise([record()], ["over"])["over"]
    assert part["effect"]["victim_seed"]["mean"] == pytest.approx((0.3 + 0.2) / 2)
    assert part["effect"]["fresh_seeds"]["mean"] == pytest.approx((0.2 + 0.1) / 2)
    assert part["effect_defended"]["victim_seed"]["mean"] == pytest.approx((0.05 + 0.15) / 2)
    assert part["requested"]["mean"] == 1.5


def test_success_needs_the_change_and_the_label() -> None:
    part = summarise([record()], ["over"])["over"]["victim_seed"]
    assert part["after"]["success"]["mean"] == 0.5  # +0.3 counts, +0.1 does not
    assert part["random"]["success"]["mean"] == 0
    assert part["random"]["kept"]["mean"] == 0.5


def test_noise_floor_is_what_deleting_nothing_does() -> None:
    floor = summarise([record()], ["over"])["over"]["noise_floor"]
    assert floor["confidence"]["mean"] == pytest.approx(0.1)
    assert floor["kept"]["mean"] == 0.5


def test_seeds_are_pooled() -> None:
    part = summarise([record(), record(0.1)], ["over"])["over"]
    assert part["targets"] == 4
    assert part["effect"]["victim_seed"]["n"] == 4
    assert part["effect"]["victim_seed"]["mean"] == pytest.approx((0.3 + 0.2 + 0.4 + 0.2) / 4)


def test_score_is_positive_where_the_attacker_wins() -> None:
    effect = {"effect": {"victim_seed": {"mean": 0.3}}}
    down = {"effect": {"victim_seed": {"mean": -0.1}}}
    assert score({"over": effect, "under": down}) == pytest.approx(0.2)


def test_numbers_read_well() -> None:
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert plus_minus(interval, 2) == "0.50 ± 0.10"
    assert rate({"mean": 0.9, "low": 0.7, "high": 1.1}, 0) == "90 [70, 100]"
    assert rate({"mean": 1.0, "low": 1.0, "high": 1.0}, 0) == "100"
    assert signed(interval) == "+0.500 [+0.400, +0.600]"
    alone = {"mean": 0.5, "low": float("nan"), "high": float("nan")}
    assert plus_minus(alone, 1) == "0.5"
    assert signed(alone) == "+0.500"


def test_table_is_plain_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    games = [record()]
    config = {"targets": {"over": [0.45, 0.65]}}
    show({"config": config, "games": games, "summary": summarise(games, ["over"]), "title": "a game"})
    out = capsys.readouterr().out
    assert "\x1b[" not in out
    assert "Over-confidence: 2 targets" in out
    assert "Effect against random requests, victim's seed: +0.250" in out
    assert "Noise floor" in out
    assert max(len(line) for line in out.splitlines()) <= 200
