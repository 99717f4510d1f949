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
from experiments.cli.reproduce import PROGRAM, line
from experiments.report_page.columns import in_report
from experiments.report_page.encode import link, ranges
from experiments.report_page.heatmap import heatmap
from experiments.report_page.markup import number
from experiments.report_page.pool import pool
from games.game import Metric
from metrics.intervals import grouped_interval
from tests.experiments.report_page import synthetic
from tests.experiments.report_page.pages import GAMES, make, parse, words

METRICS = {metric.name: metric for metric in in_report(GAMES["request"])}


def close(shown: float | None, wanted: float, percent: bool = False) -> bool:
    """Whether a number of the page is `wanted`, up to the rounding of the page; None is written for NaN."""
    if shown is None or np.isnan(wanted):
        return shown is None and bool(np.isnan(wanted))
    return abs(shown - (100 * wanted if percent else wanted)) <= (0.51e-3 if percent else 0.51e-5)


def ends(values: np.ndarray, metric: Metric) -> tuple[float, float]:
    """Both ends of a 95% interval, by formulas: Student's t, and of shares Clopper-Pearson at the effective size."""
    n, mean, variance = len(values), values.mean(), values.var(ddof=1) / len(values)
    if (values == values[0]).all() and not metric.share:
        return np.nan, np.nan
    if not metric.share:
        half = student.ppf(0.975, n - 1) * variance**0.5
        low, high = metric.bounds or (-np.inf, np.inf)
        return max(mean - half, low), min(mean + half, high)
    reduced = (norm.ppf(0.975) / student.ppf(0.975, n - 1)) ** 2
    size = reduced * (mean * (1 - mean) / variance if variance > 1e-15 and 0 < mean < 1 else n)
    hits = mean * size
    low = 0.0 if mean == 0 else beta.ppf(0.025, hits, size - hits + 1)
    return low, 1.0 if mean == 1 else beta.ppf(0.975, hits + 1, size - hits)


def access(name: str) -> str:
    """The access that the readable name of an attack carries."""
    found = re.search(r"access=(\w+)", name)
    return found[1] if found else ""


def test_rows_are_means_with_intervals_over_games() -> None:
    frame = synthetic.frame(seeds=4)
    cells = parse(make(frame).html).json["cells"]
    [rows] = cells["rows"]
    names = {name: words(cells["labels"][name]) for name in ("attack", "unlearning", "defense", "data")}
    parts = words(rows["part"])
    for i, cell in enumerate(rows["cell"]):
        mine = frame[
            (frame["attack"] == names["attack"][cell].partition(" ")[0])
            & (frame["attack.access"].fillna("") == access(names["attack"][cell]))
            & (frame["unlearning"] == names["unlearning"][cell]) & (frame["data"] == names["data"][cell])
            & (frame["defense"] == names["defense"][cell]) & (frame["part"] == parts[i])
        ]  # fmt: skip
        assert rows["n"][i] == len(mine) == 4
        for name, metric in METRICS.items():
            values, percent = mine[name].to_numpy(float), metric.scale != "plain"
            if np.isnan(values).all():
                assert rows[name][i] is None
                continue
            if name.startswith(("success_", "kept_")):  # yes or no of every target
                shares = [np.repeat([1.0, 0.0], [round(12 * x), 12 - round(12 * x)]) for x in values]
                found = grouped_interval([torch.tensor(each) for each in shares], "share")
                assert close(rows[f"{name}_low"][i], found.low, percent)
                continue
            assert close(rows[name][i], values.mean(), percent)
            for end, wanted in zip(("low", "high"), ends(values, metric), strict=True):
                assert close(rows[f"{name}_{end}"][i], wanted, percent), (name, end)
    assert len(rows["cell"]) == 2 * 36


def test_games_keep_their_numbers_and_paths() -> None:
    frame = synthetic.frame(seeds=2)
    games = parse(make(frame).html).json["games"]
    [rows], paths = games["rows"], games["paths"]
    by_path = {str(row["path"]): row for row in frame[frame["part"] == "under"].to_dict("records")}
    seen = 0
    for i, part in enumerate(words(rows["part"])):
        if part == "under":
            wanted = by_path[(paths["prefix"] + paths["rest"][rows["record"][i]]).removeprefix("./")]
            assert rows["seed"][i] == wanted["seed"]
            assert close(rows["effect"][i], wanted["effect"])
            assert close(rows["success_after"][i], wanted["success_after"], percent=True)
            seen += 1
    assert seen == len(by_path) == 72


def test_heat_map_is_the_mean_as_wanted_and_counts_an_attack_once() -> None:
    frame = synthetic.frame(seeds=3)
    twin = frame["defense"] == "influence"  # before any defense the same game, so the same effect
    frame.loc[twin, "effect"] = frame.loc[~twin, "effect"].to_numpy()
    [pooled] = pool(frame, GAMES)
    result = heatmap(pooled)
    assert result["attacks"] == ["random", "uncertainty (access=black_box)", "uncertainty (access=white_box)"]
    assert result["parts"] == {"over": "Over-confidence", "under": "Under-confidence"}
    checked = 0
    for panel in result["panels"]:
        for cell in panel["cells"]:
            who, procedure = result["attacks"][cell["attack"]], result["procedures"][cell["procedure"]]
            mine = frame[
                (frame["attack"] == who.partition(" ")[0]) & (frame["unlearning"] == procedure)
                & (frame["attack.access"].fillna("") == access(who))
                & (frame["part"] == panel["part"])
                & (frame["data"].eq(panel["data"]) if panel["data"] else True)
                & (frame["defense"] == ("none" if panel["defense"] is None else "influence"))
            ]  # fmt: skip
            values = mine["effect" if panel["defense"] is None else "effect_defended"].to_numpy(float)
            assert cell["n"] == len(values) == (3 if panel["data"] else 6)
            by_seed = mine.assign(value=values).groupby("seed")["value"].mean().to_numpy()
            assert close(cell["mean"], values.mean())
            low, high = ends(by_seed, METRICS["effect"])
            assert close(cell["low"], low)
            assert close(cell["high"], high)
            assert cell["goal"] == ConfidenceMoved().goal
            checked += 1
    assert checked == 2 * 3 * 2 * 9  # parts, data sets and all, with and without, attacks x procedures


def test_combinations_that_were_not_played_stay_empty() -> None:
    frame = synthetic.frame(seeds=2)
    frame = frame[(frame["attack"] == "random") | (frame["unlearning"] == "retrain")]
    [few], [every] = pool(frame, GAMES), pool(synthetic.frame(seeds=2), GAMES)
    panel = next(p for p in heatmap(few)["panels"] if p["data"] == "" and p["defense"] is None)
    assert len(panel["cells"]) == 3 + 2
    assert len(few.rows) < len(every.rows)


def test_one_game_has_a_mean_and_no_interval() -> None:
    frame = synthetic.frame(seeds=1)
    [rows] = parse(make(frame[frame["digest"] == frame["digest"][0]]).html).json["cells"]["rows"]
    assert rows["n"] == [1, 1]
    assert close(rows["effect"][0], frame["effect"][0])
    assert rows["effect_low"] == rows["effect_high"] == rows["success_after_low"] == [None, None]


def test_a_repeated_seed_counts_once_with_its_newest_game() -> None:
    frame = synthetic.frame(seeds=2)
    old = frame[frame["seed"] == 0].copy()
    old["digest"], old["created"], old["effect"] = old["digest"] + "0", "2020-01-01T00:00:00+00:00", 9.0
    [pooled], [once] = pool(pd.concat([old, frame], ignore_index=True), GAMES), pool(frame, GAMES)
    assert pooled.repeated == 36
    assert pooled.rows["n"].tolist() == [2] * 72
    assert pooled.rows["effect"].to_numpy() == pytest.approx(once.rows["effect"].to_numpy())
    assert "only the newest is pooled" in make(pd.concat([old, frame], ignore_index=True)).html


def test_numbers_that_are_not_finite_are_absent() -> None:
    frame = synthetic.frame(seeds=2).astype({"auroc": object})
    frame["auroc"] = [float("inf"), "nan", None, 0.5] * (len(frame) // 4)
    [rows] = parse(make(frame).html).json["cells"]["rows"]
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
    parts = shlex.split(line(["attack=random", "data.path='my file'"], seeds))
    assert parts[:2] == PROGRAM.split()
    assert ("-m" in parts) == (len(seeds) > 1)
    assert parts[-1] == (swept or "data.path='my file'")
    assert "attack=random" in parts


def test_links_are_relative_to_the_page() -> None:
    assert link("/a/store/game/x.json", Path("/a/out")) == "../store/game/x.json"
    assert link("/a/store/x y#.json", Path("/a")) == "./store/x%20y%23.json"
    assert link("/a/javascript:alert(1)", Path("/a")) == "./javascript%3Aalert%281%29"


def test_numbers_have_true_signs() -> None:
    assert number(-0.25, 2) == "\N{MINUS SIGN}0.25"
    assert number(0.25, 1, signed=True) == "+0.2"
    assert number(-0.0004) == "0.000"
    assert number("nan") == number(None) == "–"


def test_a_whole_number_is_written_as_one_where_others_lack_it() -> None:
    [pooled] = pool(synthetic.with_long_names(), GAMES)
    attacks = {
        "random",
        *(f"uncertainty (access={each})" for each in ("black_box, queries=20", "white_box, queries=1000")),
    }
    assert set(pooled.games["attack"]) == attacks
