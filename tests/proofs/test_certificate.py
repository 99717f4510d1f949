from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.mnist import Mnist
from data.randomness import generator
from models.gradients import per_example_gradients
from models.mlp import MLP
from models.training import Training, initialise, train
from models.victim import Victim
from proofs.certificate import Certificate, certify, parities, rank

Bits = NDArray[np.uint8]


def packed(matrix: Bits) -> NDArray[np.uint64]:
    """0/1 (n, d) as parities packs it, by way of gradients that are whole numbers."""
    return parities(torch.from_numpy(matrix.astype(np.float64)), 0)


def plain_rank(matrix: Bits) -> int:
    """Elimination bit by bit."""
    rows, found = [row.copy() for row in matrix.astype(np.uint8)], 0
    for column in range(matrix.shape[1]):
        pivot = next((i for i in range(found, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        for i in range(found + 1, len(rows)):
            if rows[i][column]:
                rows[i] ^= rows[found]
        found += 1
    return found


@given(st.integers(0, 30), st.integers(0, 400), st.integers(0, 30), st.integers(0, 10_000), st.floats(0.01, 0.9))
def test_the_rank_is_that_of_plain_elimination(n: int, d: int, inner: int, seed: int, density: float) -> None:
    """Sparse and dense matrices of every rank: products of random ones; wide ones, too, which are folded first."""
    rng = np.random.default_rng(seed)
    left, right = (rng.random(shape) < density for shape in ((n, inner), (inner, d)))
    matrix = ((left.astype(int) @ right.astype(int)) % 2).astype(np.uint8)
    assert rank(packed(matrix)) == plain_rank(matrix)
    whole = (rng.random((n, d)) < density).astype(np.uint8)
    assert rank(packed(whole)) == plain_rank(whole)


@pytest.mark.parametrize("dependent", [1, 5, 60])
def test_rows_that_only_vanish_when_folded_count(dependent: int) -> None:
    """Columns j and j + 192 are folded onto each other for up to 128 rows: rows with both bits vanish, but count."""
    rng = np.random.default_rng(0)
    matrix = (rng.random((100, 1024)) < 0.5).astype(np.uint8)
    for i in range(dependent):
        matrix[i] = 0
        matrix[i, [i, i + 192]] = 1
    matrix[dependent - 1] = matrix[99]  # one row depends on another for certain
    assert rank(packed(matrix)) == plain_rank(matrix) == 99


def test_parities_are_those_of_rounded_magnitudes() -> None:
    """By Python's integers, from the exact value of every float32; any size, and more columns than a word."""
    rng = generator(0, "gradients")
    gradients = torch.randn(5, 70, generator=rng) * 10.0 ** torch.randint(-12, 6, (5, 70), generator=rng)
    for bits in (0, 4, 26, 60, 149):
        found = parities(gradients, bits)
        assert found.shape == (5, 2)
        for row, words in zip(gradients.tolist(), found.tolist(), strict=True):
            for j, value in enumerate(row):
                numerator, denominator = abs(value).as_integer_ratio()
                assert words[j // 64] >> (j % 64) & 1 == (numerator << bits) // denominator % 2
            assert words[1] >> 6 == 0


@given(st.integers(2, 6), st.integers(2, 12), st.integers(0, 10_000))
def test_full_rank_means_that_no_two_sets_have_equal_sums(n: int, d: int, seed: int) -> None:
    """All pairs of subsets, with gradients so coarse that sums agree often."""
    gradients = torch.randint(-1, 2, (n, d), generator=generator(seed, "coarse")).double()
    sets = [each for size in range(n + 1) for each in combinations(range(n), size)]
    sums = {tuple(gradients[list(each)].sum(0).tolist()) for each in sets}
    if rank(parities(gradients, 0)) == n:
        assert len(sums) == len(sets)
    doubled = torch.cat([gradients, gradients[:1]])
    assert rank(parities(doubled, 0)) < len(doubled)


def test_gradients_that_are_not_finite_and_bits_out_of_range_are_refused() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="not finite"):
            parities(torch.tensor([[1.0, value]]), 26)
    for bits in (-1, 150):
        with pytest.raises(UserError, match="0 to 149"):
            parities(torch.ones(1, 1), bits)


def small(widths: tuple[int, ...] = (16,)) -> tuple[Victim, Examples]:
    x = torch.randn(60, 20, generator=generator(0, "inputs"))
    build = partial(MLP, shape=(20,), classes=4, widths=widths)
    return Victim(*initialise(build, 0, x)), Examples(x, torch.arange(60) % 4)


def test_certify_is_the_rank_of_the_parities_of_all_gradients() -> None:
    victim, examples = small()
    gradients = per_example_gradients(victim, examples)
    for bits in (4, 10, 26):
        found = certify(victim, examples, bits)
        alive = (gradients.double().abs() * 2.0**bits >= 1).any(1)
        assert found == Certificate(
            rows=int(alive.sum()), zero_rows=int((~alive).sum()), rank=rank(parities(gradients[alive], bits)), bits=bits
        )
    assert found.full
    assert found.rows == 60


def test_repeated_records_and_more_records_than_parameters_have_no_certificate() -> None:
    victim, examples = small()
    twice = certify(victim, Examples(torch.cat([examples.x, examples.x[:3]]), torch.cat([examples.y, examples.y[:3]])))
    assert (twice.rows, twice.rank, twice.full) == (63, 60, False)
    x = torch.randn(60, 1, generator=generator(1, "inputs"))
    tiny = Victim(*initialise(partial(MLP, shape=(1,), classes=4, widths=(2,)), 0, x))
    many = certify(tiny, Examples(x, torch.arange(60) % 4))
    assert many.rank <= tiny.flat().numel() < many.rows
    assert not many.full


def test_gradients_of_zero_are_reported_and_not_counted() -> None:
    """A model so sure of its label that the loss and its gradient are exactly zero."""
    victim, examples = small()
    sure = {name: value * (0 if name == "head.weight" else 1) for name, value in victim.moving.items()}
    sure["head.bias"] = torch.tensor([1000.0, 0, 0, 0])
    found = certify(replace(victim, parameters=sure), examples)
    assert found.zero_rows == int((examples.y == 0).sum()) == 15
    assert found.rows == 45
    assert certify(victim, examples[:0]) == Certificate(rows=0, zero_rows=0, rank=0, bits=26)
    assert not certify(victim, examples[:0]).full


@pytest.fixture(scope="module")
def records(data_root: Path) -> Examples:
    return Mnist(root=data_root, subset=25_600).load().train


def after_200_steps(records: Examples, lr: float, momentum: float) -> Victim:
    """784-32-32-10 with 26,506 parameters."""
    build = partial(MLP, shape=(1, 28, 28), classes=10, widths=(32, 32), activation="relu")
    recipe = Training(epochs=1, batch_size=128, lr=lr, momentum=momentum, weight_decay=0, schedule="constant")
    return train(build, records, recipe, [0])[0]


def test_random_records_of_mnist_have_a_certificate(records: Examples) -> None:
    victim = after_200_steps(records, 0.005, 0)
    assert victim.flat().numel() == 26_506
    chosen: Tensor = torch.randperm(len(records), generator=generator(0, "chosen"))[:512]
    found = certify(victim, records[chosen])
    assert found == Certificate(rows=512, zero_rows=0, rank=512, bits=26)
    assert found.full
    doubled = certify(victim, records[torch.cat([chosen, chosen[:1]])])
    assert doubled == Certificate(rows=513, zero_rows=0, rank=512, bits=26)
    assert not doubled.full


@pytest.mark.claims
def test_coarser_gradients_have_one_too_as_long_as_they_are_not_small(records: Examples) -> None:
    """With momentum the model is at 91% after 200 steps: a sixteenth is then more than many gradients."""
    chosen = torch.randperm(len(records), generator=generator(0, "chosen"))[:2000]
    early, late = (after_200_steps(records, *recipe) for recipe in ((0.005, 0.0), (0.01, 0.9)))
    for n, bits in ((512, 4), (512, 8), (512, 12), (512, 16), (512, 20), (512, 26), (2000, 26)):
        found = [certify(victim, records[chosen[:n]], bits) for victim in (early, late)]
        print(*found)
        assert found[0].full
        assert found[0].zero_rows == 0
        assert found[1].full == (bits > 8)
        assert (found[1].zero_rows > 0) == (bits <= 8)
