"""Certified unlearning for deep networks: training in a ball, a convexified Newton step, and noise on every release."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar
from weakref import WeakKeyDictionary

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.behaviour import learned_buffers
from models.gradients import objective_gradient, weighted_gradient
from models.influence import inverse_curvature
from models.learner import Batch
from models.logistic import Logistic
from models.solver import Solver
from models.training import train
from models.victim import ModelStack, Victim, unflatten
from unlearning.certification.certificate import Certificate, Constant
from unlearning.certification.gaussian_mechanism import epsilon_for
from unlearning.certification.newton_bound import lissa_bound, newton_bound
from unlearning.certification.released_noise import Noise, gaussian_noise, hides_nothing
from unlearning.procedure import Procedure
from unlearning.second_order import SecondOrder
from unlearning.task import Task

log = logging.getLogger(__name__)
VACUOUS = (
    "unlearning=certified: the bound %.3g is no better than the ball's diameter %g, so nothing is certified; "
    "sigma=%g implies epsilon=%.3g."
)
_starts: WeakKeyDictionary[Victim, Victim] = WeakKeyDictionary()  # one object for each, which solvers know again


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Certified(Procedure):
    """theta' = P(theta - (H_w + convexification I)^{-1} grad F(theta; w)) + N(0, sigma^2 I), P onto norm <= radius.

    Training is projected after every step. The model that it learns is released as it is: only what `forget` returns is
    protected, by comparison with the retrained model plus the same noise, and the learned model tells all it knows.
    The ledger keeps the weights without noise; every request starts there, is projected, and draws fresh noise on every
    parameter. A row that deletes nothing takes the step and the noise like any other. Buffers are not updated, so that
    a model with batch-norm, or other buffers that training changes, gets no certificate.

    The certificate bounds the distance to retraining by `newton_bound.newton_bound`, with what the solver is measured
    to leave in place of LiSSA's probabilistic error, and is judged over all releases together (k of them are one with
    sensitivity sqrt(k) Delta). It reads `uncertified` where the bound is no better than the ball's diameter or the
    noise is too small for the epsilon and delta asked for, and `conditional on assumed constants` at best: nobody knows
    the Lipschitz constants (of F's gradient, L, used for the published bound only, and of its Hessian, M) or the
    smallest eigenvalue of a network; the gradient norm G is measured at the learned model and assumed of the retrained
    one; with curvature=gauss_newton the matrix is assumed to be the Hessian, which it is for linear logits.
    Differentiable in the request: `second_order` through the projection, the noise held fixed. Source: Zhang et al.,
    ICML 2024; what the official code does otherwise is not reproduced.
    """

    differentiable: ClassVar[bool] = True
    remedy: ClassVar[str] = "lower unlearning.sigma (now {0.sigma:g}) or unlearning.radius (now {0.radius:g})"
    learns_with: ClassVar[tuple[str, ...]] = ("radius",)
    radius: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    convexification: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.03
    sigma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-3
    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    rho: Annotated[float, Field(gt=0, lt=1)] = 0.1
    lipschitz_gradient: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    lipschitz_hessian: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    smallest_eigenvalue: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    noise: Noise = "secret"
    solver: Solver = Field(default_factory=lambda: Solver(method="auto"))

    def __post_init__(self) -> None:
        if self.solver.damping != 0:
            raise UserError("unlearning.solver.damping must be 0; the damping is unlearning.convexification.")
        if self.solver.curvature == "fisher" or self.solver.layers != "all":
            raise UserError(
                "The bound of unlearning=certified is about the Newton step on all parameters; use "
                "unlearning.solver.curvature=gauss_newton or hessian, and unlearning.solver.layers=all."
            )
        if self.convexification + self.smallest_eigenvalue <= 0:
            raise UserError("unlearning.convexification must exceed minus unlearning.smallest_eigenvalue.")

    @property
    def irreproducible(self) -> bool:  # type: ignore[override]
        """Whether the noise comes from the system's entropy."""
        return self.noise == "secret"

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Without noise, what `forget` gives does not depend on the seed."""
        return self.sigma > 0

    @property
    def _damped(self) -> Solver:
        return replace(self.solver, damping=self.convexification)

    def learn(self, task: Task, seed: int) -> Victim:
        """Train the victim in the ball. Raises UserError for training=newton, which has no steps to project."""
        if task.training.optimizer == "newton":
            raise UserError("unlearning=certified projects after every training step; use training=sgd or adam.")
        weights = None if task.forgotten is None else task.forgotten[None]
        trained = train(
            task.build, task.records, task.training, [seed], weights, label="training the victim", watch=self._into_ball
        )[0]
        nothing = task.total(trained.flat().new_zeros(1, len(task.records)))
        slope = objective_gradient(trained, task.records, nothing, task.training.weight_decay)
        flat, zero = trained.flat(), slope.new_zeros(())
        victim = replace(
            trained,
            ledger={
                "weights": flat,
                "norm": flat.norm(),
                "gradient": slope.norm(),
                "unsolved": zero,
                "releases": torch.zeros((), dtype=torch.long, device=flat.device),
            },
        )
        if (bound := self._bound(victim)) >= 2 * self.radius:
            log.warning(VACUOUS, bound, 2 * self.radius, self.sigma, self._implied(bound, 1))
        return victim

    def _into_ball(self, batch: Batch, values: Sequence[Tensor]) -> None:
        """Scale all parameters, taken as one vector, back to norm `radius` where it is longer; in place."""
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(values))))
        torch._foreach_mul_(list(values), (self.radius / norm).clamp(max=1))

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """One step from the weights without noise, projection and noise, for every row of `forget_weights` (m, n)."""
        start, slope = self._start(victim), self._slope(task, victim, forget_weights)
        decay, total = task.training.weight_decay, task.total(forget_weights)
        base = start.copies(len(forget_weights))
        solution = inverse_curvature(self._damped, start.copies(1), task.records, total, decay, slope, base=start)
        target = start.flat() - solution.x
        norm = target.norm(dim=1)
        weights = target * (self.radius / norm).clamp(max=1)[:, None]
        releases = victim.ledger["releases"] + 1
        noise = gaussian_noise(self.noise, self.sigma, *weights.shape, seed, "certified unlearning", int(releases))
        ledger = {
            **base.ledger,
            "weights": weights,
            "norm": norm,
            "releases": releases.expand(len(forget_weights)),
            "unsolved": torch.maximum(victim.ledger["unsolved"], solution.residual * slope.norm(dim=1)),
        }
        return replace(base, parameters=unflatten(weights + noise.to(weights), victim.moving), ledger=ledger)

    def _start(self, victim: Victim) -> Victim:
        """The victim without its noise; itself where it has none."""
        if "weights" not in victim.ledger:
            raise UserError("unlearning=certified forgets from models that it learned; this one has no ledger.")
        weights = victim.ledger["weights"]
        if torch.equal(weights, victim.flat()):
            return victim
        if victim not in _starts:
            _starts[victim] = replace(victim, parameters=unflatten(weights, victim.moving))
        return _starts[victim]

    def _slope(self, task: Task, victim: Victim, forget_weights: Tensor) -> Tensor:
        """grad F(theta; w) at the weights without noise, on all retained records, regulariser included; (m, p)."""
        start, n = self._start(victim), len(task.records)
        nothing = task.total(torch.zeros_like(forget_weights[:1]))
        leaving = task.total(forget_weights) - nothing
        touched = leaving.any(dim=0)
        slope = objective_gradient(start, task.records, nothing, task.training.weight_decay)
        return slope - weighted_gradient(start, task.records[touched], leaving[:, touched]) / n

    def request_vjp(
        self,
        task: Task,
        victim: Victim,
        models: ModelStack,
        forget_weights: Tensor,
        cotangent: Tensor,
        submitted: Examples | None = None,
    ) -> Tensor:
        """dL/dw (m, n): through the projection, then as for a Newton step."""
        cotangent = victim.pruned(cotangent)
        start, weights, norm = self._start(victim), models.ledger["weights"], models.ledger["norm"][:, None]
        outside = norm > self.radius
        unit = weights / weights.norm(dim=1, keepdim=True)
        along = (unit * cotangent).sum(1, keepdim=True) * unit
        through = torch.where(outside, (cotangent - along) * self.radius / norm, cotangent)
        target = torch.where(outside, weights * norm / self.radius, weights)
        step = SecondOrder(solver=self._damped)
        there = 1 - task.total(torch.zeros_like(forget_weights))  # what is gone is not forgotten again
        return there * step.request_vjp(task, start, start.moved(target - start.flat()), forget_weights, through)

    def certificate(self, task: Task, victim: Victim) -> Certificate:
        """What is claimed for this model, over all its releases; for the learned model, for its first one to come."""
        bound, releases = self._bound(victim), max(1, int(victim.ledger["releases"]))
        implied = self._implied(bound, releases)
        reason = hides_nothing(self.noise, self.sigma)
        if reason is None and learned_buffers(victim.module):
            reason = "The running statistics (of batch-norm, say) in the buffers are neither unlearned nor noised."
        if reason is None and bound >= 2 * self.radius:
            reason = "The bound is vacuous: any two models in the ball are at most its diameter apart."
        if reason is None and implied > self.epsilon:
            reason = "The noise is too small for the epsilon and delta asked for."
        return Certificate(
            "uncertified" if reason else "conditional on assumed constants",
            reason or "The noise hides the distance to retraining if the assumed constants hold.",
            bound,
            f"bound on the distance to retraining, in a ball of diameter {2 * self.radius:g}",
            self.sigma,
            self.epsilon,
            self.delta,
            "analytic",
            implied,
            self._constants(victim),
        )

    @property
    def _rests_on(self) -> tuple[float, float, float, float]:
        return self.radius, self.lipschitz_hessian, self.convexification, self.smallest_eigenvalue

    def _bound(self, victim: Victim) -> float:
        return newton_bound(*self._rests_on, float(victim.ledger["gradient"]), float(victim.ledger["unsolved"]))

    def _implied(self, bound: float, releases: int) -> float:
        """Epsilon over `releases` releases, at the bound or at the ball's diameter, whichever is smaller."""
        return epsilon_for(math.sqrt(releases) * min(bound, 2 * self.radius), self.sigma, self.delta)

    def _constants(self, victim: Victim) -> dict[str, Constant]:
        gradient = float(victim.ledger["gradient"])
        size = victim.flat().numel()
        published = lissa_bound(*self._rests_on, self.lipschitz_gradient, size, self.rho, gradient)
        constants = {
            "C": Constant(self.radius, "proven"),
            "lambda": Constant(self.convexification, "proven"),
            "M": Constant(self.lipschitz_hessian, "assumed"),
            "lambda_min": Constant(self.smallest_eigenvalue, "assumed"),
            "G": Constant(gradient, "assumed"),
            "unsolved": Constant(float(victim.ledger["unsolved"]), "measured"),
            "releases": Constant(float(victim.ledger["releases"]), "measured"),
            "published Delta with LiSSA": Constant(published, "assumed"),
        }
        if self.solver.curvature == "gauss_newton":
            linear = type(victim.module) is Logistic
            constants["Hessian minus Gauss-Newton"] = Constant(0.0, "proven" if linear else "assumed")
        return constants
