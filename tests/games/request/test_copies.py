"""Requests that bring copies of their records: kept, judged with them, and shared by games with another defense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic.dataclasses import dataclass

from attacks.crafting.access import Access
from attacks.crafting.attack import Attacker, AttackGoal, AttackResult
from data.errors import UserError
from data.examples import Examples
from defenses.defense import Context, Verdict, reviewed
from experiments.play.play import cached
from experiments.play.setup import prepare
from games.request.evaluation import Judge, submitted
from tests.experiments.games import config
from unlearning.procedure import Request, forget


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Asks to delete the first records of its pool, and where told brings copies of them, three times as dark."""

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "copies"
    access: ClassVar[str] = "black_box"
    queries: ClassVar[int] = 1
    budget: int = 6
    owned: float = 1.0
    pool: int | None = None
    bring: bool = True

    def craft(
        self, entrances: Sequence[Access], goals: Sequence[AttackGoal], attacker: Attacker, rng: torch.Generator
    ) -> list[AttackResult]:
        size = self.budget
        copies = Examples(3 * attacker.owned.x[:size], attacker.owned.y[:size]) if self.bring else None
        return [AttackResult(Request(tuple(attacker.pool[:size].tolist()), copies), 0.0) for _ in goals]


def play(folder: Path, *overrides: str, bring: bool = True) -> dict[str, Any]:
    chosen = config(folder, "attack=random", *overrides)
    return cached(prepare({**chosen, "attack": {"_target_": f"{__name__}.Copies", "bring": bring}}), 0)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("copies")


@pytest.fixture(scope="module")
def with_copies(folder: Path) -> dict[str, Any]:
    return play(folder, "unlearning=first_order", "defense=influence")


def test_copies_count_in_every_state_that_they_reach(folder: Path, with_copies: dict[str, Any]) -> None:
    without = play(folder, "unlearning=first_order", "defense=influence", bring=False)
    own, other = with_copies["victim_seed"], without["victim_seed"]
    assert own["before"] == other["before"]
    assert own["random"]["confidence"] == pytest.approx(other["random"]["confidence"], abs=1e-6)  # batched otherwise
    for state in ("after", "stream"):
        assert own[state]["confidence"] != other[state]["confidence"], state
    assert [each["indices"] for each in with_copies["requests"]] == [each["indices"] for each in without["requests"]]
    assert all(len(each["copies"]) == 32 for each in with_copies["requests"])
    assert all("copies" not in each for each in without["requests"])


def test_what_is_judged_is_what_the_procedure_does_with_the_copies(folder: Path, with_copies: dict[str, Any]) -> None:
    chosen = config(folder, "attack=random", "unlearning=first_order")
    setup = prepare({**chosen, "attack": {"_target_": f"{__name__}.Copies"}})
    victim, task = setup.victim(0), setup.task
    positions = tuple(with_copies["requests"][0]["indices"])
    request = Request(positions, Examples(3 * task.records.x[list(positions)], task.records.y[list(positions)]))
    model = forget(setup.procedure, task, victim, request, 0)
    target, label = with_copies["targets"]["position"][0], with_copies["targets"]["label"][0]
    expected = float(model.probabilities(setup.data.test.x[[target]])[0, label])
    assert with_copies["victim_seed"]["after"]["confidence"][0] == pytest.approx(expected, abs=1e-5)


def test_copies_of_records_that_are_rejected_play_no_part(folder: Path) -> None:
    setup = prepare(config(folder, "attack=random", "unlearning=first_order"))
    victim, records = setup.victim(0), setup.task.records
    judge = Judge(setup.task, setup.procedure, setup.data)
    request = Request((3, 1, 2), Examples(3 * records.x[[3, 1, 2]], records.y[[3, 1, 2]]))
    rows = judge.rows([torch.tensor([2, 7])])  # of the request only record 2 was accepted
    [models] = judge.unlearn([victim], [0], rows, brought=[request])
    one = Request((2,), Examples(3 * records.x[[2]], records.y[[2]]))
    other = submitted(one, rows[0], records)
    expected = setup.procedure.forget(setup.task, victim, rows, 0, other)
    assert torch.equal(models.flat(), expected.flat())
    [nothing] = judge.unlearn([victim], [0], torch.zeros_like(rows), brought=[replace(request)])
    assert torch.equal(nothing[0].flat(), victim.flat())


def test_games_with_another_defense_share_the_copies(folder: Path, with_copies: dict[str, Any]) -> None:
    assert len(list((folder / "store" / "copies").rglob("*.safetensors"))) == 1
    other = play(folder, "unlearning=first_order", "defense=none")
    assert len(list((folder / "store" / "copies").rglob("*.safetensors"))) == 1
    assert other["victim_seed"]["after"]["confidence"] == with_copies["victim_seed"]["after"]["confidence"]
    assert other["requests"] == with_copies["requests"]


def test_a_server_that_deletes_its_own_records_is_immune(folder: Path, with_copies: dict[str, Any]) -> None:
    """Bit by bit, in every state and in what its filter finds; with copies that count, that sees the copies."""
    own = play(folder, "unlearning=first_order", "defense=influence", "game.service.record=own")
    without = play(folder, "unlearning=first_order", "defense=influence", bring=False)
    assert own["victim_seed"] == without["victim_seed"]
    assert own["detection"] == without["detection"]
    assert [each["copies"] for each in own["requests"]] == [each["copies"] for each in with_copies["requests"]]
    scores = [each["detection"]["under"]["S8"]["auroc"]["value"] for each in (with_copies, without)]
    assert scores[0] != scores[1]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Deletes, in place of whatever is submitted, the record that is stored `ahead` places on."""

    game: ClassVar[str] = "request"
    name: ClassVar[str] = "stored"
    ahead: int = 0

    def review(self, context: Context, requests: torch.Tensor) -> Verdict:
        instead = (requests + self.ahead) % len(context.task.records)
        everything = torch.ones_like(requests, dtype=torch.bool)
        return Verdict(torch.zeros(len(requests)), everything, 0.0, instead)


def test_a_filter_may_delete_stored_records_instead(folder: Path) -> None:
    """Of what was submitted nothing is left then; what is deleted is what it says."""
    chosen = {**config(folder, "attack=random", "unlearning=first_order"), "attack": {"_target_": f"{__name__}.Copies"}}
    states = {}
    for ahead in (0, 1):
        defense = {"_target_": f"{__name__}.Stored", "ahead": ahead}
        states[ahead] = cached(prepare({**chosen, "defense": defense}), 0)[0]["victim_seed"]
    without = play(folder, "unlearning=first_order", "defense=none", bring=False)["victim_seed"]
    assert states[0]["defended"]["confidence"] == pytest.approx(without["stream"]["confidence"], abs=1e-6)
    assert states[0]["processed"]["confidence"] == states[0]["defended"]["confidence"]
    assert states[0]["stream"]["confidence"] != without["stream"]["confidence"]
    assert states[1]["defended"]["confidence"] != states[0]["defended"]["confidence"]


@pytest.mark.parametrize("instead", [torch.zeros(3), torch.zeros(2, dtype=torch.long), torch.tensor([0, 1, 300])])
def test_what_is_deleted_instead_must_be_records(folder: Path, instead: torch.Tensor) -> None:
    class Strange:
        name = "strange"

        def review(self, context: Context, requests: torch.Tensor) -> Verdict:
            return Verdict(torch.zeros(3), torch.ones(3, dtype=torch.bool), 0.0, instead)

    setup = prepare(config(folder, "attack=random", "unlearning=first_order"))
    victim = setup.victim(0)
    context = Context(setup.task, victim, victim, setup.data.trusted)
    with pytest.raises(UserError, match="gave as instead no 3 positions"):
        reviewed(Strange(), context, torch.tensor([4, 5, 6]))
