"""The verification game: a provider pretends to forget, and the owners verify."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from data.bounds import at_most
from data.naming import option
from games.game import Drawing, Game, Metric, Record, Setup
from games.verification.settings import STRICT, ProofSettings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from data.examples import Data
    from unlearning.procedure import Procedure


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VerificationGame(Game):
    """The provider releases a model that it says has forgotten the records of all users; they verify.

    Attributes:
        users: owners who ask for deletion; their records are drawn from the training set.
        records: records of each of them.
        held_back: further records of each of them that nobody trains on, drawn likewise, where the verification
            compares deleted records with such; with 0 the trusted examples serve.
        proof: how proofs are written.
    """

    name: ClassVar[str] = "verification"
    headline: ClassVar[str] = "passes"
    units: ClassVar[str] = "games"
    code: ClassVar[tuple[str, ...]] = ("games.verification.play",)
    slow: ClassVar[frozenset[str]] = frozenset({"released", "reference"})

    users: Annotated[int, Field(ge=1), at_most(1_000_000, "each owns records")] = 5
    records: Annotated[int, Field(ge=1), at_most(1_000_000, "all are deleted")] = 20
    held_back: Annotated[int, Field(ge=0), at_most(1_000_000, "they leave the training set")] = 20
    proof: ProofSettings = Field(default_factory=ProofSettings)

    def roles(self) -> Mapping[str, tuple[str, type]]:
        """A provider, and a verification."""
        from attacks.provider.provider import Provider
        from defenses.verification.verification import Verifies

        return {"attack": ("provider", Provider), "defense": ("verification", Verifies)}

    def differentiates(self, attack: Any, procedure: Procedure, defense: Any) -> bool:
        """Input gradients and per-example gradients are asked for by those that see the model."""
        return not procedure.exact or getattr(defense, "sees", "predictions") != "predictions"

    def check(self, setup: Setup[VerificationGame]) -> None:
        """Raise UserError for what does not fit together."""
        from games.verification.checks import check

        check(setup)

    def play(self, setup: Setup[VerificationGame], seed: int) -> Record:
        """Learn, ask, pretend, verify, measure; docs/verification.md explains the fields of the record."""
        from games.verification.play import play_one

        return play_one(setup, seed)

    def metrics(self) -> Sequence[Metric]:
        """Every metric of the game."""
        from games.verification.metrics import METRICS

        return METRICS

    def title(self, config: Mapping[str, Any]) -> str:
        """One line that names what was played."""
        who = option(config, "attack")
        provider = "honest provider" if who == "none" else f"provider {who}"
        game = config["game"]
        return (
            f"{provider}, {option(config, 'unlearning')}, against verification {option(config, 'defense')}: "
            f"{option(config, 'model')} on {option(config, 'data')}, {game['users']} users with {game['records']} "
            "records each"
        )

    def tables(self, records: Sequence[Record]) -> Iterable[RenderableType]:
        """The verdict, and what the released model is worth beside the original and honest retraining."""
        from games.verification.table import tables

        return tables(self, records)

    def figures(self, records: Sequence[Record], data: Data | None) -> Iterator[Drawing]:
        """Verification errors, hit rates, accuracies, cost."""
        from games.verification.figures import figures

        return figures(records)
