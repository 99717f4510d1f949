"""How a value is written where it is filtered by, or names a group."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from experiments.listing.filters import plain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"), (3, "3"), ("0.5", "0.5"), (1e-07, "1e-07"), (True, "true"), ("False", "false"), (None, "null"),
        (nan, "null"), (inf, "inf"), ("logistic", "logistic"),
    ],
)  # fmt: skip
def test_a_value_is_written_as_it_is_typed(value: Any, text: str) -> None:
    assert plain(value) == text


def test_no_two_numbers_are_written_alike() -> None:
    """Games with different settings are never averaged as one."""
    assert plain(0.12345678) == "0.12345678" != plain(0.12345679)
    assert plain(1234567) != plain(1234568)
