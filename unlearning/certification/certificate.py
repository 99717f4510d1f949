"""What a certified procedure can honestly say about a model that it released: `Certificate`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from models.victim import Victim
from unlearning.procedure import Task

Verdict = Literal["certified", "conditional on assumed constants", "uncertified"]
Mechanism = Literal["analytic", "classical"]


@dataclass(frozen=True)
class Constant:
    """A number that a certificate rests on, and how it is known."""

    value: float
    status: Literal["proven", "measured", "assumed"]


@dataclass(frozen=True)
class Certificate:
    """(epsilon, delta)-unlearning of one released model: what is claimed, and what the claim rests on.

    `sensitivity` bounds the norm that `norm_bound` names, which is what noise of standard deviation `sigma` has to
    hide. `mechanism` is the calibration that the procedure worked with; `implied_epsilon` is the epsilon that `sigma`
    gives at `delta`, always by the analytic Gaussian mechanism, and infinite without noise. `constants` are by name.
    """

    verdict: Verdict
    reason: str
    sensitivity: float
    norm_bound: str
    sigma: float
    epsilon: float
    delta: float
    mechanism: Mechanism
    implied_epsilon: float
    constants: Mapping[str, Constant]

    def describe(self) -> str:
        """The certificate in one line."""
        constants = ", ".join(f"{name} = {each.value:.4g} ({each.status})" for name, each in self.constants.items())
        return (
            f"{self.verdict}: {self.reason} Delta = {self.sensitivity:.4g} ({self.norm_bound}), "
            f"sigma = {self.sigma:.4g}; asked epsilon = {self.epsilon:.4g} at delta = {self.delta:.4g} "
            f"({self.mechanism} calibration), implied epsilon = {self.implied_epsilon:.4g}; {constants}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a number that is not finite becomes None."""
        numbers = ("sensitivity", "sigma", "epsilon", "delta", "implied_epsilon")
        words = ("verdict", "reason", "norm_bound", "mechanism")
        return {
            **{name: getattr(self, name) for name in words},
            **{name: _finite(getattr(self, name)) for name in numbers},
            "constants": {
                name: {"value": _finite(each.value), "status": each.status} for name, each in self.constants.items()
            },
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@runtime_checkable
class Certifying(Protocol):
    """A procedure that can say what it certifies about its models."""

    def certificate(self, task: Task, victim: Victim) -> Certificate:
        """The certificate of a model that this procedure learned or released, from what its ledger says."""
        ...
