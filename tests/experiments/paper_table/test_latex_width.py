"""The LaTeX of the shipped tables fits a page, measured with the widths of Computer Modern, where no TeX is at hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import pytest
from matplotlib.ft2font import FT2Font
from omegaconf import OmegaConf

from experiments.paper_table.checking import specification
from experiments.paper_table.content import Content, FinishedRow, Number
from experiments.paper_table.latex import LONG, SHORT, latex
from games.game import Game, metric_of
from games.request.game import RequestGame
from games.verification.game import VerificationGame

GAME = RequestGame()
LABELS = {"over": "Over-confidence", "under": "Under-confidence"}
CONF = Path(__file__).resolve().parents[3] / "conf" / "table"
TABLES = sorted(path.stem for path in CONF.glob("*.yaml"))
PAGE = (345.0, 550.0)  # points of \textwidth and \textheight of the article class
SCRIPT = 7 * 1.12  # points, and how much wider cmr7 is than cmr10 set at that size
GAP = 4.0  # two times \tabcolsep of 2pt
TINY = 5 * 1.2 / SCRIPT  # the same for cmr5, against \scriptsize
SMALLEST = 0.7  # to which a table is scaled down, at most


@cache
def font() -> FT2Font:
    return FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "cmr10.ttf"))


def width(cell: str) -> float:
    """Points of a cell in \\scriptsize, of a stacked heading its longest line."""
    stacked = re.fullmatch(r"\\shortstack\{(.*)\}", cell)
    if stacked:
        return max(map(width, stacked[1].split(r" \\ ")))
    plain = re.sub(r"\\pm|\\times|\\ge|\\le", "+", cell).replace("$", "").replace("\\", "")
    found = font()
    found.set_size(100, 72)
    found.set_text(plain, 0)
    return found.get_width_height()[0] / 64 * SCRIPT / 100


def content(name: str, size: str) -> Content:
    """A shipped table; every number has an interval as long as such an interval gets, and an n of its own."""
    table = specification(name, OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")))
    number = Number(-0.875, -0.995, -0.125, 5, 60)
    game: Game = VerificationGame() if name in ("fragility", "verification") else GAME
    columns = [column.shown(metric_of(game, column.metric)) for column in table.columns]
    numbers = tuple(number for _ in columns)
    sections = {
        part: [FinishedRow(row, 6, "6 × 20", numbers) for row in table.rows(size)]
        for part in (table.headings or (LABELS if game is GAME else {"all": "verification"}))
    }
    return Content(
        table,
        size,
        f"python experiments/tables.py table={name}",
        columns,
        sections,
        LABELS if game is GAME else {"all": "verification"},
        game.units,
        [],
        [],
    )


def columns_of(body: str) -> list[list[str]]:
    """The cells of a tabular, column by column."""
    rows = [row.split(" & ") for row in re.split(r" \\\\\n", body) if " & " in row]
    rows = [[re.sub(r"^(?:\\\w+rule\n)+", "", cell) for cell in row] for row in rows]
    return [list(column) for column in zip(*rows, strict=True)]


def needed(found: Sequence[Sequence[str]]) -> float:
    return sum(max(map(width, column)) for column in found) + GAP * (len(found) - 1)


@pytest.mark.parametrize("size", ["quick", "paper"])
@pytest.mark.parametrize("name", TABLES)
def test_a_shipped_table_fits_a_page(name: str, size: str) -> None:
    shown = content(name, size)
    text = latex(shown, name)
    tables = re.findall(r"\\begin\{(tabular|longtable)\}\{[^\n]*\}\n(.*?)\\end\{\1\}", text, flags=re.DOTALL)
    axes = len(shown.specification.axes) + 1
    lines = sum(map(len, shown.sections.values()))
    headings: list[str] = []
    for kind, body in tables:
        rows = body.split(r"\endlastfoot")[-1] if kind == "longtable" else body
        head = re.search(r"\\toprule\n([^\n]*) \\\\\n\\midrule", body)
        assert head is not None
        found = columns_of(rows if kind == "tabular" else f"{head[1]} \\\\\n{rows}")
        assert {len(column) for column in found} == {lines + 1}
        headings += [column[0] for column in found[axes:]]
        if kind == "longtable":
            assert lines + len(shown.sections) > LONG
            assert needed(found) * (TINY if r"\tiny\setlength" in text else 1) <= PAGE[0]
        else:
            sideways = r"\rotatebox" in text
            assert not sideways or lines <= SHORT
            assert needed(found) * SMALLEST <= PAGE[sideways]
    assert len(headings) == len(shown.specification.columns) == len(set(headings))


def test_the_measure_of_widths_sees_what_is_too_wide() -> None:
    one = ["$-0.875 [-0.995, -0.125]$"]
    assert 60 < width(one[0]) < 100  # 23 characters, some narrow
    assert needed([one] * 4) <= PAGE[0] < needed([one] * 5)
    assert width(r"\shortstack{one \\ longer}") == width("longer")
