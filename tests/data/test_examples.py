"""The nouns of data."""

import pytest
import torch

from data.errors import UserError
from data.examples import Data, Examples


def examples(n: int, first: int = 0) -> Examples:
    return Examples(torch.arange(first, first + 2 * n, dtype=torch.float32).view(n, 2), torch.arange(n) % 3)


def test_examples_count_and_select() -> None:
    whole = examples(6)
    assert len(whole) == 6
    part = whole[torch.tensor([4, 1])]
    assert part.x.tolist() == [[8.0, 9.0], [2.0, 3.0]]
    assert part.y.tolist() == [1, 1]
    assert torch.equal(whole[2:4].x, whole.x[2:4])
    assert len(whole[:0]) == 0


def test_inputs_and_labels_must_agree() -> None:
    with pytest.raises(UserError, match="as many inputs as labels, got 3 and 2"):
        Examples(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))


def test_dtype_converts_inputs_only() -> None:
    moved = examples(3).to(dtype=torch.float64)
    assert (moved.x.dtype, moved.y.dtype) == (torch.float64, torch.int64)
    assert torch.equal(moved.x, examples(3).x.double())


def data(shape: tuple[int, ...], trusted: int) -> Data:
    def part(n: int) -> Examples:
        return Examples(torch.randn(n, *shape, generator=torch.Generator().manual_seed(n)), torch.zeros(n).long())

    return Data("toy", part(5), part(4), part(trusted), part(3), ("a", "b"), torch.zeros(1), torch.ones(1))


@pytest.mark.parametrize("trusted", [2, 7, 10])
def test_halves_of_trusted_are_disjoint_and_complete(trusted: int) -> None:
    whole = data((3,), trusted)
    first, second = whole.filter_trusted, whole.conformal_trusted
    assert torch.equal(torch.cat([first.x, second.x]), whole.trusted.x)
    assert len(second) - len(first) in (0, 1)


def test_shape_says_what_is_an_image() -> None:
    assert (data((3,), 2).shape, data((3,), 2).is_image) == ((3,), False)
    assert (data((1, 8, 8), 2).shape, data((1, 8, 8), 2).is_image) == ((1, 8, 8), True)


def test_data_moves_as_a_whole() -> None:
    moved = data((3,), 4).to(dtype=torch.float64)
    parts = [moved.train, moved.test, moved.trusted, moved.auxiliary]
    assert {part.x.dtype for part in parts} | {moved.mean.dtype, moved.std.dtype} == {torch.float64}
    assert {part.y.dtype for part in parts} == {torch.int64}
    assert (moved.name, moved.classes) == ("toy", ("a", "b"))
