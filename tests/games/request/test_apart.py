"""What a filter knows and what it is judged on are apart: trusted examples, targets, calibration and requests."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from data.examples import Examples
from defenses.defense import Context, Verdict
from experiments.play.play import cached
from experiments.play.setup import prepare
from games.request.targets import reserved_records
from tests.experiments.games import config


@dataclass(frozen=True)
class Witness:
    """Accepts everything, and keeps what it was shown."""

    shown: ClassVar[list[tuple[Context, Tensor]]] = []

    def review(self, context: Context, requests: Tensor) -> Verdict:
        self.shown.append((context, requests))
        return Verdict(torch.zeros(len(requests)), torch.ones(len(requests), dtype=torch.bool), 0.0)


def rows(examples: Examples) -> set[bytes]:
    return {each.numpy().tobytes() for each in examples.x.flatten(1)}


def test_a_filter_is_judged_on_nothing_that_it_knows(tmp_path: Path) -> None:
    """In every review of a game: calibration is benign, reserved and never asked for; trusted examples are no targets.

    Parts of a data set are disjoint positions of its file. Digits has a few images twice: these are left out.
    """
    chosen = config(tmp_path, "attack=random", "unlearning=first_order", "data.test=497", "data.train=1000")
    setup = prepare({**chosen, "defense": {"_target_": f"{__name__}.Witness"}})
    Witness.shown.clear()
    record, data = cached(setup, 0)[0], setup.data
    reserved = set(reserved_records(setup, 0).tolist())
    known = {i for context, _ in Witness.shown for batch in context.calibration for i in batch.indices.tolist()}
    asked = {i for _, requests in Witness.shown for i in requests.tolist()}
    malicious = {i for each in record["requests"] for i in each["indices"]}
    streams = 2 * 4 * (1 + 3)  # of four requests and of their controls, once whole and once over three streams
    assert len(Witness.shown) == streams + 2  # and two kinds of benign ones
    assert all(len(context.calibration) == 2 for context, _ in Witness.shown)
    assert known
    assert known <= reserved
    assert malicious <= asked
    assert not asked & reserved

    [trusted] = {frozenset(rows(context.trusted)) for context, _ in Witness.shown}
    targets = rows(data.test[torch.tensor(record["targets"]["position"])])
    every = [data.train, data.test, data.trusted, data.auxiliary]
    images = Counter(row.tobytes() for part in every for row in part.x.flatten(1).numpy())
    assert images.total() == 1797
    twice = {image for image, times in images.items() if times > 1}
    assert len(targets) == 4
    for other in (targets, rows(data.test), rows(data.train), rows(data.conformal_trusted), rows(data.auxiliary)):
        assert not (trusted & other) - twice
