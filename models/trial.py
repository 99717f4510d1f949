"""An architecture is tried on two examples before it is trained: what would go wrong later is one sentence now."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, seeded
from models.behaviour import Behaviour, behaviour, fresh_copy, pair
from models.explained import explained, first_sentence
from models.prediction_checks import (
    check_batch,
    check_logits,
    check_prediction,
    check_repetition,
    check_swapped,
    check_unchanged,
)
from models.training import Build, initialise
from models.training_checks import check_training
from models.transforms import check_transforms
from models.victim import Victim


def try_out(build: Build, records: Examples, classes: int, derivatives: bool = True) -> Behaviour:
    """Run the architecture on two of the records, untrained, in every way that a game will.

    It must give finite logits (n, classes) for two examples and for one, the same ones whenever and beside whatever it
    is asked; draw only from global generators, in construction and in training mode; keep what it learns in parameters
    and buffers; and be mapped over by `torch.func`. With `derivatives` it must be differentiable twice, and in forward
    mode. Returns how it behaves; raises UserError with the layer and the way out.
    """
    with seeded(0):
        return _tried(build, records, classes, derivatives)


def _tried(build: Build, records: Examples, classes: int, derivatives: bool) -> Behaviour:
    x, y = pair(records.x), records.y[:1].expand(2)
    _check_raw(build, x, classes)
    victim = Victim(*initialise(build, 0, x))
    asked_before = replace(victim, module=_copyable(victim.module))
    check_unchanged(victim, x)
    check_repetition(victim, asked_before, x)
    check_batch(victim, x)
    check_prediction(victim, x, classes)
    check_swapped(victim, x)
    check_training(build, victim, x, classes)
    check_transforms(victim, Examples(x, y), derivatives)
    _copyable(victim.module)
    return behaviour(victim.module, x)


def _check_raw(build: Build, x: Tensor, classes: int) -> None:
    """What it builds is a module that gives logits, in both modes; nothing is asked of it that plain torch does not."""
    x = x.to(torch.get_default_dtype())
    with seeded(derive(0, "initialisation")):
        module = build()
        if not isinstance(module, nn.Module):
            raise UserError(f"model: its _target_ gives a {type(module).__name__}, and must give a torch.nn.Module.")
        if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
            raise UserError(
                "model: it has parts compiled by torch.jit, which torch.func cannot look into; use them uncompiled."
            )
        _check_parameters(module)
        module = module.to(x.device)
        for training, when in ((False, ""), (True, " in training mode")):
            module.train(training)
            with explained(f"fails{when} on two examples of shape {tuple(x.shape[1:])}", module), torch.no_grad():
                out = module(x.clone())
            check_logits(out, 2, classes, x.dtype, when)
        _copyable(module)


def _check_parameters(module: nn.Module) -> None:
    """Parameters are of the type that is trained, each has memory of its own, and nothing changes their gradients."""
    owners: dict[int, str] = {}
    for name, value in module.named_parameters():  # a parameter that two layers share is listed once
        if is_lazy(value):
            continue
        if value.dtype != torch.get_default_dtype():
            raise UserError(
                f"model: its parameter {name} is {value.dtype}, and models are trained in {torch.get_default_dtype()}; "
                "leave out double(), half() and dtype=."
            )
        if value._backward_hooks:
            raise UserError(
                f"model: its parameter {name} has a hook, which functional calls of the model never see; mask the "
                "parameter in forward instead."
            )
        place = value.untyped_storage().data_ptr()
        if value.numel() and place in owners:
            raise UserError(
                f"model: its parameters {owners[place]} and {name} share memory without being one parameter; assign "
                "the Parameter itself to both layers, as in b.weight = a.weight."
            )
        owners[place] = name


def _copyable(module: nn.Module) -> nn.Module:
    try:
        return fresh_copy(module)
    except Exception as error:
        raise UserError(
            f"model: {type(module).__name__} cannot be copied, as training does with it ({first_sentence(error)}); "
            "keep locks, files and results of computations out of its attributes."
        ) from error
