"""Keys: a victim is keyed by what learns it, a game by its settings and the code that computes its numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from experiments.play import identity
from experiments.play.identity import Keys, Machine
from games.request import crafting
from models.victim import Victim
from storage.versions import code_version
from storage.versions.code_version import ROOT, _stamp
from storage.versions.meaning import meaning
from tests.experiments.games import config
from unlearning.learning import plain_learning
from unlearning.procedure import Procedure, Task

HERE = "tests.experiments.play.test_identity"


@dataclass(frozen=True)
class Learning(Procedure):
    """Learns with one of its settings; a procedure that derives from it forgets with another."""

    learns_with: ClassVar[tuple[str, ...] | None] = ("steps",)
    steps: int = 3
    rate: float = 0.1

    def learn(self, task: Task, seed: int) -> Victim:
        return plain_learning(task, seed)

    def forget(self, *_: Any, **__: Any) -> Any: ...


class Quick(Learning):
    """Shares the learner."""


class Slow(Learning):
    """Shares it too."""


class Own(Quick):
    """Learns otherwise."""

    def learn(self, task: Task, seed: int) -> Victim:
        return plain_learning(task, seed + 1)


class Unsaid(Learning):
    """Says nothing about its settings."""

    learns_with = None


def keys(procedure: str, **settings: Any) -> Keys:
    parts = {"model": {"width": 2}, "training": {"epochs": 1}, "attack": {"budget": 1}, "game": {"targets": {"n": 1}}}
    return Keys({**parts, "unlearning": {"_target_": f"{HERE}.{procedure}", **settings}}, "data", Machine("cpu", 1))


def test_procedures_that_learn_alike_share_a_victim() -> None:
    victim = keys("Quick", steps=3, rate=0.1).victim()
    assert victim["learner"] == {"_target_": f"{HERE}.Learning", "steps": 3}
    assert victim == keys("Slow", steps=3, rate=0.1).victim()
    assert victim == keys("Quick", steps=3, rate=0.2).victim()
    assert victim != keys("Quick", steps=4, rate=0.1).victim()
    assert victim != keys("Own", steps=3, rate=0.1).victim()
    assert victim != keys("Unsaid", steps=3, rate=0.1).victim()
    assert keys("Unsaid", steps=3, rate=0.1).victim() != keys("Unsaid", steps=3, rate=0.2).victim()


def test_what_follows_from_a_procedure_is_its_own() -> None:
    """Steps, crafted requests and games hold every setting of forgetting, and which procedure it is."""
    for places in ((), ("attack", "game.targets")):
        mine = keys("Quick", steps=3, rate=0.1).of(*places)
        assert mine == keys("Quick", steps=3, rate=0.1).of(*places)
        assert mine != keys("Quick", steps=3, rate=0.2).of(*places)
        assert mine != keys("Slow", steps=3, rate=0.1).of(*places)
        assert mine["victim"] == keys("Quick", steps=3, rate=0.2).victim()


def test_retraining_is_the_same_whatever_the_procedure() -> None:
    assert keys("Quick", steps=3).trained() == keys("Own", steps=4).trained()
    assert keys("Quick", steps=3).trained() != keys("Quick", steps=3).victim()
    assert "unlearning" not in keys("Quick", steps=3).trained()


def test_procedures_that_train_plainly_share_a_victim_whatever_they_forget_with(tmp_path: Path) -> None:
    def victim(*options: str) -> dict[str, Any]:
        return Keys(config(tmp_path, *options), "data", Machine("cpu", 1)).victim()

    plain = victim("unlearning=retrain")
    for options in (["first_order"], ["first_order", "unlearning.rate=0.5"], ["second_order"], ["gradient_ascent"]):
        assert victim(f"unlearning={options[0]}", *options[1:]) == plain
    assert len({victim(f"unlearning={name}")["learner"]["_target_"] for name in ("sisa", "certified", "retrain")}) == 3
    assert victim("unlearning=sisa", "unlearning.shards=2") != victim("unlearning=sisa", "unlearning.shards=3")


Edit = Callable[[str, str, str], None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """Have another text stand in a file of ours, as far as keys are concerned."""

    def change(name: str, old: str, new: str) -> None:
        text = (ROOT / name).read_text()
        assert old in text
        other = tmp_path / Path(name).name
        other.write_text(text.replace(old, new, 1))

        def of(path: Path, stamp: tuple[int, int]) -> tuple[str, frozenset[str]]:
            return meaning(other, _stamp(other)) if path == ROOT / name else meaning(path, stamp)

        monkeypatch.setattr(code_version, "meaning", of)
        identity._code.cache_clear()

    yield change
    identity._code.cache_clear()


EDITS = {  # which keys an edit changes: of the victim, of crafted requests, of the game
    "an error in other words": ("games/request/targets.py", "No test example has", "There is no example with", ""),
    "a print": ("games/request/play.py", "    began = perf", "    print(seed)\n    began = perf", ""),
    "a log line moved": ("games/request/play.py", 'log.info("Crafted', 'log.debug("Made', ""),
    "the page": ("experiments/report_page/page.py", '"""', "X = 1\n", ""),
    "the table": ("games/request/table.py", "from __future__ import annotations\n", "X = 1\n", ""),
    "the figures": ("games/request/figures.py", "from __future__ import annotations\n", "X = 1\n", ""),
    "the traffic": ("games/request/traffic.py", "default=0)", "default=1)", "game"),
    "the filter": ("defenses/filters/scored.py", "= 0.05", "= 0.06", "game"),
    "the crafting": ("games/request/crafting.py", 'generator(seed, "attack")', 'generator(seed, "b")', "requests game"),
    "the attack": ("attacks/requester/uncertainty.py", "from __future__", "X = 1\nfrom __future__", "requests game"),
    "the training": ("models/training.py", "from __future__", "X = 1\nfrom __future__", "victim requests game"),
    "how victims are kept": ("games/victims.py", "setup.device)", "None)", "victim requests game"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_which_keys_an_edit_changes(name: str, edit: Edit, tmp_path: Path) -> None:
    mine = Keys(config(tmp_path, "defense=influence"), "data", Machine("cpu", 1))

    def every() -> dict[str, Any]:
        requests = mine.of("attack", "game.targets", code=crafting.CODE)
        return copy.deepcopy({"victim": mine.victim(), "requests": requests, "game": mine.game()})

    file, old, new, changed = EDITS[name]
    before = every()
    edit(file, old, new)
    after = every()
    assert [kind for kind in before if before[kind] != after[kind]] == changed.split()
