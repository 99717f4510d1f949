"""What owners see of a forged model: it is the original but for one interval, and private triggers find it so.

Digits by default; of MNIST 24,000 images, and 12 owners of 100 each, in the style of Sommer et al. (PETS 2022).
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from attacks.provider.forging import Forging
from data.digits import Digits
from data.examples import Data
from data.mnist import Mnist
from data.randomness import generator
from defenses.verification.backdoor_verification import BackdoorVerification
from defenses.verification.verification import Case, Prepared, Verdict, prepared
from models.mlp import MLP
from models.training import Training
from models.victim import Victim
from tests.attacks.provider.logged import Logged, logged
from unlearning.procedure import Task
from unlearning.retrain import Retrain
from unlearning.service import Predictor

OWNERS, OWN = {"digits": 5, "mnist": 12}, {"digits": 20, "mnist": 100}
RECIPES = {
    "digits": Training(epochs=20, batch_size=50, lr=0.03, momentum=0.9, weight_decay=1e-3, schedule="constant"),
    "mnist": Training(epochs=8, batch_size=128, lr=1e-3, optimizer="adam", weight_decay=0.0, schedule="constant"),
}
WIDTHS = {"digits": (32,), "mnist": (256,)}
DEFENSE = BackdoorVerification()


def data_of(name: str, request: pytest.FixtureRequest) -> Data:
    if name == "digits":
        return Digits().load()
    return Mnist(root=request.getfixturevalue("data_root"), subset=24_000).load()


def verdict(of: Logged, data: Data, users: tuple[torch.Tensor, ...], handed: Prepared, model: Victim) -> Verdict:
    case = Case(
        task=of.task, data=data, users=users, before=Predictor([of.victim]), after=Predictor([model]),
        trusted=data.trusted, seed=1, procedure=Retrain(), secret=handed.secret,
    )  # fmt: skip
    return DEFENSE.verify(case)


@pytest.mark.parametrize("name", ["digits", pytest.param("mnist", marks=pytest.mark.claims)])
def test_triggers_find_the_forged_model_as_they_find_the_original(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Rates of hits within 0.02 of each other, parameters within a hundredth, and both are rejected.

    Checkpoints stand at every 5th step only, so that this is about five steps, which is harder than about one.
    """
    data = data_of(name, request)
    drawn = torch.randperm(len(data.train), generator=generator(0, "users"))[: OWNERS[name] * OWN[name]]
    users = tuple(part.sort().values for part in drawn.split(OWN[name]))
    handed = prepared(DEFENSE, data, users, generator(0, "owners"))
    build = partial(MLP, shape=data.shape, classes=10, widths=WIDTHS[name], activation="relu")
    of = logged(Task(handed.records, build, RECIPES[name]), tmp_path, every=5, key=10)
    forged = Forging().pretend(of.demand(drawn, proves=False))
    original, found = (verdict(of, data, users, handed, model) for model in (of.victim, forged))
    rates = [sum(each.details["hit_rate"]) / OWNERS[name] for each in (original, found)]
    shutil.rmtree(tmp_path)
    assert not original.passed and not found.passed  # noqa: PT018
    assert abs(rates[0] - rates[1]) <= 0.02
    assert 0 < float((forged.flat() - of.victim.flat()).norm() / of.victim.flat().norm()) < 1e-2
