"""Usability attack: rows that teach much, handed in before training and deleted later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.crafting.answer import check_budget
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from attacks.crafting.contribution import Contribution, asked_back
from attacks.crafting.criterion import Criterion, LabelFlipped
from attacks.crafting.requester import OPTIONS, Requester
from data.bounds import at_most
from data.examples import Data, Examples, bounds
from models.gradients import gradients_at_once, own_input_gradients, weighted_gradient
from models.passes import models_at_once
from models.progress import progress
from models.training import initialise
from models.victim import Tensors, Victim, unflatten
from unlearning.procedure import Task
from unlearning.service import Service


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Usability(Requester):
    """Before training `budget` rows of the attacker's are condensed, labels kept; the request deletes them all.

    Condensed rows S_c of a class c push a model where all that the attacker has of that class, T_c, would push it: its
    records, and its reference examples, which the training set does not hold. Minimised is, over `iterations` steps,

        sum_c D(grad_theta sum_{S_c} l, grad_theta sum_{T_c} l),  D = sum over rows of every tensor of 1 - cos

    over the course of training of `networks` fresh networks of the victim's architecture, one after the other: after
    every step of the rows (SGD with `lr` and `momentum`) the network takes `network_steps` of `network_lr` on them.
    T_c are at most `batch` examples a class, drawn anew at every step. Rows begin as they are and stay within the
    values that records take; their classes are as even as the pool allows. A vector counts as one row in D.

    What is lost by deletion is what the rows brought: with exact retraining the model is the one that never had them,
    whatever they were, so that accuracy falls by more than with the same rows as they were exactly by as much as it was
    higher before. Where other records teach the same, that is nothing (docs/attacks.md has numbers).
    Targets play no part (`game.targets.mode=set` plays one request a direction).
    Source: the usability attack by informative benign data; Zhao et al., ICLR 2021 (gradient matching, its defaults of
    1000 iterations and a rate of 0.1; there rows begin as noise, and vectors are left out of D).
    """

    name: ClassVar[str] = "usability"
    criterion: ClassVar[Criterion] = LabelFlipped()
    iterations: Annotated[int, Field(ge=1), at_most(1_000_000, "each differentiates the model twice")] = 1000
    networks: Annotated[int, Field(ge=1), at_most(1_000_000, "each is drawn anew")] = 100
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    batch: Annotated[int, Field(ge=1)] = 256
    network_steps: Annotated[int, Field(ge=0), at_most(100_000, "each is a step of training")] = 10
    network_lr: Annotated[float, Field(gt=0)] = 0.01

    def contribute(
        self, task: Task, data: Data, goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> Contribution:
        """The training set with the condensed rows, which serve every goal; raises UserError for too small a pool."""
        check_budget(self.budget, len(attacker.pool))
        rows = attacker.pool[evenly(attacker.owned.y, self.budget, rng)]
        has = attacker.owned
        if len(attacker.reference):
            has = Examples(torch.cat([has.x, attacker.reference.x]), torch.cat([has.y, attacker.reference.y]))
        x = task.records.x.clone()
        x[rows] = self.condensed(task, task.records[rows], has, bounds(attacker.owned.x), rng)
        return Contribution(Examples(x, task.records.y), [rows.cpu()] * len(goals))

    def condensed(
        self, task: Task, rows: Examples, has: Examples, within: tuple[Tensor, Tensor], rng: torch.Generator
    ) -> Tensor:
        """The `rows` (k) condensed from the examples that the attacker `has`, (k, *shape)."""
        x, speed = rows.x, torch.zeros_like(rows.x)
        with progress("condensing rows", self.iterations) as tick:
            for step in range(self.iterations):
                if step == 0 or step * self.networks // self.iterations > (step - 1) * self.networks // self.iterations:
                    seed = int(torch.randint(2**62, (1,), generator=rng))
                    network = Victim(*initialise(task.build, seed, rows.x))
                _, slopes = mismatch(network, Examples(x, rows.y), drawn(has, rows.y, self.batch, rng))
                speed = self.momentum * speed + slopes
                x = torch.minimum(torch.maximum(x - self.lr * speed, within[0]), within[1])
                network = self._taught(network, Examples(x, rows.y))
                tick()
        return x

    def _taught(self, network: Victim, rows: Examples) -> Victim:
        """The network after its steps on the rows."""
        mean = rows.x.new_full((1, len(rows)), 1 / len(rows))
        for _ in range(self.network_steps):
            network = network.moved(-self.network_lr * weighted_gradient(network, rows, mean))[0]
        return network

    def search_black_box(
        self, service: Service, goal: AttackGoal, attacker: Attacker, rng: torch.Generator
    ) -> AttackResult:
        """All that was handed in; nothing is asked."""
        return asked_back(goal)


def evenly(y: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Where `count` of the labels (n,) stand, drawn at random with the classes taking turns as long as they last."""
    order = torch.randperm(len(y), generator=rng).to(y.device)
    same = y[order][:, None] == y[order].unique()  # (n, classes)
    turn = (same.cumsum(0) * same).sum(1)  # which of its class each is, in the random order
    return order[turn.argsort(stable=True)[:count]]


def drawn(has: Examples, labels: Tensor, batch: int, rng: torch.Generator) -> Examples:
    """At most `batch` examples of each of the `labels`, without replacement."""
    order = torch.randperm(len(has), generator=rng).to(has.y.device)
    parts = [order[has.y[order] == label][:batch] for label in labels.unique()]
    return has[torch.cat(parts)]


def mismatch(network: Victim, rows: Examples, has: Examples) -> tuple[Tensor, Tensor]:
    """sum_c D(grad_theta sum_{S_c} l, grad_theta sum_{T_c} l) over the classes of `rows` (k), and its slopes in these.

    The slope in a row is grad_x <dD/dG_c, grad_theta l(x, y)> with the sum G_c of its class, so that no graph of a
    gradient is held for more than a few rows. Every class of `rows` must be among `has`.
    """
    total, slopes = rows.x.new_zeros(()), torch.zeros_like(rows.x)
    for classes in rows.y.unique().split(models_at_once(network)):  # a gradient is as large as a model
        given = weighted_gradient(network, rows, (rows.y == classes[:, None]).to(rows.x)).requires_grad_()
        wanted = weighted_gradient(network, has, (has.y == classes[:, None]).to(has.x))
        value = between(given, wanted, network.moving)
        [towards] = torch.autograd.grad(value, [given])
        total = total + value.detach()
        mine = torch.isin(rows.y, classes).nonzero()[:, 0]
        for part in mine.split(gradients_at_once(network, rows.x)):
            some = rows[part]
            slopes[part] = own_input_gradients(network, some, towards[torch.searchsorted(classes, some.y)])
    return total, slopes


def between(given: Tensor, wanted: Tensor, like: Tensors) -> Tensor:
    """sum of 1 - cos over classes and over the rows of every tensor, for gradients (K, p) of parameters `like`."""
    pairs = zip(unflatten(given, like).values(), unflatten(wanted, like).values(), strict=True)
    total = given.new_zeros(())
    for one, other in pairs:
        rows = one.shape[1] if one.dim() > 2 else 1
        cosines = F.cosine_similarity(one.reshape(len(one), rows, -1), other.reshape(len(one), rows, -1), dim=-1)
        total = total + (1 - cosines).sum()
    return total
