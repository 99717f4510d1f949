"""Training over tensors in memory: one model, or many models together under `vmap`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from data.bounds import at_most
from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, generator
from models.dropout import dropout_layers, sample_masks
from models.learner import Batch, alone, has_batch_norm, side_by_side
from models.newton import minimise
from models.progress import Tick, progress
from models.victim import Ensemble, Tensors, concatenate

Build = Callable[[], nn.Module]
Watch = Callable[[Batch, Sequence[Tensor]], None]  # told of every step: its batch, and the parameters after it


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Training:
    """How a model is trained on F(theta; w) = (1/n) sum_i (1 - w_i) l_i(theta) + (weight_decay/2) ||theta||^2.

    `weight_decay` is the lambda of the objective (coupled, on every parameter; for Adam it is added to the gradient).
    `newton` minimises F to its stationary point (gradient norm below `tolerance`) and is meant for convex models.
    `schedule` multiplies `lr`: constant, cosine to 0, or triangular (up for a fifth of the steps, then down to 0).
    `together` bounds how many models are trained in one stack.
    """

    optimizer: Literal["sgd", "adam", "newton"] = "sgd"
    epochs: Annotated[int, Field(ge=1), at_most(1_000_000, "each is a pass over the records")] = 20
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
    watch: Watch | None = None,
) -> Ensemble:
    """Train len(seeds) models; row j of `weights` (m, n) says how far model j has each example deleted (1 = deleted).

    Models that share a seed share initialisation, batch order and dropout masks, so that they differ by their weights
    alone (common random numbers). `start` continues from given models instead of fresh ones. Architectures with
    batch-norm are trained one by one, on batches from which fully deleted examples are dropped: their batch statistics
    would otherwise still see the deleted inputs; a batch with fewer than two examples left uses the running statistics.
    `watch` may read the parameters after every step and change them in place (as a projection does); their shapes have
    the leading dimension m where more than one model is trained together. Newton's method has no steps to watch.

    Raises UserError when the loss is not finite, and for a model with dropout layers other than `models.dropout`'s.
    """
    m, n = len(seeds), len(records)
    keep = (
        torch.ones(m, n, dtype=records.x.dtype, device=records.x.device)
        if weights is None
        else 1 - weights.to(records.x)
    )
    module = start.module if start is not None else initialise(build, seeds[0], records.x)[0]
    if any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in module.modules()):
        raise UserError(
            "This model has torch.nn.Dropout layers, which draw from the global generator; "
            "use models.dropout.Dropout in its place."
        )
    size = 1 if has_batch_norm(module) else training.together
    chunks = [range(first, min(first + size, m)) for first in range(0, m, size)]
    steps = 1 if training.optimizer == "newton" else training.epochs
    with progress(label, len(chunks) * steps) as tick:
        parts = [
            _train_stack(build, records, training, [seeds[j] for j in rows], keep[rows.start : rows.stop],
                         start and start.select(slice(rows.start, rows.stop)), tick, watch)
            for rows in chunks
        ]  # fmt: skip
    return concatenate(parts)


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
    tick: Tick,
    watch: Watch | None,
) -> Ensemble:
    begin = start if start is not None else _fresh(build, seeds, records.x)
    if training.optimizer == "newton":
        parameters = minimise(begin, records, keep, training.weight_decay, training.tolerance)
        tick()
        return Ensemble(begin.module, parameters, begin.buffers)
    learner = alone(begin) if len(seeds) == 1 else side_by_side(begin, shared=len(set(seeds)) == 1)
    values = list(learner.parameters.values())
    update = _stepper(training, values)
    total = training.epochs * math.ceil(len(records) / training.batch_size)
    step = 0
    for epoch, batches in enumerate(_batches(begin.module, records, keep, training, seeds)):
        for batch in batches:
            for value in values:
                value.grad = None
            loss = learner.loss(batch)
            loss.backward()
            update(training.lr * lr_factor(training.schedule, step, total))
            if watch is not None:
                with torch.no_grad():
                    watch(batch, values)
            step += 1
        if not all(bool(torch.isfinite(value).all()) for value in (loss, *values)):
            raise UserError(
                f"Training diverged: the loss is not finite after epoch {epoch + 1}; "
                f"lower training.lr (now {training.lr:g})."
            )
        tick()
    return learner.result()


def _stepper(training: Training, values: list[Tensor]) -> Callable[[float], None]:
    """One update of `values` from their gradients, as a function of the learning rate.

    SGD is v <- momentum v + g + lambda theta; theta <- theta - lr v, as in torch.optim, whose bookkeeping would take a
    fifth of a step of a small model.
    """
    if training.optimizer == "adam":
        optimizer = torch.optim.Adam(values, weight_decay=training.weight_decay, foreach=True)

        def adam(lr: float) -> None:
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()

        return adam
    velocity = [torch.zeros_like(value) for value in values]

    @torch.no_grad()
    def sgd(lr: float) -> None:
        gradients = [value.grad for value in values if value.grad is not None]
        torch._foreach_mul_(velocity, training.momentum)
        torch._foreach_add_(velocity, gradients)
        torch._foreach_add_(velocity, values, alpha=training.weight_decay)
        torch._foreach_add_(values, velocity, alpha=-lr)

    return sgd


def lr_factor(schedule: str, step: int, total: int) -> float:
    """Factor on the learning rate at `step` of `total`."""
    done = step / total
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "triangular":
        return min(5 * (step + 1) / total, (1 - done) / 0.8, 1.0)
    return 1.0


def _batches(
    module: nn.Module, records: Examples, keep: Tensor, training: Training, seeds: Sequence[int]
) -> Iterator[Iterator[Batch]]:
    """For every epoch its batches; all models see the same x, y and dropout masks where all seeds agree."""
    n, device = len(records), records.x.device
    distinct = dict.fromkeys(seeds)
    orders = {seed: generator(seed, "batches") for seed in distinct}
    masks = {seed: generator(seed, "dropout") for seed in distinct}

    def draw(size: int) -> Tensors:
        drawn = {seed: sample_masks(module, masks[seed], (size,)) for seed in distinct}
        if len(distinct) == 1:
            return {name: mask.to(records.x) for name, mask in drawn[seeds[0]].items()}
        return {name: torch.stack([drawn[s][name] for s in seeds]).to(records.x) for name in drawn[seeds[0]]}

    def batch(part: Tensor) -> Batch:
        masked = draw(part.shape[-1]) if has_dropout else {}
        if part.dim() == 1:
            x, y = records.x.index_select(0, part), records.y.index_select(0, part)
            return Batch(x, y, keep.index_select(1, part), masked, part)
        return Batch(records.x[part], records.y[part], keep.gather(1, part), masked, part)

    has_dropout = bool(dropout_layers(module))
    for _ in range(training.epochs):
        drawn = {seed: torch.randperm(n, generator=order).to(device) for seed, order in orders.items()}
        order = drawn[seeds[0]] if len(drawn) == 1 else torch.stack([drawn[seed] for seed in seeds])
        yield map(batch, order.split(training.batch_size, -1))
