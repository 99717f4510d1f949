"""Was a record in the training set? Scores of membership tests, and what they say of two groups of records.

Larger scores speak for membership. `detection` has the curves of such a score, `margins` its log-odds from logits.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from metrics.detection import auroc, tpr_at_fpr
from metrics.intervals import share_interval
from metrics.margins import margins
from metrics.measurement import checked_values

LEAST = 1e-30  # a probability, which keeps log-odds between -69 and 69
LEAST_VARIANCE = 1e-4  # of log-odds over shadow models, where they all agree


@dataclass(frozen=True)
class Separation:
    """Do members score higher than others? What the two samples say.

    `low` and `high` bound the AUC at 95% (from DeLong's standard error). If members score like others, the standard
    deviation of the AUC is `spread`; `z` is the AUC less 1/2 in units of it (continuity-corrected), and `p_value` that
    of the one-sided Mann-Whitney test, which rejects iff the AUC exceeds `critical`, that is if z exceeds `critical_z`.
    `tpr_at_1` and `tpr_at_01` are the shares of members above all but at most 1% and 0.1% of the others. `ks` is max_s
    F_others(s) - F_members(s), and `ks_p` its one-sided asymptotic p-value.
    """

    auc: float
    low: float
    high: float
    critical: float
    spread: float
    z: float
    critical_z: float
    p_value: float
    tpr_at_1: float
    tpr_at_01: float
    ks: float
    ks_p: float

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, by name."""
        return asdict(self)

    def null_interval(self, level: float) -> tuple[float, float]:
        """Where the AUC lies with probability 1 - `level` if members score like others: 1/2 +- q spread, in [0, 1]."""
        half = _normal_quantile(1 - level / 2) * self.spread
        return max(0.5 - half, 0.0), min(0.5 + half, 1.0)


def separation(members: Tensor, others: Tensor, alpha: float) -> Separation:
    """Compare scores of `members` (m,) with those of `others` (n,), one-sided at level `alpha`.

    Mann-Whitney by the normal approximation, with corrections for ties and for continuity, which is accurate from 8 on
    each side: AUC = U/(mn), under the null of mean 1/2 and variance `null_variance`. It asks that the records of both
    groups are draws from one population, and nothing of the distribution of scores. One-sided Kolmogorov-Smirnov
    beside it, p = exp(-2 D^2 mn/(m+n)). Raises ValueError for NaN scores and an empty group.
    """
    high, low = checked_values(members, "Scores"), checked_values(others, "Scores")
    m, n = len(high), len(low)
    scores, mine = torch.cat([high, low]), torch.arange(m + n) < m
    area = auroc(scores, mine)
    freedom = min(m, n) - 1
    error = float(str(area.settings["standard_error"]))
    found = share_interval(area.value, error**2 if freedom > 0 else 0.0, freedom, float("inf"))
    half, spread = 0.5 / (m * n), null_variance(scores, m, n) ** 0.5
    z, most = (area.value - 0.5 - half) / spread if spread > 0 else 0.0, _normal_quantile(1 - alpha)
    points = torch.unique(scores)
    gap = _share_up_to(low, points) - _share_up_to(high, points)
    ks = max(float(gap.max()), 0.0)
    return Separation(
        auc=area.value,
        low=found.low,
        high=found.high,
        critical=min(0.5 + half + most * spread, 1.0),
        spread=spread,
        z=z,
        critical_z=most,
        p_value=_upper(z) if spread > 0 else 1.0,
        tpr_at_1=tpr_at_fpr(scores, mine, 0.01).value,
        tpr_at_01=tpr_at_fpr(scores, mine, 0.001).value,
        ks=ks,
        ks_p=math.exp(-2 * ks**2 * m * n / (m + n)),
    )


def null_variance(scores: Tensor, m: int, n: int) -> float:
    """Variance of the AUC of m against n of these m + n `scores` where groups mean nothing, ties counted 1/2.

    [N + 1 - sum_t (t^3 - t) / (N (N - 1))] / (12 m n) with N = m + n, over the groups of t equal scores.
    """
    total = m + n
    ties = torch.unique(scores, return_counts=True)[1].double()
    return float(total + 1 - (ties**3 - ties).sum() / (total * (total - 1))) / (12 * m * n)


def log_odds(probabilities: Tensor, y: Tensor) -> Tensor:
    """phi = log(p_y / (1 - p_y)) of probabilities (..., n, K) at labels y (n,): (..., n), between -69 and 69.

    From the probabilities of all classes, of which those of the others keep their precision where p_y is near 1.
    """
    return margins(probabilities.double().clamp_min(LEAST).log(), y)


def lira_score(observed: Tensor, shadows: Tensor, included: Tensor, pooled: bool = True) -> Tensor:
    """Lambda = log N(phi; mu_in, s_in^2) - log N(phi; mu_out, s_out^2) of every record, (n,), float64.

    `observed` (n,) are the log-odds phi under the model in question, `shadows` (S, n) those under S shadow models, and
    `included` (S, n), bool, says which of them were trained on which record. Means are per record. Variances (unbiased)
    are `pooled` over records, one for in and one for out, which is better with fewer than 64 shadow models; or per
    record. Raises ValueError unless every record is in and out at least twice.
    Source: Carlini et al., "Membership Inference Attacks From First Principles", IEEE S&P 2022, section V.
    """
    phi, of_shadows, inside = observed.detach().cpu().double(), shadows.detach().cpu().double(), included.cpu()
    if of_shadows.shape != inside.shape or phi.shape != of_shadows.shape[1:] or inside.dtype != torch.bool:
        raise ValueError("Log-odds are (n,), those of shadow models (S, n), and what they were trained on bool (S, n).")
    counts = inside.sum(0)
    if len(phi) == 0 or bool(((counts < 2) | (len(inside) - counts < 2)).any()):
        raise ValueError("Every record must be in at least two shadow models and out of at least two.")

    def log_density(chosen: Tensor) -> Tensor:
        count = chosen.sum(0).double()
        mean = (of_shadows * chosen).sum(0) / count
        squares = ((of_shadows - mean) ** 2 * chosen).sum(0)
        variance = squares.sum() / (count - 1).sum() if pooled else squares / (count - 1)
        variance = variance.clamp_min(LEAST_VARIANCE)
        return -((phi - mean) ** 2 / variance + variance.log()) / 2

    return log_density(inside) - log_density(~inside)


def ema_metrics(probabilities: Tensor, y: Tensor) -> Tensor:
    """Correct (0 or 1), p_y, and the negative entropy sum_k p_k log p_k in nats: (3, n) of probabilities (n, K)."""
    p = probabilities.detach().cpu().double()
    label = y.detach().cpu()
    own = p.gather(1, label[:, None])[:, 0]
    return torch.stack([(p.argmax(1) == label).double(), own, torch.special.entr(p).sum(1).neg()])


def ema_thresholds(
    members: Tensor, member_labels: Tensor, others: Tensor, other_labels: Tensor, classes: int
) -> Tensor:
    """For every metric and class the v that tells calibration members from non-members best: (M, classes).

    v maximises (mean[members >= v] + mean[others < v]) / 2 over the values of that class; of several such v the
    largest, so that their order does not matter. `members` (M, m) and `others` (M, n) are `ema_metrics` under the
    calibration model. A class of which either is missing takes the threshold over all classes.
    """
    thresholds = torch.empty(len(members), classes, dtype=torch.float64)
    for label in range(classes):
        mine, theirs = members[:, member_labels.cpu() == label], others[:, other_labels.cpu() == label]
        if mine.shape[1] == 0 or theirs.shape[1] == 0:
            mine, theirs = members, others
        thresholds[:, label] = torch.tensor([_best(a, b) for a, b in zip(mine, theirs, strict=True)])
    return thresholds


def ema_members(metrics: Tensor, y: Tensor, thresholds: Tensor) -> Tensor:
    """Which records count as members: those of which at least one of the metrics (M, n) reaches its threshold."""
    return (metrics >= thresholds[:, y.cpu()]).any(0)


def ema_rho(members: Tensor) -> float:
    """p-value of the two-sided two-sample t-test of member indicators (n,), bool, against n ones; 1 if all are ones.

    With k indicators of n that are not 1, t = sqrt(k (n - 1) / (n - k)) with 2n - 2 degrees of freedom. So about
    t = sqrt(k), and rho < 0.1 means three records or more that do not look like members, whatever n is. 0 if none is 1.
    Raises ValueError for fewer than two records.
    Source: Huang, Li, Li, "EMA: Auditing Data Removal from Trained Models", MICCAI 2021, arXiv 2109.03675.
    """
    from scipy.special import stdtr

    n, missing = len(members), int((~members.bool()).sum())
    if n < 2:
        raise ValueError(f"A t-test needs at least two records, not {n}.")
    if missing in (0, n):
        return 1.0 if missing == 0 else 0.0
    return min(2 * float(stdtr(2 * n - 2, -math.sqrt(missing * (n - 1) / (n - missing)))), 1.0)


def _best(members: Tensor, others: Tensor) -> float:
    candidates = torch.unique(torch.cat([members, others]))
    below_members = torch.searchsorted(members.sort().values, candidates).double() / len(members)
    below_others = torch.searchsorted(others.sort().values, candidates).double() / len(others)
    gain = below_others - below_members  # twice the balanced accuracy, less 1
    return float(candidates[gain >= gain.max() - 1e-12][-1])


def _share_up_to(values: Tensor, points: Tensor) -> Tensor:
    return torch.searchsorted(values.sort().values, points, right=True).double() / len(values)


def _upper(z: float) -> float:
    from scipy.special import ndtr

    return float(ndtr(-z))


def _normal_quantile(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))
