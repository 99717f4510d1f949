"""What is taken from the numbers of a record, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from games.request.direction import Direction


def of(numbers: list[Any]) -> Direction:
    """A direction of two targets with a request each, and a metric of three models in two states."""
    state = {"models": {"accuracy": numbers}}
    record = {
        "config": {"game": {"targets": {"mode": "single"}}},
        "targets": {"position": [7, 8, 9], "aim": [0, 1, 2]},
        "victim_seed": {"before": state, "after": state},
    }
    return Direction("over", "Over", record, mine=(0, 2), goals=(0, 2))


def test_numbers_are_taken_and_what_is_undefined_is_left_out() -> None:
    assert of([0.5, 1, 0.25]).models("after", "accuracy") == {"7": 0.5, "9": 0.25}
    assert of([0.5, "nan", None]).models("after", "accuracy") == {"7": 0.5}
    assert of([1, "nan", 0.25]).models("before", "accuracy") == {"7": 0.625, "9": 0.625}
    assert of([None, "nan", None]).models("before", "accuracy") == {}


@pytest.mark.parametrize("state", ["before", "after"])
def test_what_is_no_number_is_not_passed_over(state: str) -> None:
    with pytest.raises(TypeError):
        of([[0.5], 0.5, 0.25]).models(state, "accuracy")
