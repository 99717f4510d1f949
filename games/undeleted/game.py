"""The undeleted game: a requester reads other people's records in results that are published after its deletions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from data.bounds import at_most
from data.errors import UserError
from data.naming import option
from games.game import Game, Metric, Part, Record, Setup

if TYPE_CHECKING:
    from unlearning.procedure import Procedure

PARTS = {"median": "median", "ridge": "ridge regression"}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class UndeletedGame(Game):
    """A requester owns a few records, deletes them one by one, and is an observer of what is published meanwhile.

    The statistics are the lower median of a number of every person (the mean of the record's features), and ridge
    regression of the label on features; both are computed anew without the deleted records, in float64, so that the
    provider does what is asked perfectly. No model is trained.

    Attributes:
        honest: people with a record each, drawn from the training set, who ask for nothing.
        features: of a record in ridge regression, the rare ones among them.
        rare: features, 0 or 1, each of which one person alone has.
        decay: the penalty of ridge regression, in units of the sum of squares.
        others: deletions by other people, at random, after each of the attacker's.
        tolerance: largest error of what counts as reconstructed.
    """

    name: ClassVar[str] = "undeleted"
    headline: ClassVar[str] = "reconstructed"
    units: ClassVar[str] = "games"
    code: ClassVar[tuple[str, ...]] = ("games.undeleted.play",)

    honest: Annotated[int, Field(ge=2), at_most(10_000_000, "each has a record")] = 500
    features: Annotated[int, Field(ge=1), at_most(1000, "a system of so many equations is solved for each release")] = (
        10
    )
    rare: Annotated[int, Field(ge=1), at_most(1000, "each is a feature")] = 2
    decay: Annotated[float, Field(gt=0)] = 1.0
    others: Annotated[int, Field(ge=0), at_most(1_000_000, "each is deleted")] = 0
    tolerance: Annotated[float, Field(gt=0)] = 0.01

    def roles(self) -> Mapping[str, tuple[str, type]]:
        """Who reconstructs, and a policy of releases."""
        from attacks.requester.undeleted import Reconstructor
        from defenses.disclosure.limited_release import Discloses

        return {"attack": ("attacker who reconstructs", Reconstructor), "defense": ("policy of releases", Discloses)}

    def differentiates(self, attack: Any, procedure: Procedure, defense: Any) -> bool:
        """Nobody does."""
        return False

    def check(self, setup: Setup[UndeletedGame]) -> None:
        """Raise UserError for sizes that do not fit, and a procedure that would not be used."""
        from games.undeleted.play import varied

        name, n = option(setup.config, "unlearning"), len(setup.data.train)
        if name != "retrain":
            raise UserError(
                f"The undeleted game publishes statistics that are computed anew, so unlearning={name} would count for "
                "nothing; leave it at unlearning=retrain."
            )
        if self.honest > n:
            raise UserError(f"game.honest={self.honest:,} is more than the {n:,} training records; lower it.")
        if self.rare > min(self.features, self.honest):
            raise UserError(
                f"game.rare={self.rare} must be at most game.features={self.features} and game.honest={self.honest:,}."
            )
        there = len(varied(setup.data.train.x.flatten(1)))
        if self.features - self.rare > there:
            raise UserError(
                f"game.features={self.features} less game.rare={self.rare} is more than the {there} features of this "
                "data set that differ between people; lower game.features."
            )

    def play(self, setup: Setup[UndeletedGame], seed: int) -> Record:
        """Contribute, delete, publish, read, compare; docs/games.md explains the fields of the record."""
        from games.undeleted.play import play_one

        return play_one(setup, seed)

    def parts(self, record: Record) -> Sequence[Part]:
        """The two statistics."""
        return [Part(name, label, record) for name, label in PARTS.items()]

    def metrics(self) -> Sequence[Metric]:
        """Every metric of the game."""
        from games.undeleted.metrics import METRICS

        return METRICS

    def title(self, config: Mapping[str, Any]) -> str:
        """One line that names what was played."""
        game = config["game"]
        return (
            f"{option(config, 'attack')} against exact releases with defense {option(config, 'defense')}: "
            f"{game['honest']:,} people of {option(config, 'data')}, {game['features']} features"
        )
