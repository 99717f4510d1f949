"""A whole small game: reproducible, cached, complete, and able to be killed."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from data.naming import without_choices
from experiments.play.play import play_config
from storage.records import with_nulls
from tests.experiments.games import QUICK, command, config, run

KILLS = int(os.environ.get("UNLEARNING_KILLS", "1"))  # each costs two runs; set it to 10 for a thorough check


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """A result without times, memory, paths, dates and figures, and without the names of options: only Hydra knows."""
    result = copy.deepcopy(json.loads(json.dumps(result)))
    del result["meta"], result["config"]["store"], result["config"]["figures"]
    for game in result["games"]:
        del game["seconds"], game["memory_mb"]
        game["config"] = without_choices(game["config"])
    return result


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("game")
    play_config(config(folder, "figures=true"), folder / "out")
    return folder, json.loads((folder / "out" / "result.json").read_text())


def test_two_stores_give_equal_results(played: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    play_config(config(tmp_path), tmp_path / "out")
    again = json.loads((tmp_path / "out" / "result.json").read_text())
    assert again["meta"]["served"] == [False]
    assert comparable(again) == comparable(played[1])


def test_another_seed_differs(played: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    other = play_config(config(tmp_path, "seed=1"), tmp_path / "out")
    first = played[1]["games"][0]
    assert other["games"][0]["requests"] != first["requests"]
    assert other["games"][0]["victim_seed"]["before"] != first["victim_seed"]["before"]


def test_second_run_is_served_and_says_so(
    played: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    folder, first = played
    with caplog.at_level("INFO"):
        again = play_config(config(folder), folder / "again")
    assert again["meta"]["served"] == [True]
    assert "served from the store" in caplog.text
    assert comparable(json.loads((folder / "again" / "result.json").read_text())) == comparable(first)


def test_store_can_be_turned_off(tmp_path: Path) -> None:
    result = play_config(config(tmp_path, "store.enabled=false", "defense=none"), tmp_path / "out")
    assert result["meta"]["served"] == [False]
    assert not (tmp_path / "store").exists()


def test_record_is_complete(played: tuple[Path, dict[str, Any]]) -> None:
    folder, result = played
    game = result["games"][0]
    targets = len(game["targets"]["position"])
    assert targets == len(game["requests"]) == 4
    for state in ("before", "after", "defended", "processed", "stream", "random", "benign"):
        assert len(game["victim_seed"][state]["confidence"]) == targets
    assert game["victim_seed"]["after"]["kept"] == [1.0] * targets  # feasible first
    assert len(game["fresh_seeds"]["nothing"]) == 3
    for request in game["requests"]:
        assert 0 < len(request["indices"]) <= 6
        assert len(set(request["indices"])) == len(request["indices"])
    assert game["operator_calls"] > 0
    assert game["queries"] == 0
    assert {"toolkit", "python", "torch"} <= set(result["versions"])
    for name in ("targets", "reliability", "roc", "selected"):
        assert (folder / "out" / "figures" / f"{name}.png").stat().st_size > 5000
        assert (folder / "out" / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_quarantined_and_accepted_make_the_stream(played: tuple[Path, dict[str, Any]]) -> None:
    """Nothing is refused: processing the quarantine leads, with exact unlearning, to the undefended stream."""
    states = played[1]["games"][0]["victim_seed"]
    assert states["processed"] == states["stream"]
    for quarantined in played[1]["games"][0]["detection"]["quarantined"]:
        assert len(quarantined) < 24


def test_black_box_queries_are_a_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reported queries and operator calls equal the rows that reached the procedure while the attack ran."""
    import games.request.crafting as stage
    from unlearning.second_order import SecondOrder

    rows = []
    forget = SecondOrder.forget

    def counting(self: SecondOrder, task: Any, victim: Any, deleted: torch.Tensor, *rest: Any) -> Any:
        rows.append(len(deleted))
        return forget(self, task, victim, deleted, *rest)

    play = stage._play

    def counted_play(*arguments: Any) -> Any:
        monkeypatch.setattr(SecondOrder, "forget", counting)
        found = play(*arguments)
        monkeypatch.setattr(SecondOrder, "forget", forget)
        return found

    monkeypatch.setattr(stage, "_play", counted_play)
    options = ("unlearning=second_order", "attack.access=black_box", "attack.pool=20", "attack.queries=45")
    more = ("game.targets.mode=set", "game.targets.direction=over", "defense=none")
    result = play_config(config(tmp_path, *options, *more), tmp_path / "out")
    game = result["games"][0]
    assert game["queries"] == game["operator_calls"] == sum(rows)
    assert 40 < game["queries"] <= 45
    assert result["games"][0]["fresh_seeds"] is None  # a Newton step draws nothing


def test_no_attack_against_the_filter(tmp_path: Path) -> None:
    result = play_config(config(tmp_path, "attack=none", "game=request"), tmp_path / "out")
    game = result["games"][0]
    assert [request["indices"] for request in game["requests"]] == [[]] * 4
    assert game["victim_seed"]["after"]["confidence"] == pytest.approx(game["victim_seed"]["before"]["confidence"])
    assert game["detection"]["over"] is None


def test_killed_at_any_moment_ends_with_the_same_result(tmp_path: Path) -> None:
    """SIGKILL at random moments, then start again: the same result, and no broken artifact is read."""
    rng = random.Random(int(os.environ.get("UNLEARNING_KILL_SEED", "0")))
    began = time.monotonic()
    calm = play_config(config(tmp_path / "calm"), tmp_path / "calm" / "out")
    took = time.monotonic() - began
    reference = comparable(json.loads(json.dumps(with_nulls(calm))))
    words = (*QUICK, f"store.dir={tmp_path}/store", f"hydra.run.dir={tmp_path}/out")
    for _ in range(KILLS):
        process = subprocess.Popen(command(*words), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 4.0 + took))  # it has to start, too
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "damaged" not in done.stderr + done.stdout
        assert comparable(json.loads((tmp_path / "out" / "result.json").read_text()))["games"] == reference["games"]
        if rng.random() < 0.7:  # mostly from the beginning, sometimes on top of what was finished
            for finished in (tmp_path / "store" / "game").rglob("*.json"):
                finished.unlink()
