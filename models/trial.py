"""An architecture is tried on two examples before it is trained: what would go wrong later is one sentence now."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, global_states, reseed, seeded
from models.behaviour import Behaviour, behaviour, fresh_copy, pair, same
from models.explained import explained, first_sentence, named, watched
from models.training import Build, initialise
from models.transforms import check_transforms
from models.victim import Victim, forward

CLOSE = 1e-3  # of the largest logit: how far rounding may take the same example in another batch


def try_out(build: Build, records: Examples, classes: int, derivatives: bool = True) -> Behaviour:
    """Run the architecture on two of the records, untrained, in every way that a game will.

    It must give finite logits (n, classes) for two examples and for one, the same ones whenever and beside whatever it
    is asked; draw only from global generators, in construction and in training mode; keep what it learns in parameters
    and buffers; and be mapped over by `torch.func`. With `derivatives` it must be differentiable twice, and in forward
    mode. Returns how it behaves; raises UserError with the layer and the way out.
    """
    x, y = pair(records.x), records.y[:1].expand(2)
    _check_raw(build, x, classes)
    victim = Victim(*initialise(build, 0, x))
    _copyable(victim.module)
    _check_repetition(victim, x)
    _check_batch(victim, x)
    _check_prediction(victim, x, classes)
    _check_training(build, victim, x, classes)
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
        module = module.to(x.device)
        for training, when in ((False, ""), (True, " in training mode")):
            module.train(training)
            with explained(f"fails{when} on two examples of shape {tuple(x.shape[1:])}", module), torch.no_grad():
                out = module(x.clone())
            _check_logits(out, 2, classes, x.dtype, when)


def _copyable(module: nn.Module) -> nn.Module:
    try:
        return fresh_copy(module)
    except Exception as error:
        raise UserError(
            f"model: {type(module).__name__} cannot be copied, as training does with it ({first_sentence(error)}); "
            "keep locks, files and results of computations out of its attributes."
        ) from error


def _run(victim: Victim, x: Tensor) -> Tensor:
    with torch.no_grad():
        return forward(victim.module, victim.moving, dict(victim.buffers), x.clone())


def _check_prediction(victim: Victim, x: Tensor, classes: int) -> None:
    """Logits of one example too, of the right type, finite, its own, and nothing changed by asking."""
    before = {name: value.clone() for name, value in (victim.moving | victim.buffers).items()}
    with explained(f"fails on one example of shape {tuple(x.shape[1:])}", victim.module):
        out = _run(victim, x[:1])
    _check_logits(out, 1, classes, x.dtype, "")
    if not bool(out.isfinite().all()):
        raise UserError("model: it gives logits that are not finite before any training; check how it is initialised.")
    _check_own(victim, x, out)
    for name, value in (victim.moving | victim.buffers).items():
        if not same(value, before[name]):
            raise UserError(
                f"model: its forward pass changes {name} in evaluation mode too, so that a prediction depends on what "
                "was asked before; change it `if self.training` only."
            )


def _check_logits(out: object, n: int, classes: int, dtype: torch.dtype, when: str) -> None:
    wanted = f"model: its forward pass must return one tensor of logits ({n}, {classes}) for {n} example{'s' * (n > 1)}"
    if not isinstance(out, Tensor):
        raise UserError(f"{wanted}, and returns a {type(out).__name__}{when}; return the logits alone.")
    if tuple(out.shape) != (n, classes):
        raise UserError(
            f"{wanted}, and returns {tuple(out.shape)}{when}; its last layer needs as many units as there are classes, "
            "and no dimension may be dropped or added (squeeze, reshape)."
        )
    if out.dtype != dtype:
        raise UserError(f"{wanted} of type {dtype}, and returns {out.dtype}{when}; do without the conversion.")


def _check_repetition(victim: Victim, x: Tensor) -> None:
    """The same logits twice, with another question in between, and without a draw."""
    with seeded(1):
        before = global_states(x.device)
        first = _run(victim, x)
        if global_states(x.device) != before:
            raise UserError(
                f"model: it draws at random in evaluation mode, in {_drawing(victim, x)}; draw in training mode only, "
                "`if self.training`, so that a prediction can be repeated."
            )
        _run(victim, x.flip(0))
        if not same(_run(victim, x), first):
            raise UserError(
                "model: it gives other logits for the same examples when it is asked twice, in evaluation mode; it may "
                "neither draw at random nor remember what it was asked."
            )


def _drawing(victim: Victim, x: Tensor) -> str:
    """The innermost layer that moves a global generator."""
    stands: list[object] = []
    found: list[str] = []

    def end(name: str, out: object) -> None:
        if stands.pop() != global_states(x.device):
            found.append(name)

    with watched(victim.module, lambda name: stands.append(global_states(x.device)), end):
        _run(victim, x)
    return named(victim.module, found[0] if found else "")


def _check_batch(victim: Victim, x: Tensor) -> None:
    """An example's logits are its own, whatever else is in its batch."""
    _check_own(victim, x, _run(victim, torch.cat([x[:1], x[:1]]))[:1])


def _check_own(victim: Victim, x: Tensor, otherwise: Tensor) -> None:
    beside = _run(victim, x)[:1]
    far = float(beside.abs().max()) * CLOSE + torch.finfo(x.dtype).tiny
    if float((beside - otherwise).abs().max()) > far:
        raise UserError(
            f"model: what it predicts for an example depends on the others in its batch, in evaluation mode, in "
            f"{_mixing(victim, x)}; use running statistics (track_running_stats=True), group-norm or layer-norm."
        )


def _mixing(victim: Victim, x: Tensor) -> str:
    """The first layer to finish whose output for the first of two examples changes with the second."""
    runs: list[list[tuple[str, Tensor]]] = [[], []]

    for inputs, seen in zip((x, torch.cat([x[:1], x[:1]])), runs, strict=True):

        def end(name: str, out: object, seen: list[tuple[str, Tensor]] = seen) -> None:
            if isinstance(out, Tensor):
                seen.append((name, out[:1].clone()))

        with watched(victim.module, lambda name: None, end):
            _run(victim, inputs)
    differing = (one[0] for one, other in zip(*runs, strict=False) if not torch.allclose(one[1], other[1]))
    return named(victim.module, next(differing, ""))


def _check_training(build: Build, victim: Victim, x: Tensor, classes: int) -> None:
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
    for each in (victim, second):
        module = fresh_copy(each.module).to(x.device, x.dtype).train()
        with explained(f"fails in training mode on examples of shape {tuple(x.shape[1:])}", module), seeded(2):
            reseed(2)
            with torch.no_grad():
                outputs.append(module(x.clone()))
        _check_logits(outputs[-1], 2, classes, x.dtype, " in training mode")
        _check_kept(each, module, x)
    if not same(*outputs):
        raise UserError(
            "model: in training mode it draws from a generator that no seed reaches; draw from the global generators "
            "of torch, numpy or Python, which are seeded."
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
    if not torch.allclose(after, _run(victim, x), rtol=CLOSE, equal_nan=True):
        raise UserError(
            "model: what it keeps from training mode is neither a parameter nor a buffer, and would be lost; use "
            "self.register_buffer."
        )
