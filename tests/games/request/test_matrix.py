"""The heat map of a sweep: where its numbers stand, and what it leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from data.figure_style import our_style
from experiments.listing.row import usual
from games.request.game import RequestGame
from games.request.matrix import CONTROL, SUCCESS, maps
from tests.experiments.games import QUICK, run

ROWS = [
    {"attack": attack, "unlearning": procedure, "defense": defense, "part": "over", "auroc": auroc,
     "success_defended": success, "success_defended_random": 0.02}
    for attack, procedure, defense, auroc, success in (
        ("burn", "retrain", "none", None, 0.75), ("burn", "retrain", "none", None, 0.25),
        ("burn", "sisa", "none", None, 0.1), ("random", "sisa", "none", None, 0.0),
        ("burn", "sisa", "set_level", 0.9, 0.05), ("random", "retrain", "set_level", 0.55, 0.0),
    )
]  # fmt: skip


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with our_style():
        yield


def test_panels_hold_the_means_of_their_cells() -> None:
    """By row and column: success, and behind a filter its AUROC, in %; nothing where nothing was played."""
    [drawing] = maps(ROWS)
    panels = {axis.get_title(): axis for axis in drawing.figure.axes if axis.get_title()}
    assert list(panels) == ["random requests, no filter", "no filter", "set level"]
    written = {
        name: {(round(text.get_position()[1]), text.get_position()[0], text.get_text()) for text in axis.texts}
        for name, axis in panels.items()
    }
    assert written["no filter"] == {(0, 0, "50"), (0, 1, "10"), (1, 1, "0")}
    control = written["random requests, no filter"]  # of the same size, by what the attack of the line wants
    assert control == {(0, 0, "2"), (0, 1, "2"), (1, 1, "2")}
    assert written["set level"] == {(0, 1, "5"), (0, 1, "90"), (1, 0, "0"), (1, 0, "55")}
    assert [label.get_text() for label in panels["random requests, no filter"].get_yticklabels()] == ["burn", "random"]
    assert "over" in drawing.name


def test_an_adaptive_attacker_has_a_line_of_its_own() -> None:
    capped = [{**row, "attack.adaptive._target_": "attacks.adaptive.norm_cap.NormCap"} for row in ROWS[:3]]
    plain = [{**row, "attack.adaptive._target_": "attacks.adaptive.none.NotAdaptive"} for row in ROWS]
    [drawing] = maps([*plain, *capped])
    [panel] = [axis for axis in drawing.figure.axes if axis.get_title().startswith("random")]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["burn", "burn, norm cap", "random"]


def test_one_attack_or_one_procedure_is_no_map() -> None:
    assert not list(maps([row for row in ROWS if row["attack"] == "burn"]))
    assert not list(maps([row for row in ROWS if row["unlearning"] == "sisa"]))


def test_a_sweep_ends_with_its_map(tmp_path: Path) -> None:
    """Cells that do not fit together say why, and the others are on the map."""
    folder = tmp_path / "sweep"
    done = run(
        "-m", *QUICK, "experiment=matrix", "attack=random,one_shot_influence", "unlearning=first_order,fine_tune",
        "defense=none,norm", "model=logistic", "attack.budget=6", "game.targets.count=2",
        f"store.dir={tmp_path / 'store'}", f"hydra.sweep.dir={folder}", cwd=tmp_path,
    )  # fmt: skip
    assert f"Map: {folder / 'matrix_over.png'}" in done.stdout, done.stderr
    assert {SUCCESS, CONTROL} <= usual([RequestGame()])  # what its rows have
    assert (folder / "matrix_over.pdf").stat().st_size > 1000
    refused = [line for line in done.stderr.splitlines() if line.startswith("Failed")]
    assert len(refused) == 1  # one reason, of two cells and two that are adaptive
    assert "one_shot_influence" in refused[0]
    assert "FineTune has none" in refused[0]
