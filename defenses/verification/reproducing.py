"""Reproducing verification: a proof of retraining is replayed step by step, and audited."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from defenses.verification.proved import Check, expected, proof_of, verdict
from defenses.verification.verification import Case, Sight, Verdict, Verification
from proofs.checking import check_proof
from proofs.floor import Distance


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Reproducing(Verification):
    """Every interval of the proof is made again from the logged state before it, and must end at the logged state.

    The error of an interval is VE_t = ||U(w_{t-k}; b_{t-k+1}, ..., b_t) - w_t|| in the `distance` of weights (l2, l1,
    l_inf, or cosine: 1 - cos), in l2 for buffers that training changes and for the optimiser's moments. One error
    beyond `tolerance` accuses. With a tolerance of null an error must be 0 where the proof was made on a machine like
    this one; elsewhere the tolerance is 10 times the floor of honest replays, which is measured and told (after Suliman
    et al., arXiv 2411.05658). The slacks of Proof-of-Learning are 1000 (l1), 10 (l2), 0.1 (l_inf) and 0.01 (cosine).

    `queries` Q > 0 compares, of every epoch, only the Q intervals in which the weights move farthest, as Jia et al. do;
    what is wrong in small updates is then missed, unless moments that are carried to a key frame give it away. Each of
    the `checks` is an audit of what replaying does not show:

    * complete: all steps that the proof announces are there, and its end.
    * removability: no batch has a record that was to be forgotten (of which a replay says nothing).
    * recipe: recipe, number of steps, learning rate and batch size of every step are those declared; no own inputs.
    * initialisation: the first weights are what the proof's seed gives, or the model before; moments begin with 0.
    * commitment: the hashes of the records are those of the owners, with zeros for what was to be forgotten.
    * final: the last state is the released model, buffers included.
    * architecture, coverage, multiplicity, order, initial_distribution, distance: see `strict_audit`.

    It cannot see that batches were chosen: a proof of real training on retained records passes, however they were
    picked, and an error says that steps were not made as logged, not that a record was kept.
    Sources: Jia et al., "Proof-of-Learning", IEEE S&P 2021; the checks that its replay lacks, but for that of the first
    weights, and the floor are ours.
    """

    name: ClassVar[str] = "reproducing"
    sees: ClassVar[Sight] = "proof"
    queries: Annotated[int, Field(ge=0)] = 0
    tolerance: Annotated[float, Field(ge=0)] | None = 1e-6
    distance: Distance = "l2"
    checks: tuple[Check, ...] = ("complete", "removability", "recipe", "initialisation", "commitment", "final")
    workers: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"

    def verify(self, case: Case) -> Verdict:
        """Audit and replay; raises UserError where there is no proof."""
        proof = proof_of(case, self.name)
        workers = 1 if self.workers == "auto" else self.workers
        found = check_proof(proof, expected(case), self.checks, self.queries, self.tolerance, workers, self.distance)
        return verdict(found, self.checks, {})
