"""Training over tensors in memory: one model, or many models together under `vmap`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass as plain_dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from data.bounds import at_most
from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, seeded
from models.batches import batches_of
from models.behaviour import adapt, behaviour, pair
from models.committee import Committee
from models.descent import Course, Watch, descend
from models.learner import alone, in_turns, side_by_side
from models.newton import minimise
from models.passes import models_at_once, room, rows_at_once
from models.progress import Tick, progress
from models.victim import ModelStack, Tensors, Victim, concatenate, frozen_names, stack

Build = Callable[[], nn.Module]


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


def fresh(build: Build, seeds: Sequence[int], like: Tensor, drawn: Mapping[int, Victim] | None = None) -> ModelStack:
    """Untrained models of the seeds, those that are `drawn` already among them; `like` as for `initialise`."""
    models = dict(drawn or {})
    for seed in seeds:
        if seed not in models:
            models[seed] = Victim(*initialise(build, seed, like))
    return stack([models[seed] for seed in seeds])


def train(
    build: Build,
    records: Examples,
    training: Training,
    seeds: Sequence[int],
    forget_weights: Tensor | None = None,
    start: ModelStack | None = None,
    label: str = "training",
    watch: Watch | None = None,
    as_if_alone: bool = False,
) -> ModelStack:
    """Train len(seeds) models; row j of `forget_weights` (m, n) says how far model j has each example deleted.

    Models that share a seed share initialisation, batch order and dropout masks, so that they differ by their weights
    alone (common random numbers). `start` continues from given models instead of fresh ones; what is pruned in them
    stays zero in every step. `watch` may read the parameters after every step and change them in place (as a projection
    does); their shapes have the leading dimension m where more than one model is trained together. Newton's method has
    no steps to watch.

    Together models come out as they would alone but for rounding; `as_if_alone` bit by bit, at about twice the cost for
    small networks: they take turns within every step, and share its bookkeeping only. Then nothing can be watched.

    Architectures that behave otherwise in training mode are trained in it, one by one; what they draw from global
    generators comes from the seed and the step. Where they look at a batch as a whole, as batch-norm does, fully
    deleted examples are dropped from it: its statistics would otherwise still see the deleted inputs; a batch with
    fewer than two examples left is seen in eval mode.

    Raises UserError when the loss is not finite, and where Newton's method meets a model with a training mode.
    """
    m, like = len(seeds), records.x
    retain_weights = like.new_ones(m, len(records)) if forget_weights is None else 1 - forget_weights.to(like)
    first = start[0] if start is not None else Victim(*initialise(build, seeds[0], like))
    apart = behaviour(first.module, like).apart
    if apart and training.optimizer == "newton":
        raise UserError(
            "This model behaves otherwise in training mode (batch-norm, dropout, noise), so it has no single objective "
            "for training.optimizer=newton to minimise; use training=sgd or training=adam."
        )
    alone = apart or (as_if_alone and training.optimizer == "newton")
    size = 1 if alone else _together(first, records, training)
    chunks = [slice(begin, min(begin + size, m)) for begin in range(0, m, size)]
    parts = []
    with progress(label, len(chunks) * (1 if training.optimizer == "newton" else training.epochs)) as tick:
        for rows in chunks:
            begin = fresh(build, seeds[rows], like, {seeds[0]: first}) if start is None else start.select(rows)
            stacked = _Stacked(begin, seeds[rows], retain_weights[rows], as_if_alone)
            parts.append(_train_stack(stacked, records, training, tick, watch))
    return concatenate(parts)


def _together(one: Victim, records: Examples, training: Training) -> int:
    """How many models like this one to train in one stack."""
    seen = len(records) if training.optimizer == "newton" else min(training.batch_size, len(records))
    fitting = rows_at_once(one, records.x, room(records.x.device), max(1, seen))
    return min(training.together, models_at_once(one), fitting)


@plain_dataclass(frozen=True, eq=False)
class _Stacked:
    """Models to be trained together: as they begin, their seeds, and 1 - w (m, n)."""

    begin: ModelStack
    seeds: Sequence[int]
    retain_weights: Tensor
    as_if_alone: bool


def _train_stack(
    models: _Stacked, records: Examples, training: Training, tick: Tick, watch: Watch | None
) -> ModelStack:
    begin, seeds, retain_weights = models.begin, models.seeds, models.retain_weights
    if training.optimizer == "newton":
        parameters = minimise(begin, records, retain_weights, training.weight_decay, training.tolerance)
        tick()
        return ModelStack(begin.module, parameters, begin.buffers, mask=begin.mask)
    behaves = behaviour(begin.module, records.x)
    draw = partial(batches_of, begin.module, records, epochs=training.epochs, batch_size=training.batch_size)
    if models.as_if_alone and len(seeds) > 1:
        turns = in_turns([alone(begin.select(slice(j, j + 1)), behaves) for j in range(len(seeds))])
        own = [draw(retain_weights=retain_weights[j, None], seeds=[seed]) for j, seed in enumerate(seeds)]
        descend(turns, Course(records, (zip(*epoch, strict=True) for epoch in zip(*own, strict=True)), tick), training)
        return turns.result()
    learner = alone(begin, behaves) if len(seeds) == 1 else side_by_side(begin, shared=len(set(seeds)) == 1)
    epochs = draw(retain_weights=retain_weights, seeds=seeds)
    with seeded(0) if behaves.draws else nullcontext():  # every step is seeded anew
        descend(learner, Course(records, epochs, tick, watch, seeds[0] if behaves.draws else None), training)
    return learner.result()
