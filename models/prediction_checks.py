"""What a model must hold to when it predicts, in evaluation mode; each check raises UserError with the way out."""

from __future__ import annotations

import torch
from torch import Tensor

from data.errors import UserError
from data.randomness import generator, global_states, seeded
from models.behaviour import fresh_copy, same
from models.explained import explained, named, watched
from models.victim import Tensors, Victim, forward

CLOSE = 1e-3  # of the largest logit: how far rounding may take the same example in another batch


def ask(victim: Victim, x: Tensor) -> Tensor:
    """Its logits for a copy of `x`, in evaluation mode."""
    with torch.no_grad():
        return forward(victim.module, victim.moving, victim.buffers, x.clone())


def cloned(tensors: Tensors) -> Tensors:
    """Copies of the tensors."""
    return {name: value.clone() for name, value in tensors.items()}


def check_logits(out: object, n: int, classes: int, dtype: torch.dtype, when: str) -> None:
    """Raise UserError unless `out` is logits (n, classes) of type `dtype`."""
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


def check_unchanged(victim: Victim, x: Tensor) -> None:
    """Nothing in the model is changed by asking."""
    before = cloned(victim.moving | victim.buffers)
    ask(victim, x)
    for name, value in (victim.moving | victim.buffers).items():
        if not same(value, before[name]):
            raise UserError(
                f"model: its forward pass changes {name} in evaluation mode too, so that a prediction depends on what "
                "was asked before; change it `if self.training` only."
            )


def check_repetition(victim: Victim, asked_before: Victim, x: Tensor) -> None:
    """The same logits twice, and without a draw; `asked_before` is the same model, which was asked nothing so far."""
    with seeded(1):
        before = global_states(x.device)
        first = ask(victim, x)
        if global_states(x.device) != before:
            raise UserError(
                f"model: it draws at random in evaluation mode, in {_drawing(victim, x)}; draw in training mode only, "
                "`if self.training`, so that a prediction can be repeated."
            )
        ask(victim, x.flip(0))
        ask(asked_before, torch.cat([x[1:], x[1:]]))
        if not same(ask(victim, x), first) or not same(ask(asked_before, x), first):
            raise UserError(
                "model: it gives other logits for the same examples when it is asked twice, in evaluation mode; it may "
                "neither draw at random nor remember what it was asked."
            )


def _drawing(victim: Victim, x: Tensor) -> str:
    """The innermost layer that moves a global generator."""
    stands: list[object] = []
    found: list[str] = []

    def end(name: str, given: object, out: object) -> None:
        if stands.pop() != global_states(x.device):
            found.append(name)

    with watched(victim.module, lambda name: stands.append(global_states(x.device)), end):
        ask(victim, x)
    return named(victim.module, found[0] if found else "")


def check_batch(victim: Victim, x: Tensor) -> None:
    """An example's logits are its own, whatever else is in its batch."""
    _check_own(victim, x, ask(victim, torch.cat([x[:1], x[:1]]))[:1])


def _check_own(victim: Victim, x: Tensor, otherwise: Tensor) -> None:
    beside = ask(victim, x)[:1]
    far = float(beside.abs().max()) * CLOSE + torch.finfo(x.dtype).tiny
    if float((beside - otherwise).abs().max()) > far:
        raise UserError(
            f"model: what it predicts for an example depends on the others in its batch, in evaluation mode, in "
            f"{_mixing(victim, x)}; use running statistics (track_running_stats=True), group-norm or layer-norm."
        )


def _mixing(victim: Victim, x: Tensor) -> str:
    """The innermost layer that, for the first of two examples, takes the same and gives something else."""
    runs: list[list[tuple[str, object, object]]] = [[], []]
    for inputs, seen in zip((x, torch.cat([x[:1], x[:1]])), runs, strict=True):

        def end(name: str, given: object, out: object, seen: list[tuple[str, object, object]] = seen) -> None:
            given = given[0] if isinstance(given, tuple) and given else given
            seen.append((name, _first_row(given), _first_row(out)))

        with watched(victim.module, lambda name: None, end):
            ask(victim, inputs)
    mixing = (
        one[0] for one, other in zip(*runs, strict=False) if _near(one[1], other[1]) and not _near(one[2], other[2])
    )
    return named(victim.module, next(mixing, ""))


def _first_row(value: object) -> object:
    return value[:1].clone() if isinstance(value, Tensor) and value.dim() > 0 else None


def _near(left: object, right: object) -> bool:
    both = isinstance(left, Tensor) and isinstance(right, Tensor)
    return not both or bool(torch.allclose(left, right, rtol=CLOSE, atol=1e-6, equal_nan=True))  # type: ignore[arg-type]


def check_prediction(victim: Victim, x: Tensor, classes: int) -> None:
    """Logits of one example too, of the right type, finite, and its own."""
    with explained(f"fails on one example of shape {tuple(x.shape[1:])}", victim.module):
        out = ask(victim, x[:1])
    check_logits(out, 1, classes, x.dtype, "")
    if not bool(out.isfinite().all()):
        raise UserError("model: it gives logits that are not finite before any training; check how it is initialised.")
    _check_own(victim, x, out)


def check_swapped(victim: Victim, x: Tensor) -> None:
    """Given other tensors, the module computes with them, and not with tensors that it found elsewhere."""
    rng = generator(0, "other tensors")

    def other(value: Tensor) -> Tensor:
        part = torch.rand(value.shape, generator=rng).to(value) if value.is_floating_point() else value.new_zeros(())
        return value + part * (value / 10 + 0.01) if value.is_floating_point() else value.clone()

    own = victim.moving | victim.buffers
    given = {name: other(value) for name, value in own.items()}
    if _agree(victim, own | given, x):
        return
    wrong = [name for name in own if not _agree(victim, own | {name: given[name]}, x)]
    raise UserError(
        f"model: torch.func cannot put other tensors in the place of {', '.join(wrong) or 'its own'}: the forward pass "
        "must take them from the attributes of its modules, not from a list, a copy or a compiled module."
    )


def _agree(victim: Victim, tensors: Tensors, x: Tensor) -> bool:
    """Whether a functional call with the tensors gives what a module gives whose own tensors they are."""
    module = fresh_copy(victim.module).to(x.device, x.dtype)
    with torch.no_grad():
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            value.copy_(tensors[name])
        plain: Tensor = module(x.clone())
        called = forward(victim.module, tensors, {}, x.clone())
    return float((plain - called).abs().max()) <= CLOSE * float(plain.abs().max()) + torch.finfo(x.dtype).tiny
