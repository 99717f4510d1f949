"""Standardisation keeps what a column holds, whatever its offset and scale, and says what a column cannot keep."""

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import standardise
from data.arrays import Arrays
from data.images import normalised
from data.standardise import report_constant, standardised, statistics
from tests.data.test_arrays import LABELS, saved

RNG = np.random.default_rng(1)


@given(
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=30),
    st.integers(-(2**40), 2**40), st.integers(-300, 300), st.integers(1, 9),
)  # fmt: skip
def test_it_is_exact_to_the_last_rounding(values: list[int], offset: int, exponent: int, rows: int) -> None:
    """Against rational arithmetic: mean and deviation to 1e-12 of the reach, also where squares over- or underflow."""
    scale = Fraction(2) ** exponent
    exact = [(offset + each) * scale for each in values]
    x = torch.tensor([[float(each)] for each in exact], dtype=torch.float64)
    assert [Fraction(each) for each in x[:, 0].tolist()] == exact  # the question itself is not rounded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standardise, "CHUNK", rows)
        mean, std = statistics(x, (0,))
        found = standardised(x, mean, std)[:, 0]
    centre = sum(exact) / len(exact)
    variance = sum((each - centre) ** 2 for each in exact) / len(exact)
    if variance == 0:
        assert (float(std), found.tolist()) == (1.0, [0.0] * len(values))
        return
    deviation = float(variance / scale**2) ** 0.5
    expected = [float((each - centre) / scale) / deviation for each in exact]
    tolerance = 2e-7 + 2**-52 * abs(offset) / deviation  # float32, and what float64 knows of the offset
    assert max(abs(a - b) for a, b in zip(found.tolist(), expected, strict=True)) < tolerance * 8


def test_equal_values_are_constant_although_their_mean_is_rounded() -> None:
    x = torch.full((600, 3), 0.1, dtype=torch.float64)
    mean, std = statistics(x, (0,))
    assert std.tolist() == [1.0] * 3
    assert torch.count_nonzero(standardised(x, mean, std)) == 0


@pytest.mark.parametrize("offset", [0, 5.5e6, 1.7e9, -3e14, 1_700_000_000_000_000_000])
@pytest.mark.parametrize("kind", ["x", "x_test"])
def test_a_column_of_arrays_survives_its_offset(tmp_path: Path, offset: float, kind: str) -> None:
    """Float columns, and 64-bit integers (nanoseconds since 1970) that no float64 holds."""
    ticks = RNG.integers(0, 60, 100)
    integers = isinstance(offset, int)
    column = offset + ticks if integers else float(offset) + ticks
    x = np.stack([column, np.arange(100) % 7], axis=1)
    plain = np.stack([ticks, np.arange(100) % 7], axis=1)
    assert (x.dtype.kind == "i") == integers
    further = {"x_test": x[:50], "y_test": LABELS[:50]} if kind == "x_test" else {}
    near = {"x_test": plain[:50], "y_test": LABELS[:50]} if kind == "x_test" else {}
    found = Arrays(path=saved(tmp_path, x=x, y=LABELS, **further)).load()
    expected = Arrays(path=saved(tmp_path, x=plain, y=LABELS, **near)).load()
    for part in ("train", "test", "trusted", "auxiliary"):
        difference = getattr(found, part).x - getattr(expected, part).x
        assert difference.abs().max() < (1e-6 if abs(offset) < 1e14 or integers else 2e-3)
    assert found.mean[0] == pytest.approx(offset + float(expected.mean[0]), rel=1e-6)


def test_bytes_are_rounded_once() -> None:
    pixels = torch.from_numpy(RNG.integers(0, 256, (50, 3, 4, 5), dtype=np.uint8))
    mean, std = (torch.tensor(each, dtype=torch.float64).reshape(3, 1, 1) for each in ([0.1, 0.5, 0.9], [0.3, 0.2, 1]))
    assert torch.equal(normalised(pixels, mean, std), ((pixels.double() / 255 - mean) / std).float())
    one = torch.tensor(0.13, dtype=torch.float64).reshape(1, 1, 1)
    assert torch.equal(normalised(pixels, one, std[:1]), ((pixels.double() / 255 - one) / std[:1]).float())


def told(caplog: pytest.LogCaptureFixture, x: torch.Tensor) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        over = (0,) if x.dim() == 2 else tuple(range(x.dim()))
        report_constant("x", x, *statistics(x, over))
    return [record.getMessage() for record in caplog.records]


def test_a_column_that_says_nothing_is_named(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.from_numpy(RNG.normal(size=(40, 12)))
    assert told(caplog, x) == []
    x[:, 3] = 0.1
    [constant] = told(caplog, x)
    assert constant.startswith("x: column 3 is constant in the training part")
    x[7, 5] = 1e12  # one value so far away that the others become one
    assert [text.partition(" since")[0] for text in told(caplog, x)[1:]] == [
        "x: column 5 is constant for nearly all records once standardised,"
    ]
    x[:] = 1.0
    [many] = told(caplog, x)
    assert many.startswith("x: columns 0, 1, 2, 3, 4, 5, 6, 7 and 4 more are constant")


def test_an_entry_that_one_scale_for_all_rounds_away_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Examples of shape (2, 2) have one mean and deviation: a large offset of one entry costs the others."""
    x = torch.from_numpy(RNG.normal(size=(40, 2, 2)))
    x[:, 0, 0] = 0.0  # constant entries are usual outside tables, as the corners of images
    assert told(caplog, x) == []
    x[:, 1, 1] += 1.7e9
    [text] = told(caplog, x)
    assert text.startswith("x: columns 1, 2, 3 are constant for nearly all records")


def test_a_game_says_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Arrays(path=saved(tmp_path, x=np.c_[np.full(100, 7), np.arange(100.0)], y=LABELS)).load()
    assert [f"x in {tmp_path / 'mine.npz'}: column 0 is constant" in r.getMessage() for r in caplog.records] == [True]
