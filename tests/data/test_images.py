"""Statistics of byte images are exact, and normalisation can be undone for display."""

import numpy as np
import pytest
import torch

from data.errors import UserError
from data.examples import Data, Examples
from data.images import byte_statistics, image_data, normalised

PIXELS = torch.randint(0, 256, (60, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("per_channel", [True, False])
def test_statistics_agree_with_numpy(per_channel: bool) -> None:
    axes = (0, 2, 3) if per_channel else (0, 1, 2, 3)
    values = PIXELS.numpy().astype(np.float64) / 255
    mean, std = byte_statistics(PIXELS, per_channel=per_channel)
    assert mean.shape == std.shape == ((3, 1, 1) if per_channel else (1, 1, 1))
    # float32 results: a relative error of 2^-24 from the last rounding
    np.testing.assert_allclose(mean.flatten(), np.atleast_1d(values.mean(axes)), rtol=2**-23)
    np.testing.assert_allclose(std.flatten(), np.atleast_1d(values.std(axes)), rtol=2**-23)


def test_normalisation_can_be_undone() -> None:
    mean, std = byte_statistics(PIXELS, per_channel=True)
    shown = normalised(PIXELS, mean, std) * std + mean
    assert torch.equal((shown * 255).round().to(torch.uint8), PIXELS)


def test_sizes_that_leave_nothing_to_test() -> None:
    examples = Examples(PIXELS, torch.arange(60) % 3)
    statistics = byte_statistics(PIXELS, per_channel=True)
    with pytest.raises(UserError, match=r"data\.trusted=30 .* leaves nothing to test on"):
        image_data(
            "toy",
            ("a", "b", "c"),
            examples,
            examples,
            statistics,
            subset=None,
            trusted=30,
            auxiliary=30,
            split_seed=0,
        )


def test_fewer_test_examples_leave_the_other_parts_as_they_are() -> None:
    examples, statistics = Examples(PIXELS, torch.arange(60) % 3), byte_statistics(PIXELS, per_channel=True)

    def made(keep_test: int | None) -> Data:
        return image_data(
            "toy", ("a", "b", "c"), examples, examples, statistics, subset=30, trusted=12, auxiliary=12, split_seed=0,
            keep_test=keep_test,
        )  # fmt: skip

    whole, part = made(None), made(9)
    assert (len(whole.test), part.test.y.bincount().tolist()) == (36, [3, 3, 3])
    for name in ("train", "trusted", "auxiliary"):
        assert torch.equal(getattr(whole, name).x, getattr(part, name).x)
    every = {tuple(x.flatten().tolist()) for x in whole.test.x}
    assert all(tuple(x.flatten().tolist()) in every for x in part.test.x)
    assert torch.equal(made(9).test.x, part.test.x)
