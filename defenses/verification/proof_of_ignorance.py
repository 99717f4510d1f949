"""Proof of ignorance: does the model know deleted records better than models do that certainly never saw them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Data, Examples
from data.randomness import derive, generator
from defenses.verification.verification import Case, Prepared, Verdict, Verification
from metrics.membership import Separation, log_odds, separation
from models.training import train
from unlearning.procedure import Task

LEAST = 8  # deleted records and trusted examples, for the normal approximation


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class ProofOfIgnorance(Verification):
    """The owners train `models` verification models, each on a random `share` of the retained records, and compare

    z(x) = (phi_u(x) - mean_k phi_k(x)) / sqrt(var_k phi_k(x) + `variance`), phi = log(p_y / (1 - p_y)),

    of the deleted records D_u with z of held-out examples H, those that the owners held back. Verification models are
    weaker than the model u in question, so z is high for whatever u learned in general; H is as new to all of them as
    D_u should be.
    Ignorant is a model of which all three hold:

    * z is not larger on D_u than on H, one-sided Mann-Whitney test at level `alpha`;
    * the AUC of D_u against H is not beyond what a retrained model shows, on either side: a model that avoids D_u was
      told about it. What a retrained model shows is the distribution of the AUC where D_u and H are exchangeable,
      1/2 +- q sqrt((m+n+1)/(12mn)), two-sided at level `floor`. It is known without a single retraining, which owners
      who ask for this proof want to spare themselves, and it counts the draw of D_u and H, which dominates, and which
      retrained models that all share one D_u and one H would not show;
    * accuracy on test examples is at most `accuracy` below the mean of the verification models. Without this a ruined
      model, which knows nothing of anything, would pass.

    Owners can mislabel a share `mislabelled` of their records before training, each with another class drawn uniformly,
    and remember which. Models learn such records by heart, so that they are easier to find, at the cost of what wrong
    labels do to the model. They are a group of their own, compared with H mislabelled likewise, since only labels of
    one quality compare, and a model that avoids one group may know the other: levels are shared equally by the two.
    The statistic is the larger of their standardised AUCs. An honest provider is accused at the rate `alpha` +
    `floor`/2 where D_u and H are draws from one population.

    The idea is Ye et al., arXiv 2606.16110, 2026; protocol, statistic and thresholds are ours. Fine-tuned models do not
    pass this form of it. Who distils the mean of such verification models into D_u does, on well-labelled records.
    Each model is trained by itself by the declared recipe, for `models` x `share` retrainings in all: in one stack
    over all retained records most of every batch would have weight 0.
    """

    name: ClassVar[str] = "proof_of_ignorance"
    holds_back: ClassVar[bool] = True
    models: Annotated[int, Field(ge=2, le=1000)] = 8
    share: Annotated[float, Field(gt=0, le=1)] = 0.15
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    floor: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    accuracy: Annotated[float, Field(ge=0, le=1)] = 0.02
    variance: Annotated[float, Field(gt=0, le=1e6)] = 0.25
    mislabelled: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def check(self, data: Data, users: tuple[Tensor, ...], task: Task) -> None:
        """Raise UserError where there are too few deleted records, trusted examples or retained records."""
        deleted = sum(map(len, users))
        for count, what, remedy in (
            (deleted, "deleted records", "let more be deleted"),
            (len(data.trusted), "trusted examples", "raise game.held_back, or data.trusted where that is 0"),
        ):
            if count < LEAST:
                raise UserError(f"defense={self.name} needs at least {LEAST} {what}, and there are {count}; {remedy}.")
        wrong = sum(round(self.mislabelled * len(user)) for user in users)
        if self.mislabelled > 0 and not LEAST <= wrong <= deleted - LEAST:
            raise UserError(
                f"defense={self.name}: defense.mislabelled={self.mislabelled} gives {wrong} mislabelled records of "
                f"{deleted}; at least {LEAST} are needed of either kind, or 0 of this one."
            )
        own = self._size(len(task.records) - deleted)
        if own < len(data.classes):
            raise UserError(
                f"defense={self.name}: a verification model would have {own} records for {len(data.classes)} classes; "
                "raise defense.share or let fewer records be deleted."
            )

    def prepare(self, data: Data, users: tuple[Tensor, ...], rng: torch.Generator) -> Prepared:
        """Mislabel the share of every owner's records; the secret is the positions of those, (k,)."""
        chosen = [user[_some(len(user), self.mislabelled, rng).to(user.device)] for user in users]
        wrong = torch.cat(chosen) if chosen else torch.empty(0, dtype=torch.long)
        if len(wrong) == 0:
            return Prepared(data.train, wrong)
        y = _mislabelled(data.train.y, wrong, len(data.classes), rng)
        return Prepared(Examples(data.train.x, y), wrong)

    def verify(self, case: Case) -> Verdict:
        """Ask the model after for D_u, H and test examples; and the one before for D_u and H, as a comparison."""
        own, held, test = case.task.records[case.deleted], case.trusted, case.data.test
        x = torch.cat([own.x, held.x])
        every = torch.cat([x, test.x])
        answers, expected = case.after.predict(every), case.remember("verifiers", lambda: self._verifiers(case, every))
        verifiers = expected["probabilities"]
        after, before = (
            self._groups(case, p, verifiers[:, : len(x)]) for p in (answers[: len(x)], case.before.predict(x))
        )
        kept = max(before.values(), key=lambda each: each.z)
        details: dict[str, Any] = {
            "accuracy": _accuracy(answers[len(x) :], test.y),
            "accuracy_verifiers": _accuracy(verifiers[:, len(x) :], test.y),
            "before_statistic": kept.z,
            "before_caught": int(kept.z > kept.critical_z),
        }
        reasons = [*self._found(after, details), *self._ruined(details)]
        worst = max(after.values(), key=lambda each: each.z)
        return Verdict(
            passed=not reasons,
            statistic=worst.z,
            threshold=worst.critical_z,
            level=self._level + self.floor / 2,
            power=None,
            p_value=min(worst.p_value * len(after), 1.0),
            reason=("; ".join(reasons) or f"It knows the deleted records no better than others (AUC {worst.auc:.3f})")
            + ".",
            gradients=self.models * self._size(len(case.retained)) * case.task.training.epochs,
            predictions=2 * len(x) + len(test),
            details=details,
        )

    @property
    def _level(self) -> float:
        """At which z counts as larger on D_u: the floor is two-sided, and bounds the AUC from above too."""
        return max(self.alpha, self.floor / 2)

    def _groups(self, case: Case, given: Tensor, expected: Tensor) -> dict[str, Separation]:
        """z of D_u against z of H, by group, from predictions `given` (m+n, K) and `expected` (models, m+n, K)."""
        own, deleted, rng = case.task.records.y[case.deleted], case.deleted.cpu(), generator(case.seed, self.name, "H")
        wrong = torch.isin(deleted, torch.empty(0).long() if case.secret is None else case.secret.cpu())
        labels = case.trusted.y
        every, classes = torch.arange(len(labels), device=labels.device), len(case.data.classes)
        groups = {"clean": (~wrong, labels), "mislabelled": (wrong, _mislabelled(labels, every, classes, rng))}
        groups = {name: group for name, group in groups.items() if bool(group[0].any())}
        found = {}
        for name, (mine, held) in groups.items():
            y = torch.cat([own, held])
            phi, of_verifiers = log_odds(given, y).cpu().double(), log_odds(expected, y).cpu().double()
            z = (phi - of_verifiers.mean(0)) / (of_verifiers.var(0) + self.variance).sqrt()
            found[name] = separation(z[: len(own)][mine], z[len(own) :], self._level / len(groups))
        return found

    def _found(self, groups: dict[str, Separation], details: dict[str, Any]) -> Iterator[str]:
        """What speaks against ignorance in the groups; the `details` get their numbers."""
        for name, group in groups.items():
            least = group.null_interval(self.floor / len(groups))[0]
            details |= {f"{key}_{name}": value for key, value in group.as_dict().items()}
            details[f"floor_{name}"] = least
            if group.z > group.critical_z:
                yield f"It knows the {name} deleted records (AUC {group.auc:.3f}, p = {group.p_value:.2g})"
            if group.auc < least:
                yield f"It avoids the {name} deleted records (AUC {group.auc:.3f}, below {least:.3f})"

    def _ruined(self, details: dict[str, Any]) -> Iterator[str]:
        reached, verifiers = details["accuracy"], details["accuracy_verifiers"]
        if reached < verifiers - self.accuracy:
            yield f"Its accuracy of {reached:.3f} is below that of verification models, {verifiers:.3f}"

    def _verifiers(self, case: Case, x: Tensor) -> dict[str, Tensor]:
        """What the verification models say of `x` (n, ...): probabilities (models, n, K)."""
        retained, task, found = case.retained, case.task, []
        for k in range(self.models):
            rng = generator(case.seed, self.name, "share", k)
            own = retained[torch.randperm(len(retained), generator=rng)[: self._size(len(retained))]]
            seed, label = derive(case.seed, self.name, "verifier", k), f"verification model {k + 1} of {self.models}"
            records = task.records[own.to(task.records.y.device)]
            found.append(train(task.build, records, task.training, [seed], label=label)[0].probabilities(x))
        return {"probabilities": torch.stack(found)}

    def _size(self, retained: int) -> int:
        return round(self.share * retained)


def _some(count: int, share: float, rng: torch.Generator) -> Tensor:
    """Positions of a random `share` of `count` things, in their order."""
    return torch.randperm(count, generator=rng)[: round(share * count)].sort().values


def _mislabelled(y: Tensor, wrong: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    """Labels (n,), those at the positions `wrong` replaced by another class, drawn uniformly."""
    changed, shift = y.clone(), torch.randint(1, max(classes, 2), (len(wrong),), generator=rng)
    changed[wrong] = (y[wrong] + shift.to(y.device)) % classes
    return changed


def _accuracy(probabilities: Tensor, y: Tensor) -> float:
    return float((probabilities.argmax(-1) == y).double().mean())
