"""The summary and the table on a record written by hand, whose answers are known."""

from __future__ import annotations

import math
from typing import Any

import pytest

from experiments.play.play import show
from games.request.game import RequestGame
from games.request.quantities import FRESH, STATES
from games.request.summary import summarise
from metrics.wording import plus_minus, rate, signed

GOAL = {"name": "confidence moved", "goal": "confidence moved far enough", "measure": "change", "directed": True}


def state(confidence: list[float], attained: list[float] | None = None, kept: list[float] | None = None) -> Any:
    """One state of two targets, each with a model of its own."""
    count = len(confidence)
    gained = attained or [0.0] * count
    return {
        "confidence": confidence, "entropy": [0.5] * count, "kept": kept or [1.0] * count, "attained": gained,
        "success": [float(value >= 0.2) for value in gained],
        "models": {name: [0.9] * count for name in ("accuracy", "ece", "conformal_set_size")},
    }  # fmt: skip


def record(shift: float = 0.0, sizes: tuple[int, int] = (2, 1), goal: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    before = [0.5, 0.6]
    own = {name: state(before) for name in STATES}
    own |= {
        "after": state([0.8 + shift, 0.7], [0.3 + shift, 0.1]), "random": state([0.5, 0.5], [0.0, 0.0], [1.0, 0.0]),
        "defended": state([0.55, 0.65], [0.05, 0.05]), "defended_random": state([0.55, 0.5], [0.05, -0.1]),
    }  # fmt: skip
    fresh: dict[str, Any] = {name: [state(before)] * 3 for name in FRESH}
    fresh |= {"nothing": [state([0.4, 0.7], kept=[1.0, 0.0])] * 3, "after": [state([0.7, 0.7], [0.2, 0.1])] * 3}
    fresh |= {"seeds": [1, 2, 3], "models": {name: state(before)["models"] for name in FRESH}}
    requests = [{"indices": list(range(size)), "direction": "over"} for size in sizes[: len(set(goal))]]
    attack = {"_target_": "attacks.requester.random.Random", "budget": 2}
    return {
        "seed": 0, "criterion": GOAL, "config": {"game": {"targets": {"over": [0.45, 0.65]}}, "attack": attack},
        "records": 10, "seconds": {"attack": 1.0, "judgement": 2.0},
        "targets": {"direction": ["over", "over"], "aim": list(goal), "position": [0, 1], "label": [0, 0], "test": 10},
        "requests": requests, "victim_seed": own, "fresh_seeds": fresh, "queries": 0, "operator_calls": 4,
        "certificate": None, "left_out": [],
        "detection": {"over": None, "defense": "none", "benign_rejected": {"uniform": [0.0]}},
    }  # fmt: skip


def test_effect_is_what_was_attained_over_the_control_of_the_same_state() -> None:
    part = summarise([record()], ["over"])["over"]
    assert part["effect"]["victim_seed"]["mean"] == pytest.approx((0.3 + 0.1) / 2)
    assert part["effect"]["fresh_seeds"]["mean"] == pytest.approx((0.2 + 0.1) / 2)
    assert part["effect_defended"]["victim_seed"]["mean"] == pytest.approx((0.0 + 0.15) / 2)
    assert part["requested"]["mean"] == 1.5


def test_a_request_of_nothing_has_an_effect_of_0() -> None:
    part = summarise([record(sizes=(0, 1))], ["over"])["over"]
    assert part["effect"]["victim_seed"]["mean"] == pytest.approx((0.0 + 0.1) / 2)
    assert part["effect"]["fresh_seeds"]["mean"] == pytest.approx((0.0 + 0.1) / 2)
    assert part["nothing_requested"] == 1
    assert RequestGame().score([record(sizes=(0, 0))]) == 0
    nothing = summarise([record(sizes=(0, 0))], ["over"])
    assert nothing["over"]["effect_defended"]["victim_seed"]["mean"] == 0


def test_success_is_that_of_the_record() -> None:
    part = summarise([record()], ["over"])["over"]["victim_seed"]
    assert part["after"]["success"]["mean"] == 0.5
    assert part["random"]["success"]["mean"] == 0
    assert part["random"]["kept"]["mean"] == 0.5


def test_noise_floor_is_what_deleting_nothing_does() -> None:
    floor = summarise([record()], ["over"])["over"]["noise_floor"]
    assert floor["confidence"]["mean"] == pytest.approx(0.1)
    assert floor["kept"]["mean"] == 0.5


def test_seeds_are_what_varies_where_there_are_several() -> None:
    part = summarise([record(), record(0.1)], ["over"])["over"]
    assert part["targets"] == 4
    effect = part["effect"]["victim_seed"]
    assert effect["mean"] == pytest.approx((0.2 + 0.25) / 2)
    assert effect["over"] == "2 seeds"
    # Student's t with one degree of freedom: 12.7 times the standard error of the two means
    assert effect["high"] - effect["mean"] == pytest.approx(12.7062 * 0.025, rel=1e-4)


def test_targets_of_one_request_count_as_one() -> None:
    part = summarise([record(goal=(0, 0))], ["over"])["over"]
    assert part["requests"] == 1
    assert part["effect"]["victim_seed"]["mean"] == pytest.approx(0.2)
    assert math.isnan(part["effect"]["victim_seed"]["low"])
    assert part["victim_seed"]["before"]["confidence"]["n"] == 2  # before, nothing is shared


def test_the_accuracy_of_one_model_has_an_interval_over_test_examples() -> None:
    before = summarise([record()], ["over"])["over"]["victim_seed"]["before"]["accuracy"]
    assert (before["mean"], before["n"], before["over"]) == (0.9, 10, "10 test examples")
    assert 0 < before["low"] < 0.9 < before["high"] < 1


def test_score_is_positive_where_the_attacker_wins() -> None:
    assert RequestGame().score([record(), record(0.1)]) == pytest.approx((0.2 + 0.25) / 2)


def test_numbers_read_well() -> None:
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert plus_minus(interval, 2) == "0.50 ± 0.10"
    assert plus_minus({"mean": 0.9, "low": 0.7, "high": 1.0}, 2) == "0.90 [0.70, 1.00]"
    assert rate({"mean": 0.9, "low": 0.7, "high": 1.0}, 0) == "90 [70, 100]"
    assert signed(interval) == "+0.500 [+0.400, +0.600]"
    alone = {"mean": 0.5, "low": float("nan"), "high": float("nan")}
    assert plus_minus(alone, 1) == "0.5"
    assert rate(alone, 0) == "50"
    assert signed(alone) == "+0.500"


def shown(games: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], width: int | None = None) -> str:
    show(RequestGame(), {"games": games, "title": "a game"})
    return capsys.readouterr().out


def test_table_is_plain_and_complete_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown([record()], capsys)
    assert "\x1b[" not in out
    assert "…" not in out
    assert "Over-confidence: 2 targets" in out
    assert "Effect against random requests, victim's seed: +0.200" in out
    assert "Noise floor" in out
    assert "after + defense" not in out  # there is none
    assert "nearest control" in out


def test_table_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import rich.console

    monkeypatch.setattr(rich.console.Console, "is_terminal", property(lambda self: True))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    out = shown([record()], capsys)
    table = [line for line in out.splitlines() if line.startswith(("  ", " ━", " ")) and "Effect" not in line]
    assert "…" not in out
    assert max(map(len, table)) <= 80


def test_other_goals_are_headed_by_their_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    game = record()
    game["criterion"] = {"name": "label flipped", "goal": "label changed", "measure": "1 or 0", "directed": False}
    out = shown([game], capsys)
    assert "Label flipped, unsure targets: 2 targets" in out
    assert "Over-confidence" not in out
    assert "Success: label changed." in out


def test_nothing_requested_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Nothing was requested for 1 of 2 targets" in shown([record(sizes=(0, 1))], capsys)
