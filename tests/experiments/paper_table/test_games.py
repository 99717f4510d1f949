"""From rows to games: composed together where they can be, the same as one by one."""

from __future__ import annotations

import pytest

from data.errors import UserError
from experiments.paper_table.games import cells_of, together
from experiments.paper_table.specification import TableRow
from experiments.sweeps.cells import expand


def row(name: str, *overrides: str) -> TableRow:
    return TableRow(name, (name,), overrides)


ROWS = [
    row("s1", "attack=random", "defense.score=S1"),
    row("s1p", "attack=random", 'defense.score="S1\'"'),
    row("cap", "attack=one_shot_influence", "attack.norm_cap=0.7", "defense.score=S1"),
    row("s8", "attack=random", "defense.score=S8"),
    row("band", "attack=random", "game.targets.over=[0.0,1.0]"),
    row("wider", "attack=random", "game.targets.over=[0.1,0.9]"),
]


def test_rows_that_differ_in_one_value_go_together() -> None:
    groups = {tuple(sorted(each.name for each in group)) for _, group in together(ROWS)}
    assert groups == {("s1", "s1p", "s8"), ("band", "wider"), ("cap",)}


def test_every_row_gets_the_games_that_it_would_get_alone() -> None:
    cells = cells_of(ROWS, range(2), ["game.targets.count=3"])
    assert len(cells) == len(ROWS) * 2
    for each in ROWS:
        alone = expand([*each.overrides, "game.targets.count=3", "seed=range(2)"])
        assert [cells[each.name, seed].config for seed in range(2)] == [cell.config for cell in alone]
    assert cells["s1p", 1].config["defense"]["score"] == "S1'"
    assert len({cell.name for cell in cells.values()}) == len(cells)


def test_rows_with_the_same_configuration_share_their_games() -> None:
    cells = cells_of([row("a", "attack=random"), row("b", "attack=random", "attack.budget=20")], range(2), [])
    assert cells["a", 0] == cells["b", 0]
    assert cells["a", 0] != cells["a", 1]
    same = cells_of([row("a", "attack.budget=20"), row("b", "attack.budget=20.0")], [0], [])
    assert set(same) == {("a", 0), ("b", 0)}


def test_every_seed_may_split_the_data_anew() -> None:
    cells = cells_of([row("a", "data.split_seed=${seed}")], range(3), [])
    assert [cells["a", seed].config["data"]["split_seed"] for seed in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("override", ["attack=rondom", "attack.bugdet=3", "attack.budget=1,2", "defense.score=[", "x"])
def test_a_mistake_names_the_row(override: str) -> None:
    with pytest.raises(UserError, match=r"^row b: .*"):
        cells_of([row("a", "defense.score=S1"), row("b", override)], range(2), [])


def test_a_mistake_among_rows_that_go_together_names_the_right_one() -> None:
    rows = [row("a", "attack.budget=3"), row("b", "attack.budget=["), row("c", "attack.budget=4")]
    assert len(list(together(rows))) == 1
    with pytest.raises(UserError, match=r"^row b: "):
        cells_of(rows, range(2), [])
