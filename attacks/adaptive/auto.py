"""Auto: try the strategies against the filter in streams of the attacker's own, and play the one that is left most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field, SkipValidation
from pydantic.dataclasses import dataclass

from attacks.adaptive.aligned_copies import AlignedCopies
from attacks.adaptive.calibration_poisoning import CalibrationPoisoning
from attacks.adaptive.dilution import Dilution
from attacks.adaptive.none import NotAdaptive
from attacks.adaptive.norm_cap import NormCap
from attacks.adaptive.score_penalty import ScorePenalty
from attacks.adaptive.splitting import Splitting
from attacks.adaptive.strategy import STRICT, Adaptive, Crafting, knowledge_of
from attacks.crafting.attack import Attacker, AttackResult
from data.errors import UserError
from unlearning.service import OpenService


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Auto(Adaptive):
    """Craft with each of the `strategies` that are applicable, and play that whose trials attained most on average.

    Trials are in streams of the attacker's own, of another draw than those that strategies craft with, and never in
    the game's: what the game measures was not selected on itself. Among equals the first is played. Every result says
    in `tried` what was played, with the mean of its trials, and then the others. Strategies that choose targets have no
    place here, since targets are chosen before. Our strategy.
    """

    name: ClassVar[str] = "auto"
    opens: ClassVar[bool] = True
    needs_filter: ClassVar[bool] = True
    rehearses: ClassVar[bool] = True
    strategies: SkipValidation[Sequence[Adaptive]] = Field(
        default_factory=lambda: (
            NotAdaptive(), NormCap(), ScorePenalty(), Dilution(), Splitting(), CalibrationPoisoning(), AlignedCopies(),
        )
    )  # fmt: skip

    def __post_init__(self) -> None:
        listed = self.strategies
        if not isinstance(listed, list | tuple) or not listed or any(not isinstance(s, Adaptive) for s in listed):
            raise UserError(
                "strategies must be a list of strategies, as in [{_target_: attacks.adaptive.norm_cap.NormCap}], got "
                f"{listed!r:.60}."
            )
        names = [each.name for each in listed]
        if len(set(names)) < len(names):
            raise UserError(f"strategies must have different names, got {', '.join(names)}.")
        wrong = next((each.name for each in listed if each.far is not None or isinstance(each, Auto)), None)
        if wrong is not None:
            raise UserError(f"strategies holds {wrong}, which cannot be tried by another strategy; take it out.")

    def narrow(self, service: OpenService, attacker: Attacker, budget: int, cap: float | None) -> Attacker:
        """The attacker as it is: every strategy narrows for itself."""
        return attacker

    def craft(self, crafting: Crafting, attacker: Attacker) -> list[AttackResult]:
        """What the best strategy crafts."""
        knowledge, service = knowledge_of(attacker, self.name), crafting.opened
        found: dict[str, tuple[tuple[float, ...], list[AttackResult]]] = {}
        for each in self.strategies:
            if not each.applicable(crafting, attacker):
                continue
            results = each.craft(crafting, each.narrow(service, attacker, crafting.budget, crafting.cap))
            requests, every = [result.request for result in results], range(len(results))
            if each.parts > 1 and any(request.examples is not None for request in requests):
                continue  # copies of the attack's own are not split
            trials = knowledge.trials(requests, every, each.parts, each.poison(service, attacker), draw=1)
            worth = [trial.worth for trial in trials]
            mean = tuple(sum(values) / len(worth) for values in zip(*worth, strict=True))
            found[each.name] = mean, results
        if not found:
            raise UserError(
                "None of attack.adaptive.strategies fits this game; add {_target_: attacks.adaptive.none.NotAdaptive}."
            )
        best = max(found, key=lambda name: found[name][0])  # the first among equals
        tried = tuple((name, found[name][0][0]) for name in (best, *(name for name in found if name != best)))
        return [replace(result, tried=tried) for result in found[best][1]]

    def played(self, results: Sequence[AttackResult]) -> Adaptive:
        """The strategy that was chosen for these results."""
        name = results[0].tried[0][0]
        return next(each for each in self.strategies if each.name == name)
