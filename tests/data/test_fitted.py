"""Tables that fit: every cell is there, whole, at every width; a pipe gets one table."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from data.fitted import PIPE, Head, show

HEADS = [Head("cell", False), Head("n"), *(Head(f"column\nnumber {i}") for i in range(9))]
ROWS = [[f"attack=mine{row}", "3", *(f"{row}.{i}25 [0.000, 1.000]" for i in range(9))] for row in range(4)]


def printed(width: int, keys: int = 2) -> str:
    text = io.StringIO()
    show(Console(file=text, width=width, highlight=False, markup=False), HEADS, ROWS, keys, "Title [of it]")
    return text.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_nothing_is_cut_or_broken(width: int) -> None:
    lines = printed(width).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for row in ROWS:
        assert all(text.count(cell) == 1 for cell in row[2:])
    assert all(text.count(f"number {i}") == 1 for i in range(9))
    assert "…" not in text


def test_every_part_says_what_its_lines_are() -> None:
    """By the columns that do, or where these take more than half of the width, by the line's number."""
    parts = re.split(r"━{5,}", printed(80))
    assert len(parts) > 2
    assert all("attack=mine0" in part for part in parts[1:])
    narrow = re.split(r"━{5,}", printed(30))
    assert sum("attack=mine0" in part for part in narrow) == 1
    assert all(re.search(r"^ *4 ", part, flags=re.MULTILINE) for part in narrow[1:])
    without = re.split(r"━{5,}", printed(80, keys=0))
    assert all(re.search(r"^ *4 ", part, flags=re.MULTILINE) for part in without[1:])


def test_a_pipe_gets_one_table() -> None:
    text = printed(PIPE)
    assert len(re.findall("━{5,}", text)) == 1
    assert len([line for line in text.splitlines() if "attack=mine" in line]) == 4
    assert text.startswith("Title [of it]")
