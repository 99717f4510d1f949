"""Checking a proof: its audits, then the replay of its intervals, and what of it is beyond the tolerance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from proofs.audits import audit, checked_names, damage
from proofs.claims import Architecture
from proofs.floor import Distance, exact_here, floor
from proofs.problems import Expected, Problem, plan_of
from proofs.reader import Proof
from proofs.replay import Replay, replay
from proofs.states import Moves, drawn

SAFETY = 10.0  # times the floor is the tolerance where replays are not exact


@dataclass(frozen=True)
class Checked:
    """What was found in a proof; it holds where there are no `problems`, of which those of audits come first.

    `replay` has no steps where nothing could be replayed. `tolerance` is what an error in the weights was allowed to
    be, `floor` how far apart honest replays of them are where that was measured, else None. `largest` is the largest
    error of the replay, where buffers and moments have floors of their own in units of the tolerance of weights; it is
    infinite where an audit found a problem, and no larger than the tolerance where nothing did. `exact` says that
    honest replays here have no error. `numbers` are those of the audits by name, `gradients` all gradient evaluations.
    """

    problems: tuple[Problem, ...]
    replay: Replay
    tolerance: float
    floor: float | None = None
    largest: float = float("inf")
    exact: bool = False
    numbers: dict[str, float] = field(default_factory=dict)
    gradients: int = 0


def check_proof(
    proof: Proof, expected: Expected, checks: Sequence[str], queries: int = 0, tolerance: float | None = None,
    workers: int = 1, distance: Distance = "l2", safety: float = SAFETY,
) -> Checked:  # fmt: skip
    """Run the audits called `checks` (`proofs.audits.CHECKS`), then replay, and compare.

    All intervals are replayed or, with `queries` Q > 0, those Q of every epoch in which the logged weights move
    farthest (Jia et al., IEEE S&P 2021). An error is the `distance` of the replayed to the logged weights, or the l2
    distance of buffers or moments; one beyond `tolerance` is a problem of the check `replay`. A tolerance of None is 0
    where the proof was made on a machine like this one, else `safety` times the floor (`proofs.floor`). States of
    another architecture are not replayed. Raises UserError for a check that there is not.
    """
    names = checked_names(checks)
    odd = Architecture(proof, expected).problems
    moves = None if odd or queries == 0 else Moves(proof, expected)
    found = audit(proof, expected, names, [] if moves is None else [moves])
    exact = exact_here(proof, expected.records.x, workers)
    if odd:
        problems = tuple(dict.fromkeys((*odd, *found.problems)))
        return Checked(problems, Replay(), tolerance or 0.0, exact=exact, numbers=found.numbers)
    victim = drawn(proof, expected)
    wanted = None if moves is None else top(moves, queries, _epoch(proof, expected))
    done = replay(proof, expected.records, victim, wanted, workers)
    lowest = None if tolerance is not None or exact else floor(proof, expected.records, victim, distance)
    limits = dict.fromkeys(("weights", "buffers", "moments"), tolerance or 0.0)
    if lowest is not None:
        limits = {kind: safety * getattr(lowest, kind) for kind in limits}
    beyond = [*_damage(done, found.problems), *_beyond(done, limits, distance)]
    largest = max((_scaled(error, limits, kind) for _, kind, error in errors_of(done, distance)), default=0.0)
    if not beyond:  # whatever a change of units rounds
        largest = min(largest, limits["weights"])
    return Checked(
        (*found.problems, *beyond), done, limits["weights"], None if lowest is None else lowest.weights,
        float("inf") if any(each.check != "replay" for each in (*found.problems, *beyond)) else largest, exact,
        found.numbers, done.gradients + (0 if lowest is None else lowest.gradients),
    )  # fmt: skip


def top(moves: Moves, queries: int, epoch: int) -> list[int]:
    """The steps at which those intervals end in which the weights moved farthest, so many of every epoch."""
    by_epoch: dict[int, list[tuple[float, int]]] = {}
    for step, move in moves.moves:
        far = move if move == move else float("inf")
        by_epoch.setdefault((step - 1) // epoch, []).append((-far, step))
    return sorted(step for each in by_epoch.values() for _, step in sorted(each)[:queries])


def errors_of(done: Replay, distance: Distance = "l2") -> Iterator[tuple[int, str, float]]:
    """Every error of a replay as (step, weights or buffers or moments, how large); what is no number is infinite."""
    names = {"l2": done.weights, "l1": done.l1, "l_inf": done.l_inf, "cosine": done.cosine}
    for step, l2, error, buffers in zip(done.steps, done.weights, names[distance], done.buffers, strict=True):
        yield step, "weights", 0.0 if l2 == 0 else max(0.0, _number(error))
        yield step, "buffers", _number(buffers)
    for step, moments in zip(done.keys, done.moments, strict=True):
        yield step, "moments", _number(moments)


def _number(error: float) -> float:
    return error if error == error else float("inf")


def _scaled(error: float, limits: dict[str, float], kind: str) -> float:
    """An error in units in which all have the limit of weights."""
    if limits[kind] == limits["weights"] or error == 0:
        return error
    return error / limits[kind] * limits["weights"] if limits[kind] else float("inf")


def _beyond(done: Replay, limits: dict[str, float], distance: Distance) -> list[Problem]:
    found = [
        Problem("replay", step, kind, f"Replayed, the {kind} of step {step} are {error:.3g} from those of the proof, "
                f"and {limits[kind]:.3g} is tolerated.")
        for step, kind, error in errors_of(done, distance) if error > limits[kind]
    ]  # fmt: skip
    return sorted(found, key=lambda each: each.step or 0)


def _damage(done: Replay, before: Sequence[Problem]) -> list[Problem]:
    """What a replay could not read, where no audit said so of the same step."""
    named = {each.step for each in before if each.check in ("damage", "removability")}
    if done.damaged is None or done.damaged[0] in named:
        return []
    return [damage(*done.damaged)]


def _epoch(proof: Proof, expected: Expected) -> int:
    plan = plan_of(proof, expected)
    return proof.steps if plan is None else plan.per_epoch
