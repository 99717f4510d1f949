"""What a verifier asks of a proof before it is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """Conditions of a proof of retraining.

    `order` is the seed from which the order of the retained records follows (`models.plan.Plan.batches`), where the
    verifier chooses it; None leaves the order to the provider. `every` is how many steps may lie between checkpoints,
    where that was agreed on: what a provider chooses by itself it may stretch until nothing is checked.
    """

    order: int | None = None
    every: int | None = None
