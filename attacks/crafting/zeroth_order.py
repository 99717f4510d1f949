"""Gradients from values alone, the updates that use them, and the decoding of scores into requests.

A requester who sees only the outcome of an unlearning run estimates the gradient of its objective F from values of F.
The objective takes a whole batch of points (m, d) and returns (m,) values, so that the runs of one estimate are made
together. Every row is a query.
"""

from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most
from data.errors import UserError

Kind = Literal["gaussian_forward", "gaussian", "sphere", "orthonormal", "coordinate"]
Objective = Callable[[Tensor], Tensor]
Projection = Callable[[Tensor], Tensor]


@dataclass(
    frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
)
class Estimator:
    """How grad F is estimated. Relative mean squared error for smooth F without noise, x in R^d, q directions:

    "gaussian_forward" (d+1)/q with q+1 queries; "gaussian", antithetic pairs, (d+1)/q with 2q; "sphere" (d-1)/q with
    2q; "orthonormal" d/q - 1 (squared cosine q/d) with 2q, q <= d; "coordinate", all axes, O(smoothing^2) with 2d.

    `directions`: q (not used by "coordinate", which takes all d axes). `smoothing`: mu, the step in units of x that
    multiplies a direction (a gaussian one has length about sqrt(d)); 0.05-0.1 of the bound on x is a start. `ranked`:
    values become centred ranks before the differences are taken (robust to outliers; the gradient then has no scale,
    so use it with a sign or adaptive update).
    """

    kind: Kind = "gaussian"
    directions: Annotated[int, Field(ge=1), at_most(100_000, "all are tried at once")] = 20
    smoothing: Annotated[float, Field(gt=0)] = 0.01
    ranked: bool = False


def evaluations(estimator: Estimator, d: int) -> int:
    """Rows of the objective that one `estimate` in d dimensions evaluates."""
    if estimator.kind == "gaussian_forward":
        return estimator.directions + 1
    return 2 * (d if estimator.kind == "coordinate" else estimator.directions)


def directions(kind: Kind, q: int, d: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Directions as rows, on the CPU: (q, d), or (d, d) for "coordinate", which draws nothing.

    Gaussian rows are N(0, I); sphere rows have unit length; orthonormal rows span a uniformly random subspace. Raises
    UserError if more than d orthonormal directions are asked for.
    """
    if kind == "coordinate":
        return torch.eye(d, dtype=dtype)
    if kind == "orthonormal":
        if q > d:
            raise UserError(f"Set directions to at most {d}: {q} orthonormal directions do not fit in {d} dimensions.")
        basis: Tensor = torch.linalg.qr(torch.randn(d, q, generator=generator, dtype=torch.float64))[0]
        return basis.T.to(dtype)
    normal = torch.randn(q, d, generator=generator, dtype=dtype)
    return torch.nn.functional.normalize(normal, dim=1) if kind == "sphere" else normal


def evaluate(objective: Objective, points: Tensor) -> Tensor:
    """Values (m,) of the objective at `points` (m, d), detached.

    Raises UserError for another shape or a value that is not finite, which would spoil every later step in silence.
    """
    values = objective(points).detach()
    if values.shape != (len(points),):
        raise UserError(
            f"Return one value per point from the objective: {len(points)} points gave {tuple(values.shape)}."
        )
    if not torch.isfinite(values).all():
        raise UserError("Make the objective finite (a large penalty in place of inf): it returned NaN or inf.")
    return values


def centred_ranks(values: Tensor) -> Tensor:
    """Values (m,) replaced by their ranks scaled to [-1/2, 1/2], with mean 0; ties share the mean rank; 0 if m = 1."""
    if len(values) == 1:
        return torch.zeros_like(values)
    ordered = values.sort().values
    below = torch.searchsorted(ordered, values.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, values.contiguous(), right=True)
    return ((below + up_to - 1).to(values.dtype) / 2) / (len(values) - 1) - 0.5


def estimate(
    estimator: Estimator, objective: Objective, x: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The estimated gradient (d,) at `x` (d,), the values seen (m,) and the points where they were seen (m, d).

    The objective is called once with all m = `evaluations(estimator, d)` points: [x, x + mu u_j] for the forward
    estimator, [x + mu u_j, x - mu u_j] for the others. With slopes s_j the gradient is `c sum_j s_j u_j`, where c is
    1/q (gaussian), d/q (sphere, orthonormal) or 1 (coordinate), so that for linear F its mean is grad F. To pair noise
    as well, let the objective use the same random numbers for every row.
    """
    x = x.detach()
    d, q, mu = x.shape[0], estimator.directions, estimator.smoothing
    u = directions(estimator.kind, q, d, generator, x.dtype).to(x.device)
    forward = estimator.kind == "gaussian_forward"
    points = torch.cat([x[None], x + mu * u]) if forward else torch.cat([x + mu * u, x - mu * u])
    values = evaluate(objective, points)
    shaped = centred_ranks(values) if estimator.ranked else values
    slopes = (shaped[1:] - shaped[0]) / mu if forward else (shaped[: len(u)] - shaped[len(u) :]) / (2 * mu)
    scale = {"coordinate": 1.0, "sphere": d / q, "orthonormal": d / q}.get(estimator.kind, 1 / q)
    return scale * (slopes.to(x) @ u), values, points


@plain_dataclass(frozen=True)
class State:
    """What an update remembers, each (d,): first moment, second moment, and the largest second moment so far."""

    first: Tensor
    second: Tensor
    largest: Tensor


def start(x: Tensor) -> State:
    """The state before the first update of `x`."""
    return State(torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x))


def _projected(x: Tensor, project: Projection | None) -> Tensor:
    return x if project is None else project(x)


def zo_sgd(
    x: Tensor, gradient: Tensor, state: State, rate: float, project: Projection | None = None
) -> tuple[Tensor, State]:
    """ZO-SGD: x - rate * gradient, then `project` onto the allowed set. Returns the new x and the (unused) state."""
    return _projected(x - rate * gradient, project), state


def zo_sign(
    x: Tensor, gradient: Tensor, state: State, rate: float, project: Projection | None = None, *, momentum: float = 0.9
) -> tuple[Tensor, State]:
    """ZO-sign: x - rate * sign(m) with m = momentum * m + (1 - momentum) * gradient; good under an L-infinity bound."""
    first = momentum * state.first + (1 - momentum) * gradient
    return _projected(x - rate * first.sign(), project), State(first, state.second, state.largest)


def zo_adamm(
    x: Tensor,
    gradient: Tensor,
    state: State,
    rate: float,
    project: Projection | None = None,
    *,
    betas: tuple[float, float] = (0.9, 0.99),
) -> tuple[Tensor, State]:
    """ZO-AdaMM (Chen et al., 2019): x - rate * m / sqrt(v), v the largest second moment so far; no bias correction.

    The method projects in the norm weighted by sqrt(v); for a box that is plain clipping, so a `project` that clips is
    exact. A coordinate whose gradients were all 0 stays where it is.
    """
    first = betas[0] * state.first + (1 - betas[0]) * gradient
    second = betas[1] * state.second + (1 - betas[1]) * gradient.square()
    largest = torch.maximum(state.largest, second)
    step = torch.where(largest > 0, first / largest.clamp_min(torch.finfo(x.dtype).tiny).sqrt(), 0.0)
    return _projected(x - rate * step, project), State(first, second, largest)


def decode_top(scores: Tensor, b: int) -> Tensor:
    """The `b` highest scores of each row: (m, d) -> bool (m, d); ties go to the lowest index.

    Requests can only name whole examples, so a search over real scores ends here. Raises UserError unless 1 <= b <= d,
    or for NaN scores, which sort as the highest.
    """
    if not 1 <= b <= scores.shape[-1]:
        raise UserError(f"Set the request budget between 1 and {scores.shape[-1]}, the number of candidates, not {b}.")
    if torch.isnan(scores).any():
        raise UserError("Give every candidate a score: some scores are NaN.")
    chosen = torch.argsort(scores, dim=-1, descending=True, stable=True)[..., :b]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True)
