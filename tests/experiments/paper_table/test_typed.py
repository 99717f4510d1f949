"""What is typed for the games of a table arrives there, whatever characters it has."""

from __future__ import annotations

import pytest

from experiments.cli.options import quoted
from experiments.paper_table.command import gathered
from experiments.sweeps.cells import expand


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["table=a", "run.data.root=x y", "run.data=mnist"], ["table=a", "run=['data.root=x y','data=mnist']"]),
        (["run=[data=mnist,data.root=/x]"], ["run=['data=mnist','data.root=/x']"]),
        (["run=[targets.over=[0.1,0.9],a='b,c']"], ["run=['targets.over=[0.1,0.9]','a=\\'b,c\\'']"]),
        (["run=['a=1', \"b=2\"]"], ["run=['a=1',\"b=2\"]"]),
        (["run=[]", "size=quick"], ["run=[]", "size=quick"]),
        (["run=3"], ["run=3"]),
    ],
)
def test_overrides_of_games_are_typed_without_quotes(typed: list[str], given: list[str]) -> None:
    assert gathered(typed) == given


@pytest.mark.parametrize("name", ["it's a, [strange] {path}\\here = x", "\\", "\\\\'", "'", "a b"])
def test_any_path_can_be_an_override(name: str) -> None:
    [cell] = expand(["attack=random", f"store.dir={quoted(name)}"])
    assert cell.config["store"]["dir"] == name
