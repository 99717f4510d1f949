"""Black-box attack with sequential feedback: every query is a real deletion, and nothing can be rolled back."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.attack import Crafted
from attacks.black_box import Seen
from unlearning.procedure import Request
from unlearning.service import Service


def features(seen: Seen, service: Service) -> Tensor:
    """A description (c, f) of the pool's records, from the attacker's copies and the service's predictions alone.

    For every target t: similarity of inputs (Gaussian kernel at the median distance) times the error of the prediction
    on the record in the target's label. This is the shape of a last-layer influence, whose scale is learned.
    """
    owned, aim = seen.attacker.owned, seen.aim
    flat, targets = owned.x.flatten(1), aim.x.flatten(1)
    distance = torch.cdist(flat, targets)
    kernel = torch.exp(-((distance / distance.median().clamp_min(1e-12)) ** 2))
    wrong = service.predict(owned.x)
    wrong = wrong - torch.nn.functional.one_hot(owned.y, wrong.shape[1])
    return kernel * wrong[:, aim.labels]


def closed_loop(seen: Seen, budget: int, per_query: int, ridge: float, rng: torch.Generator) -> Crafted:
    """Delete `per_query` records a query until `budget` are gone or the budget of queries is; keep what was deleted.

    The change of the objective after each query is a directional difference along the deleted records. A ridge
    regression on `features` carries it over to records not deleted yet; the prior is the sign of the features. The
    next group is the best by the model's forecast. A group whose forecast makes the objective worse is not submitted,
    so the loop stops where it would destroy what it reached (a kept label cannot be bought back).
    """
    service, size = seen.service, len(seen.attacker.pool)
    described = features(seen, service)
    width = described.shape[1]
    scale = described.abs().mean().clamp_min(1e-12)
    prior = -seen.aim.direction * torch.full((width,), 1e-3, dtype=described.dtype, device=described.device) / scale
    moments = ridge * scale**2 * torch.eye(width, dtype=described.dtype, device=described.device)
    target = moments @ prior
    gone = torch.zeros(size, dtype=torch.bool, device=described.device)
    order: list[int] = []
    noise = 1e-9 * torch.rand(size, generator=rng, dtype=torch.float64).to(described)
    last = seen.loss_now
    while len(order) < budget and service.queries_left() > 0:
        forecast = (described @ torch.linalg.solve(moments, target) + noise).masked_fill(gone, torch.inf)
        group = forecast.topk(min(per_query, budget - len(order)), largest=False).indices
        if forecast[group].sum() >= 0:
            break
        picked = seen.attacker.pool[group.to(seen.attacker.pool.device)].tolist()
        service = service.forget([Request(tuple(picked))])[0]
        order += picked
        gone[group] = True
        loss = float(seen.record([Request(tuple(order))], [service])[0])
        row = described[group].sum(0)
        moments, target = moments + torch.outer(row, row), target + (loss - last) * row
        last = loss
    outcome = seen.objective.rank(seen.outlook([service]))
    return Crafted(Request(tuple(order)), float(outcome), tuple(seen.curve))
