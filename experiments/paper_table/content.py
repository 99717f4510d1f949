"""The finished table: headings, sections by part of the game, rows of cells, findings; every format is made of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from experiments.paper_table.claims import Finding, judge
from experiments.paper_table.results import BySeed, Results
from experiments.paper_table.specification import Specification, TableRow
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
    units: str  # of which `n` counts those of a seed
    findings: Sequence[Finding]
    elsewhere: Sequence[str]  # numbers, each beside ours, with its provenance
    problems: Sequence[str] = ()

    @property
    def headings(self) -> list[str]:
        """The headings of all columns: axes, n, metrics."""
        axes = (axis.label for axis in self.specification.axes)
        return [*axes, "n", *(column.label for column in self.columns)]

    def lines(self) -> Iterator[tuple[str, list[list[str]]]]:
        """Of every section its heading, and its rows as text."""
        for part, rows in self.sections.items():
            yield self.specification.headings.get(part) or self.labels[part], [self.cells(row) for row in rows]

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
            f"{self.units} of a seed, and beside a number the seeds in which it is defined, where that is not all."
        )
        paragraphs = [table.about.strip(), size, numbers, *table.notes, f"Source: {table.source}."]
        return [" ".join(text.split()) for text in paragraphs]


def content_of(
    table: Specification, name: str, command: str, results: Results, game: Game, problems: Sequence[str]
) -> Content:
    """The finished table `name`: what was measured in its games, and what follows for its claims."""
    columns = [column.shown(metric_of(game, column.metric)) for column in table.columns]
    findings = judge(table.claims, results.complete, name, game)
    made = sections(table, columns, results, game)
    others = elsewhere(table, columns, results, game)
    return Content(table, results.size, command, columns, made, results.labels, game.units, findings, others, problems)


def sections(table: Specification, columns: list[Metric], results: Results, game: Game) -> dict[str, list[FinishedRow]]:
    """The finished rows by part of the game; a row without games stands in each part, and has no numbers."""
    found: dict[str, list[FinishedRow]] = {part: [] for part in results.labels}
    for row in table.rows(results.size):
        for part in results.parts(row.name) or found:
            numbers = tuple(number(results.present(row.name, column.name, part), column) for column in columns)
            sizes = sorted(len(values) for values in results.present(row.name, game.headline, part).values())
            units = "-".join(map(str, dict.fromkeys((sizes[0], sizes[-1])))) if sizes else ""
            n = f"{len(sizes)} × {units}" if sizes else ABSENT
            found[part].append(FinishedRow(row, len(sizes), n, numbers))
    return found


def number(values: BySeed, metric: Metric) -> Number:
    """The mean and its interval over seeds from the values of every seed."""
    groups = [list(found.values()) for found in values.values() if found]
    made = metric.interval(groups)
    low, high = (made.low, made.high) if len(groups) > 1 else (math.nan, math.nan)
    return Number(made.mean, low, high, len(groups), sum(map(len, groups)))


def elsewhere(table: Specification, columns: Sequence[Metric], results: Results, game: Game) -> list[str]:
    """The numbers from elsewhere whose rows are played, as the columns would show them, each beside ours."""
    shown, said = {column.name: column for column in columns}, []
    for theirs in table.beside:
        if theirs.row in results.games:
            metric = shown.get(theirs.metric) or metric_of(game, theirs.metric)
            ours = cell(number(results.present(theirs.row, theirs.metric, theirs.part), metric), metric)
            value = cell(Number(theirs.value, math.nan, math.nan, 0, 0), metric)
            what = ", ".join(filter(None, (theirs.row, theirs.part, theirs.metric)))
            said.append(f"{what}: {value} ({theirs.provenance}); here {ours}")
    return said


def cell(number: Number, metric: Metric) -> str:
    """A number as text: mean ± half of the interval's width, of a share the interval itself; `-` where undefined."""
    if math.isnan(number.mean):
        return ABSENT
    interval, digits = asdict(number), metric.digits
    if number.low == number.high:
        interval["low"] = math.nan
    text = rate(interval, digits) if metric.scale == "share" else plus_minus(interval, digits, metric.factor)
    mean, *rest = text.split(" ", 1)
    return " ".join([mean.removeprefix("-") if float(mean) == 0 else mean, *rest])


def finding_cells(finding: Finding) -> list[str]:
    """A finding as the cells of a table: claim, verdict, effect with interval and unit, p after Holm, n."""
    interval = {"mean": finding.effect, "low": finding.low, "high": finding.high}
    effect = ABSENT if math.isnan(finding.effect) else f"{signed(interval)} {finding.unit}".rstrip()
    p, seeds = finding.p_adjusted, f"{finding.n_seeds} seed{'s' * (finding.n_seeds != 1)}"
    shown = ABSENT if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.2g}"
    return [finding.text, finding.verdict, effect, shown, f"{finding.n} in {seeds}" if finding.n else ABSENT]
