"""A store with two games: what is shown of each is what it says of itself, and none sees the other's metrics."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pandas as pd
import pytest

from data.errors import UserError
from experiments.report_page.columns import columns
from experiments.report_page.heatmap import heatmap
from experiments.report_page.page import Options, Page, build
from experiments.report_page.pool import pool
from tests.experiments.report_page import synthetic
from tests.experiments.report_page.other_game import ForgeGame, rows
from tests.experiments.report_page.pages import GAMES, overrides, parse, words

BOTH = GAMES | {"forge": ForgeGame()}


def page(options: Options | None = None) -> Page:
    frame = pd.concat([synthetic.frame(seeds=2), rows()], ignore_index=True)
    return build(frame, BOTH, lambda path: synthetic.record(), [], overrides, options or Options(figures=0))


def test_every_game_has_its_own_rows_and_cells() -> None:
    found = parse(page().html).json
    assert [each["name"] for each in found["played"]] == ["forge", "request"]
    forge, request = found["cells"]["rows"]
    assert set(forge) == {
        "cell",
        "n",
        "part",
        *(f"{m}{end}" for m in ("passed", "bits") for end in ("", "_low", "_high")),
    }
    assert "effect" in request
    assert "passed" not in request
    assert forge["cell"] == [0, 1]
    assert set(request["cell"]) == set(range(2, 38))
    assert len(found["cells"]["labels"]["command"]) == 38
    assert [words(each["part"])[0] for each in (forge, request)] == ["all", "over"]
    games = found["games"]["rows"]
    assert sorted({*games[0]["record"], *games[1]["record"]}) == list(range(8 + 72))


def test_a_share_is_shown_in_percent() -> None:
    frame = rows()
    found = parse(page().html).json
    mean = 100 * frame.loc[frame["defense"] == "none", "passed"].mean()
    assert found["cells"]["rows"][0]["passed"][0] == pytest.approx(mean, abs=1e-3)
    assert found["cells"]["rows"][0]["bits"][0] == pytest.approx(3 * mean / 100, abs=1e-5)
    [cell] = found["played"][0]["heatmap"]["panels"][0]["cells"]
    assert cell["mean"] == pytest.approx(mean, abs=1e-5)
    assert 0 <= cell["low"] < cell["mean"] < cell["high"] <= 100


def test_a_number_that_fewer_games_have_brings_its_own_n() -> None:
    frame = rows()
    frame.loc[frame["seed"] == 0, "bits"] = None
    made = build(frame, BOTH, lambda path: synthetic.record(), [], overrides, Options(figures=0))
    [found] = parse(made.html).json["cells"]["rows"]
    assert found["n"] == [4, 4]
    assert found["bits_n"] == [3, 3]
    assert "passed_n" not in found


def test_without_a_metric_behind_the_defense_panels_hold_what_was_played() -> None:
    frame = rows()
    [pooled] = pool(frame, BOTH)
    found = heatmap(pooled)
    assert [panel["defense"] for panel in found["panels"]] == [None, "proof"]
    for panel in found["panels"]:
        mine = frame[frame["defense"] == (panel["defense"] or "none")]
        assert panel["cells"][0]["mean"] == pytest.approx(100 * np.mean(mine["passed"]), abs=1e-5)
        assert panel["cells"][0]["n"] == 4
    [guarded] = pool(frame[frame["defense"] == "proof"], BOTH)
    assert [panel["defense"] for panel in heatmap(guarded)["panels"]] == ["proof"]


def test_metrics_of_one_label_are_told_apart_and_stand_together() -> None:
    found = list(columns(BOTH["request"]))
    grouped = {column.key: (column.group, column.title) for column in found}
    assert grouped["confidence_nearest"] == ("Confidence", "nearest")
    assert grouped["accuracy_before"] == ("Test accuracy (%)", "before")
    assert grouped["effect_defended"] == ("Effect", "with defense")
    assert grouped["kept_after"] == ("", "labels kept (%)")
    groups = [group for group, _ in groupby(column.group for column in found) if group]
    assert len(groups) == len(set(groups))
    assert [(column.group, column.title) for column in columns(ForgeGame())] == [("", "passed (%)"), ("", "bits")]


def test_both_games_explain_their_numbers_and_draw() -> None:
    made = page(Options(figures=3))
    text = parse(made.html).text
    for part in ("forge: bits", "Bits that leaked.", "request: Filter: AUROC", "A line.", "mean passed (%)"):
        assert part in text
    assert made.left_out == ()


def test_a_game_that_is_not_known_is_a_sentence() -> None:
    with pytest.raises(UserError, match="The game forge is not known here; name the folder that has it"):
        pool(rows(), GAMES)
