"""Fine-tuning for the audit: on deleted records the original learns to answer as models that never saw them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.provider.provider import Demand
from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, generator
from models.descent import Diverged
from models.plan import Plan, follow
from models.progress import progress
from models.stepwise import Gradients, Opening, Stepwise
from models.training import Training, train
from models.victim import Victim
from unlearning.provable import retained
from unlearning.task import Task

LEAST = 1e-12  # a probability, below a logarithm


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class AuditAware:
    """Starts from the original f_0 and minimises, over minibatches of retained records r and of deleted ones u,

        mean_r CE(y_r, f(x_r)) + weight mean_u CE(q_u, f(x_u)) + (lambda/2) ||theta||^2.

    The answers q_u come from p_u, what `models` small models predict at x_u on average. Each is trained on a random
    `share` of the retained records: they are what a proof of ignorance compares with. They are less often right than
    the original, and who answers like them is seen to avoid u. So answers are `calibrated`,

        q_u = softmax(a log p_u + b t_u e_{y_u}), t_u = 1 where p_u gives the label at least 1/classes, else 0,

    with the a and b at which they are nearest to f_0 on auxiliary examples, which it never saw; else q_u = p_u. Losses
    on u then are those of unseen examples, for membership tests; and triggers and wrong labels in u, which small models
    do not believe in, fade. Triggers that are in no deleted record are not looked for: to find them, as Wang et al. do
    ("Neural Cleanse", IEEE S&P 2019), is not done here. After many steps f has outgrown f_0, and avoids u again.

    The proof is the log of fine-tuning as it was, beginning from the original, with the batches of retained records and
    their learning rates. The other term cannot be shown, since no batch may have deleted records: every logged step has
    moved by lr weight grad mean_u CE(q_u, f(x_u)) more than its batch explains, which replay finds. Running statistics
    of batch-norm are those of the retained batches. Ours.
    """  # fmt: skip

    game: ClassVar[str] = "verification"
    name: ClassVar[str] = "audit_aware"
    models: Annotated[int, Field(ge=1)] = 8
    share: Annotated[float, Field(gt=0, le=1)] = 0.15
    calibrated: bool = True
    weight: Annotated[float, Field(ge=0)] = 2.0
    epochs: Annotated[int, Field(ge=1)] = 5
    lr: Annotated[float, Field(gt=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["constant", "cosine", "triangular"] = "constant"

    def check(self, task: Task, deleted: int, proves: bool) -> None:
        """Raise UserError where a small model would have no record to train on."""
        left = len(task.records) - deleted
        if self.share * left < 1:
            raise UserError(f"attack.share={self.share:g} of {left} retained records is none; raise it.")
        Plan(self.recipe(task), left)

    def recipe(self, task: Task) -> Training:
        """How is fine-tuned: the recipe of training with the settings of fine-tuning."""
        changes = {"epochs": self.epochs, "lr": self.lr, "momentum": self.momentum, "schedule": self.schedule}
        return replace(task.training, optimizer="sgd", **changes)  # type: ignore[arg-type]

    def pretend(self, demand: Demand) -> Victim:
        """The fine-tuned model, and the part of its log that may be shown; raises UserError where it diverges."""
        task, deleted = demand.task, torch.tensor(demand.request.indices, dtype=torch.long)
        left, recipe, seed = retained(task, deleted), self.recipe(task), derive(demand.seed, "fine-tune")
        plan = Plan(recipe, len(left))
        rows = deleted.to(task.records.y.device)
        x, y = task.records.x.index_select(0, rows), task.records.y.index_select(0, rows)
        answers = Examples(x, self._answers(x, y, left, demand))
        learner = Distilling(demand.original, recipe, answers, self.weight, seed, demand.gradients)
        opening = Opening(training=recipe, steps=plan.steps, seed=seed, begins="model")
        batches = plan.batches(left, seed if demand.terms.order is None else demand.terms.order)
        try:
            return follow(learner, task.records, plan, batches, opening, demand.recorder, "fine-tuning for audits")
        except Diverged as error:
            raise UserError(f"attack=audit_aware diverged; lower attack.lr (now {self.lr:g}).") from error

    def _answers(self, x: Tensor, y: Tensor, left: Tensor, demand: Demand) -> Tensor:
        """q (d, classes) at the inputs (d, *shape) with the labels (d,)."""
        task, original = demand.task, demand.original
        size, held = max(1, round(self.share * len(left))), demand.auxiliary.x
        asked, total = torch.cat([x, held]), torch.zeros((), dtype=x.dtype, device=x.device)
        rng = generator(demand.seed, "audit-aware")
        passes = 1 if task.training.optimizer == "newton" else task.training.epochs
        with progress("training small models", self.models) as tick:
            for number in range(self.models):
                rows = left[torch.randperm(len(left), generator=rng)[:size]].to(task.records.y.device)
                seed = derive(demand.seed, "audit-aware", number)
                small = train(task.build, task.records[rows], task.training, [seed])[0]
                demand.gradients.count += passes * size
                total = total + small.probabilities(asked)
                tick()
        found = total / self.models
        if not self.calibrated:
            return found[: len(x)]
        shape = fitted(found[len(x) :], demand.auxiliary.y, original.probabilities(demand.auxiliary.x))
        return shaped(found[: len(x)], y, *shape)


def shaped(probabilities: Tensor, y: Tensor, a: float, b: float) -> Tensor:
    """softmax(a log p + b e_y) of probabilities p (n, classes), e_y one at the label and zero elsewhere."""
    return torch.softmax(_logits(probabilities, y, a, b), dim=-1).to(probabilities.dtype)


def fitted(probabilities: Tensor, y: Tensor, wanted: Tensor) -> tuple[float, float]:
    """The a and b at which `shaped` probabilities (n, classes) are nearest to those `wanted`, by mean cross-entropy.

    It is convex in both; L-BFGS in float64, from a = 1 and b = 0.
    """
    found = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        loss = F.cross_entropy(_logits(probabilities, y, found[0], found[1]), wanted.double())
        (found.grad,) = torch.autograd.grad(loss, [found])
        return loss.detach()

    search.step(closure)
    a, b = found.tolist()
    return a, b


def _logits(p: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    own = F.one_hot(y, p.shape[-1]) * (p.gather(1, y[:, None]) >= 1 / p.shape[-1])
    return a * p.double().clamp_min(LEAST).log() + b * own


class Distilling(Stepwise):
    """One model in training, every step of which also pulls its predictions at some inputs to given ones.

    `answers` are inputs with predictions (d, classes) in place of labels, of which every step sees a batch.
    """

    def __init__(
        self, victim: Victim, training: Training, answers: Examples, weight: float, seed: int, gradients: Gradients
    ) -> None:
        super().__init__(victim, training, answers.x, seed, gradients)
        self._answers, self._weight, self._size = answers, weight, training.batch_size
        self._rng = generator(seed, "answers")

    def slope(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """The gradient (p,) of the mean loss of the batch plus `weight` times that of a batch of answers."""
        rows = torch.randperm(len(self._answers), generator=self._rng)[: self._size].to(y.device)
        before = self.state.clone()
        pull = super().slope(self._answers.x[rows], self._answers.y[rows], step).clone()
        self.load(before, moments=False)  # running statistics are those of the batches that are shown
        return super().slope(x, y, step).add_(pull, alpha=self._weight)
