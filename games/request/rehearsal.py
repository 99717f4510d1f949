"""What an adaptive attacker knows of the filter, played: trial streams and a calibration of the attacker's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from attacks.adaptive.knowledge import Trial
from attacks.crafting.attack import Attacker, AttackGoal
from attacks.crafting.criterion import Criterion
from data.randomness import generator
from defenses.defense import Calibrated, Calibration, Context, Filter, Verdict, calibrated, reviewed
from games.request.benign import draw_benign
from games.request.evaluation import sent, submitted
from games.request.settings import Kind
from games.request.turns import Turn, reviewed_in_turn
from models.passes import models_at_once
from models.victim import ModelStack, Victim
from unlearning.procedure import Request, as_weights, unlearned
from unlearning.service import OpenService, as_carried_out

NOBODY = torch.empty(0, dtype=torch.long)


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """The `defense` as a white-box attacker plays against it (`attacks.adaptive.knowledge.Knowledge`).

    Known are the filter, the opened provider, the `size` of streams, who asks when nobody attacks (`kind`), and of how
    many `batches` the calibration is. All records of its batches and streams are drawn from the attacker's pool, with
    generators of its own, and the attacker's reference examples stand for the trusted ones. Runs of the procedure are
    counted by the service. Not known are what else the provider has: its calibration, its streams, its examples.
    """

    defense: Filter
    service: OpenService
    goals: Sequence[AttackGoal]
    attacker: Attacker
    criterion: Criterion
    kind: Kind
    size: int
    batches: int
    seed: int
    _calibrated: dict[tuple[int, ...], Context] = field(default_factory=dict, repr=False)

    def trials(
        self, requests: Sequence[Request], goals: Sequence[int], parts: int = 1, poison: Tensor | None = None,
        draw: int = 0,
    ) -> list[Trial]:  # fmt: skip
        """A trial of each request for the goal of its number; see `Knowledge`."""
        aside = NOBODY if poison is None else poison.cpu()
        if parts > 1:
            return self._in_turn(requests, goals, parts, aside, draw)
        reviewed = self._reviewed(requests, goals, aside, draw)
        left = [self._left(request, *seen) for request, seen in zip(requests, reviewed, strict=True)]
        worth: list[tuple[float, float]] = []
        for which, models in self._after([batch for batch, _ in left], [copies for _, copies in left]):
            worth += [self._worth(goals[i], [each[k] for each in models]) for k, i in enumerate(which)]
        return [_trial(request, [seen], each) for request, seen, each in zip(requests, reviewed, worth, strict=True)]

    def _drawn(
        self, requests: Sequence[Request], goals: Sequence[int], parts: int, aside: Tensor, draw: int
    ) -> list[list[Tensor]]:
        """The streams of every request."""
        drawn = [generator(self.seed, "rehearsed stream", draw, goal) for goal in goals]
        return [self._streams(each, parts, aside, rng) for each, rng in zip(requests, drawn, strict=True)]

    def _in_turn(
        self, requests: Sequence[Request], goals: Sequence[int], parts: int, aside: Tensor, draw: int
    ) -> list[Trial]:
        """Trials of requests without copies that come in `parts` streams, one after the other, as a game has them."""
        context, streams = self.calibrated(aside), self._drawn(requests, goals, parts, aside, draw)

        def review(_: int, turn: Turn) -> Verdict:
            return reviewed(self.defense, turn.seen(context), turn.batch)

        seen, found = reviewed_in_turn(self.service, streams, review), list[Trial]()
        for request, goal, batches, (verdicts, after) in zip(requests, goals, streams, seen, strict=True):
            worth = self._worth(goal, after.victims)
            found.append(_trial(request, list(zip(batches, verdicts, strict=True)), worth))
        return found

    def _reviewed(
        self, requests: Sequence[Request], goals: Sequence[int], aside: Tensor, draw: int
    ) -> list[tuple[Tensor, Verdict]]:
        """What the filter says of the stream of every request."""
        context = self.calibrated(aside)
        batches = [batch for [batch] in self._drawn(requests, goals, 1, aside, draw)]
        copies = [each if each.examples is not None else None for each in requests]
        verdicts: list[Verdict] = []
        for which, models in self._after(batches, copies):
            for k, i in enumerate(which):
                request = copies[i]
                brought = None if request is None else sent(request, batches[i], self.service.task.records)
                seen = replace(context, candidate=models[0][k], submitted=brought)
                verdicts.append(reviewed(self.defense, seen, batches[i]))
        return list(zip(batches, verdicts, strict=True))

    def calibrated(self, poison: Tensor = NOBODY) -> Context:
        """The context of a live review, with a calibration that has the `poison` (m,) in every batch."""
        key = tuple(poison.tolist())
        if key not in self._calibrated:
            self._calibrated.clear()  # the models of one calibration are held at a time
            pool, task = self.attacker.pool.cpu(), self.service.task
            others, found = pool[~torch.isin(pool, poison)], list[Calibration]()
            draws = [generator(self.seed, "rehearsed calibration", i) for i in range(self.batches)]
            benign = [draw_benign("uniform", task.records, others, self.size - len(poison), rng) for rng in draws]
            batches = [torch.cat([poison, batch]).to(self.attacker.pool.device) for batch in benign]
            for which, models in self._after(batches, [None] * len(batches)):
                found += [Calibration(batches[i], models[0][k].clone()) for k, i in enumerate(which)]
            victim, reference = self.service.victims[0], self.attacker.reference
            seen = Context(task, victim, victim, reference, found, record=self.service.record)
            threshold = calibrated(self.defense, seen) if isinstance(self.defense, Calibrated) else None
            self._calibrated[key] = replace(seen, threshold=threshold)
        return self._calibrated[key]

    def _streams(self, request: Request, parts: int, aside: Tensor, rng: torch.Generator) -> list[Tensor]:
        """The request, part by part, among benign records of the attacker's pool, which are in one stream only."""
        pool, mine = self.attacker.pool.cpu(), torch.tensor(request.indices, dtype=torch.long)
        taken, found = torch.cat([mine, aside]), []
        for part in (mine[j::parts] for j in range(parts)):
            eligible = pool[~torch.isin(pool, taken)]
            benign = draw_benign(self.kind, self.service.task.records, eligible, self.size - len(part), rng)
            taken = torch.cat([taken, benign])
            found.append(torch.cat([part, benign]).to(self.attacker.pool.device))
        return found

    def _left(self, request: Request, batch: Tensor, verdict: Verdict) -> tuple[Tensor, Request | None]:
        """What is deleted of the stream of a request, and of its copies those that count."""
        instead = torch.full_like(batch, -1) if verdict.instead is None else verdict.instead
        as_sent = batch[verdict.accepted & (instead < 0)]
        examples = as_carried_out(request, self.service.record).examples
        kept = torch.isin(torch.tensor(request.indices, dtype=torch.long), as_sent.cpu()).nonzero()[:, 0]
        copies = None
        if examples is not None and len(kept):
            copies = Request(tuple(request.indices[k] for k in kept.tolist()), examples[kept.to(examples.y.device)])
        return verdict.deleted(batch).unique(), copies

    def _after(
        self, batches: Sequence[Tensor], brought: Sequence[Request | None]
    ) -> Iterator[tuple[range, list[ModelStack]]]:
        """The models of every victim after some of the batches at a time, and which these are.

        A batch with copies comes alone, and so does one of nothing, after which the victims are as they were.
        """
        service, records = self.service, self.service.task.records
        if service.procedure.exact:  # what it gives does not depend on what was sent
            brought = [None] * len(batches)
        for which in _runs(batches, brought, models_at_once(service.victims[0])):
            copies = as_carried_out(brought[which[0]] or Request(()), service.record)
            rows = as_weights([Request(tuple(batches[i].tolist())) for i in which], records)
            if not len(batches[which[0]]):
                yield which, [victim.copies(1) for victim in service.victims]
            elif copies.examples is None:
                yield which, service.unlearn(rows)
            else:
                service.meter.operator_calls += len(service.victims)
                stored = submitted(copies, rows[0], records)
                pairs = zip(service.victims, service.seeds, strict=True)
                yield (
                    which,
                    [unlearned(service.procedure, service.task, each, rows, seed, stored) for each, seed in pairs],
                )

    def _worth(self, goal: int, models: Sequence[Victim]) -> tuple[float, float]:
        """What the criterion attained under a model of every victim, and the change as wanted: means over targets."""
        wanted = self.goals[goal]
        before, after = (
            torch.stack([each.probabilities(wanted.x) for each in victims]).mean(0).double()
            for victims in (self.service.victims, models)
        )
        rows, toward = torch.arange(len(wanted.labels), device=after.device), getattr(self.criterion, "toward", None)
        change = -wanted.direction * (after - before)[rows, wanted.labels]
        kept = after.argmax(-1) == wanted.labels if toward is None else after.argmax(-1) != toward
        return float(self.criterion.attained(change, kept).double().mean()), float(change.mean())


def _runs(batches: Sequence[Tensor], brought: Sequence[Request | None], size: int) -> Iterator[range]:
    """Batches that are carried out together: up to `size`, or one that brings copies or names nothing."""
    first = 0
    while first < len(batches):
        end = first + 1
        alone = brought[first] is not None or not len(batches[first])
        while not alone and end < min(len(batches), first + size) and brought[end] is None and len(batches[end]):
            end += 1
        yield range(first, end)
        first = end


def _trial(request: Request, seen: Sequence[tuple[Tensor, Verdict]], worth: tuple[float, float]) -> Trial:
    """What the filter said of the records of a request, in their order."""
    by_position = {
        position: (score, accepted)
        for batch, verdict in seen
        for position, score, accepted in zip(
            batch.tolist(), verdict.scores.double().tolist(), verdict.accepted.tolist(), strict=True
        )
    }
    own = [by_position[position] for position in request.indices]
    scores = torch.tensor([score for score, _ in own], dtype=torch.float64)
    accepted = torch.tensor([each for _, each in own], dtype=torch.bool)
    return Trial(scores, accepted, seen[0][1].threshold, *worth)
