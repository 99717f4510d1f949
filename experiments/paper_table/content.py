"""The finished table: headings, sections by part of the game, rows of cells, findings; every format is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from experiments.paper_table.claims import Finding
from experiments.paper_table.results import BySeed, Results
from experiments.paper_table.specification import ReportedNumber, Specification, TableRow
from games.game import Game, Metric, metric_of
from metrics.wording import of_fewer, plus_minus, rate, signed

ABSENT = "-"
FINDING_HEADINGS = ("claim", "verdict", "difference [95%]", "p (Holm)", "n")


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
class FinishedRow:
    """A row in one part of the game, with a number per column; `n` is its `seeds` and units in words."""

    row: TableRow
    part: str
    seeds: int
    n: str
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class Content:
    """Everything that is shown of a table; its columns are metrics, as the table shows them."""

    specification: Specification
    size: str
    command: str
    columns: Sequence[Metric]
    sections: Mapping[str, Sequence[FinishedRow]]  # by part
    labels: Mapping[str, str]  # of the parts
    findings: Sequence[Finding]
    beside: Sequence[tuple[ReportedNumber, Metric, Number]]
    problems: Sequence[str] = ()

    @property
    def headings(self) -> list[str]:
        """The headings of all columns: axes, n, metrics."""
        axes = (axis.label for axis in self.specification.axes)
        return [*axes, "n", *(column.label for column in self.columns)]

    def heading(self, part: str) -> str:
        """What the section of a part is headed by."""
        return self.specification.headings.get(part) or self.labels[part]

    def cells(self, finished: FinishedRow) -> list[str]:
        """A row as text; a number that fewer seeds have than the row says so."""
        pairs = zip(finished.numbers, self.columns, strict=True)
        shown = (cell(number, column) + of_fewer(number.seeds, finished.seeds) for number, column in pairs)
        return [*finished.row.labels, finished.n, *shown]

    def footer(self) -> list[str]:
        """What is said under the table: what it shows, how numbers are to be read, and where others come from."""
        table = self.specification
        size = f"Size {self.size}: {table.sizes[self.size].about}".removesuffix(": ").rstrip(".") + "."
        numbers = (
            "Every number is the mean of the seeds' means ± half its 95% interval over seeds, or [the interval]: "
            "Student's t, and for shares, rates and AUROCs Clopper-Pearson at the effective sample size; n is seeds × "
            "targets of a seed, and beside a number the seeds in which it is defined, where that is not all of them."
        )
        paragraphs = [table.about.strip(), size, numbers, *table.notes, f"Source: {table.source}."]
        return [" ".join(text.split()) for text in paragraphs]

    def elsewhere(self) -> list[str]:
        """The numbers from elsewhere, each beside ours, with its provenance."""
        return [
            f"{', '.join(filter(None, (theirs.row, theirs.part, theirs.metric)))}: "
            f"{cell(Number(theirs.value, math.nan, math.nan, 0, 0), metric)} ({theirs.provenance}); "
            f"here {cell(ours, metric)}"
            for theirs, metric, ours in self.beside
        ]


def sections(
    rows: Sequence[TableRow], columns: Sequence[Metric], results: Results, game: Game
) -> dict[str, list[FinishedRow]]:
    """The finished rows by part of the game; a row without games stands in each part, and has no numbers."""
    return {
        part: [
            finished(row, part, columns, results, game)
            for row in rows
            if part in results.parts(row.name) or not results.parts(row.name)
        ]
        for part in results.labels
    }


def finished(row: TableRow, part: str, columns: Sequence[Metric], results: Results, game: Game) -> FinishedRow:
    """A row in a part, with a number for every column."""
    numbers = tuple(number(results.present(row.name, column.name, part), column) for column in columns)
    sizes = sorted(len(values) for values in results.present(row.name, game.headline, part).values())
    units = "-".join(map(str, dict.fromkeys((sizes[0], sizes[-1])))) if sizes else ""
    return FinishedRow(row, part, len(sizes), f"{len(sizes)} × {units}" if sizes else ABSENT, numbers)


def number(values: BySeed, metric: Metric) -> Number:
    """The mean and its interval over seeds from the values of every seed."""
    groups = [list(found.values()) for found in values.values() if found]
    made = metric.interval(groups)
    low, high = (made.low, made.high) if len(groups) > 1 else (math.nan, math.nan)
    return Number(made.mean, low, high, len(groups), sum(map(len, groups)))


def beside(
    table: Specification, columns: Sequence[Metric], results: Results, game: Game
) -> list[tuple[ReportedNumber, Metric, Number]]:
    """The numbers from elsewhere whose rows are played, with the metric as it is shown, and ours."""
    shown = {column.name: column for column in columns}
    return [
        (theirs, metric, number(results.present(theirs.row, theirs.metric, theirs.part), metric))
        for theirs in table.beside
        if theirs.row in results.games
        for metric in [shown.get(theirs.metric) or metric_of(game, theirs.metric)]
    ]


def cell(number: Number, metric: Metric) -> str:
    """A number as text: mean ± half of the interval's width, of a share the interval itself; `-` where undefined."""
    if math.isnan(number.mean):
        return ABSENT
    interval = asdict(number)
    if number.low == number.high:
        interval["low"] = math.nan
    if metric.scale == "share":
        text = rate(interval, metric.digits)
    else:
        text = plus_minus(interval, metric.digits, metric.factor)
    mean, *rest = text.split(" ", 1)
    return " ".join([mean.removeprefix("-") if float(mean) == 0 else mean, *rest])


def finding_cells(finding: Finding) -> list[str]:
    """A finding as the cells of a table: claim, verdict, effect with interval and unit, p after Holm, n."""
    interval = {"mean": finding.effect, "low": finding.low, "high": finding.high}
    effect = ABSENT if math.isnan(finding.effect) else f"{signed(interval)} {finding.unit}".rstrip()
    p, seeds = finding.p_adjusted, f"{finding.n_seeds} seed{'s' * (finding.n_seeds != 1)}"
    shown = ABSENT if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.2g}"
    return [finding.text, finding.verdict, effect, shown, f"{finding.n} in {seeds}" if finding.n else ABSENT]
