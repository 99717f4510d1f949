"""The numbers, commands and links of the page against brute force."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import beta, norm
from scipy.stats import t as student

from attacks.crafting.criterion import ConfidenceMoved
from experiments.report_page.columns import METRICS
from experiments.report_page.encode import PROGRAM, command, link, ranges
from experiments.report_page.heatmap import heatmap
from experiments.report_page.markup import number
from experiments.report_page.pool import pool
from games.request.kinds import bounds, is_share
from metrics.intervals import grouped_interval
from tests.experiments.report_page import synthetic
from tests.experiments.report_page.pages import make, parse, words


def close(shown: float | None, wanted: float, percent: bool = False) -> bool:
    """Whether a number of the page is `wanted`, up to the rounding of the page; None is written for NaN."""
    if shown is None or np.isnan(wanted):
        return shown is None and bool(np.isnan(wanted))
    return abs(shown - (100 * wanted if percent else wanted)) <= (0.51e-3 if percent else 0.51e-5)


def ends(values: np.ndarray, metric: str) -> tuple[float, float]:
    """Both ends of a 95% interval, by formulas: Student's t, and of shares Clopper-Pearson at the effective size."""
    n, mean, variance = len(values), values.mean(), values.var(ddof=1) / len(values)
    if (values == values[0]).all() and not is_share(metric):
        return np.nan, np.nan
    if not is_share(metric):
        half = student.ppf(0.975, n - 1) * variance**0.5
        low, high = bounds(metric) or (-np.inf, np.inf)
        return max(mean - half, low), min(mean + half, high)
    reduced = (norm.ppf(0.975) / student.ppf(0.975, n - 1)) ** 2
    size = reduced * (mean * (1 - mean) / variance if variance > 1e-15 and 0 < mean < 1 else n)
    hits = mean * size
    low = 0.0 if mean == 0 else beta.ppf(0.025, hits, size - hits + 1)
    return low, 1.0 if mean == 1 else beta.ppf(0.975, hits + 1, size - hits)


def test_rows_are_means_with_intervals_over_games() -> None:
    frame = synthetic.frame(seeds=4)
    cells = parse(make(frame).html).json["cells"]
    rows = cells["rows"]
    names = {name: words(cells["labels"][name]) for name in ("attack", "access", "procedure", "defense", "data")}
    directions = words(rows["direction"])
    for i, cell in enumerate(rows["cell"]):
        access = names["access"][cell].replace("-", "_")
        score = re.search(r"\((.*)\)", names["defense"][cell])
        mine = frame[
            (frame["attack"] == names["attack"][cell]) & (frame["attack.access"].fillna("") == access)
            & (frame["unlearning"] == names["procedure"][cell]) & (frame["data"] == names["data"][cell])
            & (frame["defense.score"].fillna("") == (score[1] if score else "")) & (frame["direction"] == directions[i])
        ]  # fmt: skip
        assert rows["n"][i] == len(mine) == 4
        for column in METRICS:
            values = mine[column.key].to_numpy(float)
            if column.key.startswith(("success_", "kept_")):  # yes or no of every target
                shares = [np.repeat([1.0, 0.0], [round(12 * x), 12 - round(12 * x)]) for x in values]
                found = grouped_interval([torch.tensor(each) for each in shares], "share")
                assert close(rows[f"{column.key}_low"][i], found.low, column.percent)
                continue
            assert close(rows[column.key][i], values.mean(), column.percent)
            for end, wanted in zip(("low", "high"), ends(values, column.key), strict=True):
                assert close(rows[f"{column.key}_{end}"][i], wanted, column.percent), (column.key, end)
    assert len(rows["cell"]) == 2 * 36


def test_games_keep_their_numbers_and_paths() -> None:
    frame = synthetic.frame(seeds=2)
    games = parse(make(frame).html).json["games"]
    rows, paths = games["rows"], games["paths"]
    by_path = {str(row["path"]): row for row in frame[frame["direction"] == "under"].to_dict("records")}
    seen = 0
    for i, direction in enumerate(words(rows["direction"])):
        if direction == "under":
            wanted = by_path[(paths["prefix"] + paths["rest"][rows["game"][i]]).removeprefix("./")]
            assert rows["seed"][i] == wanted["seed"]
            assert close(rows["effect"][i], wanted["effect"])
            assert close(rows["success_after"][i], wanted["success_after"], percent=True)
            seen += 1
    assert seen == len(by_path) == 72


def test_heat_map_is_the_mean_as_wanted_and_counts_an_attack_once() -> None:
    frame = synthetic.frame(seeds=3)
    twin = frame["defense"] == "influence"  # before any defense the same game, so the same effect
    frame.loc[twin, "effect"] = frame.loc[~twin, "effect"].to_numpy()
    result = heatmap(pool(frame))
    assert result["attacks"] == ["random", "uncertainty (black-box)", "uncertainty (white-box)"]
    checked = 0
    for panel in result["panels"]:
        for cell in panel["cells"]:
            who, procedure = result["attacks"][cell["attack"]], result["procedures"][cell["procedure"]]
            access = re.search(r"\((.*)-box\)", who)
            mine = frame[
                (frame["attack"] == who.partition(" ")[0]) & (frame["unlearning"] == procedure)
                & (frame["attack.access"].fillna("") == (f"{access[1]}_box" if access else ""))
                & (frame["direction"] == panel["direction"])
                & (frame["data"].eq(panel["data"]) if panel["data"] else True)
                & (frame["defense"] == ("none" if panel["defense"] is None else "influence"))
            ]  # fmt: skip
            values = mine["effect" if panel["defense"] is None else "effect_defended"].to_numpy(float)
            assert cell["n"] == len(values) == (3 if panel["data"] else 6)
            by_seed = mine.assign(value=values).groupby("seed")["value"].mean().to_numpy()
            assert close(cell["mean"], values.mean())
            low, high = ends(by_seed, "effect")
            assert close(cell["low"], low)
            assert close(cell["high"], high)
            assert cell["goal"] == ConfidenceMoved().goal
            checked += 1
    assert checked == 2 * 3 * 2 * 9  # directions, data sets and all, with and without, attacks x procedures


def test_combinations_that_were_not_played_stay_empty() -> None:
    frame = synthetic.frame(seeds=2)
    frame = frame[(frame["attack"] == "random") | (frame["unlearning"] == "retrain")]
    panel = next(p for p in heatmap(pool(frame))["panels"] if p["data"] == "" and p["defense"] is None)
    assert len(panel["cells"]) == 3 + 2
    assert len(pool(frame).rows) < len(pool(synthetic.frame(seeds=2)).rows)


def test_one_game_has_a_mean_and_no_interval() -> None:
    frame = synthetic.frame(seeds=1)
    rows = parse(make(frame[frame["digest"] == frame["digest"][0]]).html).json["cells"]["rows"]
    assert rows["n"] == [1, 1]
    assert close(rows["effect"][0], frame["effect"][0])
    assert rows["effect_low"] == rows["effect_high"] == rows["success_after_low"] == [None, None]


def test_a_repeated_seed_counts_once_with_its_newest_game() -> None:
    frame = synthetic.frame(seeds=2)
    old = frame[frame["seed"] == 0].copy()
    old["digest"], old["created"], old["effect"] = old["digest"] + "0", "2020-01-01T00:00:00+00:00", 9.0
    pooled = pool(pd.concat([old, frame], ignore_index=True))
    assert pooled.repeated == 36
    assert pooled.rows["n"].tolist() == [2] * 72
    assert pooled.rows["effect"].to_numpy() == pytest.approx(pool(frame).rows["effect"].to_numpy())
    assert "only the newest is pooled" in make(pd.concat([old, frame], ignore_index=True)).html


def test_numbers_that_are_not_finite_are_absent() -> None:
    frame = synthetic.frame(seeds=2).astype({"auroc": object})
    frame["auroc"] = [float("inf"), "nan", None, 0.5] * (len(frame) // 4)
    rows = parse(make(frame).html).json["cells"]["rows"]
    assert set(rows["auroc"]) <= {None, 0.5}


@pytest.mark.parametrize(
    ("seeds", "text", "swept"),
    [
        ([3], "3", "seed=3"),
        ([0, 1, 2, 3], "0-3", "seed=range(0,4)"),
        ([0, 2, 3], "0, 2-3", "seed=0,2,3"),
        ([0], "0", ""),
    ],
)
def test_commands_name_their_seeds(seeds: list[int], text: str, swept: str) -> None:
    assert ranges(seeds) == text
    parts = shlex.split(command(["attack=random", "data.path='my file'"], seeds))
    assert parts[:2] == PROGRAM.split()
    assert ("-m" in parts) == (len(seeds) > 1)
    assert parts[-1] == (swept or "data.path='my file'")
    assert "attack=random" in parts


def test_commands_are_those_of_the_project() -> None:
    from experiments.cli import reproduce

    assert reproduce.PROGRAM == PROGRAM


def test_links_are_relative_to_the_page() -> None:
    assert link("/a/store/game/x.json", Path("/a/out")) == "../store/game/x.json"
    assert link("/a/store/x y#.json", Path("/a")) == "./store/x%20y%23.json"
    assert link("/a/javascript:alert(1)", Path("/a")) == "./javascript%3Aalert%281%29"


def test_numbers_have_true_signs() -> None:
    assert number(-0.25, 2) == "\N{MINUS SIGN}0.25"
    assert number(0.25, 1, signed=True) == "+0.2"
    assert number(-0.0004) == "0.000"
    assert number("nan") == number(None) == "–"
