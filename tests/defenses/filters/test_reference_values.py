"""Every filter in the setting of its reference values: 15 one-shot requests among 45 random ones, 36 targets.

Reference values (one run of the same set-up with another draw of the testbed; ASR is the share of flipped labels after
the filter): S1 0.94-0.95 AUROC, ASR 0.00; S1' 0.95, 0.03; S7 0.86 after H^{-1/2} and 0.81 plain, ASR 0.50 and 0.67; S4
0.86, 0.39; S8 0.84, 0.78; S3 0.73 absolute and 0.50 signed, ASR 0.83; S5 0.65; S6 0.61, 0.83; without a filter
0.89-0.94; benign rejected 2-6%. What is asserted are the readings that hold in every draw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from defenses.defense import Context
from defenses.filters.influence import Influence
from defenses.filters.norm import Norm
from defenses.filters.scored import Scored
from defenses.filters.set_level import SetLevel
from defenses.filters.similarity import Similarity
from metrics.detection import auroc
from models.solver import Solver
from tests.defenses.filters.batches import attacked

SEEDS, TARGETS = range(3), 12
DENSE = Solver(method="auto", tolerance=1e-10)
SCORED: dict[str, Scored] = {
    "S1": Influence(),
    "S1'": Influence(score="S1'"),
    "S2": Influence(score="S2", solver=DENSE),
    "S2, B = 1/n": Influence(score="S2", preconditioner="identity"),
    "S3 absolute": Influence(score="S3", solver=DENSE),
    "S3 signed": Influence(score="S3", solver=DENSE, signed=True),
    "S4": Influence(score="S4", solver=DENSE),
    "S5": Influence(score="S5", solver=DENSE),
    "S6": Influence(score="S6"),
    "S7": Influence(score="S7", solver=DENSE),
    "S7 plain": Influence(score="S7", preconditioner="identity"),
    "S8": Influence(score="S8"),
    "norm": Norm(),
    "similarity": Similarity(),
}


@dataclass(frozen=True)
class Row:
    """What one filter did: AUROC of its scores, flipped targets after it, and the shares that it rejected."""

    auroc: float
    flipped: float
    benign: float
    caught: float


def mean(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).double().mean())


def played(defense: Scored | SetLevel) -> Row:
    scores, truth, flipped, held = [], [], [], []
    for seed in SEEDS:
        found = attacked(seed, None, TARGETS)
        of = found.of
        still = Context(of.task, of.victim, of.victim, of.trusted, found.calibration)
        threshold = defense.threshold(still) if isinstance(defense, Scored) else None
        contexts = [replace(found.context(i), threshold=threshold) for i in range(TARGETS)]
        verdicts = [defense.review(each, batch) for each, batch in zip(contexts, found.batches, strict=True)]
        flipped.append(found.flipped([b[v.accepted] for b, v in zip(found.batches, verdicts, strict=True)]))
        scores += [verdict.scores for verdict in verdicts]
        held += [~verdict.accepted for verdict in verdicts]
        truth += [found.malicious] * TARGETS
    bad, rejected = torch.cat(truth), torch.cat(held).double()
    value = auroc(torch.cat(scores), bad).value
    return Row(value, mean(flipped), float(rejected[~bad].mean()), float(rejected[bad].mean()))


@pytest.fixture(scope="module")
def table() -> dict[str, Row]:
    stages = {f"two stages, {r}": SetLevel(solver=DENSE, ranking=r) for r in ("S1", "S4")}  # type: ignore[arg-type]
    found = {name: played(defense) for name, defense in {**SCORED, **stages}.items()}
    print(f"\nno filter: ASR {unfiltered():.2f}")
    for name, row in found.items():
        print(f"{name:15s} AUROC {row.auroc:.2f}  ASR {row.flipped:.2f}  ", end="")
        print(f"benign rejected {row.benign:.1%}  caught {row.caught:.0%}")
    return found


def unfiltered() -> float:
    return mean([attacked(seed, None, TARGETS).flipped(attacked(seed, None, TARGETS).batches) for seed in SEEDS])


def test_the_attack_flips_its_targets_without_a_filter() -> None:
    assert unfiltered() > 0.8


def test_scores_on_the_unlearned_model_tell_most_and_disarm_the_attack(table: dict[str, Row]) -> None:
    """S1 has an AUROC of at least 0.85, and leaves at most a quarter of the flips; its gradient-free twin alike."""
    for name in ("S1", "S1'"):
        assert table[name].auroc >= 0.85
        assert table[name].flipped <= 0.25
        assert all(table[name].auroc >= row.auroc for other, row in table.items() if other not in ("S1", "S1'"))


def test_the_norm_is_a_baseline_and_its_own_filter_is_that_score(table: dict[str, Row]) -> None:
    assert table["norm"] == table["S8"]
    assert 0.75 < table["S8"].auroc < table["S1"].auroc
    assert table["S8"].flipped > 0.5


def test_directions_of_trusted_loss_and_entropy_are_nearly_useless_against_targeted_attacks(
    table: dict[str, Row],
) -> None:
    assert abs(table["S3 signed"].auroc - 0.5) < 0.1
    for name in ("S3 absolute", "S5", "S6", "similarity"):
        assert 0.55 < table[name].auroc < 0.8, name
        assert table[name].flipped > 0.6, name


def test_coherence_is_seen_better_after_the_root_of_the_curvature(table: dict[str, Row]) -> None:
    assert table["S7 plain"].auroc < table["S7"].auroc
    assert 0.75 < table["S7"].auroc < table["S1"].auroc


def test_two_stages_reject_few_and_disarm_the_attack(table: dict[str, Row]) -> None:
    """Flag the batch, then drop its top quarter by S1."""
    row = table["two stages, S1"]
    assert row.flipped <= 0.25
    assert row.benign <= 0.1


def test_few_benign_requests_are_rejected_beside_the_attack(table: dict[str, Row]) -> None:
    assert all(row.benign < 0.1 for name, row in table.items() if not name.startswith("two stages"))
