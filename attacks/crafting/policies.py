"""When to ask for what, in stages: a list split ahead, records ranked anew at every stage, or a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.crafting.adjoint import Horizon, planned
from attacks.crafting.functionals import averaged, margins
from attacks.crafting.objective import CandidatePredictions, MisclassificationObjective, Objective, Unconstrained
from attacks.crafting.selection import most_useful, prefix_lengths
from attacks.crafting.stages import Policy, State, of_others
from attacks.crafting.white_box import WhiteBoxObjective
from models.progress import progress

PREFIXES = 8  # lengths of a stage's request that are tried where a target must not flip yet


@dataclass(frozen=True)
class BeforeLast(Unconstrained):
    """What a model before the last stage costs: early sum_t [kappa - m_yhat(x_t)]_+ and the stealth penalty of `base`.

    The first sum keeps labels until the last stage (a deferred trigger): it is the hinge in place of the count of
    targets that have flipped, so that it has a slope. With `aims` the objective itself is added, for a search that
    looks one stage ahead. Our formulation.
    """

    base: MisclassificationObjective
    early: float
    aims: bool = False

    def without_penalties(self) -> MisclassificationObjective:
        """The margins alone."""
        return self.base.without_penalties()

    def rank(self, candidates: CandidatePredictions) -> Tensor:
        """The cost (m,)."""
        margin = margins(averaged(candidates.log_p), candidates.labels)
        waiting = self.early * (self.base.kappa - margin).clamp_min(0).sum(-1)
        cost = waiting + self.base.loss(candidates)
        return cost if self.aims else cost - self.base.without_penalties().loss(candidates)

    def loss(self, candidates: CandidatePredictions) -> Tensor:
        """The cost (m,)."""
        return self.rank(candidates)


def scheduled(schedules: Sequence[Sequence[Tensor]]) -> Policy:
    """Ask for what was planned for each stage, whatever has happened; `schedules` are positions by goal and stage."""
    return lambda state, stage: [each[stage] for each in schedules]


def open_loop(white_box: WhiteBoxObjective, objective: Objective, allowed: Tensor, sizes: Sequence[int]) -> Policy:
    """Rank the `allowed` records (n,) once, by the slopes at the victim, and split the list over the stages."""
    ranked = _helpful(State.first(white_box).slopes(objective), allowed, sum(sizes))
    return scheduled([_in_stages(each, sizes) for each in ranked])


def _in_stages(ranked: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    starts = [sum(sizes[:t]) for t in range(len(sizes))]
    return [ranked[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def _helpful(slopes: Tensor, allowed: Tensor, most: int) -> list[Tensor]:
    """At most so many allowed records for every goal that lower its loss, the most useful first."""
    order = most_useful(slopes, allowed, most)
    useful = slopes.masked_fill(~allowed, 0.0).gather(1, order) < 0
    return [row[mine] for row, mine in zip(order, useful, strict=True)]


def closed_loop(objective: MisclassificationObjective, early: float, allowed: Tensor, sizes: Sequence[int]) -> Policy:
    """Rank the records anew at every stage, by the slopes at its model, and ask for the most useful of those left.

    Where targets are not to flip `early`, that prefix of the ranking is asked for, before the last stage, whose
    outcome costs least (`BeforeLast`); what others will ask for in this stage is not known, and left out of the trial.
    """

    def policy(state: State, stage: int) -> list[Tensor]:
        left = allowed & (state.gone() == 0)
        ranked = _helpful(state.slopes(objective), left, sizes[stage])
        if early == 0 or stage == len(sizes) - 1:
            return ranked
        cost = BeforeLast(objective, early, aims=True)
        return _cheapest_prefixes(state, ranked, cost)

    return policy


def _cheapest_prefixes(state: State, ranked: Sequence[Tensor], cost: Objective) -> list[Tensor]:
    """By goal the prefix, of no records too, after which its model costs least."""
    lengths = [prefix_lengths(len(each), PREFIXES) if len(each) else [] for each in ranked]
    pairs = [(goal, length) for goal, mine in enumerate(lengths) for length in mine]
    owner = torch.tensor([goal for goal, _ in pairs], dtype=torch.long, device=state.white_box.x.device)
    rows = torch.zeros_like(state.gone())[owner]
    for row, (goal, length) in zip(rows, pairs, strict=True):
        row[ranked[goal][:length]] = 1
    tried, chosen = state.costs(cost, rows, owner), []
    for goal, now in enumerate(cost.rank(state.predictions())):
        values = torch.cat([now[None], tried[owner == goal]])
        chosen.append(ranked[goal][: [0, *lengths[goal]][int(values.argmin())]])
    return chosen


@dataclass(frozen=True, eq=False)
class Planner:
    """How stages are planned: over `scenarios` of what others ask for, `benign` records a stage, drawn from `rng`."""

    objective: MisclassificationObjective
    early: float
    allowed: Tensor
    sizes: Sequence[int]
    scenarios: int
    benign: int
    steps: int
    lr: float
    rng: torch.Generator

    def plan(self, state: State, stage: int) -> list[list[Tensor]]:
        """What to ask for from this stage on, positions by goal and stage.

        It starts from what the open loop would ask for, and from what the closed one would if nobody else did.
        """
        left, sizes = self.allowed & (state.gone() == 0), self.sizes[stage:]
        ranked = _helpful(state.slopes(self.objective), left, sum(sizes))
        starts = [[_in_stages(each, sizes)] for each in ranked]
        for goal, each in enumerate(self._undisturbed(state, stage)):
            starts[goal].append(each)
        penalised = self.early > 0 or self.objective.stealth > 0
        before_last = BeforeLast(self.objective, self.early) if penalised else None
        found = []
        with progress("planning stages", len(starts)) as tick:
            for goal, (provider, gone) in enumerate(zip(state.providers, state.gone(), strict=True)):
                free = (gone == 0).nonzero()[:, 0]
                drawn = [of_others(free, len(sizes), self.benign, self.rng) for _ in range(self.scenarios)]
                scenarios = torch.stack(drawn)
                horizon = Horizon(state.white_box, provider, goal, self.objective, before_last, sizes, scenarios)
                found.append(planned(horizon, self.allowed, starts[goal], self.steps, self.lr))
                tick()
        return found

    def _undisturbed(self, state: State, stage: int) -> list[list[Tensor]]:
        loop = closed_loop(self.objective, self.early, self.allowed, self.sizes)
        asked: list[list[Tensor]] = [[] for _ in state.providers]
        for later in range(stage, len(self.sizes)):
            chosen = loop(state, later)
            state = state.after(chosen)
            for mine, positions in zip(asked, chosen, strict=True):
                mine.append(positions)
        return asked


def adjoint(white_box: WhiteBoxObjective, planner: Planner) -> Policy:
    """Plan once, at the victim, and ask for what was planned."""
    return scheduled(planner.plan(State.first(white_box), 0))


def mpc(planner: Planner) -> Policy:
    """Plan anew at every stage for those that are left, and ask for what the plan has for the first of them."""
    return lambda state, stage: [each[0] for each in planner.plan(state, stage)]
