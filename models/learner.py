"""What a training step needs of one model, or of many side by side: leaf tensors, and the loss of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from models.behaviour import Behaviour, fresh_copy
from models.dropout import dropout_layers
from models.mask import Mask
from models.victim import ModelStack, Tensors, concatenate, forward


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs, labels, `retain_weights` (m, B) = 1 - w of m models, dropout masks by buffer name, and positions.

    x is (B, ...), y and the positions (B,), and a mask (B, width) where all models see the same; else each has a
    leading dimension m.
    """

    x: Tensor
    y: Tensor
    retain_weights: Tensor
    masks: Tensors
    positions: Tensor


Feed = TypeVar("Feed")  # what one step is given: a batch, or one for each model


@dataclass(frozen=True, eq=False)
class Learner(Generic[Feed]):
    """Models in training.

    `loss` is the sum over models of the batch mean of (1 - w_i) l_i, which divides by the batch's size, deleted ones
    included; `backward` on it fills the gradients of `parameters`. `mask` has the parameters' shapes and is what a step
    must keep at zero. `result` is the models as they are now.
    """

    parameters: Mapping[str, Tensor]
    mask: Mask
    loss: Callable[[Feed], Tensor]
    result: Callable[[], ModelStack]


def alone(begin: ModelStack, behaves: Behaviour) -> Learner[Batch]:
    """The one model of `begin` as a plain module: half the time of a functional call, and every layer works as usual.

    A module with a training mode of its own is trained in it.
    """
    first = next(iter(begin.moving.values()))
    module = fresh_copy(begin.module).to(first.device, first.dtype)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for name, value in (*begin.moving.items(), *begin.buffers.items()):
            tensors[name].copy_(value[0])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in begin.moving)
    layers = dropout_layers(module).values()
    module.train(behaves.apart)

    def loss(batch: Batch) -> Tensor:
        x, y, retained, masks = batch.x, batch.y, batch.retain_weights[0], batch.masks
        size = len(y)
        if behaves.mixes:  # the statistics of a batch must not see what is deleted
            left = retained > 0
            x, y, retained = x[left], y[left], retained[left]
            masks = {name: mask[left] for name, mask in masks.items()}
            if len(x) == 0:
                return retained.new_zeros((), requires_grad=True)
            module.train(len(x) > 1)
        for layer, mask in zip(layers, masks.values(), strict=bool(masks)):
            layer.mask = mask
        return (F.cross_entropy(module(x), y, reduction="none") * retained).sum() / size

    def result() -> ModelStack:
        now = dict(module.named_buffers())  # a layer may put a new tensor in the place of a buffer
        learned = tensors | {name: now[name] for name in behaves.keeps}
        return ModelStack(
            begin.module,
            {name: tensors[name].detach()[None] for name in begin.moving},
            {name: learned[name].detach()[None] for name in begin.buffers},
            mask=begin.mask,
        )

    mask = {name: value[0] for name, value in begin.mask.items()}
    return Learner({name: tensors[name] for name in begin.moving}, mask, loss, result)


def in_turns(learners: Sequence[Learner[Batch]]) -> Learner[tuple[Batch, ...]]:
    """Models that are each `alone`, with batches of their own: they take turns in a step, and come out bit by bit."""

    def named(part: str) -> Tensors:
        return {f"{j}: {name}": v for j, each in enumerate(learners) for name, v in getattr(each, part).items()}

    def loss(batches: tuple[Batch, ...]) -> Tensor:
        return torch.stack([each.loss(batch) for each, batch in zip(learners, batches, strict=True)]).sum()

    return Learner(named("parameters"), named("mask"), loss, lambda: concatenate([each.result() for each in learners]))


def side_by_side(begin: ModelStack, shared: bool) -> Learner[Batch]:
    """All models of `begin` in one computation; `shared` says that they see the same batches."""
    # The backward pass of a stack of matrices makes their gradients transposed in memory: parameters laid out like that
    # spare a copy of every gradient.
    parameters = {
        name: (value.mT.clone(memory_format=torch.contiguous_format).mT if value.dim() == 3 else value.clone())
        for name, value in begin.moving.items()
    }
    parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    same = None if shared else 0
    m = len(begin)

    def one(values: Tensors, buffers: Tensors, masks: Tensors, x: Tensor) -> Tensor:
        return forward(begin.module, values, {**buffers, **masks}, x)

    run = vmap(one, in_dims=(0, 0, same, same))

    def loss(batch: Batch) -> Tensor:
        logits = run(parameters, begin.buffers, batch.masks, batch.x)
        labels = batch.y.expand(m, -1)
        # classes in the middle: the softmax over the last, short dimension is several times slower
        losses = F.cross_entropy(logits.mT, labels, reduction="none")
        return (losses * batch.retain_weights).sum() / batch.retain_weights.shape[1]

    def result() -> ModelStack:
        learned = {name: value.detach().contiguous() for name, value in parameters.items()}
        return ModelStack(begin.module, learned, begin.buffers, mask=begin.mask)

    return Learner(parameters, begin.mask, loss, result)
