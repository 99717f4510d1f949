"""Gradient matching: inputs that, learned with their own labels, push a model where learning another example would."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting.attack import Attacker
from attacks.crafting.copies import Around
from data.bounds import at_most
from data.examples import Examples, bounds
from models.victim import Tensors, Victim, forward


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Matching:
    """How far inputs may move, `radius` in the largest norm and in units of what enters the model, and the search.

    Adam takes `steps` of `lr` radii from `restarts` random beginnings; inputs are matched in batches of `batch`, since
    a mean over many would leave single ones free. Defaults are those of the code of Di et al., arXiv 2212.10717.
    """

    radius: Annotated[float, Field(gt=0)] = 0.3
    steps: Annotated[int, Field(ge=1), at_most(100_000, "each differentiates the model twice")] = 250
    lr: Annotated[float, Field(gt=0)] = 0.1
    restarts: Annotated[int, Field(ge=1), at_most(1000, "each is a whole search")] = 8
    batch: Annotated[int, Field(ge=1)] = 20


def matched(
    model: Victim, examples: Examples, target: Tensor, label: int, attacker: Attacker, matching: Matching,
    rng: torch.Generator,
) -> tuple[Examples, float]:  # fmt: skip
    """`examples` (k) moved so that the mean over batches of 1 - cos(grad mean_b l(x, y), grad l(x_t, label)) is small.

    `target` is x_t (*shape). Returns them, labels unchanged, with that mean: 0 is a perfect match, 1 none.
    """
    around = Around(examples.x, *bounds(attacker.owned.x), norm="linf", radius=matching.radius)
    parameters = {name: value.detach().requires_grad_() for name, value in model.moving.items()}
    wanted = _slope(model, parameters, target[None], torch.tensor([label], device=target.device), graph=False)
    best, least = examples.x, float("inf")
    for _ in range(matching.restarts):
        draw = 2 * torch.rand(examples.x.shape, generator=rng, dtype=examples.x.dtype) - 1
        x = around.project(examples.x + matching.radius * draw.to(examples.x))
        x, value = _searched(model, parameters, Examples(x, examples.y), wanted, around, matching)
        if value < least:
            best, least = x, value
    return Examples(best, examples.y), least


def _searched(
    model: Victim, parameters: Tensors, examples: Examples, wanted: Tensor, around: Around, matching: Matching
) -> tuple[Tensor, float]:
    x = examples.x.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=matching.lr * matching.radius)
    best, least = examples.x, float("inf")
    for step in range(matching.steps + 1):
        optimizer.zero_grad()
        total, gradient = 0.0, torch.zeros_like(x)
        parts = [slice(i, i + matching.batch) for i in range(0, len(x), matching.batch)]
        for part in parts:
            given = _slope(model, parameters, x[part], examples.y[part], graph=True)
            loss = (1 - F.cosine_similarity(given, wanted, dim=0)) / len(parts)
            gradient += torch.autograd.grad(loss, [x])[0]
            total += float(loss.detach())
        if total < least:
            best, least = x.detach().clone(), total
        if step < matching.steps:
            x.grad = gradient
            optimizer.step()
            with torch.no_grad():
                x.copy_(around.project(x))
    return best, least


def _slope(model: Victim, parameters: Tensors, x: Tensor, y: Tensor, graph: bool) -> Tensor:
    """grad_theta of the mean loss (p,)."""
    loss = F.cross_entropy(forward(model.module, {**model.parameters, **parameters}, model.buffers, x), y)
    pieces = torch.autograd.grad(loss, list(parameters.values()), create_graph=graph, materialize_grads=True)
    return torch.cat([piece.reshape(-1) for piece in pieces])
