"""Rates and AUROC of records that come in streams: what is drawn together does not count as independent."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from metrics.detection import auroc, placements, tpr_at_fpr
from metrics.intervals import Interval, rate_interval, share_interval
from metrics.measurement import Measurement

LEAST = 10  # benign records above a threshold from which on its own error matters little


def clustered_rate(hits: Tensor, clusters: Tensor) -> Interval:
    """The share of `hits` (n,) bool, with an interval over `clusters` (n,), integers that name the cluster of each.

    p = sum_c x_c / sum_c n_c of x_c hits among n_c records of cluster c, and the variance of this ratio by
    linearisation, C/(C-1) sum_c (x_c - n_c p)^2 / (sum_c n_c)^2 for C clusters (Cochran, Sampling Techniques, section
    6.3). Raises ValueError without a record, and for shapes that differ.
    """
    if hits.shape != clusters.shape or hits.dtype != torch.bool or len(hits) == 0:
        raise ValueError("Hits are bool (n,), n >= 1, and clusters integers of the same shape.")
    _, index = torch.unique(clusters.detach().cpu(), return_inverse=True)
    count = int(index.max()) + 1
    x, n = _sums(hits.detach().cpu().double(), index, count), _sums(torch.ones(len(index)).double(), index, count)
    share = float(x.sum() / n.sum())
    if len(index) == count:  # every record for itself
        return rate_interval(int(x.sum()), count)
    variance = float(((x - n * share) ** 2).sum()) * count / max(count - 1, 1) / float(n.sum()) ** 2
    found = share_interval(share, variance, count - 1, float(len(index)))
    return Interval(found.mean, found.low, found.high, len(index), found.method, over=f"{count} batches")


def clustered_auroc(scores: Tensor, malicious: Tensor, clusters: Tensor) -> Measurement:
    """The AUROC of all records together (see `metrics.detection.auroc`), with an interval over clusters.

    `scores` (n,), `malicious` bool (n,), `clusters` (n,) integers. The variance is that of Obuchowski, Biometrics 53
    (1997), section 2: with V10 and V01 the placements of malicious and benign records, summed within the I clusters,
    S10/M + S01/N + 2 S11/(M N). The settings give `low`, `high`, the `standard_error` and the counts.
    """
    value = auroc(scores, malicious)
    bad = malicious.detach().cpu()
    s = scores.detach().to("cpu", torch.float64)
    _, index = torch.unique(clusters.detach().cpu(), return_inverse=True)
    total = int(index.max()) + 1
    caught, passed = placements(s[bad], s[~bad]), 1.0 - placements(s[~bad], s[bad])
    excess_bad = _sums(caught - value.value, index[bad], total)
    excess_good = _sums(passed - value.value, index[~bad], total)
    m, n = int(bad.sum()), int((~bad).sum())
    with_bad, with_good = len(torch.unique(index[bad])), len(torch.unique(index[~bad]))
    s10 = float((excess_bad**2).sum()) * with_bad / max(with_bad - 1, 1) / m
    s01 = float((excess_good**2).sum()) * with_good / max(with_good - 1, 1) / n
    s11 = float((excess_bad * excess_good).sum()) * total / max(total - 1, 1)
    variance = max(s10 / m + s01 / n + 2 * s11 / (m * n), 0.0)
    freedom = min(with_bad, with_good) - 1
    found = share_interval(value.value, variance, freedom, float("inf"))
    settings = {
        **value.settings, "standard_error": variance**0.5 if freedom > 0 else float("nan"),
        "error": "Obuchowski, clustered", "clusters": total, "low": found.low, "high": found.high,
        "interval": found.method,
    }  # fmt: skip
    return Measurement(value.value, value.n, settings, 0.5)


def clustered_tpr(scores: Tensor, malicious: Tensor, clusters: Tensor, level: float) -> Measurement:
    """`metrics.detection.tpr_at_fpr` with an interval over the clusters of the malicious records, at its threshold.

    NaN bounds where fewer than 10 benign records may lie above the threshold: its own error is not in the interval.
    """
    value = tpr_at_fpr(scores, malicious, level)
    bad = malicious.detach().cpu()
    above = scores.detach().to("cpu", torch.float64)[bad] > float(str(value.settings["threshold"]))
    found = clustered_rate(above, clusters.detach().cpu()[bad])
    if level * int((~bad).sum()) < LEAST:  # so few benign records set the threshold that its own error rules
        found = replace(found, low=float("nan"), high=float("nan"), method="none: too few benign records")
    settings = {**value.settings, "low": found.low, "high": found.high, "interval": found.method}
    return Measurement(value.value, value.n, settings, value.floor)


def _sums(values: Tensor, index: Tensor, count: int) -> Tensor:
    """The sum of the values of each cluster, (count,)."""
    return torch.zeros(count, dtype=torch.float64).index_add_(0, index, values.double())
