"""The nouns and the role of a dishonest provider: `Demand` and `Provider`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from data.errors import UserError, called
from data.examples import Examples
from models.stepwise import Gradients, Recorder
from models.victim import Victim
from proofs.terms import Terms
from unlearning.procedure import Procedure, Request, Task

if TYPE_CHECKING:
    from proofs.reader import Proof


@dataclass(frozen=True, eq=False)
class Demand:
    """What a provider has when it is asked to forget.

    `task` has the records as they were handed in, `original` is the model that learned all of them, and `log` its own
    record of how, for providers with `needs_log`. `recorder` takes down the proof that is asked for under `terms`; it
    is None where nobody asks for one. `auxiliary` are examples of the provider's own. `gradients` counts gradient
    evaluations, which whoever computes some adds to. Whatever is drawn comes from `seed`.
    """

    task: Task
    original: Victim
    request: Request
    procedure: Procedure
    auxiliary: Examples
    seed: int
    terms: Terms = field(default_factory=Terms)
    recorder: Recorder | None = None
    log: Proof | None = None
    gradients: Gradients = field(default_factory=Gradients)


class Provider(Protocol):
    """A provider, as the game sees it: a frozen, validated configuration with one verb.

    What it may carry besides: a `name` for messages, the `game` that it plays, `needs_log = True` where it needs the
    log of how the original was trained, `trains_anew = True` where no update of the original is in what it releases,
    and `honest = True` where it does forget.
    """

    game: ClassVar[str]

    def pretend(self, demand: Demand) -> Victim:
        """The model that the provider releases as one that has forgotten; its proof goes to `demand.recorder`."""
        ...


def pretended(attack: Provider, demand: Demand) -> Victim:
    """The released model, checked: a Victim of the same architecture with finite parameters."""
    released: object = attack.pretend(demand)
    name = called(attack)
    if not isinstance(released, Victim):
        raise UserError(f"attack={name}: pretend() must give a Victim, and gave a {type(released).__name__}.")
    before = {key: value.shape for key, value in demand.original.moving.items()}
    if {key: value.shape for key, value in released.moving.items()} != before:
        raise UserError(f"attack={name}: pretend() gave a model of another architecture.")
    if not all(bool(value.isfinite().all()) for value in released.moving.values()):
        raise UserError(f"attack={name} gave a model that is not finite; make its steps smaller.")
    return released
