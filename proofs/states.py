"""Audits of the states of a proof: where it begins, where it ends, and how far it goes."""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor

from models.stepwise import State
from models.victim import Tensors, Victim, unflatten
from proofs.auditing import Audit
from proofs.initial import p_values
from proofs.problems import Expected
from proofs.reader import Proof, Step

ALPHA = 0.01  # the rate at which each test of chance rejects honest proofs: of first weights, of the order of records
STEP = 0.5  # of its median step a proof must end away from the model before
OTHERWISE = 1e-6  # a layer whose own draw is less probable than that is initialised in another way


def drawn(proof: Proof, expected: Expected) -> Victim:
    """The architecture with weights drawn from the proof's own seed."""
    return expected.draw(proof.header.seed)


class Initialisation(Audit):
    """The first state is bit by bit what the seed gives, or the model before deletion; moments begin with zero."""

    name = "initialisation"
    states = True

    def step(self, step: Step) -> None:
        if step.number or step.state is None:
            return
        begins, expected = self.proof.header.begins, self.expected
        if expected.begins not in (None, begins):
            words = {"seed": "a fresh draw from a seed", "model": "the model before deletion"}
            self.report(
                0, "begins", f"The proof begins with {words[begins]}, and the declared procedure with "
                f"{words[str(expected.begins)]}."
            )  # fmt: skip
        if begins == "model" and expected.before is None:
            self.report(
                0, "begins", "The proof begins with the model before deletion, which the verifier does not have."
            )
            return
        start = expected.before if begins == "model" else None
        self._compare(step.state, start or drawn(self.proof, expected))

    def _compare(self, state: State, start: Victim) -> None:
        of = "the model before deletion" if self.proof.header.begins == "model" else "what its seed gives"
        weights = unflatten(state.weights, {name: value.cpu() for name, value in start.moving.items()})
        buffers = {name: start.buffers[name] for name in state.buffers}
        zeros = {name: torch.zeros_like(value) for name, value in state.moments.items()}
        for field, logged, own, words in (
            ("weights", weights, start.moving, of),
            ("buffers", state.buffers, buffers, of),
            ("moments", state.moments, zeros, "zero"),
        ):
            name = _different(logged, own)
            if name is not None:
                self.report(0, field, f"Before the first step {name} is not {words}.")


class InitialDistribution(Audit):
    """Fresh first weights have the distribution that torch draws those of their layers from, tensor by tensor.

    Rejected where the smallest p-value of the Kolmogorov-Smirnov tests (`proofs.initial`) of L tensors is below 0.01/L,
    so that at most 1% of honest proofs are; Jia et al. (IEEE S&P 2021) reject below 0.01 whatever L is. A layer that
    the architecture itself initialises in another way is left out, as a draw of the verifier shows.
    """

    name = "initial_distribution"
    states = True

    def step(self, step: Step) -> None:
        if step.number or step.state is None or self.proof.header.begins != "seed":
            return
        own = self.expected.draw(0)
        like = {name: value.cpu() for name, value in own.moving.items()}
        honest = p_values(like, own.module)
        found = p_values(unflatten(step.state.weights, like), own.module)
        found = {name: p for name, p in found.items() if honest[name] > OTHERWISE}
        if not found:
            return
        name = min(found, key=found.__getitem__)
        corrected = min(1.0, found[name] * len(found))
        self.numbers["initial_distribution_p"] = corrected
        if not corrected >= ALPHA:
            self.report(
                0, "weights", f"Before the first step {name} does not look as if it was drawn as its layer is (p = "
                f"{corrected:.2g} over {len(found)} tensors)."
            )  # fmt: skip


class Final(Audit):
    """The last state is the released model, bit by bit, with its buffers; what training leaves alone was left alone."""

    name = "final"
    states = True

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        self._last: State | None = None

    def step(self, step: Step) -> None:
        if step.number == self.proof.header.steps:
            self._last = step.state

    def end(self) -> None:
        released, last = self.expected.released, self._last
        if released is None:
            return
        if last is None:
            self.report(self.proof.steps, "weights", "The proof does not go on to a last state that could be released.")
            return
        begins = self.expected.before if self.proof.header.begins == "model" else drawn(self.proof, self.expected)
        still = {} if begins is None else {name: v for name, v in begins.buffers.items() if name not in last.buffers}
        weights = unflatten(last.weights, {name: value.cpu() for name, value in released.moving.items()})
        for field, logged, own in (
            ("weights", weights, released.moving),
            ("buffers", {**last.buffers, **still}, released.buffers),
        ):
            name = _different(logged, own)
            if name is not None:
                self.report(self.proof.steps, field, f"{name} of the released model is not that of the last step.")


class Moves(Audit):
    """How far the weights went in every interval: `moves` has (the step at which it ends, the l2 distance)."""

    name = "moves"
    states = True

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        self.moves: list[tuple[int, float]] = []
        self.last: Tensor | None = None

    def step(self, step: Step) -> None:
        if step.state is None:
            return
        if self.last is not None:
            self.moves.append((step.number, float((step.state.weights - self.last).norm())))
        self.last = step.state.weights


class Distance(Moves):
    """The proof ends away from the model before deletion, as what wanders does; a forged one ends beside it.

    ||w_T - w_before|| must be at least `Expected.farther` times (sum_t ||w_t - w_(t-1)||^2)^(1/2), which is how far a
    random walk of such steps goes, and half of the median step. A proof whose steps are re-anchored at the log of the
    original ends a fraction of a step beside it. Measured for honest retraining from the same first weights (9 to 900
    steps): 0.5 to 2 of a random walk for networks, and 0.08 to 0.5 for logistic regression, since convex models end
    near each other; 2 steps and more. Where a checkpoint stands at every k-th step, moves of intervals count, and are
    taken as if their k steps went one way (median) or anywhere (root): fewer checkpoints accuse no honest proof.
    """

    name = "distance"

    def end(self) -> None:
        before = self.expected.before
        if before is None or self.last is None or not self.moves:
            return
        moves = [move for _, move in self.moves]
        k = min(self.proof.header.every, self.proof.steps)
        walk, step = (sum(move**2 for move in moves) / k) ** 0.5, median(moves) / k
        gap = float((self.last.double() - before.flat().cpu().double()).norm())
        self.numbers["distance_ratio"] = gap / walk if walk else 0.0
        self.numbers["distance_steps"] = gap / step if step else 0.0
        due = max(self.expected.farther * walk, STEP * step)
        if not gap >= due or gap == 0:
            self.report(
                self.proof.steps,
                "weights",
                f"The proof ends {gap:.3g} from the model before deletion, where its steps make {due:.3g} due.",
            )


def _different(logged: Tensors, own: Tensors) -> str | None:
    """The name of the first tensor that differs; None where none does."""
    for name, value in logged.items():
        if name not in own or not torch.equal(value, own[name].detach().cpu()):
            return name
    return None
