"""The tables under conf/table: every size composes, and every claim asks what its rows can answer."""

from __future__ import annotations

import pytest
import yaml

from experiments.cli.roles import game_of
from experiments.paper_table.checking import check_metrics, specification
from experiments.paper_table.games import cells_of
from experiments.paper_table.specification import Specification
from experiments.play.setup import prepare
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


LARGE = ("filter", "uncertainty")  # Hydra takes most of a minute to compose all rows of a size


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(name, size, marks=pytest.mark.claims if name in LARGE and size != "smallest" else ())
        for size in ("smallest", "quick", "paper")
        for name in (path.stem for path in PATHS)
    ],
)
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


SCORES = {"S1", "S1p", "S2", "S3", "S4", "S5", "S6", "S7", "S8"}
OTHERS = {"Zmax", "C", "similarity", "membership", "chain", "healing"}
STRATEGIES = {path.stem for path in (ROOT / "conf" / "attack" / "adaptive").glob("*.yaml")} - {"none"}


def test_the_filter_meets_an_adaptive_attacker_beside_every_attack() -> None:
    rows = {tuple(row.name.split(".")) for row in read("filter").rows("quick")}
    for attack, attacker, score in rows:
        if attacker == "plain" and attack != "random":
            assert (attack, "norm_cap", score) in rows
    every = {score for attack, attacker, score in rows if (attack, attacker) == ("flip_once", "plain")}
    assert every == SCORES | OTHERS
    assert every - {"healing"} == {score for attack, by, score in rows if (attack, by) == ("flip_once", "auto")}
    assert all(("flip_once", by, score) in rows for by in STRATEGIES for score in ("S1", "Zmax"))


def test_uncertainty_meets_every_procedure() -> None:
    """White-box and by transfer where the procedure has a gradient, and by scores and by labels whatever it has."""
    procedures = {path.stem for path in (ROOT / "conf" / "unlearning").glob("*.yaml")}
    rows = [row for row in read("uncertainty").rows("quick") if row.name.startswith("single.")]
    by_procedure: dict[str, set[str]] = {}
    for row in rows:
        by_procedure.setdefault(row.name.split(".")[1], set()).add(row.name.split(".")[2])
    cells = cells_of([row for row in rows if row.name.endswith(".few")], range(1), [])
    found = {row.split(".")[1]: prepare(cell.config).procedure for (row, _), cell in cells.items()}
    assert len({type(each) for each in found.values()}) == len(procedures) == len(by_procedure)
    for name, attacks in by_procedure.items():
        assert {"few", "labels"} <= attacks
        assert ({"white_box", "transfer"} <= attacks) == found[name].differentiable
