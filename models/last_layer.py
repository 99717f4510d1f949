"""Only the last layer moves: the same models with all other parameters as constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from data.errors import UserError
from models.committee import Committee
from models.passes import INFERENCE_ROWS, rows_at_once
from models.victim import ModelStack, Tensors, Victim, forward

Models = TypeVar("Models", Victim, ModelStack)


def last_layer(parameters: Tensors) -> list[str]:
    """Names of the parameters of the layer that was defined last: those that share its prefix, as head.weight does."""
    prefix = list(parameters)[-1].rpartition(".")[0]
    return [name for name in parameters if name.rpartition(".")[0] == prefix]


def only_last_layer(models: Models) -> Models:
    """The same models, whose parameters are those of the last layer; the others are buffers, so nothing moves them."""
    moving = last_layer(models.moving)
    parameters = {name: models.moving[name] for name in moving}
    fixed = {name: value for name, value in models.moving.items() if name not in parameters}
    mask = {name: value for name, value in models.mask.items() if name in parameters}
    return type(models)(models.module, parameters, {**models.buffers, **fixed}, models.history, models.ledger, mask)


def to_last_layer(vectors: Tensor, parameters: Tensors) -> Tensor:
    """The entries of `vectors` (m, p) that belong to the last layer; `parameters` are those of one model."""
    return torch.cat([part for name, part in _parts(vectors, parameters) if name in last_layer(parameters)], dim=1)


def from_last_layer(vectors: Tensor, parameters: Tensors) -> Tensor:
    """The inverse: `vectors` of the last layer's length in their places, zeros (m, p) elsewhere."""
    sizes = [parameters[name].numel() for name in last_layer(parameters)]
    given = iter(vectors.split(sizes, dim=1))
    full = vectors.new_zeros(len(vectors), sum(value.numel() for value in parameters.values()))
    return torch.cat(
        [next(given) if name in last_layer(parameters) else part for name, part in _parts(full, parameters)], dim=1
    )


def features(victim: Victim, x: Tensor) -> Tensor:
    """What enters the victim's last layer (n, d) for inputs `x` (n, ...); of a committee that of every constituent.

    Raises UserError where that layer is not a module that runs once on all inputs.
    """
    with torch.no_grad():
        return torch.cat([_entering(victim, part) for part in x.split(rows_at_once(victim, x, INFERENCE_ROWS))])


def _entering(victim: Victim, x: Tensor) -> Tensor:
    seen: dict[str, list[Tensor]] = {name: [] for name in _last_modules(victim)}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: seen[name].append(inputs[0])

    handles = [victim.module.get_submodule(name).register_forward_pre_hook(recorder(name)) for name in seen]
    try:
        forward(victim.module, victim.parameters, victim.buffers, x)
    finally:
        for handle in handles:
            handle.remove()
    for name, inputs in seen.items():
        if len(inputs) != 1 or len(inputs[0]) != len(x):
            raise UserError(
                f"The model's last layer {name or type(victim.module).__name__} does not run once on all inputs, so it "
                "has no features to compare; define the layer that gives the logits last."
            )
    return torch.cat([inputs.flatten(1) for [inputs] in seen.values()], dim=1)


def _last_modules(victim: Victim) -> list[str]:
    """The name of the module with the last parameters; of a committee one name for every constituent."""
    if not isinstance(victim.module, Committee):
        return [last_layer(victim.parameters)[0].rpartition(".")[0]]
    prefixes = [f"constituents.{k}." for k in range(len(victim.module.constituents))]
    own = [{name: value for name, value in victim.parameters.items() if name.startswith(each)} for each in prefixes]
    return [last_layer(parameters)[0].rpartition(".")[0] for parameters in own]


def _parts(vectors: Tensor, parameters: Tensors) -> list[tuple[str, Tensor]]:
    pieces = vectors.split([value.numel() for value in parameters.values()], dim=1)
    return list(zip(parameters, pieces, strict=True))
