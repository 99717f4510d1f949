"""Training over tensors in memory: one model, or many models together under `vmap`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, generator
from models.dropout import dropout_layers, sample_masks
from models.newton import minimise
from models.progress import Tick, progress
from models.victim import Ensemble, Tensors, concatenate, forward

Build = Callable[[], nn.Module]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Training:
    """How a model is trained on F(theta; w) = (1/n) sum_i (1 - w_i) l_i(theta) + (weight_decay/2) ||theta||^2.

    `weight_decay` is the lambda of the objective (coupled, on every parameter; for Adam it is added to the gradient).
    `newton` minimises F to its stationary point (gradient norm below `tolerance`) and is meant for convex models.
    `schedule` multiplies `lr`: constant, cosine to 0, or triangular (up for a fifth of the steps, then down to 0).
    `together` bounds how many models are trained in one stack.
    """

    optimizer: Literal["sgd", "adam", "newton"] = "sgd"
    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=1)] = 100
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2e-3
    schedule: Literal["constant", "cosine", "triangular"] = "cosine"
    tolerance: Annotated[float, Field(gt=0)] = 1e-10
    together: Annotated[int, Field(ge=1)] = 96


def initialise(build: Build, seed: int, like: Tensor) -> tuple[nn.Module, Tensors, Tensors]:
    """A fresh module in eval mode with its parameters and buffers, drawn from `seed` alone, on the device of `like`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "initialisation"))
        module = build().eval()
    dtype, device = like.dtype, like.device
    cast = {
        n: t.to(device, dtype if t.is_floating_point() else t.dtype)
        for n, t in module.state_dict(keep_vars=True).items()
    }
    names = {name for name, _ in module.named_parameters()}
    parameters = {name: value.detach().clone() for name, value in cast.items() if name in names}
    buffers = {n: t.to(device, dtype if t.is_floating_point() else t.dtype).clone() for n, t in module.named_buffers()}
    return module.to(device), parameters, buffers


def train(
    build: Build,
    records: Examples,
    training: Training,
    seeds: Sequence[int],
    weights: Tensor | None = None,
    start: Ensemble | None = None,
    label: str = "training",
) -> Ensemble:
    """Train len(seeds) models; row j of `weights` (m, n) says how far each example is deleted for model j (1 = deleted).

    Models that share a seed share initialisation, batch order and dropout masks, so that they differ by their weights
    alone (common random numbers). `start` continues from given models instead of fresh ones. Architectures with
    batch-norm are trained one by one, on batches from which fully deleted examples are dropped: their batch statistics
    would otherwise still see the deleted inputs.

    Raises UserError when the loss is not finite.
    """
    m, n = len(seeds), len(records)
    keep = (
        torch.ones(m, n, dtype=records.x.dtype, device=records.x.device)
        if weights is None
        else 1 - weights.to(records.x)
    )
    has_batch_norm = any(isinstance(layer, _BatchNorm) for layer in build().modules())
    size = 1 if has_batch_norm else training.together
    chunks = [range(first, min(first + size, m)) for first in range(0, m, size)]
    steps = 1 if training.optimizer == "newton" else training.epochs
    with progress(label, len(chunks) * steps) as tick:
        parts = [
            _train_stack(build, records, training, [seeds[j] for j in rows], keep[rows.start : rows.stop],
                         start and _rows(start, rows), has_batch_norm, tick)
            for rows in chunks
        ]  # fmt: skip
    return concatenate(parts)


def _rows(ensemble: Ensemble, rows: range) -> Ensemble:
    part = slice(rows.start, rows.stop)
    return Ensemble(
        ensemble.module,
        {name: value[part] for name, value in ensemble.parameters.items()},
        {name: value[part] for name, value in ensemble.buffers.items()},
    )


def _fresh(build: Build, seeds: Sequence[int], like: Tensor) -> Ensemble:
    drawn = {seed: initialise(build, seed, like) for seed in dict.fromkeys(seeds)}
    module, parameters, buffers = drawn[seeds[0]]
    return Ensemble(
        module,
        {name: torch.stack([drawn[seed][1][name] for seed in seeds]) for name in parameters},
        {name: torch.stack([drawn[seed][2][name] for seed in seeds]) for name in buffers},
    )


def _train_stack(
    build: Build,
    records: Examples,
    training: Training,
    seeds: Sequence[int],
    keep: Tensor,
    start: Ensemble | None,
    has_batch_norm: bool,
    tick: Tick,
) -> Ensemble:
    begin = start if start is not None else _fresh(build, seeds, records.x)
    if training.optimizer == "newton":
        parameters = minimise(begin, records, keep, training.weight_decay, training.tolerance)
        tick()
        return Ensemble(begin.module, parameters, begin.buffers)
    parameters = {name: value.clone().requires_grad_() for name, value in begin.parameters.items()}
    buffers = {name: value.clone() for name, value in begin.buffers.items()}
    optimizer = _optimizer(training, list(parameters.values()))
    epochs = _batches(records, keep, training, seeds)
    total = training.epochs * math.ceil(len(records) / training.batch_size)
    masks = generator(seeds[0], "dropout")
    begin.module.train(has_batch_norm)
    step = 0
    for epoch, batches in enumerate(epochs):
        for x, y, kept in batches:
            loss = _loss(begin.module, parameters, buffers, x, y, kept, masks, has_batch_norm)
            for value, gradient in zip(
                parameters.values(), torch.autograd.grad(loss, list(parameters.values())), strict=True
            ):
                value.grad = gradient
            for group in optimizer.param_groups:
                group["lr"] = training.lr * lr_factor(training.schedule, step, total)
            optimizer.step()
            step += 1
        if not torch.isfinite(loss):
            begin.module.eval()
            raise UserError(
                f"Training diverged: the loss is not finite after epoch {epoch + 1}; lower training.lr (now {training.lr:g})."
            )
        tick()
    begin.module.eval()
    return Ensemble(begin.module, {name: value.detach() for name, value in parameters.items()}, buffers)


def _optimizer(training: Training, values: list[Tensor]) -> torch.optim.Optimizer:
    if training.optimizer == "adam":
        return torch.optim.Adam(values, lr=training.lr, weight_decay=training.weight_decay, foreach=True)
    return torch.optim.SGD(
        values, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay, foreach=True
    )


def lr_factor(schedule: str, step: int, total: int) -> float:
    """Factor on the learning rate at `step` of `total`."""
    done = step / total
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "triangular":
        return min(5 * (step + 1) / total, (1 - done) / 0.8, 1.0)
    return 1.0


def _batches(
    records: Examples, keep: Tensor, training: Training, seeds: Sequence[int]
) -> Iterator[Iterator[tuple[Tensor, Tensor, Tensor]]]:
    """For every epoch its batches (x, y, keep): x (B, ...) when all seeds agree, else (m, B, ...); keep (m, B)."""
    n, device = len(records), records.x.device
    orders = {seed: generator(seed, "batches") for seed in dict.fromkeys(seeds)}
    for _ in range(training.epochs):
        drawn = {seed: torch.randperm(n, generator=order).to(device) for seed, order in orders.items()}
        if len(drawn) == 1:
            order = drawn[seeds[0]]
            columns = (records.x[order], records.y[order], keep[:, order])
            sizes = [part.split(training.batch_size, dim=0 if i < 2 else 1) for i, part in enumerate(columns)]
            yield zip(*sizes, strict=True)
        else:
            order = torch.stack([drawn[seed] for seed in seeds])
            kept = keep.gather(1, order)
            yield (
                (records.x[part], records.y[part], kept_part)
                for part, kept_part in zip(
                    order.split(training.batch_size, 1), kept.split(training.batch_size, 1), strict=True
                )
            )


def _loss(
    module: nn.Module, parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor, keep: Tensor,
    masks: torch.Generator, has_batch_norm: bool,
) -> Tensor:  # fmt: skip
    """Sum over models of the batch mean of (1 - w_i) l_i; the mean divides by the batch's size, deleted ones included."""
    m, size = keep.shape
    drawn = sample_masks(module, masks, (size,)) if dropout_layers(module) else {}
    drawn = {name: mask.to(x) for name, mask in drawn.items()}
    if m > 1:
        shared = {name: value for name, value in buffers.items() if name not in drawn}
        run = vmap(
            lambda p, b, inputs: forward(module, p, {**b, **drawn}, inputs), in_dims=(0, 0, 0 if y.dim() == 2 else None)
        )
        logits = run(parameters, shared, x).flatten(0, 1)
        labels = y.reshape(-1) if y.dim() == 2 else y.expand(m, -1).reshape(-1)
        return (F.cross_entropy(logits, labels, reduction="none").view(m, size) * keep).sum() / size
    one = {name: value[0] for name, value in parameters.items()}
    kept = keep[0]
    if has_batch_norm:
        x, y, kept = x[kept > 0], y[kept > 0], kept[kept > 0]
    logits = forward(module, one, {**{name: value[0] for name, value in buffers.items()}, **drawn}, x)
    return (F.cross_entropy(logits, y, reduction="none") * kept).sum() / size
