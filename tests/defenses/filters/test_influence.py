"""What the filter promises against attacks, and every score against its formula, on the Gaussian testbed in float64."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest
import torch
from torch import Tensor
from torch.func import grad

from data.digits import Digits
from data.errors import UserError
from data.examples import Examples
from defenses.defense import Calibration, Context
from defenses.filters.influence import Influence
from metrics.detection import auroc, robust_threshold
from models.gradients import gradient_norms, per_example_gradients
from models.influence import inverse_curvature
from models.victim import Victim, flatten
from tests.attacks.checks import bed
from tests.defenses.filters.batches import ALPHA, EXACT, attacked, benign, calibrated, context, curvature, rows
from tests.testbed import LAMBDA, TRAINING, Testbed


def trusted_loss_gradient(of: Testbed) -> Tensor:
    return per_example_gradients(of.victim, of.trusted).mean(0)


def trusted_entropy_gradient(of: Testbed) -> Tensor:
    def mean_entropy(p: dict[str, Tensor]) -> Tensor:
        q = (of.trusted.x @ p["linear.weight"].T + p["linear.bias"]).softmax(1)
        return -(q * q.log()).sum(1).mean()

    return flatten(grad(mean_entropy)(of.victim.parameters))


@pytest.mark.parametrize("preconditioner", ["inverse_curvature", "identity"])
def test_scores_equal_explicit_inner_products(preconditioner: str) -> None:
    """S1, S2, S3 and S5 from one jvp, against gradients of single examples and dense algebra, < 1e-10."""
    of, batch = bed(0), benign(0, "scores", 1, 15)[0]
    seen, requested = context(of, batch), of.task.records[batch]
    g = per_example_gradients(of.victim, requested)

    def inverse(v: Tensor) -> Tensor:
        return torch.linalg.solve(curvature(of), v) if preconditioner == "inverse_curvature" else v / TRAINING

    moved = seen.candidate.flat() - of.victim.flat()
    expected = {
        "S1": per_example_gradients(seen.candidate, requested) @ moved,
        "S2": g @ inverse(g.sum(0)),
        "S3": g @ inverse(trusted_loss_gradient(of)),
        "S5": g @ inverse(trusted_entropy_gradient(of)),
    }
    for name, value in expected.items():
        score = Influence(score=name, signed=True, preconditioner=preconditioner, solver=EXACT)
        found = score.scores(seen, batch)
        assert (found - value).abs().max() < 1e-10
        if name in ("S3", "S5"):
            assert torch.equal(replace(score, signed=False).scores(seen, batch), found.abs())


@pytest.mark.parametrize("count", [3, 77])
def test_no_constant_of_a_score_is_rounded_to_float32(count: int) -> None:
    """1/m of S3 is a float64 where the records are: with 1e-12 relative, not 1e-8."""
    of, batch = bed(0), benign(0, "scores", 1, 15)[0]
    trusted = of.trusted[:count]
    seen = replace(context(of, batch), trusted=trusted)
    slope = per_example_gradients(of.victim, trusted).mean(0) / TRAINING
    value = per_example_gradients(of.victim, of.task.records[batch]) @ slope
    found = Influence(score="S3", signed=True, preconditioner="identity").scores(seen, batch)
    assert found.dtype == torch.float64
    assert ((found - value).abs() / value.abs()).max() < 1e-11


def test_scores_without_inner_products() -> None:
    of, batch = bed(0), benign(0, "scores", 1, 15)[0]
    seen, requested = context(of, batch), of.task.records[batch]

    def loss(victim: Victim) -> Tensor:
        return torch.nn.functional.cross_entropy(victim.logits(requested.x), requested.y, reduction="none")

    gap = Influence(score="S1'").scores(seen, batch)
    assert (gap - (loss(seen.candidate) - loss(of.victim))).abs().max() < 1e-12
    slope = per_example_gradients(of.victim, requested) @ (seen.candidate.flat() - of.victim.flat())
    displacement = Influence(score="S1").scores(seen, batch)
    assert ((slope <= gap + 1e-12) & (gap <= displacement + 1e-12)).all()  # convexity
    g = per_example_gradients(of.victim, requested)
    assert (Influence(score="S8").scores(seen, batch) - g.norm(dim=1)).abs().max() < 1e-12


@pytest.mark.parametrize("score", ["S1", "S1'"])
def test_a_ruined_model_has_no_score(score: str) -> None:
    """A model so far off that nothing in it is finite any more is refused by name, not ranked."""
    of, batch = bed(0), benign(0, "scores", 1, 15)[0]
    seen = context(of, batch)
    ruined = replace(seen, candidate=of.victim.moved(torch.full((1, 33), 1e308, dtype=torch.float64))[0])
    with pytest.raises(UserError, match=rf"^Score {score} of 15 requested records is not finite: .* steps smaller"):
        Influence(score=score).scores(ruined, batch)  # type: ignore[arg-type]


def test_class_dissimilarity_leaves_out_the_request_and_what_is_gone() -> None:
    of, batch = bed(0), benign(0, "scores", 1, 15)[0]
    g, y = per_example_gradients(of.victim, of.task.records), of.task.records.y
    gone = torch.zeros(TRAINING, dtype=torch.float64)
    gone[benign(1, "gone", 1, 100)[0]] = 1
    for already in (None, gone):
        inside = rows([batch])[0].bool() | (already.bool() if already is not None else torch.tensor(False))
        means = torch.stack([g[(y == k) & ~inside].mean(0) for k in range(3)])[y[batch]]
        expected = 1 - (g[batch] * means).sum(1) / (g[batch].norm(dim=1) * means.norm(dim=1))
        seen = replace(context(of, batch), task=replace(of.task, forgotten=already))
        assert (Influence(score="S6").scores(seen, batch) - expected).abs().max() < 1e-10


def trusted_margin_gradients(of: Testbed) -> Tensor:
    """grad m_j (500, 33), in closed form: the input with a 1 behind it in the row of the label, minus in the next."""
    logits = of.victim.logits(of.trusted.x)
    first, second = logits.topk(2).indices.T
    extended = torch.cat([of.trusted.x, torch.ones(len(of.trusted), 1, dtype=torch.float64)], dim=1)
    signs = torch.nn.functional.one_hot(first, 3).double() - torch.nn.functional.one_hot(second, 3).double()
    weight, bias = signs[:, :, None] * extended[:, None, :-1], signs
    assert list(of.victim.moving) == ["linear.weight", "linear.bias"]
    return torch.cat([weight.flatten(1), bias], dim=1)


@pytest.mark.parametrize("preconditioner", ["inverse_curvature", "identity"])
def test_the_most_moved_trusted_point_against_dense_algebra(preconditioner: str) -> None:
    """S4: of all effects <grad m_j, B g_i> those on the point whose margin moves most, in the direction of its move."""
    of, batch = bed(0), benign(0, "scores", 1, 15)[0]
    g, slopes = per_example_gradients(of.victim, of.task.records[batch]), trusted_margin_gradients(of)
    solved = torch.linalg.solve(curvature(of), g.T) if preconditioner == "inverse_curvature" else g.T / TRAINING
    effects = slopes @ solved  # (500, 15)
    most = effects.sum(1).abs().argmax()
    expected = effects[most] * effects[most].sum().sign()
    score = Influence(score="S4", preconditioner=preconditioner, solver=EXACT)
    found = score.scores(context(of, batch), batch)
    assert (found - expected).abs().max() < 1e-10
    assert found.sum() > 0
    with pytest.raises(UserError, match="looks at trusted examples, and there are none"):
        score.scores(replace(context(of, batch), trusted=of.trusted[:0]), batch)


@pytest.mark.parametrize("preconditioner", ["inverse_curvature", "identity"])
def test_coherence_is_a_cosine(preconditioner: str) -> None:
    """S7 against the cosine of vectors after the symmetric root of B; one request alone has none, and scores 0."""
    of, batch = bed(0), benign(0, "scores", 1, 15)[0]
    g, root = per_example_gradients(of.victim, of.task.records[batch]), torch.eye(33, dtype=torch.float64)
    if preconditioner == "inverse_curvature":
        values, vectors = torch.linalg.eigh(curvature(of))
        root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    own = g @ root
    expected = torch.nn.functional.cosine_similarity(own, own.sum(0) - own, dim=1)
    score = Influence(score="S7", preconditioner=preconditioner, solver=EXACT)
    assert (score.scores(context(of, batch), batch) - expected).abs().max() < 1e-10
    assert score.scores(context(of, batch), batch[:1]).tolist() == [0.0]


def test_scores_are_those_of_the_copies_that_are_unlearned() -> None:
    """Of every score that looks at requested records: S6 too compares a copy, under the label that it was sent with."""
    of, batch = bed(0), benign(0, "scores", 1, 15)[0]
    stored = of.task.records[batch]
    copies = Examples(stored.x + 0.5, (stored.y + 1) % 3)
    seen = replace(context(of, batch), submitted=copies)
    g, y = per_example_gradients(of.victim, of.task.records), of.task.records.y
    outside = ~rows([batch])[0].bool()
    means = torch.stack([g[(y == k) & outside].mean(0) for k in range(3)])
    own = per_example_gradients(of.victim, copies)
    expected = 1 - torch.nn.functional.cosine_similarity(own, means[copies.y], dim=1)
    assert (Influence(score="S6").scores(seen, batch) - expected).abs().max() < 1e-10
    for name in ("S1", "S1'", "S2", "S3", "S4", "S5", "S6", "S7", "S8"):
        score = Influence(score=name, solver=EXACT)
        plain, sent = score.scores(replace(seen, submitted=None), batch), score.scores(seen, batch)
        assert not torch.allclose(plain, sent), name
        assert torch.equal(score.scores(replace(seen, record="own"), batch), plain), name


def test_stationarity_identity() -> None:
    """sum_i <B grad psi, g_i> = -Lambda <B grad psi, theta_o> at an optimum, B = H^{-1}, < 1e-8."""
    of = bed(0)
    start = of.victim.moved(torch.zeros(1, 33, dtype=torch.float64))
    for slope in (trusted_loss_gradient(of), trusted_entropy_gradient(of)):
        nothing = torch.zeros(1, TRAINING, dtype=torch.float64)
        solved = inverse_curvature(EXACT, start, of.task.records, nothing, LAMBDA / TRAINING, slope[None])
        direction = solved.x[0] / TRAINING
        influences = per_example_gradients(of.victim, of.task.records) @ direction
        assert abs(float(influences.sum() + LAMBDA * direction @ of.victim.flat())) < 1e-8


def outcome(seed: int, cap: float | None) -> dict[str, Tensor | list[tuple[int, ...]]]:
    """Scores, truth and label flips before and after S1."""
    found = attacked(seed, cap)
    streams, mixed = found.batches, range(len(found.batches))
    verdicts = [Influence(score="S1", rate=ALPHA).review(found.context(i), streams[i]) for i in mixed]
    left = [stream[verdict.accepted] for stream, verdict in zip(streams, verdicts, strict=True)]
    return {
        "S1": torch.cat([verdict.scores for verdict in verdicts]),
        "S8": torch.cat([Influence(score="S8").scores(found.context(i), streams[i]) for i in mixed]),
        "truth": found.malicious.repeat(len(streams)),
        "alone": found.flipped([torch.tensor(each.request.indices) for each in found.requests]),
        "mixed": found.flipped(streams),
        "filtered": found.flipped(left),
        "indices": [each.request.indices for each in found.requests],
        "flagged": torch.cat([~verdict.accepted for verdict in verdicts]),
    }


def pooled(cap: float | None) -> tuple[dict[str, float], list[dict[str, Tensor | list[tuple[int, ...]]]]]:
    runs = [outcome(seed, cap) for seed in range(3)]

    def joined(name: str) -> Tensor:
        return torch.cat([run[name] for run in runs])  # type: ignore[misc]

    report = {f"AUROC {name}": auroc(joined(name), joined("truth")).value for name in ("S1", "S8")}
    report |= {f"ASR {name}": float(joined(name).double().mean()) for name in ("alone", "mixed", "filtered")}
    report["benign rejected"] = float(joined("flagged")[~joined("truth")].double().mean())
    return report, runs


@pytest.fixture(scope="module")
def plain() -> dict[str, float]:
    return pooled(None)[0]


def test_displacement_score_tells_malicious_requests_apart(plain: dict[str, float]) -> None:
    """AUROC of S1 >= 0.85, ASR after a 5% filter <= 0.25; S8 beside it."""
    print("plain", plain)
    assert plain["AUROC S1"] >= 0.85
    assert plain["AUROC S1"] > plain["AUROC S8"]
    assert plain["ASR mixed"] > 0.6
    assert plain["ASR filtered"] <= 0.25


def test_norm_capped_attack_is_weaker_and_harder_to_see(plain: dict[str, float]) -> None:
    """Only records below the 70% quantile of gradient norms; its numbers beside the plain attack's."""
    capped, runs = pooled(0.7)
    print("capped", capped)
    for seed, run in enumerate(runs):
        norms = gradient_norms(bed(seed).victim, bed(seed).task.records)
        named = torch.tensor(run["indices"]).unique()
        assert norms[named].max() <= norms.quantile(0.7)
    assert capped["ASR alone"] < plain["ASR alone"]
    assert capped["AUROC S1"] < plain["AUROC S1"]


def test_benign_streams_are_rejected_at_the_promised_rate() -> None:
    """Within alpha +- 3 standard errors; a replicate is a fresh calibration with its own live batches, so that
    the spread over replicates holds the correlation inside batches and the noise of calibration.
    """
    rates, replicates, live = [], 6, 3
    for seed in range(3):
        of = bed(seed)
        batches = benign(seed, "stream", replicates * (8 + live))
        records = calibrated(of, batches)
        for start in range(0, len(records), 8 + live):
            calibration, current = records[start : start + 8], records[start + 8 : start + 8 + live]
            threshold = Influence(rate=ALPHA).threshold(Context(of.task, of.victim, of.victim, of.trusted, calibration))
            flags = [
                Influence().scores(Context(of.task, of.victim, each.candidate, of.trusted), each.indices) > threshold
                for each in current
            ]
            rates.append(float(torch.cat(flags).double().mean()))
    found = torch.tensor(rates)
    error = float(found.std() / len(found) ** 0.5)
    print(f"rejected {found.mean():.4f} +- {error:.4f}, binomial {(0.05 * 0.95 / (len(rates) * 180)) ** 0.5:.4f}")
    assert error < 0.01
    assert abs(float(found.mean()) - ALPHA) <= 3 * error


def small_calibration(of: Testbed) -> tuple[Context, Tensor]:
    calibration = calibrated(of, benign(0, "small", 2, 20))
    seen = Context(of.task, of.victim, of.victim, of.trusted, calibration)
    scored = [replace(seen, candidate=each.candidate, calibration=()) for each in calibration]
    benign_scores = [Influence().scores(c, each.indices) for c, each in zip(scored, calibration, strict=True)]
    return seen, torch.cat(benign_scores)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_calibrated_threshold_is_an_order_statistic(rate: float) -> None:
    seen, scores = small_calibration(bed(0))
    k = ceil(round((len(scores) + 1) * (1 - rate), 9))
    assert Influence(rate=rate).threshold(seen) == float(scores.sort().values[k - 1])


def test_robust_rule_is_that_of_the_metric() -> None:
    seen, scores = small_calibration(bed(0))
    assert Influence(rule="robust_z", z=3.5).threshold(seen) == robust_threshold(scores, 3.5)


def test_equal_benign_scores_have_no_robust_threshold() -> None:
    """With no displacement every score S1 is 0."""
    of, batches = bed(0), benign(0, "equal", 2, 20)
    still = [Calibration(batch, of.victim) for batch in batches]
    with pytest.raises(UserError, match=r"no scale\. Raise game\.stream\.calibration_batches or use defense\.rule="):
        Influence(rule="robust_z").threshold(Context(of.task, of.victim, of.victim, of.trusted, still))


def test_too_few_benign_scores_are_refused() -> None:
    of = bed(0)
    seen, _ = small_calibration(of)
    with pytest.raises(UserError, match="cannot be calibrated with 40"):
        Influence(rate=0.01).threshold(seen)
    with pytest.raises(UserError, match="calibration_batches"):
        Influence().threshold(replace(seen, calibration=()))


def test_trusted_points_are_neither_targets_nor_training() -> None:
    """For a real data set: no row of trusted occurs among the test or the training examples."""
    data = Digits().load()
    assert len(data.filter_trusted) + len(data.conformal_trusted) == len(data.trusted)
    # digits holds a few identical images; positions are what must be disjoint, so identical rows are counted
    whole = torch.cat([part.x for part in (data.train, data.test, data.trusted, data.auxiliary)]).flatten(1)
    assert len(whole) == 1797
    distinct = len(whole.unique(dim=0))
    seen: set[bytes] = {row.numpy().tobytes() for row in torch.cat([data.train.x, data.test.x]).flatten(1)}
    shared = sum(row.numpy().tobytes() in seen for row in data.trusted.x.flatten(1))
    assert shared <= len(whole) - distinct
