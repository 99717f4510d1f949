"""Strict audit: a proof of retraining is held against everything that honest retraining must show."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Data
from data.randomness import generator
from defenses.verification.proved import Check, expected, proof_of, verdict
from defenses.verification.verification import Case, Sight, Verdict, Verification
from models.behaviour import behaviour
from models.stepwise import Stepwise
from models.training import initialise
from models.victim import Victim
from proofs.certificate import Certificate, certify
from proofs.checking import check_proof
from proofs.reader import Proof
from proofs.terms import Terms
from unlearning.procedure import Task

EVERY: tuple[Check, ...] = (
    "complete", "architecture", "removability", "recipe", "order", "random_order", "multiplicity", "coverage",
    "initialisation", "initial_distribution", "commitment", "final", "distance",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class StrictAudit(Verification):
    """Everything that `reproducing` checks, and what only honest retraining shows:

    * order: with `verifier_order` the verifier draws the seed of the order of the retained records before the proof is
      made. Then every batch is fixed, and none can be chosen to keep what was to be forgotten.
    * random_order: without `verifier_order` the provider draws the order of every epoch itself, which must then have
      nothing to do with the losses of the records when the epoch begins (rank correlation, two-sided, 1% over all
      epochs). It costs honest providers that 1%. Batches that are matched by gradients take easy records first.
    * multiplicity, coverage: an epoch uses each retained record at most once, and all but the tail that fills no batch
      exactly once. Substitutes for deleted records are used beside their own turn.
    * initial_distribution: the first weights of each layer look like a draw of torch (Kolmogorov-Smirnov, 1% over all
      layers; Jia et al., IEEE S&P 2021), which costs honest providers that 1%.
    * distance: ||w_T - w_before|| is at least half of the median step, and `farther` times the root of the sum of the
      squared steps, which is what a random walk would go; a forged proof, of which every step is re-anchored at the
      log of the original, ends beside it. Convex models end near each other anyway: lower `farther` there.
    * architecture: names, types and shapes of the states.

    The tolerance of an error is 0 where the proof was made on a machine like this one, else 10 times the floor of
    honest replays, which is measured: `tolerance` null (after Suliman et al., arXiv 2411.05658). `checks` may be left
    out one by one.

    With `certificate` n > 0, of a proof that holds, n records, up to half of them deleted ones, are taken at a random
    checkpoint, and the rank over GF(2) of their gradients in fixed point with `bits` fractional bits says whether other
    batches of them could have the same gradient sum (Baluta et al., CCS 2023). It says so in the reason and decides
    nothing: that none can does not say which batches were chosen. It is about gradients that are sums over records, so
    it is refused for architectures that mix the records of a batch (batch-norm).
    Sources as named; the audits of batches, orders and distance are ours.
    """

    name: ClassVar[str] = "strict_audit"
    sees: ClassVar[Sight] = "proof"
    verifier_order: bool = True
    checks: tuple[Check, ...] = EVERY
    queries: Annotated[int, Field(ge=0)] = 0
    tolerance: Annotated[float, Field(ge=0)] | None = None
    farther: Annotated[float, Field(ge=0)] = 0.05
    certificate: Annotated[int, Field(ge=0)] = 0
    bits: Annotated[int, Field(ge=1, le=60)] = 26
    workers: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"

    def check(self, data: Data, users: tuple[Tensor, ...], task: Task) -> None:
        """Raise UserError where a certificate is asked for that says nothing."""
        if self.certificate == 0:
            return
        records = task.records
        if self.certificate > len(records):
            raise UserError(f"defense.certificate={self.certificate:,}: there are only {len(records):,} records.")
        victim = Victim(*initialise(task.build, 0, records.x))
        if self.certificate > len(victim.flat()):
            raise UserError(
                f"defense.certificate={self.certificate:,}: gradients of more records than the {len(victim.flat()):,} "
                "parameters depend on each other always; lower it."
            )
        if behaviour(victim.module, records.x).mixes:
            raise UserError(
                "defense.certificate: this architecture mixes the records of a batch (batch-norm), so that gradients "
                "are no sums over records; use defense.certificate=0, or model.norm=group."
            )

    def challenge(self, rng: torch.Generator) -> Terms:
        """The seed of the order of the retained records, where the verifier chooses it."""
        return Terms(order=int(torch.randint(2**53, (), generator=rng))) if self.verifier_order else Terms()

    def verify(self, case: Case) -> Verdict:
        """Audit, replay and certify; raises UserError where there is no proof."""
        proof = proof_of(case, self.name)
        workers = 1 if self.workers == "auto" else self.workers
        ordered = case.terms.order is not None
        found = check_proof(proof, expected(case, self.farther), self.checks, self.queries, self.tolerance, workers)
        if found.problems or self.certificate == 0:
            return verdict(found, self.checks, {}, ordered=ordered)
        step, certificate = self._certified(case, proof)
        numbers: dict[str, Any] = {
            "certificate_step": step, "certificate_rows": certificate.rows, "certificate_rank": certificate.rank,
            "certificate_zero_rows": certificate.zero_rows,
        }  # fmt: skip
        passed = verdict(found, self.checks, numbers, self.certificate, ordered)
        return replace(passed, reason=f"{passed.reason} {_words(step, certificate)}")

    def _certified(self, case: Case, proof: Proof) -> tuple[int, Certificate]:
        rng = generator(case.seed, self.name, "certificate")
        own = case.deleted.cpu()
        own = own[torch.randperm(len(own), generator=rng)][: self.certificate // 2]
        rest = case.retained[torch.randperm(len(case.retained), generator=rng)][: self.certificate - len(own)]
        stops = proof.checkpoints()
        step = stops[int(torch.randint(len(stops), (), generator=rng))]
        state = proof.at(step).state
        assert state is not None
        assert case.model is not None
        learner = Stepwise(case.model, proof.header.recipe.training(), case.task.records.x, proof.header.seed)
        learner.load(state)
        rows = torch.cat([own, rest]).to(case.task.records.y.device)
        return step, certify(learner.victim(), case.task.records[rows], self.bits)


def _words(step: int, found: Certificate) -> str:
    if found.full:
        return f"At step {step} no other batches of {found.rows:,} records have the same sum of gradients."
    return f"At step {step} nothing is certified: {found.rows:,} gradients have rank {found.rank:,} over GF(2)."
