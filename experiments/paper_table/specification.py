"""What a table is: rows, columns and claims as its YAML describes them, checked before anything is played."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from games.game import Metric

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Overrides = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Size:
    """How large the games are: overrides of conf/run.yaml for every row, and the number of seeds; `about` in words.

    With `split_by_seed` every seed also splits the data anew into training and test examples, so that intervals and
    tests are about other data of the same kind; without it only training and the attacker's draws vary.
    """

    seeds: Annotated[int, Field(ge=1)]
    overrides: Overrides = ()
    split_by_seed: bool = False
    about: str = ""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Option:
    """One value of an axis: overrides of its rows, more of them at some sizes, and the sizes that have it (all)."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    label: str
    overrides: Overrides = ()
    at: dict[str, Overrides] = Field(default_factory=dict)
    sizes: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Axis:
    """What rows differ in, with the heading of its column."""

    label: str
    options: Annotated[tuple[Option, ...], Field(min_length=1)]


@dataclass(frozen=True)
class TableRow:
    """One combination of options: `name` joins theirs with dots, `labels` has one entry per axis."""

    name: str
    labels: tuple[str, ...]
    overrides: Overrides


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TableColumn:
    """A metric of the table, by its name in the game; heading, digits and scale are the metric's where left out."""

    metric: str
    label: str | None = None
    digits: Annotated[int, Field(ge=0, le=9)] | None = None
    scale: Literal["plain", "share", "points"] | None = None

    def shown(self, metric: Metric) -> Metric:
        """The metric as this column shows it."""
        digits = metric.digits if self.digits is None else self.digits
        return replace(metric, label=self.label or metric.label, digits=digits, scale=self.scale or metric.scale)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Baseline:
    """What a claim compares with: a constant, or `factor` times a quantity.

    Row, metric and part are the claim's own where they are left out.
    """

    constant: float | None = None
    row: str | None = None
    metric: str | None = None
    part: str | None = None
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.constant is not None and (self.row, self.metric, self.part, self.factor) != (None, None, None, 1):
            raise ValueError("give either a constant, or a row, a metric, a part and a factor")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Claim:
    """A headline claim: difference = quantity - baseline, and

    * greater: difference > margin; * less: difference < -margin; * within: |difference| < margin.

    Without a `part` it is about the only one that its row has.
    """

    id: Annotated[str, Field(pattern=r"^[\w-]+$")]
    text: str
    row: str
    metric: str
    part: str | None = None
    comparison: Literal["greater", "less", "within"]
    against: Baseline
    margin: Annotated[float, Field(ge=0)] = 0.0
    test: Literal["paired_bootstrap", "sign"] = "paired_bootstrap"
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    unit: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.comparison == "within" and self.margin == 0:
            raise ValueError("a claim with the comparison within needs a margin above 0")

    @property
    def sides(self) -> list[tuple[str, str, str | None]]:
        """Row, metric and part (None: the only one) of the quantity and, unless that is a constant, of the baseline."""
        own, against = (self.row, self.metric, self.part), self.against
        if against.constant is not None:
            return [own]
        return [own, (against.row or self.row, against.metric or self.metric, against.part or self.part)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReportedNumber:
    """A number from elsewhere that stands beside ours; `provenance` is printed with it."""

    row: str
    metric: str
    part: str | None = None
    value: float
    provenance: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Specification:
    """A table: the rows are all combinations of the options of its axes, but those that `without` names (`a.*.b`).

    `headings` say what a part of the game (such as a direction) stands for, where it is not the usual. `overrides`
    gives single rows more, by name. The overrides of a row are those of the size, of its options in the order of the
    axes, and its own; a later one of a key replaces an earlier one.
    """

    title: str
    source: str
    about: str
    sizes: dict[str, Size]
    axes: Annotated[tuple[Axis, ...], Field(min_length=1)]
    columns: Annotated[tuple[TableColumn, ...], Field(min_length=1)]
    without: tuple[str, ...] = ()
    overrides: dict[str, Overrides] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    beside: tuple[ReportedNumber, ...] = ()
    notes: tuple[str, ...] = ()
    headings: dict[str, str] = Field(default_factory=dict)

    def rows(self, size: str) -> list[TableRow]:
        """The rows that this size plays, in the order of the table."""
        of_size, combinations, found = self.sizes[size], self.combinations, []
        split = ["data.split_seed=${seed}"] if of_size.split_by_seed else []
        for name in self.row_names:
            options = combinations[name]
            if all(option.sizes is None or size in option.sizes for option in options):
                own = [text for option in options for text in (*option.overrides, *option.at.get(size, ()))]
                overrides = merged([*of_size.overrides, *split, *own, *self.overrides.get(name, ())])
                found.append(TableRow(name, tuple(option.label for option in options), overrides))
        return found

    @property
    def row_names(self) -> list[str]:
        """The names of the rows of all sizes."""
        return [each for each in self.combinations if not any(fnmatchcase(each, pattern) for pattern in self.without)]

    @property
    def combinations(self) -> dict[str, tuple[Option, ...]]:
        """All combinations of options, by name."""
        every = itertools.product(*(axis.options for axis in self.axes))
        return {".".join(option.name for option in options): options for options in every}


def merged(overrides: Iterable[str]) -> Overrides:
    """Overrides where a later one of a key replaces an earlier one, in whose place it stands."""
    return tuple({text.partition("=")[0]: text for text in overrides}.values())
