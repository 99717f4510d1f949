"""The table at the end of a sweep: headings and sentences come from the definitions of the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from data.machine import versions
from experiments.listing.row import GROUPS
from experiments.sweeps import table
from experiments.sweeps.cells import Cell
from experiments.sweeps.sweep import CellStatus
from games.game import Game, Metric, View
from storage.store import Store

SWEEP: frozenset[View] = frozenset({"sweep"})


def _measured(name: str, label: str, shown: frozenset[View] = SWEEP, **more: Any) -> Metric:
    return Metric(
        name=name, label=label, help=f"how much {name} there is.", shown=shown,
        values=lambda part: {"all": part.record[name]} if name in part.record else {}, **more,
    )  # fmt: skip


class Toy(Game):
    name: ClassVar[str] = "toy"
    headline: ClassVar[str] = "height"

    def metrics(self) -> Sequence[Metric]:
        return [
            _measured("height", "how high"),
            _measured("share_of_all", "share", digits=0, scale="share"),
            _measured("share_of_some", "share", digits=0, scale="share"),
            _measured("absent", "absent"),
            _measured("unshown", "unshown", frozenset({"results"})),
        ]


def status(store: Store, seed: int, unlearning: str, measured: Mapping[str, float]) -> CellStatus:
    target = f"{__name__}.Toy"
    nodes = {name: {"_target_": f"{name}.option.Option"} for name in GROUPS}
    record = {"seed": seed, "config": {**nodes, "game": {"_target_": target}}, "versions": versions(), **measured}
    key = {"seed": seed, "unlearning": unlearning}
    store.record("game", key, lambda: record)
    overrides = ("attack=none", f"unlearning={unlearning}", f"seed={seed}")
    cell = Cell(f"{unlearning}-{seed}", overrides, {"game": {"_target_": target}})
    return CellStatus(cell, (store.record_path("game", key),), "")


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed for two cells of two seeds each."""
    store = Store(tmp_path)
    measured = {"height": 1.0, "share_of_all": 0.25, "share_of_some": 0.5, "unshown": 9.0}
    cells = [status(store, seed, name, measured) for name in ("retrain", "other") for seed in (0, 1)]
    monkeypatch.setenv("COLUMNS", "80")
    table.show(cells, store, tmp_path)
    return capsys.readouterr().out


def test_one_line_per_combination_over_its_seeds(shown: str) -> None:
    lines = [line.split() for line in shown.splitlines()]
    assert ["unlearning=retrain", "all", "2", "1.000", "25", "50"] in lines
    assert ["unlearning=other", "all", "2", "1.000", "25", "50"] in lines
    assert "attack=none" not in shown  # what all cells share
    assert "seed=0" not in shown


def test_headings_are_labels_where_these_are_distinct(shown: str) -> None:
    head = shown.partition("unlearning=")[0].split()
    assert "height:" not in shown
    assert "how high: how much height there is." in shown
    assert "share of all: how much share_of_all there is." in shown
    assert "share of some: how much share_of_some there is." in shown
    assert {"high", "all", "some"} <= set(head)


def test_what_is_not_defined_or_not_for_sweeps_is_left_out(shown: str) -> None:
    assert "absent" not in shown
    assert "unshown" not in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80


def test_a_number_that_fewer_games_have_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    measured = [{"height": 1.0, "share_of_all": 0.25}, {"height": 1.5, "share_of_all": 0.5}, {"height": 2.0}]
    monkeypatch.setenv("COLUMNS", "80")
    table.show([status(store, seed, "retrain", each) for seed, each in enumerate(measured)], store, tmp_path)
    out = capsys.readouterr().out
    [line] = [line.rstrip() for line in out.splitlines() if "(n=" in line]
    assert line.split()[1:4] == ["3", "1.500", "±"]
    assert line.endswith("(n=2)")
    assert "its own n stands beside it" in out
