"""A preset is played by its name alone."""

from __future__ import annotations

import json
from pathlib import Path

from tests.experiments.games import run


def test_the_quick_game_is_played(tmp_path: Path) -> None:
    words = ("experiment=quick_request", f"store.dir={tmp_path}/store", f"hydra.run.dir={tmp_path}/out")
    done = run(*words, "figures=false", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "uncertainty attack against retrain with defense influence: logistic on digits" in done.stdout
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["meta"]["seconds"] < 60
    assert result["config"]["judge"] == "quick"
    assert len(result["games"][0]["targets"]["position"]) == 4
