"""The YAML of a table: rows from axes, and every mistake named in one sentence before anything is played."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from data.errors import UserError
from experiments.paper_table.checking import check_metrics, specification
from experiments.paper_table.specification import merged
from games.request.game import RequestGame
from tests.experiments.paper_table.tables import TABLE, changed, table


def test_rows_are_the_combinations_that_are_not_left_out() -> None:
    rows = {row.name: row for row in table().rows("tiny")}
    assert list(rows) == ["single.mine", "single.random", "set.mine"]
    assert rows["set.mine"].labels == ("set_of", "mine")
    assert [row.name for row in table().rows("big")] == ["single.mine", "set.mine"]  # an option may miss in a size


def test_later_overrides_replace_earlier_ones() -> None:
    """Size, options in the order of the axes (and what they add at the size), then those of the row itself."""
    rows = {row.name: row.overrides for row in table().rows("tiny")}
    assert rows["single.mine"] == ("attack.budget=5", "seed=0", "attack=uncertainty")
    assert rows["set.mine"] == ("attack.budget=7", "seed=0", "game.targets.mode=set", "attack=uncertainty")
    assert merged(["a=1", "b=2", "a=3"]) == ("a=3", "b=2")
    without = table(overrides={})
    assert next(r for r in without.rows("big") if r.name == "set.mine").overrides[0] == "game.targets.mode=set"
    assert "attack.budget=9" in next(r for r in without.rows("big") if r.name == "set.mine").overrides


def test_a_size_may_split_the_data_by_seed() -> None:
    sizes = {"tiny": {"seeds": 2, "split_by_seed": True}, "big": {"seeds": 2}}
    assert "data.split_seed=${seed}" in table(sizes=sizes).rows("tiny")[0].overrides


def claim(**entries: Any) -> dict[str, Any]:
    return changed(claims=[{**TABLE["claims"][0], **entries}])


def column(**entries: Any) -> dict[str, Any]:
    return changed(columns=[{**TABLE["columns"][0], **entries}])


def axis(**entries: Any) -> dict[str, Any]:
    axes = copy.deepcopy(TABLE["axes"])
    axes[0]["options"][0] |= entries
    return changed(axes=axes)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (column(metric="gian"), "columns: there is no metric 'gian'; did you mean 'gain'"),
        (claim(metric="confidence_afer"), "claim moves: there is no metric 'confidence_afer'; did you mean"),
        (claim(row="single.mien"), "claim moves: there is no row 'single.mien'; did you mean 'single.mine'"),
        (claim(row="set.random"), "claim moves: there is no row 'set.random'"),
        (claim(against={"row": "single.randon"}), "there is no row 'single.randon'; did you mean 'single.random'"),
        (claim(against={"constant": float("nan")}), "claims.0.against.constant: Input should be a finite number"),
        (claim(margin=float("inf")), "claims.0.margin: Input should be a finite number"),
        (claim(against={"constant": 1.0, "row": "single.mine"}), "claims.0.against: give either a constant"),
        (claim(comparison="bigger"), "claims.0.comparison: .*'greater', 'less' or 'within', got 'bigger'"),
        (claim(comparison="within", margin=0.0), "needs a margin above 0"),
        (claim(level=0.7), "claims.0.level: .*less than 0.5, got 0.7"),
        (claim(test="t"), "claims.0.test: .*'paired_bootstrap' or 'sign'"),
        (claim(colour="red"), "claims.0.colour: there is no such key"),
        (changed(claims=[TABLE["claims"][0]] * 2), "the claims use the name 'moves' twice"),
        (changed(without=["set.rondom"]), "without: there is no row 'set.rondom'; did you mean 'set.random'"),
        (changed(overrides={"set.random": []}), "overrides: there is no row 'set.random'"),
        (changed(beside=[{**TABLE["beside"][0], "metric": "gains"}]), "beside: there is no metric 'gains'"),
        (changed(beside=[{**TABLE["beside"][0], "provenance": ""}]), "beside.0.provenance: "),
        (changed(sizes={"tiny": {"seeds": 0}, "big": {"seeds": 1}}), "sizes.tiny.seeds: .*greater than or equal to 1"),
        (axis(sizes=["huge"]), "option single: there is no size 'huge'; known are tiny, big"),
        (axis(name="set"), "the options of 'targets' use the name 'set' twice"),
        (axis(name="a b"), "axes.0.options.0.name: "),
        ({key: value for key, value in TABLE.items() if key != "columns"}, "columns: "),
        (changed(footnote=""), "footnote: there is no such key"),
    ],
)
def test_a_mistake_is_named_in_one_sentence(content: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"The table small.*{says}") as raised:
        check_metrics("small", specification("small", content), RequestGame())
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith((".", "?"))
