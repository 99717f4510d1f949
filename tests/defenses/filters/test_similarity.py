"""Medoids of classes against all pairs of gradients, and who is unlike them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from data.examples import Examples
from data.randomness import generator
from defenses.defense import Context
from defenses.filters.class_gradients import class_medoids
from defenses.filters.similarity import Similarity
from metrics.detection import auroc
from models.gradients import per_example_gradients
from models.small_cnn import SmallCNN
from models.training import Training, initialise
from models.victim import Victim
from tests.attacks.checks import bed
from tests.defenses.filters.batches import benign, context, rows
from tests.testbed import TRAINING
from unlearning.procedure import Task


def by_all_pairs(g: Tensor, members: Tensor) -> int:
    """The member with the least sum of 1 - cos to all members."""
    unit = torch.nn.functional.normalize(g[members], dim=1)
    return int(members[(1 - unit @ unit.T).sum(1).argmin()])


@pytest.mark.parametrize("gone", [None, 100])
def test_medoids_are_those_of_all_pairs(gone: int | None) -> None:
    """Of the stored records that are neither requested nor gone."""
    of, batch = bed(0), benign(0, "scores", 1, 30)[0]
    g, y = per_example_gradients(of.victim, of.task.records), of.task.records.y
    already = None if gone is None else rows([torch.arange(gone)])[0]
    seen = replace(context(of, batch), task=replace(of.task, forgotten=already))
    left = ~rows([batch])[0].bool() & (torch.arange(TRAINING) >= (gone or 0))
    expected = [by_all_pairs(g, ((y == k) & left).nonzero()[:, 0]) for k in range(3)]
    assert class_medoids(seen, batch, torch.arange(3)).tolist() == expected
    own = torch.tensor(expected)[y[batch]]
    scores = 1 - torch.nn.functional.cosine_similarity(g[batch], g[own], dim=1)
    assert (Similarity().scores(seen, batch) - scores).abs().max() < 1e-12


def test_a_class_without_a_record_left_is_unlike_everything() -> None:
    of = bed(0)
    y = of.task.records.y
    batch = torch.cat([(y == 2).nonzero()[:, 0], (y == 0).nonzero()[:3, 0]])
    seen = context(of, batch)
    assert class_medoids(seen, batch, torch.tensor([0, 2]))[1] == -1
    scores = Similarity().scores(seen, batch)
    assert bool((scores[:-3] == 1).all())
    assert bool((scores[-3:] != 1).all())


def test_wrong_labels_are_isolated_and_random_requests_are_not() -> None:
    """Copies under another label than their record's have gradients against their class's."""
    wrong, found = torch.arange(60) < 15, []
    for seed in range(3):
        of, batch = bed(seed), benign(seed, "scores", 1, 60)[0]
        stored = of.task.records[batch]
        copies = Examples(stored.x, torch.where(wrong, (stored.y + 1) % 3, stored.y))
        found.append(Similarity().scores(replace(context(of, batch), submitted=copies), batch))
    value = auroc(torch.cat(found), wrong.repeat(3)).value
    print(f"AUROC of wrong labels {value:.2f}")
    assert value > 0.7


def test_it_works_with_convolutions_in_single_precision() -> None:
    """Against all pairs of gradients of a small network, whose records come in parts."""
    rng = generator(0, "images")
    records = Examples(torch.randn(60, 1, 8, 8, generator=rng), torch.arange(60) % 3)
    build = partial(SmallCNN, shape=(1, 8, 8), classes=3, widths=(4, 8))
    victim = Victim(*initialise(build, 0, records.x))
    seen = Context(Task(records, build, Training()), victim, victim, records)
    batch = torch.arange(10)
    g = per_example_gradients(victim, records).double()
    medoids = class_medoids(seen, batch, torch.arange(3))
    assert medoids.tolist() == [by_all_pairs(g, torch.arange(10, 60)[torch.arange(10, 60) % 3 == k]) for k in range(3)]
    expected = 1 - torch.nn.functional.cosine_similarity(g[batch], g[medoids[records.y[batch]]], dim=1)
    assert (Similarity().scores(seen, batch) - expected).abs().max() < 1e-5
