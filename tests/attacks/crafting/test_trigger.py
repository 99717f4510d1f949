"""A mark in the corner of images, and on the last features of rows."""

from __future__ import annotations

import pytest
import torch

from attacks.crafting.trigger import Patch
from data.errors import UserError


def test_a_patch_marks_the_corner_and_nothing_else() -> None:
    x = torch.rand(5, 3, 8, 8) - 0.5
    marked = Patch(size=2).on(x, x)
    high = x.amax((0, 2, 3))
    assert torch.equal(marked[:, :, -2:, -2:], high[:, None, None].expand(5, 3, 2, 2))
    assert int((marked != x).sum()) == 5 * 3 * 4 - int((x[:, :, -2:, -2:] == high[:, None, None]).sum())
    rows = torch.rand(6, 7)
    assert torch.equal(Patch(size=2).on(rows, rows)[:, :5], rows[:, :5])
    with pytest.raises(UserError, match="covers inputs of shape"):
        Patch(size=8).check((3, 8, 9))
