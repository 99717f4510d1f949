"""A finished table as text: cells, Markdown, CSV and LaTeX that compiles."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from experiments.paper_table.content import Content, Number, cell, content_of, number
from experiments.paper_table.latex import escape, latex
from experiments.paper_table.render import comma_separated, markdown, pipes, show
from experiments.paper_table.results import Results
from experiments.paper_table.specification import TableColumn
from games.game import Values, metric_of
from games.request.game import RequestGame
from tests.experiments.paper_table.tables import table

GAME = RequestGame()
LABELS = {"over": "Over-confidence", "under": "Under-confidence"}
NASTY = r"50% of $x_1$ & {y} # ~ ^ \end{tabular} <a> “b”"


def content(rows: int = 1, **entries: Any) -> Content:
    """The small table with made-up numbers: a row that is there, one that is not defined, one that failed."""

    def game(gain: float, seed: int) -> dict[str, dict[str, Values]]:
        moved = {"1": gain + 0.01 * seed, "2": gain}
        values: dict[str, Values] = {"gain": moved, "effect": moved, "kept_after": {"1": 1.0, "2": float(seed > 0)}}
        return {part: {**values, "accuracy_change_after": {}} for part in LABELS}

    specification = table(**entries)
    gains = {"single.mine": 0.3, "single.random": 0.0}
    games = {row: {seed: game(gain, seed) for seed in range(3)} for row, gain in gains.items()}
    results = Results({**games, "set.mine": {}}, LABELS, 3, "tiny")
    made = content_of(specification, "small", "python experiments/tables.py table=small", results, GAME, ["x: y"])
    return dataclasses.replace(made, sections={part: [*section] * rows for part, section in made.sections.items()})


def test_a_number_is_the_mean_over_seeds_with_students_interval() -> None:
    means = [0.1, 0.4, 0.3]
    found = number({s: {"1": m - 0.05, "2": m + 0.05} for s, m in enumerate(means)}, metric_of(GAME, "gain"))
    expected = scipy.stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(sum(means) / 3)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.seeds, found.n) == (3, 6)


@pytest.mark.parametrize(
    ("found", "column", "text"),
    [
        (Number(0.125, 0.1, 0.15, 3, 6), {}, "0.125 ± 0.025"),
        (Number(0.1234, math.nan, math.nan, 1, 6), {}, "0.123"),
        (Number(math.nan, math.nan, math.nan, 0, 0), {}, "-"),
        (Number(0.9, 0.7, 1.0, 3, 6), {"digits": 0, "scale": "share"}, "90 [70, 100]"),
        (Number(0.9, 0.7, 0.95, 3, 6), {"digits": 2}, "0.90 [0.70, 0.95]"),
        (Number(1.0, 1.0, 1.0, 3, 6), {"digits": 0, "scale": "share"}, "100"),
        (Number(-0.012, -0.02, -0.004, 3, 6), {"digits": 1, "scale": "points"}, "-1.2 ± 0.8"),
        (Number(-0.0001, -0.01, 0.01, 3, 6), {"digits": 2}, "0.00 ± 0.01"),
    ],
)
def test_cells(found: Number, column: dict[str, Any], text: str) -> None:
    assert cell(found, TableColumn(metric="gain", **column).shown(metric_of(GAME, "gain"))) == text


def test_what_is_missing_is_a_dash() -> None:
    shown = {one.row.name: content().cells(one) for one in content().sections["over"]}
    assert shown["single.mine"] == ["single", "mine", "3 × 2", "0.305 ± 0.012", "83 [1, 100]", "-"]
    assert shown["set.mine"] == ["set_of", "mine", "-", "-", "-", "-"]


def test_a_number_of_fewer_seeds_than_its_row_says_so() -> None:
    """Also in LaTeX, where the number itself is in math mode."""
    made = content()
    first = made.sections["over"][0]
    fewer = dataclasses.replace(first, numbers=(dataclasses.replace(first.numbers[0], seeds=2), *first.numbers[1:]))
    assert made.cells(first)[3:] == ["0.305 ± 0.012", "83 [1, 100]", "-"]
    assert made.cells(fewer)[3:] == ["0.305 ± 0.012 (n=2)", "83 [1, 100]", "-"]
    text = latex(dataclasses.replace(made, sections={"over": [fewer]}), "small")
    assert r"$0.305 \pm 0.012$ (n=2) & $83 [1, 100]$ & -" in text


def test_markdown_has_tables_claims_and_provenance() -> None:
    text = markdown(content())
    assert "| single | mine | 3 × 2 | 0.305 ± 0.012 | 83 [1, 100] | - |" in text
    assert "somewhere, table 1" in text
    assert "here 0.305" in text
    assert "| It moves | holds | +0.305 [" in text
    assert "Missing: x: y" in text
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in text.splitlines() if row.startswith("| single")}
    assert widths == {7}
    assert pipes(["a|b"], [["c"]]).splitlines()[0] == "| a\\|b |"


def test_csv_can_be_read_back() -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(content()))))
    assert [(row["row"], row["part"]) for row in rows[:2]] == [("single.mine", "over"), ("single.random", "over")]
    assert float(rows[0]["gain"]) == pytest.approx(0.305)
    assert float(rows[0]["gain_low"]) < 0.305 < float(rows[0]["gain_high"])
    assert rows[0]["gain_seeds"] == "3"
    assert rows[2]["gain"] == rows[0]["accuracy_change_after"] == ""


def test_the_printed_table_is_not_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show(content())
    text = capsys.readouterr().out
    assert "0.305 ± 0.012" in text
    assert "It beats random" in text
    assert "not decided" in text or "holds" in text
    assert "…" not in text


def sound(text: str) -> None:
    """Braces and environments are closed in order, and every row has as many cells as its tabular has columns."""
    stacked = re.sub(r"\\shortstack\{[^}]*\}", "", text)
    plain = re.sub(r"\\[{}&%$#_\\]", lambda m: r"\\" if m[0] == r"\\" else "", stacked)
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", plain):
        assert kind == "begin" or stack.pop() == name
        if kind == "begin":
            stack.append(name)
    assert not stack
    for body in re.findall(r"\\begin\{(?:tabular|longtable)\}(.*?)\\end", plain, flags=re.DOTALL):
        spec, _, rest = body.partition("\n")
        columns = len(re.findall(r"[lrc]|p\{[^}]*\}", re.sub(r"@\{.*?\}", "", spec).replace(r"\linewidth", "")))
        rows = [row for row in re.split(r"\\\\\s*", rest) if "&" in row]
        assert rows
        assert {row.count("&") + 1 for row in rows} == {columns}


@pytest.mark.parametrize("rows", [1, 30])
def test_latex_is_sound(rows: int) -> None:
    """A short table, and one so long that it becomes a longtable; with text that LaTeX would stumble over."""
    text = latex(content(rows, title=NASTY, about=NASTY), "small")
    assert (r"\begin{longtable}" in text) == (rows == 30)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert rule in text
    assert r"$0.305 \pm 0.012$" in text
    sound(text)


def test_the_check_of_latex_sees_mistakes() -> None:
    text = latex(content(), "small")
    for wrong in (text.replace("} ", " ", 1), text.replace(r"\end{tabular}", "", 1), text.replace(" & ", " ", 1)):
        with pytest.raises((AssertionError, IndexError)):
            sound(wrong)


def test_special_characters_are_escaped() -> None:
    assert escape("a_b & 50% #1 {x} $") == r"a\_b \& 50\% \#1 \{x\} \$"
    assert escape("x\ny") == "x y"


STAND_IN = r"""\ProvidesPackage{booktabs}
\newcommand\toprule{\hline}\newcommand\midrule{\hline}\newcommand\bottomrule{\hline}
"""


@pytest.mark.parametrize("rows", [1, 30])
def test_latex_compiles(rows: int, tmp_path: Path) -> None:
    """With the TeX engine of this machine; where its booktabs is missing, with a stand-in that draws plain rules."""
    engine = shutil.which("pdflatex")
    if engine is None:
        pytest.skip("no pdflatex; the structure is checked by test_latex_is_sound")
    found = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, text=True, check=False).stdout
    if not found.strip():
        (tmp_path / "booktabs.sty").write_text(STAND_IN)
    (tmp_path / "table.tex").write_text(latex(content(rows, title=NASTY, about=NASTY), "small"), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,longtable,graphicx}\\begin{document}\\input{table}\\end{document}"
    )
    done = subprocess.run(
        [engine, "-halt-on-error", "-interaction=nonstopmode", "paper.tex"],
        cwd=tmp_path, capture_output=True, text=True, check=False, encoding="latin-1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert "Missing character" not in done.stdout
