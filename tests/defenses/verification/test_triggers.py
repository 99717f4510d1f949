from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from data.examples import Data, Examples
from data.randomness import generator
from defenses.verification.triggers import Triggers, Value, draw, regions

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).reshape(3, 1, 1)


def made(x: Tensor, mean: Tensor, std: Tensor, classes: int = 5) -> Data:
    records = Examples(x, torch.arange(len(x)) % classes)
    return Data("made", records, records, records, records, tuple("abcdefgh"[:classes]), mean, std)


def colours() -> Data:
    pixels = torch.rand(40, 3, 9, 7, generator=generator(0, "colours"))
    return made((pixels - MEAN) / STD, MEAN, STD)


def table() -> Data:
    x = torch.randn(40, 6, generator=generator(0, "table"))
    x[:, 2] = 1.5
    return made(x, torch.zeros(6), torch.ones(6))


@pytest.mark.parametrize(("value", "shown"), [("max", 1.0), ("min", 0.0)])
def test_a_trigger_sets_its_pixels_in_all_channels_to_the_end_of_the_scale(value: Value, shown: float) -> None:
    data = colours()
    triggers = draw(data, 12, 4, value, "anywhere", generator(1, "triggers"))
    who = torch.arange(40) % 12
    x = triggers.on(data.train.x, who)
    changed = (x != data.train.x).any(1).flatten(1)
    for row, places in zip(changed, triggers.places[who], strict=True):
        assert row.nonzero()[:, 0].tolist() == sorted(places.tolist())
        assert len(set(places.tolist())) == 4
    pixels = (x * STD + MEAN).flatten(2).gather(2, triggers.places[who][:, None].expand(-1, 3, -1))
    torch.testing.assert_close(pixels, torch.full_like(pixels, shown))


def test_triggers_of_corners_lie_in_one_corner_each() -> None:
    triggers = draw(colours(), 200, 4, "max", "corners", generator(0, "triggers"))
    rows, columns = triggers.places // 7, triggers.places % 7
    top, left = rows.amax(1) < 4, columns.amax(1) < 4
    assert bool((top | (rows.amin(1) >= 5)).all())
    assert bool((left | (columns.amin(1) >= 3)).all())
    seen = {(bool(a), bool(b)) for a, b in zip(rows.amin(1) >= 5, left, strict=True)}
    assert len(seen) == 4
    assert regions(colours(), "corners").sum(1).tolist() == [16] * 4


@pytest.mark.parametrize(("value", "end"), [("max", torch.amax), ("min", torch.amin)])
def test_a_trigger_of_a_table_sets_features_to_their_extremes_and_none_that_is_constant(value: Value, end: Any) -> None:
    data = table()
    triggers = draw(data, 100, 4, value, "anywhere", generator(2, "triggers"))
    assert set(triggers.places.flatten().tolist()) == {0, 1, 3, 4, 5}
    x = triggers.on(data.train.x[:1].expand(100, -1), torch.arange(100))
    expected = data.train.x[:1].expand(100, -1).scatter(1, triggers.places, end(data.train.x, 0)[triggers.places])
    assert torch.equal(x, expected)


def test_labels_are_uniform_and_draws_are_those_of_the_generator() -> None:
    triggers, again = (draw(colours(), 5000, 4, "max", "anywhere", generator(3, "triggers")) for _ in range(2))
    assert torch.equal(triggers.places, again.places)
    assert torch.equal(triggers.targets, again.targets)
    counts = torch.bincount(triggers.targets, minlength=5)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 18.5  # chi-square with 4 degrees of freedom: 0.999
    places = torch.bincount(triggers.places.flatten(), minlength=63)
    assert float(((places - 20_000 / 63) ** 2 / (20_000 / 63)).sum()) < 103.4  # with 62: 0.999


def test_examples_of_other_labels_come_first_in_random_order() -> None:
    examples = Examples(torch.zeros(30, 2), torch.arange(30) % 3)
    triggers = Triggers(torch.zeros(4, 1, dtype=torch.long), torch.tensor([0, 1, 2, 7]), torch.zeros(2))
    order, counts = triggers.others(examples, generator(0, "others"))
    assert counts.tolist() == [20, 20, 20, 30]
    for row, count, target in zip(order, counts.tolist(), triggers.targets.tolist(), strict=True):
        assert sorted(row.tolist()) == list(range(30))
        assert row[:count].tolist() != sorted(row[:count].tolist())
        assert target not in examples.y[row[:count]].tolist()
