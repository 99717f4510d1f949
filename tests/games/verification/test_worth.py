"""What a released model is worth: measured as by hand, and by naive retraining with as many updates."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from data.digits import Digits
from games.verification.releasing import Controls, Released
from games.verification.worth import worth
from models.logistic import Logistic
from models.training import Training
from models.victim import Victim
from unlearning.learning import plain_learning
from unlearning.task import Task

DATA = Digits(train=300, test=1197).load()
TASK = Task(DATA.train, partial(Logistic, shape=DATA.shape, classes=10), Training(epochs=3))
DELETED = torch.arange(40)


@pytest.fixture(scope="module")
def models() -> list[Victim]:
    return [plain_learning(TASK, seed) for seed in range(3)]


def controls(model: Victim) -> Controls:
    each = Released(model, 0, 0, 0.0)
    return Controls(each, each, each)


def test_the_numbers_are_those_of_other_libraries(models):
    model, original, naive = models
    found = worth(TASK, DATA, DELETED, model, original, controls(naive))
    guessed = model.logits(DATA.test.x).argmax(1)
    assert found["released"]["test"]["accuracy"] == pytest.approx(float((guessed == DATA.test.y).double().mean()))
    assert found["released"]["test"]["macro_f1"] == pytest.approx(f1_score(DATA.test.y, guessed, average="macro"))
    micro = f1_score(DATA.test.y, guessed, average="micro")
    assert abs(found["released"]["test"]["accuracy"] - micro) < 1e-12  # of one label each they are the same
    both = torch.cat([DATA.train.x[DELETED], DATA.test.x])
    labels = torch.cat([DATA.train.y[DELETED], DATA.test.y])
    p = model.probabilities(both).double()[torch.arange(len(labels)), labels]
    members = torch.arange(len(labels)) < 40
    assert found["released"]["membership"] == pytest.approx(roc_auc_score(members, p.logit()), abs=1e-6)


def test_distances_are_in_units_of_what_there_is_to_forget(models):
    _, original, naive = models
    control = controls(naive)
    honest = worth(TASK, DATA, DELETED, naive, original, control)["released"]
    lazy = worth(TASK, DATA, DELETED, original, original, control)["released"]
    assert (honest["distance_to_naive"], honest["distance_to_original"]) == (0.0, pytest.approx(1.0))
    assert (lazy["distance_to_naive"], lazy["distance_to_original"]) == (pytest.approx(1.0), 0.0)
    same = worth(TASK, DATA, DELETED, original, original, controls(original))["released"]
    assert same["distance_to_naive"] is None
