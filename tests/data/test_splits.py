"""Subsets keep the class proportions; parts are disjoint, complete and in random order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from data.randomness import generator
from data.splits import carve, carve_stratified, fewer, stratified

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(torch.tensor)


@given(LABELS, st.data(), st.integers(0, 5))
def test_subset_is_sorted_distinct_and_proportional(y: torch.Tensor, data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(len(y.unique()), len(y)))
    index = stratified(y, size, generator(seed, "test"))
    assert len(index) == size
    assert bool((index.diff() > 0).all())
    expected = torch.bincount(y, minlength=7).double() * size / len(y)
    assert bool(((torch.bincount(y[index], minlength=7) - expected).abs() < 1).all())


@given(LABELS, st.data(), st.booleans())
def test_parts_are_disjoint_and_complete(y: torch.Tensor, data: st.DataObject, by_class: bool) -> None:
    first = data.draw(st.integers(0, len(y)))
    sizes = {"trusted": first, "auxiliary": data.draw(st.integers(0, len(y) - first))}
    rng = generator(0, "test")
    parts = carve_stratified(y, sizes, rng) if by_class else carve(len(y), sizes, rng)
    assert {name: len(parts[name]) for name in sizes} == sizes
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(len(y)))


def test_stratified_parts_are_proportional_and_shuffled() -> None:
    y = torch.arange(10).repeat_interleave(100)
    parts = carve_stratified(y, {"trusted": 200, "auxiliary": 100}, generator(0, "test"))
    assert y[parts["trusted"]].bincount().tolist() == [20] * 10
    assert y[parts["auxiliary"]].bincount().tolist() == [10] * 10
    assert y[parts["rest"]].bincount().tolist() == [70] * 10
    # Sorted indices would give the first half five classes only; all ten are missed with probability below 1e-9.
    for part in parts.values():
        assert len(y[part[: len(part) // 2]].unique()) == 10


def test_same_seed_same_parts_and_other_seed_others() -> None:
    y = torch.arange(10).repeat(50)
    assert torch.equal(stratified(y, 100, generator(3, "a")), stratified(y, 100, generator(3, "a")))
    assert not torch.equal(stratified(y, 100, generator(3, "a")), stratified(y, 100, generator(4, "a")))
    first, second = (carve(500, {"trusted": 100}, generator(3, "a")) for _ in range(2))
    assert torch.equal(first["trusted"], second["trusted"])


def test_every_example_can_be_chosen_equally_often() -> None:
    """10 of 40 in 400 draws: each is chosen Binomial(400, 1/4) times; 6 standard deviations are 52."""
    y = torch.tensor([0] * 20 + [1] * 20)
    counts = torch.zeros(40)
    for seed in range(400):
        counts[stratified(y, 10, generator(seed, "test"))] += 1
    assert bool(((counts - 100).abs() < 52).all())


@pytest.mark.parametrize("size", [0, 2, 11])
def test_impossible_subset(size: int) -> None:
    with pytest.raises(UserError, match=rf"data\.subset={size} must lie between .*\(3\).*\(10\)"):
        stratified(torch.tensor([0, 1, 2, 2, 2, 2, 2, 2, 2, 2]), size, generator(0, "test"))


@given(LABELS, st.data(), st.integers(0, 5))
def test_fewer_test_examples_keep_their_order_and_the_classes(y: torch.Tensor, data: st.DataObject, seed: int) -> None:
    positions = carve(len(y), {"trusted": len(y) // 3}, generator(seed, "parts"))["rest"]
    occurring = len(y[positions].unique())
    size = data.draw(st.integers(occurring, len(positions)))
    kept = fewer(y, positions, size, generator(seed, "test"))
    assert len(kept) == size
    assert kept.tolist() == [p for p in positions.tolist() if p in set(kept.tolist())]
    assert len(y[kept].unique()) <= occurring
    assert torch.equal(fewer(y, positions, None, generator(seed, "test")), positions)
    with pytest.raises(UserError, match=rf"data\.test={len(y) + 1} must lie between .* left to test on"):
        fewer(y, positions, len(y) + 1, generator(seed, "test"))


def test_impossible_parts() -> None:
    sizes = {"trusted": 6, "auxiliary": 5}
    with pytest.raises(UserError, match=r"data\.trusted=6 \+ data\.auxiliary=5 is more than the 10"):
        carve(10, sizes, generator(0, "test"))
    with pytest.raises(UserError, match="make them smaller"):
        carve_stratified(torch.zeros(10, dtype=torch.int64), sizes, generator(0, "test"))
