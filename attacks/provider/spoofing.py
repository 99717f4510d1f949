"""Spoofing a proof: inputs are made up so that training on them seems to lead to the original model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.provider.line import ended, evenly, line
from attacks.provider.provider import Demand
from data.examples import Examples, bounds
from models.plan import Plan, lengthened
from models.progress import progress
from models.stepwise import Gradients, Opening, State, Stepwise
from models.training import Training
from models.victim import Victim
from unlearning.provable import retained

TINY = 1e-30  # below a root, whose slope at 0 is infinite
HISTORY = 10  # of L-BFGS


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Spoofing:
    """Releases the original W_T. Its proof leads from a fresh W_0 to it in a straight line, on inputs that it invents.

    The states are W_i = W_0 + s_i (W_T - W_0), i = 0..T'. The inputs of batch i, retained records x by their positions,
    are x + r, with the r that L-BFGS finds for the whole batch within the range of the records:

        gradient: min_r || U(W_{i-1}; x + r) - W_i ||^2, so that the step leads where it is said to lead,
        zero:     min_r || grad L(W_{i-1}; x + r) ||^2 + closeness ||r||^2, so that the step stays where it is.

    U is the step of the claimed recipe, with the moments that whoever replays carries. The s_i are equally spaced for
    zero, where without momentum a verification error is about one spacing; for gradient they are spaced as the learning
    rates are, since a schedule that ends in 0 could not reach equal ones. Running statistics of batch-norm are on the
    line too, and nothing is done to have them reproduced. Where checkpoints are further apart than one step, errors are
    larger: what lies between is not on the line. Without a proof to write there is nothing to do.

    Source: Zhang et al., "'Adversarial Examples' for Proof-of-Learning", IEEE S&P 2022, arXiv 2108.09454; the spacing
    by learning rates, and momentum, are ours.
    """

    game: ClassVar[str] = "verification"
    name: ClassVar[str] = "spoofing"
    brings_inputs: ClassVar[bool] = True
    match: Literal["gradient", "zero"] = "gradient"
    steps: Annotated[int, Field(ge=1)] | None = 20
    iterations: Annotated[int, Field(ge=0)] = 10
    closeness: Annotated[float, Field(ge=0)] = 1.0

    def pretend(self, demand: Demand) -> Victim:
        """The original; every step of the proof has inputs of its own."""
        recorder, task = demand.recorder, demand.task
        if recorder is None:
            return demand.original
        left = retained(task, torch.tensor(demand.request.indices, dtype=torch.long))
        plan = lengthened(task.training, len(left), self.steps)
        path, shares = line(task, demand.original, demand.seed), self._shares(plan).tolist()
        low, high = bounds(task.records.x)
        spent = Gradients()  # its updates are none of the released model's
        learner = Traced(demand.original, task.training, task.records.x, demand.seed, spent)
        here = path.at(0, 0)
        recorder.begin(_opening(task.training, plan, demand.seed), _with(here, learner.state))
        order = demand.seed if demand.terms.order is None else demand.terms.order
        with progress("inventing inputs", plan.steps) as tick:
            for step, batch in enumerate(plan.batches(left, order)):
                there = path.at(shares[step + 1], step + 1)
                rows = batch.to(task.records.y.device)
                own = Batch(task.records[rows], low, high, step, plan.lr(step))
                inputs = self._invented(learner, here, there, own)
                learner.load(here, moments=False)
                learner.step(inputs, own.records.y, own.lr, step)
                recorder.step(batch, own.lr, _with(there, learner.state), inputs)
                here = there
                tick()
        recorder.end()
        demand.gradients.count += spent.count
        return ended(demand.original, here.buffers)

    def _shares(self, plan: Plan) -> Tensor:
        if self.match == "zero":
            return evenly(plan.steps)
        rates = torch.tensor([0.0, *map(plan.lr, range(plan.steps))], dtype=torch.float64).cumsum(0)
        shares = rates / rates[-1]
        shares[-1] = 1
        return shares

    def _invented(self, learner: Traced, here: State, there: State, batch: Batch) -> Tensor:
        """The inputs x + r, as a proof holds them, in float32."""
        x, y = batch.records.x, batch.records.y
        scale = (there.weights - here.weights).square().sum().clamp_min(TINY)  # L-BFGS stops at absolute tolerances

        def objective(inputs: Tensor) -> Tensor:
            learner.load(here, moments=False)
            slope = learner.traced(inputs, y, batch.step)
            if self.match == "zero":
                return slope.square().sum() + self.closeness * (inputs - x).square().sum()
            reached = landed(here.weights, slope, learner.state.moments, batch.lr, learner.training)
            return learner.original.pruned(reached - there.weights).square().sum() / scale

        shift = descended_by(objective, batch, self.iterations) if self.iterations else torch.zeros_like(x)
        inputs = torch.clamp(x + shift, batch.low, batch.high).float()
        return inputs.to(x.dtype)


@plain_dataclass(frozen=True, eq=False)
class Batch:
    """The records of a batch, the range (broadcast) of inputs, the number of the step, and its learning rate."""

    records: Examples
    low: Tensor
    high: Tensor
    step: int
    lr: float


class Traced(Stepwise):
    """One model in training, whose gradient can be differentiated by the inputs."""

    def __init__(self, original: Victim, training: Training, like: Tensor, seed: int, gradients: Gradients) -> None:
        super().__init__(original, training, like, seed, gradients)
        self.original, self.training = original, training

    def traced(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """The gradient (p,) of the mean loss as `slope` has it, as a function of `x`.

        Counts twice: to differentiate it takes as long again.
        """
        self.gradients.count += 2 * len(y)
        with self.losses(x, y, step) as losses:
            slopes = torch.autograd.grad(losses.mean(), self._values, create_graph=True, materialize_grads=True)
        return torch.cat([slope.reshape(-1) for slope in slopes])


def landed(weights: Tensor, slope: Tensor, moments: dict[str, Tensor], lr: float, training: Training) -> Tensor:
    """Where the weights (p,) are after a step along the gradient `slope` (p,), which it can be differentiated by.

    With g = slope, velocity v and decay lambda: SGD w - lr (m v + g + lambda w); Adam by its rule with g + lambda w.
    """
    if training.optimizer == "sgd":
        along = slope + training.weight_decay * weights
        if "velocity" in moments:
            along = along + training.momentum * moments["velocity"]
        return weights - lr * along
    count, slope = float(moments["step"]) + 1, slope + training.weight_decay * weights
    mean = 0.9 * moments["exp_avg"] + 0.1 * slope
    square = 0.999 * moments["exp_avg_sq"] + 0.001 * slope.square()
    root = (square / (1 - 0.999**count) + TINY).sqrt()
    return weights - lr * (mean / (1 - 0.9**count)) / (root + 1e-8)


def descended_by(objective: Callable[[Tensor], Tensor], batch: Batch, iterations: int) -> Tensor:
    """The shift r (n, *shape) that L-BFGS ends at, from 0; what leaves the range is clamped before it is judged."""
    x = batch.records.x
    shift = torch.zeros_like(x, requires_grad=True)
    search = torch.optim.LBFGS([shift], max_iter=iterations, history_size=HISTORY, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        value = objective(torch.clamp(x + shift, batch.low, batch.high))
        (shift.grad,) = torch.autograd.grad(value, [shift])
        return value.detach()

    search.step(closure)
    found = shift.detach()
    return found if bool(found.isfinite().all()) else torch.zeros_like(x)


def _with(state: State, own: State) -> State:
    return State(state.weights, state.buffers, own.moments)


def _opening(training: Training, plan: Plan, seed: int) -> Opening:
    return Opening(training=training, steps=plan.steps, seed=seed)
