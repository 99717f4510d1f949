"""Training over tensors in memory: one model, or many models together under `vmap`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from data.bounds import at_most
from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, reseed, seeded
from models.batches import batches_of, lr_factor
from models.behaviour import adapt, behaviour, pair
from models.committee import Committee
from models.learner import Batch, Learner, alone, side_by_side
from models.newton import minimise
from models.passes import models_at_once, room, rows_at_once
from models.progress import Tick, progress
from models.victim import ModelStack, Tensors, Victim, concatenate, frozen_names

Build = Callable[[], nn.Module]
Watch = Callable[[Batch, Sequence[Tensor]], None]  # told of every step: its batch, and the parameters after it


class Diverged(UserError):
    """The loss or a parameter stopped being finite."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Training:
    """How a model is trained on F(theta; w) = (1/n) sum_i (1 - w_i) l_i(theta) + (weight_decay/2) ||theta||^2.

    `weight_decay` is the lambda of the objective (coupled, on every parameter; for Adam it is added to the gradient).
    `newton` minimises F to its stationary point (gradient norm below `tolerance`) and is meant for convex models.
    `schedule` multiplies `lr`: constant, cosine to 0, or triangular (up for a fifth of the steps, then down to 0).
    `together` bounds how many models are trained in one stack; there are fewer where their parameters, or what their
    layers put out for a batch, would not fit into the memory of one pass.
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
    """A fresh module in eval mode with its parameters and buffers, drawn from `seed` alone, on the device of `like`.

    Parameters that require no gradient are frozen (see `Victim`). `like` (n, ...) are inputs: with them lazy layers
    find their sizes, and the module's behaviour is found out (see `models.behaviour`); a bare tensor (k,) gives a
    device and a type only. Raises UserError where nothing is left to train.
    """
    tried = like.dim() > 1
    with seeded(derive(seed, "initialisation")):
        module = build().eval()
        if tried and any(is_lazy(value) for value in (*module.parameters(), *module.buffers())):
            with torch.no_grad():
                module(pair(like).to("cpu", torch.get_default_dtype()))
    if not any(value.requires_grad for value in module.parameters()):
        raise UserError("model: it has no parameter that requires a gradient, so there is nothing to train.")

    def cast(named: Iterable[tuple[str, Tensor]]) -> Tensors:
        return {
            name: value.detach().to(like.device, like.dtype if value.is_floating_point() else value.dtype).clone()
            for name, value in named
        }

    parameters, buffers = cast(module.named_parameters()), cast(module.named_buffers())
    module = module.to(like.device)
    frozen_names(module)  # as they are now, whatever is done to the module later
    for part in module.constituents if isinstance(module, Committee) else [module]:
        frozen_names(part)
        if tried:
            adapt(part, like)
    return module, parameters, buffers


def train(
    build: Build,
    records: Examples,
    training: Training,
    seeds: Sequence[int],
    weights: Tensor | None = None,
    start: ModelStack | None = None,
    label: str = "training",
    watch: Watch | None = None,
) -> ModelStack:
    """Train len(seeds) models; row j of `weights` (m, n) says how far model j has each example deleted (1 = deleted).

    Models that share a seed share initialisation, batch order and dropout masks, so that they differ by their weights
    alone (common random numbers). `start` continues from given models instead of fresh ones. `watch` may read the
    parameters after every step and change them in place (as a projection does); their shapes have the leading dimension
    m where more than one model is trained together. Newton's method has no steps to watch.

    Architectures that behave otherwise in training mode are trained in it, one by one; what they draw from global
    generators comes from the seed and the step. Where they look at a batch as a whole, as batch-norm does, fully
    deleted examples are dropped from it: its statistics would otherwise still see the deleted inputs; a batch with
    fewer than two examples left is seen in eval mode.

    Raises UserError when the loss is not finite, and where Newton's method meets a model with a training mode.
    """
    m, n = len(seeds), len(records)
    retain_weights = (
        torch.ones(m, n, dtype=records.x.dtype, device=records.x.device)
        if weights is None
        else 1 - weights.to(records.x)
    )
    first = start[0] if start is not None else Victim(*initialise(build, seeds[0], records.x))
    apart = behaviour(first.module, records.x).apart
    if apart and training.optimizer == "newton":
        raise UserError(
            "This model behaves otherwise in training mode (batch-norm, dropout, noise), so it has no single objective "
            "for training.optimizer=newton to minimise; use training=sgd or training=adam."
        )
    size = 1 if apart else _together(first, records, training)
    chunks = [range(first, min(first + size, m)) for first in range(0, m, size)]
    steps = 1 if training.optimizer == "newton" else training.epochs
    with progress(label, len(chunks) * steps) as tick:
        parts = [
            _train_stack(
                _fresh(build, [seeds[j] for j in rows], records.x, {seeds[0]: first}) if start is None
                else start.select(slice(rows.start, rows.stop)),
                records, training, [seeds[j] for j in rows], retain_weights[rows.start : rows.stop], tick, watch,
            )
            for rows in chunks
        ]  # fmt: skip
    return concatenate(parts)


def _together(one: Victim, records: Examples, training: Training) -> int:
    """How many models like this one to train in one stack."""
    seen = len(records) if training.optimizer == "newton" else min(training.batch_size, len(records))
    fitting = rows_at_once(one, records.x, room(records.x.device), max(1, seen))
    return min(training.together, models_at_once(one), fitting)


def _fresh(build: Build, seeds: Sequence[int], like: Tensor, drawn: Mapping[int, Victim]) -> ModelStack:
    """Fresh models of the seeds, those that are `drawn` already among them."""
    distinct = dict.fromkeys(seeds)
    models = {seed: drawn[seed] if seed in drawn else Victim(*initialise(build, seed, like)) for seed in distinct}
    first = models[seeds[0]]
    return ModelStack(
        first.module,
        {name: torch.stack([models[seed].parameters[name] for seed in seeds]) for name in first.parameters},
        {name: torch.stack([models[seed].buffers[name] for seed in seeds]) for name in first.buffers},
    )


def _train_stack(
    begin: ModelStack,
    records: Examples,
    training: Training,
    seeds: Sequence[int],
    retain_weights: Tensor,
    tick: Tick,
    watch: Watch | None,
) -> ModelStack:
    if training.optimizer == "newton":
        parameters = minimise(begin, records, retain_weights, training.weight_decay, training.tolerance)
        tick()
        return ModelStack(begin.module, parameters, begin.buffers)
    behaves = behaviour(begin.module, records.x)
    learner = alone(begin, behaves) if len(seeds) == 1 else side_by_side(begin, shared=len(set(seeds)) == 1)
    with seeded(0) if behaves.draws else nullcontext():  # every step is seeded anew
        _descend(learner, begin.module, records, retain_weights, training, seeds, behaves.draws, tick, watch)
    return learner.result()


def _descend(
    learner: Learner,
    module: nn.Module,
    records: Examples,
    retain_weights: Tensor,
    training: Training,
    seeds: Sequence[int],
    draws: bool,
    tick: Tick,
    watch: Watch | None,
) -> None:
    """All steps of training, which change the learner's parameters in place."""
    values = list(learner.parameters.values())
    update = _stepper(training, values)
    total = training.epochs * math.ceil(len(records) / training.batch_size)
    step = 0
    for epoch, batches in enumerate(
        batches_of(module, records, retain_weights, seeds, training.epochs, training.batch_size)
    ):
        for batch in batches:
            for value in values:
                value.grad = None
            if draws:
                reseed(derive(seeds[0], "draws of the model", step))
            loss = learner.loss(batch)
            loss.backward()
            for value in values:
                if value.grad is None:  # not used in this step: its gradient is zero
                    value.grad = torch.zeros_like(value)
            update(training.lr * lr_factor(training.schedule, step, total))
            if watch is not None:
                with torch.no_grad():
                    watch(batch, values)
            step += 1
        if not all(bool(torch.isfinite(value).all()) for value in (loss, *values)):
            raise Diverged(
                f"Training diverged: the loss is not finite after epoch {epoch + 1}; "
                f"lower training.lr (now {training.lr:g})."
            )
        tick()


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
        gradients = [value.grad for value in values if value.grad is not None]  # all of them, by then
        torch._foreach_mul_(velocity, training.momentum)
        torch._foreach_add_(velocity, gradients)
        torch._foreach_add_(velocity, values, alpha=training.weight_decay)
        torch._foreach_add_(values, velocity, alpha=-lr)

    return sgd
