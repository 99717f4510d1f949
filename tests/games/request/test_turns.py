"""Streams that come one after the other: each is reviewed at what became of what was accepted before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from defenses.defense import Verdict
from experiments.play.play import cached
from experiments.play.setup import prepare
from games.game import metric_of
from games.request.game import RequestGame
from games.request.sequences import told_apart
from games.request.table import tables
from games.request.traffic import divided
from games.request.turns import Turn, in_turn, reviewed_in_turn
from tests.attacks.checks import bed, opened
from tests.experiments.games import config
from unlearning.first_order import FirstOrder
from unlearning.procedure import Request, forget
from unlearning.retrain import Retrain

BATCHES = [torch.arange(10), torch.arange(10, 20), torch.arange(20, 30)]


def verdict(batch: Tensor, hold: int, remembered: object = None) -> Verdict:
    """A verdict that quarantines the first records of a batch."""
    accepted = torch.arange(len(batch)) >= hold
    return Verdict((~accepted).double(), accepted, 0.5, remembered=remembered)


@pytest.mark.parametrize("procedure", [FirstOrder(), Retrain()], ids=["first_order", "retrain"])
def test_a_batch_is_reviewed_at_what_was_accepted_before(procedure) -> None:
    """Of two sequences one has records in quarantine: against the same by hand, one request after the other."""
    of, seen = bed(0), list[tuple[int, Turn]]()

    def review(i: int, turn: Turn) -> Verdict:
        seen.append((i, turn))
        return verdict(turn.batch, 4 if i == 1 and turn.place == 1 else 0, (i, turn.place))

    found = reviewed_in_turn(opened(of, procedure), [BATCHES, BATCHES], review)
    assert [(i, turn.place) for i, turn in seen] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert [turn.remembered for _, turn in seen] == [None, None, (0, 0), (1, 0), (0, 1), (1, 1)]
    for number, (verdicts, after) in enumerate(found):
        task, victim = of.task, of.victim
        turns = [turn for i, turn in seen if i == number]
        for batch, turn, said in zip(BATCHES, turns, verdicts, strict=True):
            assert (turn.provider.victims[0].flat() - victim.flat()).abs().max() < 1e-9
            whole = forget(procedure, task, victim, Request(tuple(batch.tolist())), of.seed)
            assert (turn.candidate.flat() - whole.flat()).abs().max() < 1e-9
            left = Request(tuple(said.deleted(batch).tolist()))
            victim, task = forget(procedure, task, victim, left, of.seed), task.without(left)
        assert (after.victims[0].flat() - victim.flat()).abs().max() < 1e-9
        assert after.task.forgotten is not None
        assert torch.equal(after.task.forgotten, task.forgotten)
        assert int(after.task.forgotten.sum()) == (26 if number else 30)


def test_the_models_of_sequences_are_those_of_their_batches_in_turn() -> None:
    of = bed(0)
    rows = torch.zeros(3, 300, dtype=torch.float64)
    rows[:, :30] = 1
    sequences = [BATCHES, [BATCHES[0], torch.empty(0, dtype=torch.long)], ()]
    for procedure in (FirstOrder(), Retrain()):
        root = opened(of, procedure)
        at_once = root.unlearn(rows)
        [found] = in_turn(root, at_once, sequences)
        if procedure.exact:
            assert found is at_once[0]
            continue
        task, victim = of.task, of.victim
        for batch in BATCHES:
            request = Request(tuple(batch.tolist()))
            victim, task = forget(procedure, task, victim, request, of.seed), task.without(request)
        assert (found[0].flat() - victim.flat()).abs().max() < 1e-9
        assert (victim.flat() - at_once[0][0].flat()).abs().max() > 1e-3  # the path matters
        assert torch.equal(found[1].flat(), at_once[0][1].flat())
        assert torch.equal(found[2].flat(), at_once[0][2].flat())


def test_records_are_divided_by_stage_or_in_turn() -> None:
    request = torch.arange(7)
    assert [each.tolist() for each in divided(request, 3, ())] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [each.tolist() for each in divided(request, 3, (4, 0, 3))] == [[0, 1, 2, 3], [], [4, 5, 6]]


def test_sequences_are_told_apart_by_their_largest_score() -> None:
    quiet, loud = verdict(torch.arange(4), 0), verdict(torch.arange(4), 1)
    attacked, control = [quiet, loud, quiet, quiet, loud, loud], [quiet] * 4 + [loud, quiet]
    found = told_apart(attacked, control, {"uniform": [quiet, loud]}, 2, ["over", "over", "under"], [True, True, True])
    assert found["over"]["caught"]["value"] == 0.5
    assert found["over"]["caught_random"]["value"] == 0.0
    assert found["over"]["auroc"]["value"] == 0.75
    assert found["under"]["caught"] == {"value": 1.0, "n": 1, "settings": {"low": pytest.approx(0.025), "high": 1.0}}
    assert found["benign"] == {"uniform": [1.0]}
    nothing = told_apart(attacked, control, {}, 2, ["over", "over", "under"], [True, True, False])
    assert nothing["under"] is None


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small game of the sequential attack, whose stages are judged one after the other."""
    game = (
        "attack=sequential", "attack.judged=stages", "attack.stages=3", "attack.benign=0", "unlearning=first_order",
        "defense=cusum", "defense.points=5", "defense.length=3", "defense.sequences=200", "model=logistic",
        "game.targets.direction=over", "judge=quick", "defense.preconditioner=identity", "game.stream.harder=null",
    )  # fmt: skip
    return cached(prepare(config(tmp_path_factory.mktemp("staged"), *game)), 0)[0]


def test_a_game_judges_stages_and_says_how_sequences_were_told_apart(staged: dict[str, Any]) -> None:
    told, goals = staged["detection"]["sequences"], len(staged["requests"])
    assert told["parts"] == 3
    assert len(staged["detection"]["quarantined"]) == 3 * goals
    assert told["benign"].keys() == {"uniform"}
    assert staged["detection"]["benign_size"] == 3 * 24
    assert told["over"]["streams"] == 2
    game = RequestGame()
    for part in game.parts(staged):
        for name in ("sequences_caught", "sequences_auroc", "sequences_benign", "trusted_distance"):
            values = metric_of(game, name).values(part)
            assert values, name
            assert all(value >= 0 for value in values.values())
    said = " ".join(str(each) for each in tables([staged], game.summary([staged])))
    assert "Of 2 sequences of 3 streams, each judged at what became of those before, an alarm in" in said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["attack.stages=6"], r"comes in 6 batches, and defense\.length=5"),
        (
            ["attack.stages=10", "defense=influence"],
            r"attack\.judged=stages needs 10 streams of 24 records .* attack\.stages",
        ),
        (["defense.length=20"], r"lower defense\.length"),
    ],
)
def test_what_cannot_be_judged_in_stages_is_said_before_anything_is_trained(
    overrides: list[str], said: str, tmp_path: Path
) -> None:
    game = ("attack=sequential", "attack.judged=stages", "attack.benign=0", "defense=cusum", "model=logistic")
    with pytest.raises(UserError, match=said):
        prepare(config(tmp_path, *game, *overrides))
