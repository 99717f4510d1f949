"""The undeleted game as a whole: played on digits, defended, refused, listed, tabled and reported."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from data.errors import UserError
from experiments.play.play import play_config
from games.undeleted.game import UndeletedGame
from tests import warm

ROOT = Path(__file__).resolve().parents[3]
TABLE = """
title: Undeleted
source: none
about: Exact releases.
sizes:
  quick: {seeds: 2, overrides: [figures=false]}
axes:
  - label: who
    options:
      - {name: nobody, label: "nobody", overrides: [attack=none, game=undeleted]}
      - {name: attacker, label: "attacker", overrides: [attack=undeleted]}
columns:
  - metric: reconstructed
  - metric: error
claims:
  - id: leak
    text: Own deletions reveal others.
    row: attacker
    part: ridge
    metric: reconstructed
    comparison: greater
    against: {row: nobody}
"""


def play(folder: Path, *overrides: str) -> dict[str, Any]:
    words = [f"store.dir={folder / 'store'}", "figures=false", *overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("run", overrides=words)
    resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    [record] = play_config({str(key): value for key, value in resolved.items()}, folder / "run")["games"]
    return record


def test_an_attacker_reads_other_peoples_records(tmp_path: Path) -> None:
    """Real images: 51 of 501 numbers exactly, and the complete records of both rare people, who asked for nothing."""
    record = play(tmp_path, "attack=undeleted", "game.honest=501")
    values, ridge = record["median"]["exact"], record["ridge"]["exact"]
    assert (values["known"], values["error"], values["wrong"]) == (51, 0.0, 0)
    assert values["releases"] == values["deletions"] + 1 == 101
    assert (ridge["known"], ridge["unknowns"], ridge["reconstructed"], ridge["wrong"]) == (65, 65, 1.0, 0)
    assert ridge["error"] < 1e-8
    for part in ("median", "ridge"):
        assert record[part]["defended"] is None
        assert record[part]["control"]["deletions"] == record[part]["exact"]["deletions"]
    control = record["median"]["control"], record["ridge"]["control"]
    assert control[0]["known"] == 1
    assert control[0]["published"] < values["published"]
    assert (control[1]["known"], control[1]["reconstructed"], control[1]["error"]) == (10, 0.0, None)
    assert control[1]["untouched"] == 1.0  # whoever knows which features are rare reads them in these releases, too


def test_without_an_attacker_there_is_one_release(tmp_path: Path) -> None:
    record = play(tmp_path, "attack=none", "game=undeleted")
    assert record["median"]["exact"]["known"] == 1
    assert (record["ridge"]["exact"]["known"], record["ridge"]["exact"]["reconstructed"]) == (10, 0.0)
    assert record["ridge"]["exact"]["releases"] == 1


@pytest.mark.parametrize(
    ("overrides", "rank", "most"),
    [
        (["defense.batch=10"], 20, 0.0),
        (["defense.batch=1", "defense.decimals=8"], 65, 1.0),
        (["defense.batch=1", "defense.decimals=3"], 65, 0.0),
        (["defense.batch=1", "defense.noise=0.01"], 65, 0.0),
    ],
)
def test_a_policy_of_releases_is_measured_beside_exact_ones(
    tmp_path: Path, overrides: list[str], rank: int, most: float
) -> None:
    record = play(tmp_path, "attack=undeleted", "defense=limited_release", *overrides)
    exact, defended = record["ridge"]["exact"], record["ridge"]["defended"]
    assert exact["reconstructed"] == 1.0
    assert defended["known"] == rank
    assert defended["reconstructed"] == most
    values = {metric.name: metric.values(UndeletedGame().parts(record)[1]) for metric in UndeletedGame().metrics()}
    assert values["reconstructed_defended"] == {"all": most}
    assert values["determined_defended"]["all"] == pytest.approx(rank / 65)


def test_other_peoples_deletions_in_between_add_unknowns(tmp_path: Path) -> None:
    record = play(tmp_path, "attack=undeleted", "game.others=1")
    assert record["ridge"]["exact"]["known"] == 20
    assert record["ridge"]["exact"]["reconstructed"] == 0.0
    assert record["median"]["exact"]["known"] <= 2


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["game.honest=5000"], "game.honest=5,000 is more than the 1,000 training records"),
        (["game.rare=11"], "game.rare=11 must be at most game.features=10 and game.honest=500"),
        (["game.features=80"], "features of this data set that differ between people; lower game.features"),
        (["unlearning=first_order"], "so unlearning=first_order would count for nothing"),
        (["defense=influence"], "plays the request game, and this is the undeleted game"),
    ],
)
def test_what_cannot_be_played_is_said(tmp_path: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        play(tmp_path, "attack=undeleted", *overrides)


def run(folder: Path, script: str, *words: str) -> str:
    done = warm.run(script, *words, cwd=folder, env={"UNLEARNING_STORE": str(folder / "store")})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_swept_listed_tabled_and_reported(tmp_path: Path) -> None:
    """With nothing written for it elsewhere."""
    words = ("attack=undeleted", "figures=false")
    shown = run(tmp_path, "run.py", *words)
    assert "undeleted against exact releases with defense none: 500 people of digits, 10 features, seed 0" in shown
    assert "read by an onlooker, control (%)" in shown
    assert "Mean and 95% interval over games" in run(tmp_path, "run.py", "-m", *words, "seed=range(2)")
    run(tmp_path, "results.py", "game=undeleted", "--csv", "found.csv")
    rows = list(csv.DictReader((tmp_path / "found.csv").read_text(encoding="utf-8").splitlines()))
    assert sorted(row["part"] for row in rows) == ["median", "median", "ridge", "ridge"]
    assert all(float(row["reconstructed"]) == 1.0 for row in rows if row["part"] == "ridge")
    (tmp_path / "mine" / "table").mkdir(parents=True)
    (tmp_path / "mine" / "table" / "leak.yaml").write_text(TABLE.lstrip(), encoding="utf-8")
    run(tmp_path, "tables.py", "--config-dir", "mine", "table=leak", "output=leak")
    [claim] = json.loads((tmp_path / "leak" / "table.json").read_text(encoding="utf-8"))["claims"]
    assert claim["effect"] == pytest.approx(1.0)
    run(tmp_path, "report.py", "game=undeleted", "--output", "page.html")
    assert "reconstructed" in (tmp_path / "page.html").read_text(encoding="utf-8")
