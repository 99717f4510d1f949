"""What a model must hold to in training mode, and when it is built; each check raises UserError with the way out."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from data.randomness import reseed, seeded
from models.behaviour import fresh_copy, same
from models.explained import explained, named
from models.prediction_checks import CLOSE, ask, check_logits, cloned
from models.training import Build, initialise
from models.victim import Victim, forward


def check_training(build: Build, victim: Victim, x: Tensor, classes: int) -> None:
    """In training mode: logits too, what is drawn comes from global generators, what is learned is in the tensors."""
    second = Victim(*initialise(build, 0, x))
    own, other = (each.moving | each.buffers for each in (victim, second))
    if own.keys() != other.keys() or any(own[name].shape != other[name].shape for name in own):
        raise UserError(
            "model: building it twice gives two architectures; its constructor must not change its options."
        )
    for name in own:
        if not same(own[name], other[name]):
            raise UserError(
                f"model: building it twice with one seed gives two values of {name}; draw from the global generators "
                "of torch, numpy or Python, which are seeded, and leave nothing uninitialised (torch.empty)."
            )
    outputs = []
    _check_generators(victim, x)
    for each in (victim, second):
        module = fresh_copy(each.module).to(x.device, x.dtype).train()
        with explained(f"fails in training mode on examples of shape {tuple(x.shape[1:])}", module), seeded(2):
            reseed(2)
            with torch.no_grad():
                outputs.append(module(x.clone()))
        check_logits(outputs[-1], 2, classes, x.dtype, " in training mode")
        _check_kept(each, module, x)
    if not same(*outputs):
        raise UserError(
            "model: in training mode it draws from a generator that no seed reaches; draw from the global generators "
            "of torch, numpy or Python, which are seeded."
        )


def _check_generators(victim: Victim, x: Tensor) -> None:
    """A generator among the attributes of a layer would give every seed the same draws."""
    module = fresh_copy(victim.module).to(x.device, x.dtype).train()
    owners = {
        name: key
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, torch.Generator | np.random.Generator | np.random.RandomState | random.Random)
    }
    if not owners:
        return
    with torch.no_grad(), seeded(2):
        outputs = []
        for _ in range(2):
            reseed(2)
            outputs.append(forward(module, victim.moving, cloned(victim.buffers), x.clone()))
    if not same(*outputs):
        name, key = next(iter(owners.items()))
        raise UserError(
            f"model: in training mode it draws from a generator of its own, {key!r} in {named(module, name)}, which "
            "the seed of a game does not reach; draw from the global generators of torch, numpy or Python."
        )


def _check_kept(victim: Victim, trained: nn.Module, x: Tensor) -> None:
    """What a pass in training mode left behind is in buffers, and no parameter was changed by it."""
    tensors = dict(trained.named_parameters()) | dict(trained.named_buffers())
    own = victim.moving | victim.buffers
    moving = {name for name, _ in trained.named_parameters()}
    if tensors.keys() != own.keys():
        names = ", ".join(sorted(tensors.keys() ^ own.keys()))
        raise UserError(f"model: its forward pass adds or removes {names}; register all tensors in the constructor.")
    for name in moving:
        if not same(tensors[name], own[name].to(tensors[name])):
            raise UserError(f"model: its forward pass changes the parameter {name}; leave that to training.")
    with torch.no_grad():
        after = forward(trained.eval(), victim.moving, victim.buffers, x.clone())
    if not torch.allclose(after, ask(victim, x), rtol=CLOSE, equal_nan=True):
        raise UserError(
            "model: what it keeps from training mode is neither a parameter nor a buffer, and would be lost; use "
            "self.register_buffer."
        )
