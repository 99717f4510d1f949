"""The role of a game, and all that the engines of `experiments/` know of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from data.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from matplotlib.figure import Figure
    from rich.console import RenderableType
    from torch import Tensor

    from data.examples import Data
    from metrics.intervals import Interval
    from models.victim import Victim
    from unlearning.procedure import Procedure, Task

Record = Mapping[str, Any]  # what one game with one seed ended in: plain numbers, words, lists and mappings of them
Values = Mapping[str, float]  # by unit (target, request, user, "all"); units where a metric is not defined are absent
View = Literal["game", "sweep", "results", "report"]
EVERYWHERE: frozenset[View] = frozenset({"game", "sweep", "results", "report"})
WHOLE = "all"  # the unit of what is measured once in a part
G = TypeVar("G", bound="Game")


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
        """The mean and its 95% interval from values by seed (`metrics.intervals.grouped_interval`).

        Values that are not finite are left out; without any, mean and bounds are NaN.
        """
        import torch

        from metrics.intervals import Interval, grouped_interval

        tensors = [torch.tensor(list(group), dtype=torch.float64) for group in groups]
        finite = [group[torch.isfinite(group)] for group in tensors]
        if not any(len(group) for group in finite):
            return Interval(float("nan"), float("nan"), float("nan"), 0, "no defined value")
        return grouped_interval(finite, "share" if self.share else "plain", self.bounds, units)


@dataclass(frozen=True)
class Drawing:
    """A figure for a paper: its name (a file's), the figure, a caption, and words for who cannot see it."""

    name: str
    figure: Figure
    caption: str
    alt: str = ""


class Store(Protocol):
    """What a game asks of the store: artifacts by kind and key, made where they are not there yet."""

    @property
    def enabled(self) -> bool: ...
    def tensors(
        self, kind: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, Tensor]]
    ) -> tuple[dict[str, Tensor], bool]: ...
    def record(
        self, kind: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]
    ) -> tuple[dict[str, Any], bool]: ...
    def find_tensors(self, kind: str, key: Mapping[str, Any]) -> tuple[Path, dict[str, Tensor]] | None: ...
    def keep_tensors(self, kind: str, key: Mapping[str, Any], value: Mapping[str, Tensor]) -> Path | None: ...
    def discard(self, path: Path) -> None: ...


class Keys(Protocol):
    """What determines an artifact, but for its seed: settings, the code that reads them, data, machine."""

    def victim(self) -> dict[str, Any]:
        """Of a trained victim."""
        ...

    def game(self) -> dict[str, Any]:
        """Of the record of a game."""
        ...

    def of(self, *places: str, code: Sequence[str] = ()) -> dict[str, Any]:
        """Of what follows from a victim, its procedure, and the settings at `places`.

        A place is a dotted path in the configuration, such as `attack` or `game.targets`; the code of every component
        there counts, and that of the modules `code`.
        """
        ...


@dataclass(frozen=True, eq=False)
class Setup(Generic[G]):
    """Everything that a game is played with, on its device."""

    config: dict[str, Any]
    game: G
    data: Data
    task: Task
    procedure: Procedure
    attack: Any
    defense: Any
    judge: Literal["full", "quick"]
    device: torch.device
    threads: int
    store: Store
    keys: Keys

    def victim(self, seed: int) -> Victim:
        """The victim of `seed`, from the store where it is there."""
        from games.victims import learn

        return learn(self, seed)


@dataclass(frozen=True, kw_only=True)
class Game:
    """A game: its fields are its settings, its methods what it does; whatever a game may leave out has a default here.

    A game is a frozen dataclass of pydantic with a `name`, the `headline` (the metric of heat maps and Hydra's score;
    larger = the crook wins), `play` and `metrics`. Where a metric `HEADLINE_defended` says what a defense left of the
    headline, heat maps show that in their panels with a defense. `code` are the modules that compute its numbers, on
    which the keys of finished games depend; those that only show numbers do not belong there.
    """

    name: ClassVar[str]
    headline: ClassVar[str]
    code: ClassVar[tuple[str, ...]] = ()

    def resolve(self, config: Mapping[str, Any], component: Callable[[str], Any]) -> dict[str, Any]:
        """The configuration with what its `auto` stands for, which is what a record says and a key holds.

        `component` builds what stands at a place of the configuration.
        """
        return dict(config)

    def roles(self) -> Mapping[str, tuple[str, type]]:
        """What must stand at places such as `attack`, `attack.functional` or `defense`: a noun, and its protocol."""
        return {}

    def differentiates(self, attack: Any, procedure: Procedure, defense: Any) -> bool:
        """Whether somebody differentiates the model in forward mode or twice, as training does not."""
        return True

    def check(self, setup: Setup[Any]) -> None:
        """Raise UserError for what does not fit together; trains nothing."""

    def play(self, setup: Setup[Any], seed: int) -> Record:
        """Play the game with the root seed `seed`; slow steps go through the store. Returns plain numbers."""
        raise NotImplementedError

    def metrics(self) -> Sequence[Metric]:
        """Every metric of the game."""
        raise NotImplementedError

    def parts(self, record: Record) -> Sequence[Part]:
        """The parts of a record, one row each."""
        return [Part(WHOLE, self.name, record)]

    def title(self, config: Mapping[str, Any]) -> str:
        """One line that names what was played, without its seeds."""
        from data.naming import option

        named = {group: option(config, group) for group in ("attack", "defense", "unlearning", "model", "data")}
        return "{0} game: {attack} against {unlearning} with defense {defense}: {model} on {data}".format(
            self.name, **named
        )

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """By part and metric the mean with its interval over the records, as plain numbers; `headline` among them."""
        from dataclasses import asdict

        found: dict[str, Any] = {}
        for name in dict.fromkeys(part.name for record in records for part in self.parts(record)):
            parts = [part for record in records for part in self.parts(record) if part.name == name]
            found[name] = {
                metric.name: asdict(metric.interval([list(metric.values(part).values()) for part in parts]))
                for metric in self.metrics()
                if any(metric.values(part) for part in parts)
            }
        return found

    def score(self, records: Sequence[Record]) -> float:
        """The mean of the headline over records and parts, larger = the crook wins; NaN where it is not defined."""
        metric = headline(self)
        means = [metric.mean(part) for record in records for part in self.parts(record)]
        there = [mean for mean in means if mean is not None]
        return sum(there) / len(there) if there else float("nan")

    def tables(self, records: Sequence[Record]) -> Iterable[RenderableType]:
        """What a terminal shows: here one table, a metric a row and a part a column."""
        from games.plain_table import plain_table

        return [plain_table(self, records)]

    def figures(self, records: Sequence[Record], data: Data | None) -> Iterator[Drawing]:
        """The figures of a game, one at a time; none here. Without `data` those that need it are left out."""
        return iter(())


def headline(game: Game) -> Metric:
    """The metric that a game is ranked by."""
    return metric_of(game, game.headline)


def metric_of(game: Game, name: str) -> Metric:
    """The metric of this name; raises UserError with the nearest names where there is none."""
    every = {metric.name: metric for metric in game.metrics()}
    if name not in every:
        import difflib

        near = difflib.get_close_matches(name, every, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(every)[:12])}."
        raise UserError(f"The {game.name} game has no metric {name!r}; {hint}")
    return every[name]
