"""The surrogate of an attacker that has no access to the provider's model: `attack.access=transfer`."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from attacks.crafting.attack import Attacker
from attacks.crafting.norm_cap import below_norm_quantile
from attacks.crafting.transfer import as_surrogate_counts, check_surrogate, surrogate_task
from data.errors import UserError
from data.randomness import derive
from games.request.contributing import HandedIn
from games.request.targets import choose_attacker, member_seeds
from models.named_tensors import digest
from models.victim import Victim
from unlearning.procedure import Procedure
from unlearning.service import Meter, OpenService

if TYPE_CHECKING:
    from games.request.targets import RequestSetup

log = logging.getLogger(__name__)
# the surrogates of a setup, by the root seed and the attacker's pool
_trained: WeakKeyDictionary[RequestSetup, dict[tuple[int, ...], tuple[Victim, ...]]] = WeakKeyDictionary()


def surrogate_setup(setup: RequestSetup, attacker: Attacker) -> RequestSetup:
    """The setup whose victims are surrogates: on the attacker's records and examples, which its keys name by hash."""
    task = surrogate_task(setup.task, attacker)
    return replace(setup, task=task, keys=HandedIn(setup.keys, digest({"x": task.records.x, "y": task.records.y})))


def surrogate_of(
    setup: RequestSetup, seed: int, attacker: Attacker, meter: Meter, procedure: Procedure | None = None
) -> OpenService:
    """The surrogate, opened, in place of the provider: as many models as it has victims, and the same procedure.

    `procedure` is what runs, where that is the procedure with checkpoints. What is run counts in `meter` as operator
    calls. The models are trained once for a setup: the controls of a norm cap see what the attack saw. Raises UserError
    where the attacker holds too little to train on.
    """
    check_surrogate(attacker, setup.attack.budget, setup.data.classes)
    alone, seeds = surrogate_setup(setup, attacker), member_seeds(setup, derive(seed, "surrogate"))
    known = _trained.setdefault(setup, {})
    of = seed, *attacker.pool.tolist()
    if of not in known:
        log.info("The attacker trains its surrogate on %d examples.", len(alone.task.records))
        known[of] = tuple(alone.victim(each) for each in seeds)
    policy = setup.game.service.record
    return OpenService(alone.task, procedure or setup.procedure, known[of], tuple(seeds), meter, policy)


def below_cap(setup: RequestSetup, seed: int, attacker: Attacker, cap: float) -> Attacker:
    """The attacker without the records above its norm cap, by the norms that it sees: those of its surrogate."""
    seen = as_surrogate_counts(attacker)
    service = surrogate_of(setup, seed, attacker, Meter())
    left = below_norm_quantile(service, seen, cap, setup.attack.budget).pool
    return Attacker(attacker.pool[left], attacker.owned[left], attacker.reference)


def check_transfer(setup: RequestSetup) -> None:
    """Raise UserError where no surrogate can be trained on what the attackers of these games will hold."""
    first = setup.config["seed"]
    for seed in range(first, first + setup.config["repetitions"]):
        attacker = choose_attacker(setup, seed)
        check_surrogate(attacker, setup.attack.budget, setup.data.classes)
    setup.procedure.architecture(surrogate_task(setup.task, attacker))  # a committee says what it lacks
    if setup.procedure.irreproducible and getattr(setup.attack, "norm_cap", None) is not None:
        raise UserError(
            "attack.norm_cap with attack.access=transfer caps the norms of a surrogate, which the controls of the game "
            "must see too, and a procedure with secret noise trains another one each time; set "
            "unlearning.noise=derived or attack.norm_cap=null."
        )
