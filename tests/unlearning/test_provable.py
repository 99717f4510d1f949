"""Procedures that write down how they forget: what they write is what they did."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from data.digits import Digits
from models.mlp import MLP
from models.training import Training
from tests.models.test_stepwise import Notes
from unlearning.fine_tune import FineTune
from unlearning.provable import Account, Provable, descended, drawn, retained
from unlearning.retrain import Retrain
from unlearning.second_order import SecondOrder
from unlearning.task import Task

DATA = Digits(train=300, test=1197).load()
TASK = Task(DATA.train, partial(MLP, shape=DATA.shape, classes=10, widths=[16]), Training(epochs=2, batch_size=64))
DELETED = torch.tensor([5, 250, 17])


@pytest.fixture(scope="module")
def victim():
    return Retrain().learn(TASK, 1)


@pytest.mark.parametrize("procedure", [Retrain(), FineTune(epochs=2)])
def test_no_batch_has_a_deleted_record(procedure, victim):
    notes = Notes()
    account = Account(notes)
    model = procedure.forget_provably(TASK, victim, DELETED, 1, account)
    assert notes.ended
    assert torch.equal(notes.states[-1].weights, model.flat())
    assert {len(batch) for batch in notes.batches} == {64}
    assert not set(torch.cat(notes.batches).tolist()) & set(DELETED.tolist())
    assert account.gradients.count == 64 * len(notes.batches) == 64 * 2 * (297 // 64)
    silent = procedure.forget_provably(TASK, victim, DELETED, 1, Account())
    assert torch.equal(silent.flat(), model.flat())  # to be watched changes nothing


def test_retraining_begins_anew_and_fine_tuning_at_the_victim(victim):
    notes = Notes()
    Retrain().forget_provably(TASK, victim, DELETED, 4, Account(notes))
    assert torch.equal(notes.states[0].weights, drawn(TASK, 4).flat())
    notes = Notes()
    FineTune(epochs=1).forget_provably(TASK, victim, DELETED, 4, Account(notes))
    assert torch.equal(notes.states[0].weights, victim.flat())


def test_retraining_is_plain_training_on_what_is_left(victim):
    """On 192 retained records, three whole batches, there is no tail, and plain training does the same."""
    deleted = torch.arange(192, 300)
    model = Retrain().forget_provably(TASK, victim, deleted, 4, Account())
    alone = replace(TASK, records=DATA.train[:192])
    assert torch.equal(model.flat(), Retrain().learn(alone, 4).flat())


def test_a_verifier_chooses_the_order(victim):
    one, two, three = Notes(), Notes(), Notes()
    Retrain().forget_provably(TASK, victim, DELETED, 4, Account(one, order=9))
    Retrain().forget_provably(TASK, victim, DELETED, 5, Account(two, order=9))
    Retrain().forget_provably(TASK, victim, DELETED, 4, Account(three))
    assert torch.equal(torch.cat(one.batches), torch.cat(two.batches))
    assert not torch.equal(torch.cat(one.batches), torch.cat(three.batches))


def test_what_was_forgotten_before_stays_forgotten(victim):
    gone = torch.zeros(300)
    gone[:10] = 1
    left = retained(replace(TASK, forgotten=gone), DELETED)
    assert left.tolist() == [i for i in range(10, 300) if i not in (17, 250)]


def test_who_can_write_a_proof():
    assert isinstance(Retrain(), Provable)
    assert isinstance(FineTune(), Provable)
    assert not isinstance(SecondOrder(), Provable)
    assert callable(descended)
