"""Plans over a fixed horizon of stages: the gradient in all relaxed controls by the adjoint recursion, and MPC.

A control w_{t,i} in [0, 1] is how much of record i is asked for at stage t. With u_t what is deleted at stage t in all,

    J = L(theta_T) + sum_{0 < t < T} c(theta_t),   theta_{t+1} = U(theta_t; u_t),
    p_T = grad L,   p_t = (dU/dtheta)' p_{t+1} + grad c(theta_t),   dJ/du_t = (dU/du_t)' p_{t+1},

averaged over scenarios of what others ask for. With an exact procedure theta_t depends on u_0 + ... + u_{t-1} alone,
and the recursion collapses: dJ/du_t is the sum of the slopes of what comes after stage t, each taken in that total.
Source: Zhao et al., NeurIPS 2023 (sequential attacks as stochastic optimal control, from the abstract); the formulation
is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.crafting.objective import Objective
from attacks.crafting.selection import project
from attacks.crafting.white_box import WhiteBoxObjective
from data.errors import UserError
from unlearning.procedure import Procedure, StateDifferentiable
from unlearning.service import OpenService

ROUNDS, CLOSE = 100, 1e-3  # of alternating projections, which end where two are that close: steps are no finer


@dataclass(frozen=True, eq=False)
class Horizon:
    """The stages that are left for one goal: `sizes` (T,) bound them, `scenarios` (M, T, benign) are of others.

    `provider` is the one at the first of these stages. `before_last` is c; None is nothing.
    """

    white_box: WhiteBoxObjective
    provider: OpenService
    goal: int
    objective: Objective
    before_last: Objective | None
    sizes: Sequence[int]
    scenarios: Tensor

    def gone(self) -> Tensor:
        """What is deleted before the horizon, (n,)."""
        records, earlier = self.provider.task.records, self.provider.task.forgotten
        return records.x.new_zeros(len(records)) if earlier is None else earlier.to(records.x)


def require_plannable(procedure: Procedure, solver: str) -> None:
    """Raise UserError where a chain of stages of this procedure has no gradient."""
    if not (procedure.exact or isinstance(procedure, StateDifferentiable)):
        raise UserError(
            f"attack.solver={solver} needs the gradient of a chain of stages, which exact procedures (retrain) and "
            f"first_order have, and {type(procedure).__name__} does not; use attack.solver=closed_loop or open_loop."
        )


def deletions(controls: Tensor, others: Tensor, gone: Tensor) -> Tensor:
    """u (T, n): what is deleted at each stage of controls (T, n) where others ask for positions (T, benign).

    Others' requests delete what is left of a record at that stage; what the attacker asks for at that stage or later
    finds nothing. `gone` (n,) was deleted before. Differentiable in the controls.
    """
    left, free, rows = 1 - gone, 1 - gone, []
    for control, positions in zip(controls, others, strict=True):
        theirs = torch.zeros_like(gone)
        theirs[positions] = 1
        free = free * (1 - theirs)
        rows.append(control * free + theirs * left)
        left = left - rows[-1]
    return torch.stack(rows)


def cost(horizon: Horizon, controls: Tensor) -> float:
    """J at the controls (T, n)."""
    rows = torch.stack([deletions(controls, others, horizon.gone()) for others in horizon.scenarios])
    return float(_simulated(horizon, rows, with_slopes=False)[0].mean())


def cost_and_slopes(horizon: Horizon, controls: Tensor) -> tuple[float, Tensor]:
    """J and dJ/dw (T, n) at the controls (T, n)."""
    leaf = controls.detach().requires_grad_()
    rows = torch.stack([deletions(leaf, others, horizon.gone()) for others in horizon.scenarios])
    values, slopes = _simulated(horizon, rows.detach(), with_slopes=True)
    [found] = torch.autograd.grad(rows, leaf, slopes / len(slopes))
    return float(values.mean()), found


def _simulated(horizon: Horizon, rows: Tensor, with_slopes: bool) -> tuple[Tensor, Tensor]:
    """J (M,) of every scenario's deletions (M, T, n), and dJ/du (M, T, n), which is zero where it is not asked for."""
    if horizon.provider.procedure.exact:
        return _collapsed(horizon, rows, with_slopes)
    found = [_chained(horizon, each, with_slopes) for each in rows]
    values, slopes = zip(*found, strict=True)
    return torch.stack(values), torch.stack(slopes)


def _collapsed(horizon: Horizon, rows: Tensor, with_slopes: bool) -> tuple[Tensor, Tensor]:
    totals, slopes, stages = rows.cumsum(1).clamp(max=1), torch.zeros_like(rows), rows.shape[1]
    white_box, provider = horizon.white_box, horizon.provider
    values = rows.new_zeros(len(rows))
    for t in range(stages):
        objective = horizon.objective if t == stages - 1 else horizon.before_last
        if objective is None:
            continue
        for mine in torch.arange(len(rows), device=rows.device).split(white_box.pulled_at_once()):
            part, owner = totals[mine, t], torch.full_like(mine, horizon.goal)
            models = provider.unlearn(part)
            if with_slopes:
                predictions, cotangents = white_box.pulled(models, owner, objective)
                slopes[mine, : t + 1] += white_box.request_slopes(models, part, cotangents, service=provider)[:, None]
            else:
                predictions = white_box.predicted(models, owner)
            values[mine] += objective.loss(predictions)
    return values, slopes


def _chained(horizon: Horizon, rows: Tensor, with_slopes: bool) -> tuple[Tensor, Tensor]:
    """One scenario (T, n): forward through all stages, and back."""
    white_box, services, made = horizon.white_box, [horizon.provider], []
    procedure: StateDifferentiable = horizon.provider.procedure  # type: ignore[assignment]
    owner = torch.tensor([horizon.goal], device=rows.device)
    for row in rows:
        made.append(services[-1].unlearn(row[None]))
        services.append(replace(services[-1], victims=tuple(each[0] for each in made[-1])))
    costs = [*[horizon.before_last] * (len(rows) - 1), horizon.objective]
    value, slopes, pulled = rows.new_zeros(()), torch.zeros_like(rows), None
    for t in reversed(range(len(rows))):
        objective, at = costs[t], services[t]
        if objective is not None and not with_slopes:
            value = value + objective.loss(white_box.predicted(made[t], owner))[0]
        elif objective is not None:
            predictions, cotangents = white_box.pulled(made[t], owner, objective)
            value = value + objective.loss(predictions)[0]
            pulled = cotangents if pulled is None else [p + c for p, c in zip(pulled, cotangents, strict=True)]
        if pulled is not None:
            slopes[t] = white_box.request_slopes(made[t], rows[t][None], pulled, service=at)[0]
            pairs = zip(at.victims, pulled, strict=True)
            pulled = (
                [procedure.victim_vjp(at.task, victim, rows[t][None], each) for victim, each in pairs] if t else None
            )
    return value, slopes


def project_controls(controls: Tensor, sizes: Sequence[int]) -> Tensor:
    """The nearest controls (T, n) with 0 <= w <= 1, sum_i w_{t,i} <= sizes[t] and sum_t w_{t,i} <= 1, by Dykstra.

    Source: Boyle and Dykstra, 1986. It is the nearest one up to CLOSE, and keeps the bounds to rounding.
    """
    used, found = (controls > 0).any(0), torch.zeros_like(controls)
    if not bool(used.any()):  # no record is worth asking for: where every target is won already there is no slope
        return found
    x = controls[:, used]
    bounds = torch.tensor(sizes, dtype=x.dtype, device=x.device)[:, None]
    first = project(x, bounds)
    if bool((first.sum(0) > 1).any()):
        rest, other = x - first, torch.zeros_like(x)
        for _ in range(ROUNDS):
            x = project((first + other).T, 1.0).T
            other = first + other - x
            if bool((x - first).abs().amax() < CLOSE):
                break
            first = project(x + rest, bounds)
            rest = x + rest - first
        first = x * (bounds / x.sum(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)).clamp(max=1)
    found[:, used] = first
    return found


def rounded(controls: Tensor, slopes: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Whole records by stage, at most `sizes`: pairs (t, i) by falling control, ties by slope, then the earlier stage.

    A record is taken once. Controls of zero are not taken.
    """
    by_slope = slopes.flatten().argsort(stable=True)
    order = by_slope[controls.flatten()[by_slope].argsort(descending=True, stable=True)]
    order = order[controls.flatten()[order] > 0]
    taken: set[int] = set()
    chosen: list[list[int]] = [[] for _ in sizes]
    for pair in order.tolist():
        stage, record = divmod(pair, controls.shape[1])
        if record not in taken and len(chosen[stage]) < sizes[stage]:
            taken.add(record)
            chosen[stage].append(record)
    return [torch.tensor(each, dtype=torch.long, device=controls.device) for each in chosen]


def planned(
    horizon: Horizon, allowed: Tensor, starts: Sequence[Sequence[Tensor]], steps: int, lr: float
) -> list[Tensor]:
    """The best schedule found, positions by stage: projected gradient steps from the best of `starts`.

    Step k is lr / sqrt(k) long in each stage's largest slope. The controls are rounded after it, and schedules of whole
    records are compared by J over the scenarios, so that no result is worse there than a start. Only `allowed` records
    (n,) are named.
    """
    gone = horizon.gone()
    free, nothing = allowed & (gone == 0), gone.new_zeros(len(horizon.sizes), len(gone))
    least, best = min(
        ((cost(horizon, _as_controls(each, nothing)), list(each)) for each in starts), key=lambda pair: pair[0]
    )
    controls = _as_controls(best, nothing)
    for k in range(1, steps + 1):
        slopes = cost_and_slopes(horizon, controls)[1].masked_fill(~free, 0.0)
        largest = slopes.abs().amax(1, keepdim=True).clamp_min(torch.finfo(slopes.dtype).tiny)
        controls = project_controls(controls - lr * k**-0.5 * slopes / largest, horizon.sizes)
        found = rounded(controls, slopes, horizon.sizes)
        value = cost(horizon, _as_controls(found, nothing))
        if value < least:
            best, least = found, value
    return best


def _as_controls(schedule: Sequence[Tensor], like: Tensor) -> Tensor:
    rows = torch.zeros_like(like)
    for row, positions in zip(rows, schedule, strict=True):
        row[positions] = 1
    return rows
