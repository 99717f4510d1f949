"""Audits of what a proof says of itself: its recipe, its architecture, its records, and that it is whole."""

from __future__ import annotations

from dataclasses import asdict

from data.errors import UserError
from models.stepwise import Stepwise
from proofs.auditing import NO_BATCH, Audit
from proofs.commitment import DIGEST, digests, first_difference
from proofs.header import layout
from proofs.problems import Expected, recipe_in
from proofs.reader import Proof
from proofs.states import drawn
from proofs.writer import recipe_of

ROUNDING = 2.0**-50  # of the declared learning rate, by which machines may differ in the factor of its schedule


class Complete(Audit):
    """All steps that the proof announces are there, and the line that ends it."""

    name = "complete"
    streams = False

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        if proof.steps != proof.header.steps:
            self.report(
                proof.steps,
                "steps",
                f"The proof announces {proof.header.steps:,} steps and has {proof.steps:,} of them.",
            )
        elif not proof.complete:
            self.report(proof.steps, "end", f"The proof has no line that ends it after its last step, {proof.steps:,}.")


class RecipeKept(Audit):
    """The proof's recipe is the declared one, and was followed: as many steps, of so many examples, at these rates.

    Without a declared recipe the proof is held against its own. Hyper-parameters, intervals and inputs that nobody
    checks let a proof of vanishing or invented steps pass (Fang et al., 2023; Zhang et al., IEEE S&P 2022).
    """

    name = "recipe"
    streams = False

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        header = proof.header
        if expected.training is not None and expected.training.optimizer != "newton":
            declared = asdict(recipe_of(expected.training))
            for name, value in asdict(header.recipe).items():
                if value != declared[name]:
                    self.report(
                        None, f"recipe.{name}", f"The recipe of the proof has {name} {value}, and the declared one "
                        f"{declared[name]}."
                    )  # fmt: skip
        if expected.every is not None and header.every != expected.every:
            self.report(
                None, "every", f"There is a checkpoint every {header.every:,} steps, where {expected.every:,} are due."
            )  # fmt: skip
        elif header.every > header.steps:
            self.report(
                None,
                "every",
                f"A checkpoint every {header.every:,} steps of {header.steps:,} is none on the way; lower "
                "game.proof.every.",
            )
        if header.inputs:
            self.report(None, "inputs", "The steps bring inputs of their own, and those of the records are due.")
        self._steps()

    def _steps(self) -> None:
        proof, plan = self.proof, self.plan
        if plan is None:
            self.report(None, "recipe.batch_size", NO_BATCH)
            return
        if proof.header.steps != plan.steps:
            self.report(
                None, "steps", f"The proof has {proof.header.steps:,} steps, and its recipe makes {plan.steps:,}."
            )
        size = plan.training.batch_size
        for step in range(1, proof.steps + 1):
            if proof.index.counts[step] != size:
                found = proof.index.counts[step]
                self.report(step, "batch", f"The batch of step {step} has {found:,} records, where {size:,} are due.")
                break
        for step in range(1, min(proof.steps, plan.steps) + 1):
            due = plan.lr(step - 1)
            if not abs(proof.lr(step) - due) <= ROUNDING * plan.training.lr:
                self.report(
                    step, "lr", f"The learning rate of step {step} is {proof.lr(step):.17g}, where {due:.17g} is due."
                )
                break


class Commitment(Audit):
    """The hashes of the records are those of the verifier's own, with zeros for what was to be forgotten."""

    name = "commitment"
    streams = False

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        said, own = proof.header.records, expected.records
        if said.n != len(own):
            self.report(None, "records.n", f"The proof is about {said.n:,} records, and there are {len(own):,}.")
            return
        if said.shape != tuple(own.x.shape[1:]):
            self.report(
                None, "records.shape", f"The proof is about records of shape {said.shape}, and they have "
                f"{tuple(own.x.shape[1:])}."
            )  # fmt: skip
        try:
            found = proof.hashes()
        except UserError as error:
            self.report(None, "records.root", str(error))
            return
        if proof.header.inputs:
            self.report(None, "inputs", "The steps bring inputs of their own, which are not the records of the hashes.")
        hashes = digests(own, expected.deleted)
        record = first_difference(hashes, found)
        if record is not None:
            different = sum(hashes[at : at + DIGEST] != found[at : at + DIGEST] for at in range(0, len(hashes), DIGEST))
            self.numbers["commitment_records"] = different
            what = "is that of another record" if expected.kept[record] else "is there, and it was to be forgotten"
            self.report(None, "records", f"The hash of record {record} {what} ({different:,} hashes differ).")


class Architecture(Audit):
    """The states have the names, types and shapes of the verifier's architecture; else nothing of them can be used."""

    name = "architecture"
    streams = False

    def __init__(self, proof: Proof, expected: Expected) -> None:
        super().__init__(proof, expected)
        header, training = proof.header, recipe_in(proof.header.recipe)
        if training is None:
            self.report(None, "recipe", "The recipe of the proof is one that nobody could follow.")
            return
        victim = drawn(proof, expected)
        learner = Stepwise(victim, training, expected.records.x, header.seed)
        shapes = {name: tuple(value.shape) for name, value in victim.moving.items()}
        for field, own in layout(learner.state, shapes).items():
            if getattr(header, field) != own:
                self.report(None, field, f"The {field} of the proof are not those of the architecture and the recipe.")
        if header.inputs and header.records.shape != tuple(expected.records.x.shape[1:]):
            self.report(None, "records.shape", "The proof brings inputs of another shape than that of the records.")
