"""The nouns and the role of a verification: `Terms`, `Prepared`, `Case`, `Verdict` and `Verification`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from data.errors import UserError, called
from data.examples import Data, Examples
from data.untouched import untouched
from models.victim import Victim
from proofs.terms import Terms
from unlearning.procedure import Procedure, Task
from unlearning.service import Predictor

if TYPE_CHECKING:
    from proofs.reader import Proof
    from proofs.replay import Replay

Remember = Callable[[str, Callable[[], Mapping[str, Tensor]]], dict[str, Tensor]]
Sight = Literal["predictions", "model", "proof"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the owners hand in before training: `records`, the training set with their rows as they want them.

    `secret` is what they keep for later, such as private triggers; nobody else sees it.
    """

    records: Examples
    secret: Any = None


@dataclass(frozen=True, eq=False)
class Case:
    """What a verification has when a provider claims to have forgotten.

    `task` has the records as they were handed in, the declared architecture and recipe; `users` the positions of every
    owner's records, all of which were asked to be forgotten. `before` and `after` are the model's predictions before
    and after, `model` and `model_before` the same models opened, where the verification `sees` more than predictions.
    `proof` is what the provider wrote down, where the verification sees it. `trusted` are examples that no training saw
    and only the owners hold: records that they held back, where the verification `holds_back`. `procedure` is what the
    provider says that it follows. What is drawn comes from `seed`.

    `remember(name, make)` gives the tensors of `make()`, which may take long and must follow from the task, the users,
    the secret and the seed alone: they serve every provider.
    """

    task: Task
    data: Data
    users: tuple[Tensor, ...]
    before: Predictor
    after: Predictor
    trusted: Examples
    seed: int
    procedure: Procedure
    secret: Any = None
    terms: Terms = field(default_factory=Terms)
    model: Victim | None = None
    model_before: Victim | None = None
    proof: Proof | None = None
    remember: Remember = field(default=lambda name, make: dict(make()))

    @property
    def deleted(self) -> Tensor:
        """The positions of all records that were asked to be forgotten."""
        return torch.cat(self.users)

    @property
    def retained(self) -> Tensor:
        """The positions of all other records, in their order."""
        kept = torch.ones(len(self.task.records), dtype=torch.bool)
        kept[self.deleted.cpu()] = False
        if self.task.forgotten is not None:
            kept &= self.task.forgotten.cpu() == 0
        return kept.nonzero()[:, 0]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a verification says of a provider.

    Attributes:
        passed: whether it believes that the records were forgotten.
        statistic: what it measured; larger is more suspicious. NaN where nothing was measured.
        threshold: what the statistic may not exceed.
        level: the rate at which an honest provider is accused, by design or as realised; None where nobody knows.
        power: the rate at which a provider that kept the model as it was is caught; None where nobody knows.
        p_value: of the statistic for an honest provider, where there is one.
        reason: one sentence: why it passed, or what was found, with its step or field where there is one.
        gradients: gradient evaluations of the verification itself; one is the gradient of one example's loss.
        predictions: inputs of which it asked for predictions.
        replay: what it found where it replayed a proof.
        details: further plain numbers for the record, by name: lists of numbers, or numbers.
    """

    passed: bool
    statistic: float
    threshold: float
    level: float | None
    power: float | None
    reason: str
    p_value: float | None = None
    gradients: int = 0
    predictions: int = 0
    replay: Replay | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Verifies(Protocol):
    """A verification, as a game sees it: a frozen configuration with one verb, and what `Verification` has beside."""

    def verify(self, case: Case) -> Verdict:
        """Whether the provider of `case` has forgotten."""
        ...


class Verification:
    """A verification: a frozen, validated configuration. A subclass writes `verify`, and what else differs.

    `sees`: the predictions of the model, the opened model too, or also a proof of how it was made. `holds_back`:
    whether the trusted examples have to be draws from the population of the deleted records; then the owners hold
    records back, `game.held_back` each, which leave the training set before anybody trains.
    """

    game: ClassVar[str] = "verification"
    name: ClassVar[str]
    sees: ClassVar[Sight] = "predictions"
    holds_back: ClassVar[bool] = False

    def check(self, data: Data, users: tuple[Tensor, ...], task: Task) -> None:
        """Raise UserError where the data, the users or the recipe do not suffice; trains nothing."""

    def prepare(self, data: Data, users: tuple[Tensor, ...], rng: torch.Generator) -> Prepared:
        """Before training: what the owners hand in, which may change the rows of `users` and no other."""
        return Prepared(data.train)

    def challenge(self, rng: torch.Generator) -> Terms:
        """What is asked of a proof before it is made."""
        return Terms()

    def verify(self, case: Case) -> Verdict:
        """Whether the provider of `case` has forgotten."""
        raise NotImplementedError


def prepared(defense: Verification, data: Data, users: tuple[Tensor, ...], rng: torch.Generator) -> Prepared:
    """What the owners hand in, checked: only their own rows differ, and inputs are finite.

    Raises UserError where another row was changed.
    """
    with untouched(f"defense={called(defense)}", {"data.train.x": data.train.x, "data.train.y": data.train.y}):
        found = defense.prepare(data, users, rng)
    if not isinstance(found, Prepared):
        raise UserError(
            f"defense={called(defense)}: prepare() must give a Prepared(records), and gave a {type(found).__name__}."
        )
    own = torch.zeros(len(data.train), dtype=torch.bool, device=data.train.x.device)
    own[torch.cat(users).to(own.device)] = True
    given, before = found.records, data.train
    if given.x.shape != before.x.shape or given.y.shape != before.y.shape:
        raise UserError(f"defense={called(defense)}: prepare() must give as many records as there were.")
    if given is not before:
        differs = (given.x != before.x).flatten(1).any(dim=1) | (given.y != before.y)
        if bool((differs & ~own).any()):
            raise UserError(f"defense={called(defense)}: prepare() changes a record that belongs to nobody who asks.")
        if not bool(torch.isfinite(given.x[own]).all()):
            raise UserError(f"defense={called(defense)}: prepare() hands in a record that is not finite.")
        if bool(((given.y < 0) | (given.y >= len(data.classes))).any()):
            raise UserError(
                f"defense={called(defense)}: prepare() hands in a label outside 0 to {len(data.classes) - 1}."
            )
    return found


def challenged(defense: Any, rng: torch.Generator) -> Terms:
    """What a verification asks of a proof, checked; nothing where it has no `challenge`."""
    challenge = getattr(defense, "challenge", None)
    terms: object = Terms() if challenge is None else challenge(rng)
    if not isinstance(terms, Terms):
        raise UserError(f"defense={called(defense)}: challenge() must give Terms, and gave a {type(terms).__name__}.")
    return terms


def verified(defense: Verifies, case: Case) -> Verdict:
    """The verdict of a verification, checked.

    Raises UserError where it is no verdict, or passes by a statistic beyond its own threshold.
    """
    name, records = called(defense), case.task.records
    with untouched(f"defense={name}", {"task.records.x": records.x, "task.records.y": records.y}):
        verdict: object = defense.verify(case)
    if not isinstance(verdict, Verdict):
        raise UserError(f"defense={name}: verify() must give a Verdict, and gave a {type(verdict).__name__}.")
    for what in ("statistic", "threshold"):
        value: object = getattr(verdict, what)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"defense={name}: the {what} of a verdict is a number, and it is {value!r:.40}.")
    for what in ("level", "power", "p_value"):
        rate = getattr(verdict, what)
        if rate is not None and not (math.isfinite(rate) and 0 <= rate <= 1):
            raise UserError(f"defense={name}: the {what} of a verdict is a rate, and it is {rate!r:.40}.")
    if verdict.passed and verdict.statistic > verdict.threshold:
        raise UserError(
            f"defense={name}: its verdict passes with a statistic of {verdict.statistic:.4g}, which exceeds its "
            f"threshold {verdict.threshold:.4g}."
        )
    return verdict
