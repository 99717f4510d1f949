"""Score penalty: name only records whose score the attacker expects below the threshold that it estimates itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from attacks.adaptive.knowledge import Trial
from attacks.adaptive.strategy import STRICT, Adaptive, Crafting, knowledge_of
from attacks.crafting.attack import Attacker, AttackResult
from data.bounds import at_most
from models.progress import progress


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScorePenalty(Adaptive):
    """The constraint s_i <= tau on the records of a request, for whatever filter there is, in at most `rounds` rounds.

    A round crafts, tries the request in a stream of the attacker's own (`attacks.adaptive.knowledge.Knowledge`), and
    takes the records that the filter did not accept there out of what the next round may name. A goal is done when all
    of its request is accepted. Of its rounds the request counts whose trial attained most, the first among equals.
    Scores depend on what else is in the stream, so that the constraint holds in the trial, and elsewhere nearly.
    After the first round goals are searched one by one, since each has a pool of its own. Our formulation.
    """

    name: ClassVar[str] = "score_penalty"
    opens: ClassVar[bool] = True
    needs_filter: ClassVar[bool] = True
    rehearses: ClassVar[bool] = True
    rounds: Annotated[int, Field(ge=1), at_most(1000, "each is a whole search")] = 4

    def craft(self, crafting: Crafting, attacker: Attacker) -> list[AttackResult]:
        """The request of every goal that serves best in its trial."""
        results = crafting.search(attacker)
        trials = self._tried(results, range(len(results)), attacker)
        best = list(zip(results, trials, strict=True))
        left = [_without(attacker, *each) for each in best]
        with progress("crafting below the threshold", self.rounds - 1) as tick:
            for _ in range(self.rounds - 1):
                open_ = [i for i, each in enumerate(left) if each is not None]
                again = [self._searched(crafting, i, left[i]) for i in open_]
                for i, result, trial in zip(open_, again, self._tried(again, open_, attacker), strict=True):
                    own = left[i]
                    assert own is not None
                    left[i] = _without(own, result, trial)
                    if trial.worth > best[i][1].worth:
                        best[i] = result, trial
                tick()
        return [result for result, _ in best]

    def _tried(self, results: list[AttackResult], which: range | list[int], attacker: Attacker) -> list[Trial]:
        knowledge = knowledge_of(attacker, self.name)
        return knowledge.trials([each.request for each in results], list(which))

    def _searched(self, crafting: Crafting, goal: int, attacker: Attacker | None) -> AttackResult:
        assert attacker is not None
        [found] = crafting.search(attacker, min(crafting.budget, len(attacker.pool)), [goal])
        return found


def _without(attacker: Attacker, result: AttackResult, trial: Trial) -> Attacker | None:
    """The attacker without the records that were not accepted; None where all were, or no record is left."""
    if bool(trial.accepted.all()):
        return None
    named: Tensor = torch.tensor(result.request.indices, device=attacker.pool.device)
    rejected = named[~trial.accepted.to(named.device)]
    kept = ~torch.isin(attacker.pool, rejected)
    return replace(attacker, pool=attacker.pool[kept], owned=attacker.owned[kept]) if bool(kept.any()) else None
