"""What games ask of a model beside its logits: to be mapped over by torch.func, and to be differentiated."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vmap

from data.errors import UserError
from data.examples import Examples
from models.behaviour import fresh_copy
from models.explained import explained
from models.gradients import losses
from models.victim import ModelStack, Tensors, Victim, forward, stack


def check_transforms(victim: Victim, two: Examples, derivatives: bool) -> None:
    """Raise UserError where the model cannot be mapped over or differentiated at the examples `two`.

    With `derivatives` in forward mode and twice too, as attacks, filters and Newton steps do.
    """
    module, pairs = victim.module, stack([victim, victim])
    x, y = two.x, two.y

    def loss(parameters: Tensors, buffers: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return losses(module, parameters, buffers, x, y)

    def along(parameters: Tensors, buffers: Tensors, x: Tensor) -> Tensor:
        return jvp(lambda p: loss(p, buffers, x, y), (parameters,), (parameters,))[1]

    def single(x: Tensor, y: Tensor) -> Tensors:
        return grad(lambda p: loss(p, victim.buffers, x[None], y[None])[0])(victim.moving)  # type: ignore[no-any-return]

    ways: dict[str, Callable[[], object]] = {
        "cannot be mapped over several models (torch.func.vmap)": lambda: vmap(
            lambda p, b, x: forward(module, p, b, x), in_dims=(0, 0, None)
        )(pairs.moving, pairs.buffers, x.clone()),
        "cannot be mapped over models and inputs (torch.func.vmap)": lambda: vmap(
            lambda p, b, x: forward(module, p, b, x)
        )(pairs.moving, pairs.buffers, torch.stack([x, x])),
        "cannot be differentiated": lambda: _used(victim, two),
        "cannot be differentiated example by example (torch.func.grad)": lambda: vmap(single)(x, y),
    }
    if derivatives:
        ways |= {
            "cannot be differentiated in forward mode (torch.func.jvp)": lambda: vmap(along, in_dims=(0, 0, None))(
                pairs.moving, pairs.buffers, x.clone()
            ),
            "cannot be differentiated in its parameters and its input": lambda: grad(
                lambda x: along(victim.moving, victim.buffers, x).sum()
            )(x.clone()),
            "cannot be differentiated twice": lambda: _twice(pairs, x),
        }
    for what, way in ways.items():
        with explained(what, module, way):
            way()


def _used(victim: Victim, two: Examples) -> None:
    leaves = {name: value.detach().requires_grad_() for name, value in victim.moving.items()}
    total = losses(victim.module, leaves, victim.buffers, two.x.clone(), two.y).sum()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True) if total.requires_grad else ()
    if all(each is None for each in found):
        raise UserError("model: its logits depend on none of its parameters; is there a .detach() or torch.no_grad()?")
    module = fresh_copy(victim.module).to(two.x.device, two.x.dtype)
    plain = dict(module.named_parameters())
    loss = F.cross_entropy(module(two.x.clone()), two.y, reduction="sum")
    alone = torch.autograd.grad(loss, [plain[name] for name in leaves], allow_unused=True)
    for name, one, other in zip(leaves, found, alone, strict=True):
        zero = torch.zeros_like(leaves[name])
        one, other = (zero if each is None else each for each in (one, other))
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-5):
            raise UserError(
                f"model: as a function of its parameters it has another gradient in {name} than as a module; compute "
                "with the parameters of torch.nn modules and not with copies of them."
            )


def _twice(models: ModelStack, x: Tensor) -> None:
    """Backwards through the slopes, as products with the curvature do."""
    leaves = {name: value.detach().requires_grad_() for name, value in models.moving.items()}
    run = vmap(lambda p, b, x: forward(models.module, p, b, x), in_dims=(0, 0, None))
    values = run(leaves, models.buffers, x.clone())
    u = torch.ones_like(values, requires_grad=True)
    total, wrt = (u * values.log_softmax(-1)).sum(), list(leaves.values())
    found = torch.autograd.grad(total, wrt, create_graph=True, allow_unused=True)
    slopes = [each for each in found if each is not None and each.requires_grad]
    torch.autograd.grad(slopes, [u, *wrt], [torch.ones_like(each) for each in slopes], allow_unused=True)
