"""SISA: a committee trained on shards and slices of the records, of which only a part is retrained."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.randomness import derive, generator
from models.committee import Aggregation, Committee, constituent, join
from models.training import Build, Training, fresh, initialise, train
from models.victim import ModelStack, Tensors, Victim, concatenate
from unlearning.procedure import Procedure
from unlearning.task import Task


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Sisa(Procedure):
    """Sharded, isolated, sliced, aggregated: constituent k learns shard k alone, in one stage per slice.

    Stage i trains on slices 1..i from the checkpoint before slice i, with seed, schedule and optimiser state of its
    own, so a checkpoint is all that a later stage needs. It minimises (1/n_ki) sum_i (1 - w_i) l_i + (lambda/2)
    ||theta||^2, where n_ki counts the records of those slices, deleted ones included. A stage has 2/(slices+1) of the
    recipe's epochs, which makes as many sample passes as no slices do; that is rounded to a whole number of at least 1.

    A request restarts each shard it touches from the last checkpoint whose slices hold none of the records deleted so
    far, and replays the later stages on the same batches with these records at weight 0. Checkpoints stay those of
    learning, so requests in sequence give what one request gives. Shards and slices come from the learning seed and n
    alone; replayed stages (with the initialisation, where it is the first) use the seed of `forget`. With the learning
    seed one request gives, bit by bit, what learning without its records gives (many at once: to rounding): exact with
    respect to this procedure, not to one model trained on all records. Batch-norm statistics are those of the replay.
    What is pruned in the victim stays so in every replayed stage, from its start.

    `aggregation` mean suits games that measure confidences; the paper's default is vote. `weighted` counts a
    constituent by the size of its shard at learning. The server deletes its own record: a perturbed copy changes
    nothing. Source: Bourtoule et al., IEEE S&P 2021.
    """

    exact: ClassVar[bool] = True
    remedy: ClassVar[str] = "lower training.lr"
    learns_with: ClassVar[tuple[str, ...]] = ("shards", "slices", "aggregation", "weighted")
    shards: Annotated[int, Field(ge=1)] = 5
    slices: Annotated[int, Field(ge=1)] = 4
    aggregation: Aggregation = "mean"
    weighted: bool = False

    def architecture(self, task: Task) -> Build:
        """What builds the committee; raises UserError where there are fewer records than slices in all."""
        sizes = [sum(map(len, shard)) for shard in self.assignment(task, 0)]
        return partial(Committee, task.build, sizes if self.weighted else [1] * self.shards, self.aggregation)

    def assignment(self, task: Task, seed: int) -> list[list[Tensor]]:
        """Positions of the records in each slice of each shard: a permutation drawn from `seed`, cut evenly."""
        n, slices = len(task.records), self.shards * self.slices
        if n < slices:
            raise UserError(
                f"unlearning.shards={self.shards} with unlearning.slices={self.slices} needs at least {slices} "
                f"records, and there are {n}; lower one of them."
            )
        order = torch.randperm(n, generator=generator(seed, "shards")).to(task.records.x.device)
        return [list(shard.tensor_split(self.slices)) for shard in order.tensor_split(self.shards)]

    def recorded(self, task: Task, size: int) -> int:
        """A checkpoint of every shard before each of its later slices."""
        return (self.slices - 1) * size

    def epochs(self, training: Training) -> int:
        """Epochs of one stage."""
        return max(1, round(2 * training.epochs / (self.slices + 1)))

    def learn(self, task: Task, seed: int) -> Victim:
        """Train every constituent through its stages; the history holds the checkpoint before each later slice."""
        module = initialise(self.architecture(task), seed, task.records.x)[0]
        forgotten = task.total(task.records.x.new_zeros(1, len(task.records)))
        history, learned = {"seed": torch.tensor(seed)}, []
        for k, shard in enumerate(self.assignment(task, seed)):
            models = self._stage(task, shard, k, 0, forgotten, None, seed)
            for stage in range(1, self.slices):
                tensors = models[0].moving | models[0].buffers
                history |= {_checkpoint_name(k, stage, name): value for name, value in tensors.items()}
                models = self._stage(task, shard, k, stage, forgotten, models, seed)
            learned.append(models[0])
        parameters, buffers = join([each.moving for each in learned]), join([each.buffers for each in learned])
        return Victim(module, parameters, buffers, history)

    def _stage(
        self,
        task: Task,
        shard: list[Tensor],
        k: int,
        stage: int,
        forget_weights: Tensor,
        start: ModelStack | None,
        seed: int,
    ) -> ModelStack:
        """Constituent k after training on the first stage + 1 slices, once for every row of `forget_weights` (m, n)."""
        seen = torch.cat(shard[: stage + 1])
        recipe = replace(task.training, epochs=self.epochs(task.training))
        seeds = [_stage_seed(seed, k, stage)] * len(forget_weights)
        label = f"shard {k + 1} of {self.shards}, slice {stage + 1} of {self.slices}"
        return train(task.build, task.records[seen], recipe, seeds, forget_weights[:, seen], start, label)

    def forget(
        self, task: Task, victim: Victim, forget_weights: Tensor, seed: int, submitted: Examples | None = None
    ) -> ModelStack:
        """Replay the touched shards once for every row of `forget_weights` (m, n), rows of a shard together."""
        models, total, restarts = (
            victim.copies(len(forget_weights)),
            task.total(forget_weights),
            self.restarts(task, victim, forget_weights),
        )
        parameters, buffers = dict(models.moving), dict(models.buffers)
        for k, shard in enumerate(self.assignment(task, int(victim.history["seed"]))):
            order = restarts[:, k].argsort(stable=True)
            rows = order[restarts[order, k] < self.slices]
            if len(rows) == 0:
                continue
            replayed = self._replay(task, victim, shard, k, restarts[rows, k], total[rows], seed)
            for mine, new in ((parameters, replayed.moving), (buffers, replayed.buffers)):
                for name, value in join([{}] * k + [new]).items():
                    mine[name] = mine[name].index_copy(0, rows, value)
        return replace(models, parameters=parameters, buffers=buffers)

    def _replay(
        self, task: Task, victim: Victim, shard: list[Tensor], k: int, restarts: Tensor, total: Tensor, seed: int
    ) -> ModelStack:
        """Constituent k for rows in the order of their `restarts` (r,): each joins at the stage where it restarts."""
        models: ModelStack | None = None
        for stage in range(int(restarts[0]), self.slices):
            joining, running = int((restarts == stage).sum()), int((restarts <= stage).sum())
            if joining and stage > 0:
                begun = self._checkpoint(victim, k, stage).copies(joining)
                models = begun if models is None else concatenate([models, begun])
            if models is None and victim.mask:
                models = self._masked_start(task, victim, k, running, seed)
            models = self._stage(task, shard, k, stage, total[:running], models, seed)
        assert models is not None  # there is at least one row, and it restarts at one of the stages
        return models

    def _masked_start(self, task: Task, victim: Victim, k: int, count: int, seed: int) -> ModelStack:
        """Untrained constituents k, pruned as that of the victim is."""
        models = fresh(task.build, [_stage_seed(seed, k, 0)], task.records.x)
        return replace(models[0], mask=constituent(victim.mask, k)).copies(count)

    @staticmethod
    def _checkpoint(victim: Victim, k: int, stage: int) -> Victim:
        """Constituent k as it was, while learning, before this stage."""

        def then(tensors: Tensors) -> Tensors:
            return {name: victim.history[_checkpoint_name(k, stage, name)] for name in constituent(tensors, k)}

        module = victim.module.get_submodule(f"constituents.{k}")
        return Victim(module, then(victim.moving), then(victim.buffers), mask=constituent(victim.mask, k))

    def restarts(self, task: Task, victim: Victim, forget_weights: Tensor) -> Tensor:
        """The stage (m, shards), from 0, at which each shard restarts; `slices` where a request leaves it alone."""
        total, earlier = task.total(forget_weights), task.total(torch.zeros_like(forget_weights))
        stages = []
        for shard in self.assignment(task, int(victim.history["seed"])):
            hit = torch.stack([(total[:, part] > 0).any(1) for part in shard], dim=1)
            touched = (total > earlier)[:, torch.cat(shard)].any(1)
            stages.append(torch.where(touched, hit.int().argmax(1), self.slices))
        return torch.stack(stages, dim=1)

    def sample_passes(self, task: Task, victim: Victim, forget_weights: Tensor) -> Tensor:
        """How many forward and backward passes of one record each request costs, (m,), int64.

        Records at weight 0 count: they stay in their batches. Averaged over the slice of one deleted record this is
        e * D * (2/3 + 1/(3 slices)), with e epochs and D records in a shard, if a stage's epochs need no rounding.
        """
        restarts, device = self.restarts(task, victim, forget_weights), forget_weights.device
        shards = self.assignment(task, int(victim.history["seed"]))
        sizes = torch.tensor([[len(part) for part in shard] for shard in shards], device=device)
        stage_cost = self.epochs(task.training) * sizes.cumsum(1)  # stage i sees slices 1..i
        later = stage_cost.flip(1).cumsum(1).flip(1)
        left_alone = torch.zeros(self.shards, 1, dtype=later.dtype, device=device)
        costs = torch.cat([later, left_alone], dim=1)
        return costs[torch.arange(self.shards, device=device), restarts].sum(1)


def _stage_seed(seed: int, k: int, stage: int) -> int:
    return derive(seed, "shard", k, "stage", stage)


def _checkpoint_name(k: int, stage: int, name: str) -> str:
    return f"shard {k}, before slice {stage}: {name}"
