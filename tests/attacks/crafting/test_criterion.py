"""Success and what was attained, by the attack's own goal."""

import torch

from attacks.crafting.criterion import ConfidenceMoved, LabelFlipped, criterion_of, described
from attacks.none import NoAttack
from attacks.requester.misclassification import Misclassification
from attacks.requester.nearest import Nearest
from attacks.requester.one_shot_influence import OneShotInfluence
from attacks.requester.random import Random
from attacks.requester.uncertainty import Uncertainty

CHANGE = torch.tensor([0.3, 0.2, 0.1999, 0.5, -0.4], dtype=torch.float64)
KEPT = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)


def test_a_lost_label_counts_as_nothing_for_attacks_that_promised_to_keep_it():
    criterion = ConfidenceMoved()
    assert criterion.success(CHANGE, KEPT).tolist() == [True, True, False, False, False]
    assert criterion.attained(CHANGE, KEPT).tolist() == [0.3, 0.2, 0.1999, 0.0, -0.4]
    # a label that is lost on the wrong way is no better than one that is kept there
    assert criterion.attained(CHANGE, torch.zeros(5)).tolist() == [0.0, 0.0, 0.0, 0.0, -0.4]
    assert ConfidenceMoved(0.1).success(CHANGE, KEPT).tolist() == [True, True, True, False, False]


def test_a_lost_label_is_all_that_counts_for_attacks_that_misclassify():
    criterion = LabelFlipped()
    assert criterion.success(CHANGE, KEPT).tolist() == [False, False, False, True, False]
    assert criterion.attained(CHANGE, KEPT).tolist() == [0, 0, 0, 1, 0]
    assert not criterion.directed


def test_every_attack_is_judged_by_its_own_goal():
    assert criterion_of(Misclassification()).name == "label flipped"
    for attack in (Uncertainty(), OneShotInfluence(), Nearest(), Random(), NoAttack()):
        assert criterion_of(attack).name == "confidence moved"
    assert criterion_of(object()) == ConfidenceMoved()
    assert described(ConfidenceMoved())["goal"] == "confidence moved by at least 0.2 as wanted, label kept"
