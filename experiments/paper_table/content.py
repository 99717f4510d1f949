"""The finished table: headings, sections by direction, lines of cells, verdicts; every format is made from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.paper_table.claims import BySeed, Measured, Verdict
from experiments.paper_table.specification import Column, ReportedNumber, Row, Specification
from games.game import Game, Metric, metric_of

ABSENT = "-"


@dataclass(frozen=True)
class Number:
    """The mean over `seeds` of a metric's mean over the units of a seed, with its 95% interval over seeds.

    The mean is NaN where the metric is not defined, the bounds are with a single seed. `n` values stand behind it.
    """

    mean: float
    low: float
    high: float
    seeds: int
    n: int


@dataclass(frozen=True)
class Line:
    """One row in one part of the game, with a number per column; `n` is its seeds and units in words."""

    row: Row
    part: str
    n: str
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class Content:
    """Everything that is shown of a table."""

    specification: Specification
    size: str
    command: str
    sections: Mapping[str, Sequence[Line]]  # by part
    labels: Mapping[str, str]  # of the parts
    verdicts: Sequence[Verdict]
    beside: Sequence[tuple[ReportedNumber, Number]]
    problems: Sequence[str] = ()

    @property
    def headings(self) -> list[str]:
        """The headings of all columns: axes, n, metrics."""
        table = self.specification
        return [*(axis.label for axis in table.axes), "n", *(column.label for column in table.columns)]

    def heading(self, part: str) -> str:
        """What the section of a part is headed by."""
        return self.specification.headings.get(part) or self.labels[part]

    def cells(self, line: Line) -> list[str]:
        """A line as text."""
        columns = self.specification.columns
        shown = [cell(number, column) for number, column in zip(line.numbers, columns, strict=True)]
        return [*line.row.labels, line.n, *shown]

    def footer(self) -> list[str]:
        """What is said under the table: what it shows, how numbers are to be read, and where others come from."""
        table = self.specification
        size = f"Size {self.size}: {table.sizes[self.size].about}".removesuffix(": ").rstrip(".") + "."
        numbers = (
            "Every number is the mean of the seeds' means ± half its 95% interval over seeds, or [the interval]: "
            "Student's t, and for shares, rates and AUROCs Clopper-Pearson at the effective sample size; n is seeds × "
            "targets of a seed."
        )
        lines = [table.about.strip(), size, numbers, *table.notes, f"Source: {table.source}."]
        return [" ".join(line.split()) for line in lines]

    def elsewhere(self) -> list[str]:
        """The numbers from elsewhere, each beside ours, with its provenance."""
        columns = {column.metric: column for column in self.specification.columns}
        lines = []
        for beside, ours in self.beside:
            column = columns.get(beside.metric, Column(metric=beside.metric, label=beside.metric))
            theirs = cell(Number(beside.value, math.nan, math.nan, 0, 0), column)
            lines.append(
                f"{beside.row}, {beside.part}, {beside.metric}: {theirs} ({beside.provenance}); "
                f"here {cell(ours, column)}"
            )
        return lines


def number(values: BySeed, metric: Metric) -> Number:
    """The mean and its interval over seeds from the values of every seed."""
    groups = [list(found.values()) for found in values.values() if found]
    if not groups:
        return Number(math.nan, math.nan, math.nan, 0, 0)
    made = metric.interval(groups)
    low, high = (made.low, made.high) if len(groups) > 1 else (math.nan, math.nan)
    return Number(made.mean, low, high, len(groups), sum(map(len, groups)))


def line(row: Row, part: str, columns: Sequence[Column], measured: Measured, game: Game) -> Line:
    """The numbers of a row in one part of the game; a row without games has none."""
    found = [measured(row.name, column.metric, part) for column in columns]
    units = measured(row.name, game.headline, part)
    values = [{} if isinstance(each, str) else each for each in found]
    numbers = tuple(number(each, metric_of(game, c.metric)) for each, c in zip(values, columns, strict=True))
    return Line(row, part, _counted(units), numbers)


def _counted(units: BySeed | str) -> str:
    if isinstance(units, str) or not units:
        return ABSENT
    sizes = sorted({len(values) for values in units.values()})
    return f"{len(units)} × {sizes[0]}" + (f"-{sizes[-1]}" if len(sizes) > 1 else "")


def cell(number: Number, column: Column) -> str:
    """A number as text: mean ± half of the interval's width, of a share the interval itself; `-` where undefined."""
    if math.isnan(number.mean):
        return ABSENT
    digits = column.digits
    mean, low, high = ((1 if column.scale == "plain" else 100) * x for x in (number.mean, number.low, number.high))
    text = f"{mean:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    if math.isnan(low) or low == high:
        return text
    down, up = f"{mean - low:.{digits}f}", f"{high - mean:.{digits}f}"
    if column.scale == "share" or down != up:
        return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} ± {up}"


def verdict_cells(verdict: Verdict) -> list[str]:
    """A verdict as the cells of a table: claim, verdict, effect with interval, p after Holm, n."""
    return [verdict.text, verdict.verdict, effect(verdict), p_value(verdict.p_adjusted), counted(verdict)]


VERDICT_HEADINGS = ("claim", "verdict", "difference [95%]", "p (Holm)", "n")


def effect(verdict: Verdict) -> str:
    """The effect with its interval and unit."""
    if math.isnan(verdict.effect):
        return ABSENT
    interval = "" if math.isnan(verdict.low) else f" [{verdict.low:+.3f}, {verdict.high:+.3f}]"
    return f"{verdict.effect:+.3f}{interval}" + (f" {verdict.unit}" if verdict.unit else "")


def p_value(p: float) -> str:
    """A p-value with two digits; `<0.001` below that."""
    if math.isnan(p):
        return ABSENT
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def counted(verdict: Verdict) -> str:
    """How many pairs in how many seeds."""
    return ABSENT if verdict.n == 0 else f"{verdict.n} in {verdict.n_seeds} seed{'s' * (verdict.n_seeds != 1)}"
