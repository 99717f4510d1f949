"""The request game: a requester sends malicious deletion requests, and the provider filters them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from data.naming import option
from games.game import Drawing, Game, Metric, Part, Record, Setup
from games.request.settings import STRICT, FreshSeeds, ServiceSettings, StreamSettings, TargetSettings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from data.examples import Data
    from unlearning.procedure import Procedure


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RequestGame(Game):
    """The requester moves predictions of its targets by what it asks to be forgotten; the provider filters requests.

    Attributes:
        targets: the test examples whose predictions the attacker wants to move.
        stream: what the provider sees beside the attack.
        service: how the server carries out what it accepts.
        fresh_seeds: seeds, beside the victim's own, that judge a procedure which draws at random.
    """

    name: ClassVar[str] = "request"
    headline: ClassVar[str] = "effect"
    units: ClassVar[str] = "targets"
    code: ClassVar[tuple[str, ...]] = ("games.request.play",)
    slow: ClassVar[frozenset[str]] = frozenset({"attack"})

    targets: TargetSettings = Field(default_factory=TargetSettings)
    stream: StreamSettings = Field(default_factory=StreamSettings)
    service: ServiceSettings = Field(default_factory=ServiceSettings)
    fresh_seeds: FreshSeeds = 3

    def roles(self) -> Mapping[str, tuple[str, type]]:
        """A requester attack, the functional that it may be after, its strategy against a filter, and a filter."""
        from attacks.adaptive.strategy import Adaptive
        from attacks.crafting.attack import Attack
        from attacks.crafting.functionals import Functional
        from defenses.defense import Filter

        return {
            "attack": ("attack", Attack), "attack.functional": ("functional", Functional),
            "attack.adaptive": ("strategy", Adaptive), "defense": ("filter", Filter),
        }  # fmt: skip

    def differentiates(self, attack: Any, procedure: Procedure, defense: Any) -> bool:
        """Not where everything but an attack that opens a model only trains."""
        from attacks.crafting.access import opens
        from games.request.targets import accepts_all

        return opens(attack.access) or not procedure.exact or not accepts_all(defense)

    def resolve(self, config: Mapping[str, Any], component: Callable[[str], Any]) -> dict[str, Any]:
        """With the access that `attack.access=auto` stands for."""
        from games.request.access import resolve_access

        return resolve_access(config, component)

    def check(self, setup: Setup[RequestGame]) -> None:
        """Raise UserError for what does not fit together."""
        from games.request.checks import check

        check(setup)

    def play(self, setup: Setup[RequestGame], seed: int) -> Record:
        """Craft, control, filter, judge; docs/reading.md explains the fields of the record."""
        from games.request.memory import check_memory
        from games.request.play import play_one

        check_memory(setup)
        return play_one(setup, seed)

    def metrics(self) -> Sequence[Metric]:
        """Every metric of the game."""
        from games.request.metrics import METRICS

        return METRICS

    def parts(self, record: Record) -> Sequence[Part]:
        """The directions that were played."""
        from games.request.direction import directions

        return directions(record)

    def title(self, config: Mapping[str, Any]) -> str:
        """One line that names what was played."""
        attack = config["attack"]
        access = str(attack.get("access", "")).replace("_", "-")
        who = " ".join(word for word in (access, option(config, "attack")) if word)
        budget = f", at most {attack['budget']} deletions" if "budget" in attack else ""  # an own attack may have none
        return (
            f"{who} attack against {option(config, 'unlearning')} with defense {option(config, 'defense')}: "
            f"{option(config, 'model')} on {option(config, 'data')}{budget}"
        )

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """Everything that the table shows, by direction; of the same records it is computed once."""
        from games.request.summary import summarise_once

        return summarise_once(records, list(dict.fromkeys(records[0]["targets"]["direction"])))

    def score(self, records: Sequence[Record]) -> float:
        """The mean over directions of the effect with the victim's own seed."""
        found = [part["effect"]["victim_seed"]["mean"] for part in self.summary(records).values()]
        return sum(found) / len(found)

    def tables(self, records: Sequence[Record]) -> Iterable[RenderableType]:
        """The states of the targets by direction, with what is to be known to read them."""
        from games.request.table import tables

        return tables(records, self.summary(records))

    def figures(self, records: Sequence[Record], data: Data | None) -> Iterator[Drawing]:
        """Targets before and after, reliability, ROC of the filter, and with `data` the selected examples."""
        from games.request.figures import figures

        return figures(records, self.summary(records), data)

    def maps(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Drawing]:
        """Success by attack and procedure, with and without each filter, where there is more than one of each."""
        from games.request.matrix import maps

        return maps(rows)
