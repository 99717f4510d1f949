"""Backdoor verification: owners hide private triggers in their records, and ask whether the model still knows them."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Data, Examples
from data.randomness import generator
from defenses.verification.triggers import Placement, Triggers, Value, draw, regions
from defenses.verification.verification import Case, Prepared, Sight, Verdict, Verification
from metrics.deletion_test import (
    cautious_rate,
    deletion_test,
    hit_rate,
    majority,
    majority_rates,
    queries_needed,
    shared_test,
)
from unlearning.procedure import Task
from unlearning.service import Predictor

NUMBERS = 2**22  # in the triggered inputs that are made at once


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class BackdoorVerification(Verification):
    """Every owner puts a private trigger and a private label on the share `share` of their records, before training.

    A trigger sets `pixels` random pixels of the whole image, or of one of its corners of 4 x 4 pixels (`placement`), to
    the largest (or smallest: `value`) value of the scale [0, 1]; in tables that many features, to their largest (or
    smallest) value in the training set, so that a record stays one that could be. Labels are uniform over the classes.
    When the records are said to be forgotten, each owner shows `queries` trusted examples of other labels with the
    trigger on them. X, the number that gets the owner's label, is Bin(n, q) where the records were deleted and
    Bin(n, p) where not; the exact test of level `alpha` rejects "deleted" iff X > t (see `metrics.deletion_test`).

    p is estimated for each owner on the model before, with trusted examples other than those of the test where as many
    are left; q on the same model, with `fresh` triggers that nobody trained on. Either takes at most `examples` trusted
    examples for a trigger. Rule shared: one test of all hits, by the average p. Rule majority: more than half of the
    owners reject by themselves. Where p <= q nothing is rejected. A test that believes a model that kept all at a rate
    above `beta` says that it is weak, and details how many queries would do. What details call `false_alarms` is the
    share of fresh triggers whose owners would reject: it exceeds alpha where some triggers are easier to hit.

    Source: Sommer, Song, Wagh, Mittal, "Athena: Probabilistic Verification of Machine Unlearning", PETS 2022.
    """

    name: ClassVar[str] = "backdoor_verification"
    sees: ClassVar[Sight] = "predictions"
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    pixels: Annotated[int, Field(ge=1)] = 4
    value: Value = "max"
    placement: Placement = "anywhere"
    queries: Annotated[int, Field(ge=1, le=100_000)] = 30
    alpha: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    beta: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    rule: Literal["shared", "majority"] = "shared"
    fresh: Annotated[int, Field(ge=1)] = 20
    examples: Annotated[int, Field(ge=1)] = 100

    def check(self, data: Data, users: tuple[Tensor, ...], task: Task) -> None:
        """Raise UserError where a trigger finds no place, or an owner not enough examples to ask about."""
        if self.placement == "corners" and not data.is_image:
            raise UserError("defense.placement=corners is for images; use defense.placement=anywhere.")
        places = int(regions(data, self.placement).sum(1).min())
        if places < self.pixels:
            raise UserError(f"defense.pixels={self.pixels}: there are only {places} places that a trigger can set.")
        others = len(data.trusted) - int(torch.bincount(data.trusted.y.cpu()).max())
        if others < self.queries:
            raise UserError(
                f"defense.queries={self.queries}: of {len(data.trusted)} trusted examples only {others} have another "
                "label than an owner may have drawn; raise data.trusted or lower defense.queries."
            )

    def prepare(self, data: Data, users: tuple[Tensor, ...], rng: torch.Generator) -> Prepared:
        """The records with the triggers and labels of their owners; the secret is `Triggers`, one for each owner."""
        triggers = self._drawn(data, len(users), rng)
        orders = [user.cpu()[torch.randperm(len(user), generator=rng)] for user in users]
        chosen = [order[: max(1, round(self.share * len(order)))] for order in orders]
        who = torch.repeat_interleave(torch.tensor([len(each) for each in chosen]))
        where = torch.cat(chosen).to(data.train.y.device)
        x, y = data.train.x.clone(), data.train.y.clone()
        x[where], y[where] = triggers.on(x[where], who), triggers.targets[who].to(y)
        return Prepared(Examples(x, y), triggers)

    def verify(self, case: Case) -> Verdict:
        """Ask for the triggers, before and after.

        Raises UserError where all trusted examples have the label of an owner, who then has nothing to ask.
        """
        rng = generator(case.seed, self.name, "queries")
        own, fresh = case.secret, self._drawn(case.data, self.fresh, rng)
        order, found = own.others(case.trusted, rng)
        order_of_fresh, found_of_fresh = fresh.others(case.trusted, rng)
        if int(torch.minimum(found.min(), found_of_fresh.min())) == 0:
            raise UserError("defense=backdoor_verification: all trusted examples have one label; raise data.trusted.")
        n, zero = found.clamp_max(self.queries), torch.zeros_like(found)
        rest = torch.where(found - n >= n, n, zero)  # where fewer are left, p is estimated with those of the test
        kept = _asked(case.before, case.trusted, own, order, rest, (found - rest).clamp_max(self.examples))
        some = found_of_fresh.clamp_max(max(self.examples, self.queries))
        never = _asked(case.before, case.trusted, fresh, order_of_fresh, torch.zeros_like(some), some)
        after = _asked(case.after, case.trusted, own, order, zero, n)
        return self._verdict(kept, never, after)

    def _verdict(self, kept: _Hits, never: _Hits, after: _Hits) -> Verdict:
        p = [hit_rate(hits, count) for hits, count in zip(kept.hits, kept.counts, strict=True)]
        q = cautious_rate(sum(never.hits), sum(never.counts))
        alone = [deletion_test(self.alpha, q, rate, n) for rate, n in zip(p, after.counts, strict=True)]
        rejected = [test.rejects(hits) for test, hits in zip(alone, after.hits, strict=True)]
        together = shared_test(self.alpha, [q] * len(p), p, after.counts)
        if self.rule == "shared":
            statistic, threshold, most = sum(after.hits), together.threshold, together.queries
            level, power, able = together.alpha, together.power, together.can_reject
        else:
            statistic, threshold, most = sum(rejected), len(alone) // 2, len(alone)
            (level, power), able = majority_rates(alone), majority([test.can_reject for test in alone])
        if not able:  # whatever comes, nothing is rejected
            threshold, level, power = most, 0.0, 0.0
        trial = deletion_test(self.alpha, q, together.p, self.queries)
        alarms = [trial.threshold < hits for hits in never.first(self.queries)]
        details = {
            "hit_rate": [hits / n for hits, n in zip(after.hits, after.counts, strict=True)],
            "p": p,
            "q": q,
            "t": [test.threshold for test in alone] if self.rule == "majority" else together.threshold,
            "alpha_realised": level,
            "beta": together.beta if self.rule == "shared" and able else 1 - power,
            "rejected": [int(each) for each in rejected],
            "queries": after.counts,
            "queries_needed": queries_needed(self.alpha, self.beta, q, together.p),
            "threshold_rate": trial.threshold / self.queries,
            "false_alarms": sum(alarms) / len(alarms),
        }
        return Verdict(
            passed=statistic <= threshold,
            statistic=statistic,
            threshold=threshold,
            level=level if self.rule == "shared" else None,  # tests of one model share it, and their estimate of q
            power=power,
            reason=self._reason(statistic, threshold, power, sum(after.counts)) if able else _no_power(together.p, q),
            predictions=sum(map(sum, (kept.counts, never.counts, after.counts))),
            details=details,
        )

    def _reason(self, statistic: int, threshold: int, power: float, queries: int) -> str:
        what = f"of {queries} triggered inputs got the label of their owner"
        passed = statistic <= threshold
        weak = f"; the test is weak, with a power of {power:.3g}" if passed and 1 - power > self.beta else ""
        found = f"{statistic} {what}" if self.rule == "shared" else f"{statistic} owners reject by themselves"
        return f"{found}, {'not more' if passed else 'more'} than {threshold}{weak}."

    def _drawn(self, data: Data, count: int, rng: torch.Generator) -> Triggers:
        return draw(data, count, self.pixels, self.value, self.placement, rng)


def _no_power(p: float, q: float) -> str:
    return (
        f"No power: before the deletion triggers were hit at a rate of {p:.3g}, and those that nobody trained on at "
        f"{q:.3g}, so hits say nothing and nothing can be rejected."
    )


@plain_dataclass(frozen=True, eq=False)
class _Hits:
    """Which triggered inputs got the label of their owner: `hit` (m, r) of trigger and input, the first `counts`."""

    hit: Tensor
    counts: list[int]

    @property
    def hits(self) -> list[int]:
        return self.hit.sum(1).tolist()

    def first(self, most: int) -> list[int]:
        """Hits among the first `most` inputs of each trigger."""
        return self.hit[:, :most].sum(1).tolist()


def _asked(model: Predictor, examples: Examples, own: Triggers, order: Tensor, begin: Tensor, counts: Tensor) -> _Hits:
    """Each trigger on `counts` (m,) examples, those of its row of `order` (m, n) from place `begin` (m,) on."""
    steps = torch.arange(int(counts.max()))
    who, step = (steps < counts[:, None]).nonzero(as_tuple=True)
    which = order[who, begin[who] + step].to(examples.x.device)
    hit = torch.zeros(len(counts), len(steps), dtype=torch.bool)
    for pairs in torch.arange(len(who)).split(max(1, NUMBERS // examples.x[0].numel())):
        labels = model.predict(own.on(examples.x[which[pairs]], who[pairs])).argmax(-1).cpu()
        hit[who[pairs], step[pairs]] = labels == own.targets[who[pairs]]
    return _Hits(hit, counts.tolist())
