from __future__ import annotations

import pytest
import torch

from attacks.crafting.norm_cap import below_norm_quantile
from attacks.requester.uncertainty import Uncertainty
from data.errors import UserError
from models.gradients import per_example_gradients
from tests.attacks.checks import OVER, bed, crafted, opened


def test_the_pool_without_large_gradients() -> None:
    """Positions and the attacker's copies stay row by row; the quantile is that of all training records."""
    of, pool = bed(0), torch.arange(298, -1, -2)
    norms = per_example_gradients(of.victim, of.task.records).norm(dim=1)
    left = below_norm_quantile(opened(of), of.attacker(pool), 0.7, 5)
    assert torch.equal(left.pool, pool[norms[pool] <= norms.quantile(0.7)])
    assert 5 < len(left.pool) < len(pool)
    assert torch.equal(left.owned.x, of.task.records.x[left.pool])
    assert torch.equal(left.reference.x, of.attacker(pool).reference.x)
    assert left.may_name(300).nonzero()[:, 0].tolist() == sorted(left.pool.tolist())


def test_too_few_records_are_refused() -> None:
    of = bed(0)
    with pytest.raises(UserError, match="raise the cap"):
        below_norm_quantile(opened(of), of.attacker(torch.arange(20)), 0.05, 15)


def test_search_respects_the_cap() -> None:
    of = bed(0)
    norms = per_example_gradients(of.victim, of.task.records).norm(dim=1)
    for each in crafted(Uncertainty(budget=10, norm_cap=0.5), of, of.goals(of.in_band(*OVER[1:], 3), -1)):
        assert len(each.request) > 0
        assert norms[list(each.request.indices)].max() <= norms.quantile(0.5)
