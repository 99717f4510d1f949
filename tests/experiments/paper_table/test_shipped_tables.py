"""The tables under conf/table: every size composes, and every claim asks what its rows can answer."""

from __future__ import annotations

import pytest
import yaml

from experiments.cli.roles import game_of
from experiments.paper_table.checking import check_metrics, specification
from experiments.paper_table.games import cells_of
from experiments.paper_table.specification import Specification
from games.game import metric_of
from games.request.game import RequestGame
from tests.experiments.games import ROOT
from tests.experiments.paper_table.synthetic import record

PATHS = sorted((ROOT / "conf" / "table").glob("*.yaml"))


def read(name: str) -> Specification:
    return specification(name, yaml.safe_load((ROOT / "conf" / "table" / f"{name}.yaml").read_text()))


def test_there_is_something_to_check() -> None:
    assert {"uncertainty", "filter"} <= {path.stem for path in PATHS}


@pytest.mark.parametrize("name", [path.stem for path in PATHS])
def test_sizes_claims_and_provenance(name: str) -> None:
    table = read(name)
    assert {"smallest", "quick", "paper"} <= set(table.sizes)
    assert table.claims
    assert all(size.about for size in table.sizes.values())
    assert all(claim.source or "black-box" in claim.id for claim in table.claims)


@pytest.mark.parametrize("name", [path.stem for path in PATHS])
@pytest.mark.parametrize("size", ["smallest", "quick", "paper"])
def test_every_row_is_a_game_and_has_what_its_claims_ask_for(name: str, size: str) -> None:
    table = read(name)
    games = {row: game_of(cell.config) for (row, _), cell in cells_of(table.rows(size), range(1), []).items()}
    for claim in table.claims:
        for row, metric, part in claim.sides:
            game = games[row]
            check_metrics(name, table, game)
            if not isinstance(game, RequestGame):  # a game with one part, which a claim need not name
                assert part is None
                assert metric_of(game, metric)
                continue
            assert part in game.targets.directions
            [played] = game.parts(record([0.5, 0.6], direction=part))
            assert metric_of(game, metric).values(played)
    for number in table.beside:
        game = games[number.row]
        assert isinstance(game, RequestGame)
        assert number.part in game.targets.directions


def test_the_filter_meets_an_adaptive_attacker_beside_every_attack() -> None:
    rows = {row.name for row in read("filter").rows("quick")}
    for row in rows:
        attack, attacker, score = row.split(".")
        if attacker == "plain" and attack != "random":
            assert f"{attack}.norm_cap.{score}" in rows
    assert {row.split(".")[2] for row in rows} == {"S1", "S1p", "S2", "S3", "S5", "S6", "S8"}
