"""Fine-tuning on the retained examples: approximate, without a guarantee."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.bounds import at_most
from data.examples import Examples
from data.randomness import derive
from models.training import Training, train
from models.victim import ModelStack, Victim
from unlearning.procedure import Procedure
from unlearning.provable import Account, descended
from unlearning.task import Task


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class FineTune(Procedure):
    """theta <- theta - lr grad F(theta; w), minibatch SGD for `epochs` epochs from the victim.

    Weight decay and batch size are those of the training recipe. At a small learning rate most of the influence
    survives; at a large one this is partial retraining. Batch-norm statistics are updated. A baseline
    of many papers.
    """

    remedy: ClassVar[str] = "lower unlearning.lr (now {0.lr:g}) or unlearning.epochs (now {0.epochs})"
    epochs: Annotated[int, Field(ge=1), at_most(1_000_000, "each is a pass over the records")] = 5
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["constant", "cosine", "triangular"] = "constant"

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """Fine-tune once for every row of `forget_weights` (m, n), all on the same batches."""
        seeds = [derive(seed, "fine-tune")] * len(forget_weights)
        start, recipe = victim.copies(len(forget_weights)), self.recipe(task)
        return train(task.build, task.records, recipe, seeds, task.total(forget_weights), start, "fine-tuning")

    def forget_provably(self, task: Task, victim: Victim, deleted: Tensor, seed: int, account: Account) -> Victim:
        """Fine-tune on the retained records alone, with every step taken down."""
        return descended(task, victim, self.recipe(task), deleted, derive(seed, "fine-tune"), account, begins="model")

    def recipe(self, task: Task) -> Training:
        """How is fine-tuned: the recipe of training with the settings of fine-tuning."""
        changes = {"epochs": self.epochs, "lr": self.lr, "momentum": self.momentum, "schedule": self.schedule}
        return replace(task.training, optimizer="sgd", **changes)  # type: ignore[arg-type]
