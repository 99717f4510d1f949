"""What a game shows: parts, metrics defined once, drawings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from metrics.intervals import Interval

Record = Mapping[str, Any]  # what one game with one seed ended in: plain numbers, words, lists and mappings of them
Values = Mapping[str, float]  # by unit (target, request, user, "all"); units where a metric is not defined are absent
View = Literal["game", "sweep", "results", "report"]
EVERYWHERE: frozenset[View] = frozenset({"game", "sweep", "results", "report"})
WHOLE = "all"  # the unit of what is measured once in a part


@dataclass(frozen=True)
class Part:
    """What one row is about (a direction, a strategy, a forget set): its name, its heading, and the game's record."""

    name: str
    label: str
    record: Record


@dataclass(frozen=True, kw_only=True)
class Metric:
    """THE definition of a metric; terminal, rows, sweeps, claims, report and `--columns` read it from here.

    Attributes:
        name: by which claims, filters and columns call it.
        label: its heading.
        help: one sentence with unit, direction (higher is ...) and reference.
        values: its values in a part, by unit; where it is not defined there are none.
        digits: how many are shown behind the point.
        scale: how it is shown: as it is, a share in percent, or a difference of shares in percentage points.
        share: whether it is a share of things, a rate or an AUROC, whose interval keeps within [0, 1].
        bounds: between what its mean must lie, where that is known and `share` does not say it.
        group: the heading over several columns of a report, such as `Confidence`.
        signed: whether a positive number is shown with its sign.
        shown: the views that show it; claims may name every metric.
        trials: where every value is the yes or no of a unit: how many independent ones stand behind a part, 0 if none.
    """

    name: str
    label: str
    help: str
    values: Callable[[Part], Values]
    digits: int = 3
    scale: Literal["plain", "share", "points"] = "plain"
    share: bool = False
    bounds: tuple[float, float] | None = None
    group: str = ""
    signed: bool = False
    shown: frozenset[View] = frozenset()
    trials: Callable[[Part], int] | None = None

    def mean(self, part: Part) -> float | None:
        """The mean over the units of a part; None where the metric is not defined."""
        values = self.values(part)
        return sum(values.values()) / len(values) if values else None

    def interval(self, groups: Sequence[Sequence[float]], units: str = "units") -> Interval:
        """The mean and its 95% interval from values by seed (`metrics.intervals.interval_of_values`)."""
        from metrics.intervals import interval_of_values  # brings torch, which a listing of games does without

        return interval_of_values(groups, self.share, self.bounds, units, self.trials is not None)

    @property
    def factor(self) -> float:
        """By what its numbers are multiplied where they are shown."""
        return 1.0 if self.scale == "plain" else 100.0


@dataclass(frozen=True)
class Drawing:
    """A figure for a paper: its name (a file's), the figure, a caption, and words for who cannot see it."""

    name: str
    figure: Figure
    caption: str
    alt: str = ""


def number(value: Any) -> float | None:
    """A stored number; None for one that is not finite, which JSON keeps as a string."""
    return None if value is None or isinstance(value, str) else float(value)


def whole(value: float | None) -> Values:
    """What is measured once per game and direction; empty where it is not defined."""
    return {} if value is None else {WHOLE: value}
