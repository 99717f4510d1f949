"""What a verifier asks of a proof before it is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """Conditions of a proof of retraining.

    `order` is the seed from which the order of the retained records follows (`models.plan.Plan.batches`), where the
    verifier chooses it; None leaves the order to the provider.
    """

    order: int | None = None
