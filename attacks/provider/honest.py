"""What an honest provider does: it forgets by the procedure that it says it follows."""

from __future__ import annotations

import torch

from attacks.provider.provider import Demand
from data.errors import UserError
from models.victim import Victim
from unlearning.procedure import forget
from unlearning.provable import Account, in_steps


def forget_honestly(demand: Demand) -> Victim:
    """The model after the request, with its steps taken down where the procedure has steps that others can check.

    Raises UserError where a proof is asked for and the procedure cannot write one.
    """
    procedure, stepwise = demand.procedure, in_steps(demand.procedure, demand.task)
    if stepwise is None:
        if demand.recorder is not None:
            raise UserError(no_proof(type(procedure).__module__.rpartition(".")[2]))
        demand.gradients.known = False
        return forget(procedure, demand.task, demand.original, demand.request, demand.seed)
    account = Account(demand.recorder, demand.terms.order, demand.gradients)
    deleted = torch.tensor(demand.request.indices, dtype=torch.long)
    return stepwise.forget_provably(demand.task, demand.original, deleted, demand.seed, account)


def no_proof(name: str) -> str:
    """What is said where a procedure cannot write a proof."""
    return (
        f"unlearning={name} writes no proof, since its forgetting is no minibatch descent on the retained records; use "
        "unlearning=retrain or fine_tune, or a defense that asks for no proof."
    )
