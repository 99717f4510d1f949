"""What verifications have in common that check a proof: what they expect of it, and the verdict on what they find."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

from data.errors import UserError
from defenses.verification.verification import Case, Verdict
from models.training import Training
from proofs.checking import Checked
from proofs.problems import FARTHER, Expected
from proofs.reader import Proof
from proofs.states import ALPHA

Check = Literal[
    "complete", "architecture", "removability", "coverage", "multiplicity", "order", "random_order", "recipe",
    "initialisation", "initial_distribution", "commitment", "final", "distance",
]  # fmt: skip

NAMED = 6  # audits that a sentence names


def proof_of(case: Case, name: str) -> Proof:
    """The proof of a case; raises UserError where there is none, or the model is not opened."""
    if case.proof is None or case.model is None:
        raise UserError(f"defense={name} needs the opened model and a proof of how it was made.")
    return case.proof


def expected(case: Case, farther: float = FARTHER) -> Expected:
    """What a verifier knows: the records, what was to be forgotten, the declared recipe, the released model.

    A procedure with a recipe of its own has it as `recipe(task)`; one that is exact begins with a fresh draw.
    """
    gone = torch.ones(len(case.task.records), dtype=torch.bool)
    gone[case.retained] = False
    return Expected(
        records=case.task.records,
        deleted=gone.nonzero()[:, 0],
        build=case.task.build,
        training=_declared(case),
        order=case.terms.order,
        every=case.terms.every,
        released=case.model,
        before=case.model_before,
        begins="seed" if case.procedure.exact else None,
        farther=farther,
    )


def _declared(case: Case) -> Training:
    own = getattr(case.procedure, "recipe", None)
    return own(case.task) if callable(own) else case.task.training


def verdict(
    found: Checked, checks: tuple[Check, ...], more: Mapping[str, Any], gradients: int = 0, ordered: bool = False
) -> Verdict:  # fmt: skip
    """The statistic is the largest error of the replay, or infinite where an audit finds a problem.

    The level is 0 where honest replays are exact, but for the tests of first weights and of the order of records, of
    which each adds its own; elsewhere nobody knows it. `ordered` says that the verifier chose the order, which is then
    not tested. Details say how many problems there are, the first step of one, and the numbers of the audits.
    """
    steps = [each.step for each in found.problems if each.step is not None]
    details = {
        "problems": len(found.problems),
        "exact": int(found.exact),
        **({"first_step": min(steps)} if steps else {}),
        **({"floor": found.floor} if found.floor is not None else {}),
        **{f"failed_{name}": sum(each.check == name for each in found.problems) for name in _failed(found)},
        **{name: value for name, value in found.numbers.items() if math.isfinite(value)},
        **more,
    }
    tests = ("initial_distribution" in checks) + ("random_order" in checks and not ordered)
    return Verdict(
        passed=not found.problems,
        statistic=found.largest,
        threshold=found.tolerance,
        level=ALPHA * tests if found.exact else None,
        power=None,
        reason=_reason(found, checks),
        gradients=found.gradients + gradients,
        replay=found.replay,
        details=details,
    )


def _failed(found: Checked) -> list[str]:
    return list(dict.fromkeys(each.check for each in found.problems))


def _reason(found: Checked, checks: tuple[Check, ...]) -> str:
    if not found.problems:
        words = ", ".join(checks) if len(checks) <= NAMED else f"{len(checks)} audits"
        audits = f", and {words} hold" if checks else ""
        return (
            f"{len(found.replay.steps):,} intervals were replayed with errors of at most {found.largest:.3g} "
            f"({found.tolerance:.3g} is tolerated){audits}."
        )
    first, others = found.problems[0], _failed(found)[1:]
    also = f" Also wrong: {', '.join(others)}." if others else ""
    return f"{first.text} ({first.check}){also}"
