"""The role of a game, and all that the engines of `experiments/` know of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from data.errors import UserError
from games.metric import EVERYWHERE, WHOLE, Drawing, Metric, Part, Record, Values, View

if TYPE_CHECKING:
    import torch
    from rich.console import RenderableType

    from data.examples import Data
    from models.victim import Victim
    from storage.store import Store
    from unlearning.procedure import Procedure, Task

__all__ = [
    "EVERYWHERE", "WHOLE", "Drawing", "Game", "Keys", "Metric", "Part", "Record", "Setup", "Values", "View",
    "headline", "heat", "metric_of",
]  # fmt: skip
G = TypeVar("G", bound="Game")


class Keys(Protocol):
    """What determines an artifact, but for its seed: settings, the code that reads them, data, machine."""

    def victim(self) -> dict[str, Any]:
        """Of a trained victim: of its data, model, training and what learns it, and no setting of forgetting."""
        ...

    def trained(self, code: Sequence[str] = ()) -> dict[str, Any]:
        """Of models that are trained plainly, such as retrained ones, whatever the procedure; `code` made them."""
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
    """Everything that a game is played with, on its device. `code` are the modules that it computes with itself."""

    code: ClassVar[tuple[str, ...]] = ("games.victims",)

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
    which the keys of finished games depend; those that only show numbers do not belong there. `units` is, in the
    plural, what the headline has a value for. `slow` are kinds of artifacts that take long to make: while another
    process makes one, a sweep plays another cell.
    """

    name: ClassVar[str]
    headline: ClassVar[str]
    units: ClassVar[str] = "units"
    code: ClassVar[tuple[str, ...]] = ()
    slow: ClassVar[frozenset[str]] = frozenset()

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

    def maps(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Drawing]:
        """Figures over the games of a sweep, from one row per game and part; none here.

        A row has the names of the options of every group (`attack`, `unlearning`, `defense`, ...), `seed`, `part`, and
        by its name every metric that is shown in sweeps or reports.
        """
        return iter(())


def headline(game: Game) -> Metric:
    """The metric that a game is ranked by."""
    return metric_of(game, game.headline)


def heat(game: Game) -> tuple[str, str]:
    """The names of the metrics of heat maps: the headline, and what a defense left of it."""
    return game.headline, f"{game.headline}_defended"


def metric_of(game: Game, name: str) -> Metric:
    """The metric of this name; raises UserError with the nearest names where there is none."""
    every = {metric.name: metric for metric in game.metrics()}
    if name not in every:
        import difflib

        near = difflib.get_close_matches(name, every, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(every)[:12])}."
        raise UserError(f"The {game.name} game has no metric {name!r}; {hint}")
    return every[name]
