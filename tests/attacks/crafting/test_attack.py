from __future__ import annotations

import torch

from attacks.crafting.attack import requests_from
from tests.attacks.checks import bed


def test_masks_over_the_pool_name_records() -> None:
    attacker = bed(0).attacker(torch.tensor([30, 10, 20]))
    found = requests_from(torch.tensor([[True, False, True], [False, True, False]]), attacker)
    assert [each.indices for each in found] == [(30, 20), (10,)]


def test_the_pool_as_a_mask() -> None:
    mask = bed(0).attacker(torch.tensor([30, 10, 20])).may_name(32)
    assert mask.dtype == torch.bool
    assert mask.nonzero()[:, 0].tolist() == [10, 20, 30]
