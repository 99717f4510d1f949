"""In what order training sees its examples, and how fast it learns from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from data.examples import Examples
from data.randomness import generator
from models.dropout import dropout_layers, sample_masks
from models.learner import Batch
from models.victim import Tensors


def lr_factor(schedule: str, step: int, total: int) -> float:
    """Factor on the learning rate at `step` of `total`."""
    done = step / total
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "triangular":
        return min(5 * (step + 1) / total, (1 - done) / 0.8, 1.0)
    return 1.0


def batches_of(
    module: nn.Module, records: Examples, retain_weights: Tensor, seeds: Sequence[int], epochs: int, batch_size: int
) -> Iterator[Iterator[Batch]]:
    """For every epoch its batches; all models see the same x, y and dropout masks where all seeds agree."""
    n, device = len(records), records.x.device
    distinct = dict.fromkeys(seeds)
    orders = {seed: generator(seed, "batches") for seed in distinct}
    masks = {seed: generator(seed, "dropout") for seed in distinct}

    def draw(size: int) -> Tensors:
        drawn = {seed: sample_masks(module, masks[seed], (size,), records.x.dtype) for seed in distinct}
        if len(distinct) == 1:
            return {name: mask.to(records.x) for name, mask in drawn[seeds[0]].items()}
        return {name: torch.stack([drawn[s][name] for s in seeds]).to(records.x) for name in drawn[seeds[0]]}

    def batch(part: Tensor) -> Batch:
        masked = draw(part.shape[-1]) if has_dropout else {}
        if part.dim() == 1:
            x, y = records.x.index_select(0, part), records.y.index_select(0, part)
            return Batch(x, y, retain_weights.index_select(1, part), masked, part)
        return Batch(records.x[part], records.y[part], retain_weights.gather(1, part), masked, part)

    has_dropout = bool(dropout_layers(module))
    for _ in range(epochs):
        drawn = {seed: torch.randperm(n, generator=order).to(device) for seed, order in orders.items()}
        order = drawn[seeds[0]] if len(drawn) == 1 else torch.stack([drawn[seed] for seed in seeds])
        yield map(batch, order.split(batch_size, -1))
