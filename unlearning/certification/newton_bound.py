"""How far a convexified Newton step can end from retraining: the bounds of certified unlearning for deep networks."""

from __future__ import annotations

import math


def newton_bound(
    radius: float,
    lipschitz_hessian: float,
    convexification: float,
    smallest_eigenvalue: float,
    gradient: float = 0.0,
    solver: float = 0.0,
) -> float:
    """Delta = (2C (MC + lambda) + G + e) / (lambda + lambda_min), with C = `radius`, M, lambda, lambda_min in order.

    F is the retained objective, H = grad^2 F(w) + lambda I, w' = w - s the result, w~ the retrained model, both w and
    w~ in the ball. With r = ||w - w~|| <= 2C and the solver's error e = ||grad F(w) - H s||,
    w' - w~ = H^{-1} [int_0^1 (H - grad^2 F(w~ + t (w - w~))) (w - w~) dt - grad F(w~) + (grad F(w) - H s)],
    at most (lambda r + M r^2/2 + G + e)/(lambda + lambda_min) if ||grad F(w~)|| <= G. Projecting w' back into the ball
    only brings it closer to w~. Zhang et al. bound the error of LiSSA in place of e: `lissa_bound`. Raises ValueError
    unless lambda + lambda_min > 0.
    """
    lifted = _lifted(convexification, smallest_eigenvalue)
    return (2 * radius * (lipschitz_hessian * radius + convexification) + gradient + solver) / lifted


def lissa_bound(
    radius: float,
    lipschitz_hessian: float,
    convexification: float,
    smallest_eigenvalue: float,
    lipschitz_gradient: float,
    parameters: int,
    rho: float,
    gradient: float = 0.0,
) -> float:
    """The published bound, whose inverse comes from LiSSA and holds with probability 1 - rho.

    Delta = (2C (MC + lambda) + G)/(lambda + lambda_min) + (16 sqrt(ln(d/rho))/(lambda + lambda_min) + 1/16)(2LC + G).
    """
    lifted = _lifted(convexification, smallest_eigenvalue)
    inverse = 16 * math.sqrt(math.log(parameters / rho)) / lifted + 1 / 16
    exact = newton_bound(radius, lipschitz_hessian, convexification, smallest_eigenvalue, gradient)
    return exact + inverse * (2 * lipschitz_gradient * radius + gradient)


def _lifted(convexification: float, smallest_eigenvalue: float) -> float:
    lifted = convexification + smallest_eigenvalue
    if lifted <= 0:
        raise ValueError(f"The convexified curvature must be positive definite; its smallest eigenvalue is {lifted:g}.")
    return lifted
