"""What attack.access=auto stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.naming import AUTOMATIC
from experiments.cli.reproduce import typed
from experiments.play.setup import resolved
from tests.experiments.games import config


def resolve_access(config: dict[str, Any]) -> dict[str, Any]:
    return resolved(config)[1]


def access(tmp_path: Path, *overrides: str) -> Any:
    return resolve_access(config(tmp_path, *overrides))["attack"].get("access")


def test_white_box_where_the_procedure_has_a_gradient(tmp_path: Path) -> None:
    assert access(tmp_path, "unlearning=retrain") == "white_box"
    assert access(tmp_path, "unlearning=fine_tune") == "black_box"
    assert access(tmp_path, "unlearning=fine_tune", "attack=misclassification") == "black_box"


def test_what_is_typed_counts(tmp_path: Path) -> None:
    assert access(tmp_path, "unlearning=retrain", "attack.access=black_box") == "black_box"
    assert access(tmp_path, "unlearning=fine_tune", "attack.access=white_box") == "white_box"  # refused later, by name


def test_sequential_feedback_is_black_box(tmp_path: Path) -> None:
    assert access(tmp_path, "unlearning=retrain", "attack.feedback=sequential") == "black_box"


@pytest.mark.parametrize("attack", ["none", "random", "one_shot_influence"])
def test_attacks_without_a_choice_are_left_as_they_are(tmp_path: Path, attack: str) -> None:
    before = config(tmp_path, "game=request", f"attack={attack}")
    assert resolve_access(before) == before


@pytest.mark.parametrize("line", ["unlearning=fine_tune", "attack.access=black_box", "attack.access=auto"])
def test_a_record_says_what_was_typed(tmp_path: Path, line: str) -> None:
    before = config(tmp_path, line)
    after = resolve_access(before)
    assert resolve_access(after) == after  # what `auto` was is not forgotten on the way to the record
    record = {"config": {k: v for k, v in after.items() if k != AUTOMATIC}, AUTOMATIC: after.get(AUTOMATIC, [])}
    assert typed(record) == before


def test_a_class_that_is_automatic_needs_no_line_in_its_yaml(tmp_path: Path) -> None:
    """An own option that lists less than ours do: what its class says counts."""
    for procedure, expected in (("retrain", "white_box"), ("fine_tune", "black_box")):
        bare = config(tmp_path, f"unlearning={procedure}")
        del bare["attack"]["access"]
        assert resolve_access(bare)["attack"]["access"] == expected
