"""Certified removal for linear models: a perturbed loss, Newton steps, and a budget that triggers retraining."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.gradients import weighted_gradient
from models.influence import inverse_curvature
from models.progress import progress
from models.solver import Solver
from models.training import initialise
from models.victim import ModelStack, Victim, unflatten
from unlearning.certification.certificate import Certificate, Constant, Mechanism
from unlearning.certification.gaussian_mechanism import (
    classical_sensitivity_for,
    delta_of,
    epsilon_for,
    sensitivity_for,
)
from unlearning.certification.released_noise import Noise, gaussian_noise, hides_nothing
from unlearning.certification.softmax_regression import (
    GAMMA,
    SoftmaxRegression,
    as_flat,
    as_matrix,
    check_softmax_regression,
    design,
    spectral_norm,
)
from unlearning.procedure import Procedure
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.task import Task


def removal_step(solve: Callable[[Tensor], Tensor], leaving: Tensor, n: int) -> Tensor:
    """H^{-1} (1/n) sum_{deleted} grad l_j, (m, p), from the sums `leaving` (m, p) and `solve`: v -> H^{-1} v.

    H is the Hessian of the retained objective. For a quadratic loss this is retraining.
    """
    return solve(leaving / n)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class CertifiedRemoval(Procedure):
    """theta' = theta + H_w^{-1} (1/n) sum_{deleted} grad l_j(theta), for multinomial logistic regression.

    The victim minimises n F(theta) + <b, theta>, b ~ N(0, sigma^2 I), which stays in the ledger. A removal leaves a
    gradient of that sum behind, bounded as `softmax_regression.remainder_bound` proves; the bound, what the solver left
    unsolved and the training residual add up in the ledger's `spent`, computed in float64 at the parameters as they are
    (whose own rounding, about 1e-14, is not counted). While spent <= beta_max, the largest shift of b that noise sigma
    hides at (epsilon, delta), the model is (epsilon, delta)-certified; a candidate whose sum would exceed it is trained
    again, from zero, without its deleted records and with a fresh b. `mechanism: classical` takes beta_max = sigma
    epsilon / sqrt(2 ln(1.5/delta)) in place of the analytic Gaussian mechanism; the certificate is judged by the
    analytic one all the same. With sigma = 0 there is no budget, no retraining and no certificate.

    In the house's objective a removal does not rescale the regulariser, so no term m lambda theta enters the step as in
    Guo et al., and the worst-case bound holds under every b. As in their proof, the left-over gradient counts as a
    fixed shift of b. The guarantee is about the present model alone, not about all that came before it.
    Differentiable in the request: as `second_order` where the step was taken, as `retrain` (b held fixed) where the
    candidate was trained again; at the switch between the two the result jumps. Source: Guo et al., ICML 2020.
    """

    differentiable: ClassVar[bool] = True
    remedy: ClassVar[str] = "lower unlearning.sigma (now {0.sigma:g}) or raise training.weight_decay"
    learns_with: ClassVar[tuple[str, ...]] = ("sigma", "noise")
    sigma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    mechanism: Mechanism = "analytic"
    noise: Noise = "secret"
    solver: Solver = Field(default_factory=lambda: Solver(method="dense", tolerance=1e-6))

    def __post_init__(self) -> None:
        if self.solver.damping != 0:
            raise UserError("unlearning.solver.damping must be 0: the bound is about the step without damping.")
        if self.solver.curvature == "fisher" or self.solver.layers != "all":
            raise UserError(
                "unlearning=certified_removal takes the Newton step on all parameters; use "
                "unlearning.solver.curvature=gauss_newton and unlearning.solver.layers=all."
            )

    @property
    def irreproducible(self) -> bool:  # type: ignore[override]
        """Whether b comes from the system's entropy."""
        return self.noise == "secret"

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Without noise the result does not depend on the seed."""
        return self.sigma > 0

    @property
    def budget(self) -> float:
        """beta_max: the largest gradient residual, in the sum form n F, that the noise hides."""
        if self.mechanism == "classical":
            return classical_sensitivity_for(self.sigma, self.epsilon, self.delta, constant=1.5)
        return sensitivity_for(self.sigma, self.epsilon, self.delta)

    def learn(self, task: Task, seed: int) -> Victim:
        """Minimise the perturbed objective over the records that are not gone.

        Raises UserError unless model=logistic and training=newton, with a positive weight decay.
        """
        check_softmax_regression(task)
        module, parameters, buffers = initialise(task.build, seed, task.records.x)
        plain = Victim(module, parameters, buffers)
        kept = torch.ones(len(task.records), dtype=torch.float64, device=task.records.x.device)
        kept = kept if task.forgotten is None else kept - task.forgotten
        history = {"spectral_norm": spectral_norm(design(plain, task.records) * kept[:, None].sqrt())}
        noise = gaussian_noise(self.noise, self.sigma, 1, plain.flat().numel(), seed, "certified removal", 0)
        trained, ledger = self._train(task, plain, kept[None], noise, retrainings=0)
        return Victim(module, unflatten(trained[0], parameters), buffers, history, {k: v[0] for k, v in ledger.items()})

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """One removal step for every row of `forget_weights` (m, n), or training again beyond the budget."""
        if "spent" not in victim.ledger:
            raise UserError(
                "This model has no budget: unlearning=certified_removal forgets from models that it learned."
            )
        if victim.mask:
            raise UserError(
                "unlearning=certified_removal is proven for the minimum over all parameters; this model is pruned."
            )
        total, n = task.total(forget_weights), len(task.records)
        leaving = total - (0 if task.forgotten is None else task.forgotten.to(total))
        touched = leaving.any(dim=0)
        slopes = weighted_gradient(victim, task.records[touched], leaving[:, touched])
        start = victim.copies(1)

        def solve(vectors: Tensor) -> Tensor:
            decay = task.training.weight_decay
            return inverse_curvature(self.solver, start, task.records, total, decay, vectors, base=victim).x

        moved = victim.moved(removal_step(solve, slopes, n))
        problem, theta, steps = _problem(task, victim), victim.flat(), moved.flat().double() - victim.flat().double()
        spent = victim.ledger["spent"] + problem.left_over(
            as_matrix(theta, problem.classes),
            1 - total.double(),
            leaving.double(),
            as_matrix(steps, problem.classes),
            victim.history["spectral_norm"],
        )
        models = replace(moved, ledger={**moved.ledger, "spent": spent})
        return self._within_budget(task, victim, models, total, seed)

    def _within_budget(self, task: Task, victim: Victim, models: ModelStack, total: Tensor, seed: int) -> ModelStack:
        """The models, those beyond the budget trained again."""
        over = (models.ledger["spent"] > self.budget).nonzero()[:, 0]
        if self.sigma == 0 or len(over) == 0:
            return models
        count = int(victim.ledger["retrainings"]) + 1
        noise = gaussian_noise(
            self.noise, self.sigma, len(over), victim.flat().numel(), seed, "certified removal", count
        )
        trained, fresh = self._train(task, victim, 1 - total[over].double(), noise, count)
        flat, ledger = models.flat(), {name: value.clone() for name, value in models.ledger.items()}
        flat[over] = trained
        for name, value in fresh.items():
            ledger[name][over] = value
        return replace(models, parameters=unflatten(flat, victim.moving), ledger=ledger)

    def _train(
        self, task: Task, like: Victim, retain_weights: Tensor, noise: Tensor, retrainings: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parameters (m, p) at the perturbed minimum for every row of `retain_weights` and of b, and their ledger."""
        problem = _problem(task, like)
        flats, spent = [], []
        with progress("minimising the perturbed objective", len(retain_weights)) as tick:
            for kept, b in problem.chunks(retain_weights, as_matrix(noise.to(retain_weights), problem.classes)):
                flats.append(as_flat(problem.minimise(kept, b, task.training.tolerance)).to(like.flat()))
                rounded = as_matrix(flats[-1], problem.classes)
                spent.append(problem.gradient(rounded, kept, b).norm(dim=(1, 2)))
                tick(len(kept))
        counts = torch.full((len(retain_weights),), retrainings, device=retain_weights.device)
        return torch.cat(flats), {"spent": torch.cat(spent), "noise": noise.to(retain_weights), "retrainings": counts}

    def request_vjp(
        self,
        task: Task,
        victim: Victim,
        models: ModelStack,
        forget_weights: Tensor,
        cotangent: Tensor,
        submitted: Examples | None = None,
    ) -> Tensor:
        """dL/dw (m, n), by the rule of what made each of the models."""
        again = models.ledger["retrainings"] > victim.ledger["retrainings"]
        slopes = torch.empty_like(forget_weights)
        for rule, rows in ((SecondOrder(solver=self.solver), ~again), (Retrain(solver=self.solver), again)):
            if rows.any():
                part = models.select(rows)
                slopes[rows] = rule.request_vjp(task, victim, part, forget_weights[rows], cotangent[rows])
        return slopes * (1 - task.total(torch.zeros_like(forget_weights)))  # what is gone is not forgotten again

    def certificate(self, task: Task, victim: Victim) -> Certificate:
        """(epsilon, delta) for this model, judged by the analytic Gaussian mechanism."""
        spent = float(victim.ledger["spent"])
        reason = hides_nothing(self.noise, self.sigma)
        if reason is None and delta_of(spent, self.sigma, self.epsilon) > self.delta:
            reason = "The left-over gradient is larger than what the noise hides at this epsilon and delta."
        constants = {
            "gamma": Constant(GAMMA, "proven"),
            "spectral norm of the features": Constant(float(victim.history["spectral_norm"]), "measured"),
            "budget": Constant(self.budget, "proven"),
            "retrainings": Constant(float(victim.ledger["retrainings"]), "measured"),
        }
        return Certificate(
            "uncertified" if reason else "certified",
            reason or "The left-over gradient is within what the perturbation of the loss hides (Guo et al., 2020).",
            spent,
            "bound on the left-over gradient of the perturbed sum of losses",
            self.sigma,
            self.epsilon,
            self.delta,
            self.mechanism,
            epsilon_for(spent, self.sigma, self.delta),
            constants,
        )


def _problem(task: Task, victim: Victim) -> SoftmaxRegression:
    classes = victim.module.linear.out_features  # type: ignore[union-attr]
    return SoftmaxRegression(design(victim, task.records), task.records.y, int(classes), task.training.weight_decay)  # type: ignore[arg-type]
