"""What must fit together before a verification game begins; nothing is trained to know it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attacks.provider.honest import no_proof
from data.errors import UserError, called
from data.naming import option
from games.verification.owners import brought, held_back
from models.plan import Plan
from unlearning.identity import learner_of
from unlearning.procedure import Procedure
from unlearning.provable import in_steps

if TYPE_CHECKING:
    from games.game import Setup
    from games.verification.game import VerificationGame


def asks_for_proof(setup: Setup[Any]) -> bool:
    """Whether the provider has to write a proof."""
    return getattr(setup.defense, "sees", "predictions") == "proof"


def check(setup: Setup[VerificationGame]) -> None:
    """Raise UserError where the parts cannot play, or the data set is too small."""
    game, n = setup.game, len(setup.data.train)
    deleted, held = game.users * game.records, held_back(setup)
    if deleted + held >= n:
        back = f" and game.held_back={game.held_back}" if held else ""
        raise UserError(
            f"game.users={game.users} with game.records={game.records}{back} each own {deleted + held:,} records, and "
            f"there are {n:,}; lower one of them."
        )
    proves = asks_for_proof(setup)
    logs = proves or getattr(setup.attack, "needs_log", False)
    if logs and setup.task.training.optimizer == "newton":
        raise UserError("A proof is of minibatch steps, and training=newton has none; use training=sgd or adam.")
    name = option(setup.config, "unlearning")
    if getattr(setup.attack, "honest", False) and proves and in_steps(setup.procedure, setup.task) is None:
        raise UserError(no_proof(name))
    if getattr(setup.attack, "needs_log", False) and learner_of(setup.procedure)[1]:
        raise UserError(
            f"attack={called(setup.attack)} works on the log of plain training, and unlearning={name} learns in "
            "another way; use unlearning=retrain."
        )
    if setup.task.training.optimizer != "newton":
        steps = Plan(setup.task.training, n - deleted - held).steps
        if proves and game.proof.every > steps:
            raise UserError(
                f"game.proof.every={game.proof.every} is more than the {steps:,} steps there are; lower it."
            )
    plain = type(setup.procedure).architecture is Procedure.architecture
    if not plain and not getattr(setup.attack, "honest", False):
        raise UserError(
            f"attack={called(setup.attack)} releases one plain model, and that of unlearning={name} is made of "
            "several; use unlearning=retrain."
        )
    data, users = brought(setup, setup.config["seed"])
    task = replace(setup.task, records=data.train)
    if hasattr(setup.attack, "check"):
        setup.attack.check(task, deleted, proves)
    if hasattr(setup.defense, "check"):
        setup.defense.check(data, users, task)
