"""All audits of a proof, which share one pass over it: what replaying its steps does not show.

Memory is bounded: a step at a time, and of states the last two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from data.errors import UserError
from models.progress import progress
from proofs.auditing import Audit
from proofs.claims import Architecture, Commitment, Complete, RecipeKept
from proofs.ordering import RandomOrder
from proofs.problems import Expected, Problem
from proofs.reader import Damaged, Proof
from proofs.states import Distance, Final, InitialDistribution, Initialisation
from proofs.structure import Coverage, Multiplicity, Order, Removability

__all__ = ["CHECKS", "Audited", "Expected", "Problem", "audit", "checked_names", "damage"]

AUDITS: dict[str, type[Audit]] = {
    each.name: each
    for each in (
        Architecture, Complete, Removability, Coverage, Multiplicity, Order, RandomOrder, RecipeKept,
        Initialisation, InitialDistribution, Commitment, Final, Distance,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Audited:
    """What audits found, in the order of their names; and their numbers, by name."""

    problems: tuple[Problem, ...]
    numbers: dict[str, float]


def audit(proof: Proof, expected: Expected, names: Iterable[str], also: Sequence[Audit] = ()) -> Audited:
    """Run the audits called `names`, and `also` some that are made already, in one pass over the proof.

    States of another architecture are a problem of the check `architecture`, and no audit looks at them. A step that is
    damaged is one of the check `damage`; then what was found before it counts, and nothing is said of the whole.
    """
    kinds = [AUDITS[name] for name in checked_names(names)]
    odd: list[Problem] = []
    if any(kind.states for kind in kinds) or any(each.states for each in also):
        odd = Architecture(proof, expected).problems
    audits = [kind(proof, expected) for kind in kinds if not (odd and kind.states)]
    also = [each for each in also if not (odd and each.states)]
    damaged = _pass(proof, [each for each in (*audits, *also) if each.streams])
    problems = [problem for each in audits for problem in each.problems]
    numbers = {name: value for each in audits for name, value in each.numbers.items()}
    return Audited((*dict.fromkeys((*odd, *damaged, *problems)),), numbers)


def _pass(proof: Proof, audits: Sequence[Audit]) -> tuple[Problem, ...]:
    if not audits:
        return ()
    try:
        with progress("reading the proof", proof.steps + 1) as tick:
            for step in proof.read():
                for each in audits:
                    each.step(step)
                tick()
    except Damaged as found:
        return (damage(found.step, found.what),)
    for each in audits:
        each.end()
    return ()


def damage(step: int, what: str) -> Problem:
    """A step that is not what was written."""
    return Problem("damage", step, None, f"The proof is damaged at step {step}: {what}.")


def checked_names(names: Iterable[str]) -> list[str]:
    """The names of checks, each once; raises UserError for one that there is not."""
    found = list(dict.fromkeys(names))
    for name in found:
        if name not in AUDITS:
            raise UserError(f"There is no check {name!r} of proofs; the checks are {', '.join(AUDITS)}.")
    return found


def _alone(name: str, proof: Proof, expected: Expected) -> list[Problem]:
    return list(audit(proof, expected, [name]).problems)


CHECKS: dict[str, Callable[[Proof, Expected], list[Problem]]] = {name: partial(_alone, name) for name in AUDITS}
