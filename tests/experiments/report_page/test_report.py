"""The HTML page: it needs nothing but itself, its numbers are right, and nobody's text becomes code."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.report_page.markup import FOLDER, inline_hash, script_json
from experiments.report_page.page import MARGIN, MOST_BYTES, Options, build
from experiments.report_page.report import main
from tests.experiments.games import ROOT
from tests.experiments.report_page import synthetic
from tests.experiments.report_page.pages import GAMES, HOSTILE, Found, make, overrides, parse, words


@pytest.fixture(scope="module")
def found() -> Found:
    return parse(make(tables=[synthetic.table()], options=Options(figures=1)).html)


def test_page_asks_nothing_of_a_network(found: Found) -> None:
    addresses = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert addresses
    assert all(value is not None and value.startswith(("#", "data:")) for value in addresses)
    assert not {"link", "iframe", "object", "embed"} & {tag for tag, a in found.tags if a.get("rel") != "icon"}
    for style in found.inside["style"]:
        assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", style)
    assert not any("sourceMappingURL" in script for script in found.scripts)


def test_policy_admits_the_scripts_of_the_page_and_no_other(found: Found) -> None:
    [policy] = [a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    [admitted] = re.findall(r"script-src ([^;]*);", policy)
    assert sorted(admitted.split()) == sorted(inline_hash(script) for script in found.scripts)
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)


def test_hostile_text_stays_text() -> None:
    frame = synthetic.frame(seeds=1)
    for column in ("attack", "model", "unlearning", "defense.score", "path", "toolkit", "heading", "goal"):
        frame[column] = HOSTILE
    table = synthetic.table() | {"title": HOSTILE, "markdown": f"| {HOSTILE} |\n|---|\n| x |", "command": HOSTILE}
    table["claims"] = [{"text": HOSTILE, "verdict": HOSTILE, "unit": HOSTILE, "n": HOSTILE, "test": HOSTILE}]
    options = Options(title=HOSTILE, filters=[HOSTILE], figures=1, remarks=[HOSTILE], made_by=HOSTILE, store=HOSTILE)
    page = build(frame, GAMES, lambda path: synthetic.record(), [table], lambda path: [HOSTILE], options)
    found, harmless = parse(page.html), parse(make(options=Options(figures=1)).html)
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert all(a["src"] and a["src"].startswith("data:") for tag, a in found.tags if tag == "img")
    assert len(found.inside["script"]) == len(harmless.inside["script"]) == 4
    assert words(found.json["cells"]["labels"]["attack"])[0] == f"{HOSTILE} (access=black_box)"
    assert found.json["cells"]["labels"]["overrides"][0] == [HOSTILE]
    assert HOSTILE in found.text


def test_json_in_a_script_holds_no_markup() -> None:
    text = script_json({"a": HOSTILE, "b": [1.5, None]})
    assert text.isascii()
    assert not set("<>&") & set(text)


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_page_keeps_below_its_limit_and_says_what_is_missing(share: float) -> None:
    frame = synthetic.frame(seeds=40)
    whole = make(frame).html
    limit = len(whole) + MARGIN - round(share * len(script_json(parse(whole).json["games"])))
    page = make(frame, options=Options(figures=0, page_bytes=limit))
    assert len(page.html.encode()) <= limit
    [missing] = re.findall(r"([\d,]+) games of 1,440 left out of the table of games", page.left_out[0])
    data = parse(page.html).json
    kept = len(data["games"]["paths"]["rest"])
    assert kept == 1440 - int(missing.replace(",", ""))
    assert abs(kept - (1 - share) * 1440) <= 0.05 * 1440  # no more is left out than must be
    assert max(data["games"]["rows"][0]["record"]) == kept - 1
    assert page.left_out[0] in parse(page.html).text
    assert len(data["cells"]["labels"]["command"]) == 36


def test_cells_are_left_out_when_nothing_else_helps() -> None:
    whole = make().html
    sizes = {name: len(script_json(part)) for name, part in parse(whole).json.items()}
    limit = len(whole) + MARGIN - sizes["games"] - round(0.5 * sizes["cells"])
    page = make(options=Options(figures=0, page_bytes=limit))
    data = parse(page.html).json
    assert any("cells of 36 left out" in sentence for sentence in page.left_out)
    assert 9 <= len(data["cells"]["labels"]["command"]) <= 18
    assert set(data["games"]["rows"][0]["cell"]) <= set(data["cells"]["rows"][0]["cell"])
    assert len(page.html.encode()) <= limit


def test_figures_are_inside_with_words_for_who_cannot_see_them(found: Found) -> None:
    images = [attributes for tag, attributes in found.tags if tag == "img"]
    assert len(images) == 3
    for image in images:
        assert (image["src"] or "").startswith("data:image/svg+xml;base64,")
        assert "against first_order" in (image["alt"] or "")
    record = synthetic.record()
    before = np.mean(record["victim_seed"]["before"]["confidence"][:6])
    assert f"6 targets: mean confidence {before:.2f} before" in (images[0]["alt"] or "")


def test_figures_stop_at_their_number_and_their_budget() -> None:
    two = parse(make(options=Options(figures=2)).html)
    assert sum(tag == "img" for tag, _ in two.tags) == 6
    page = make(options=Options(figures=2, figure_bytes=250_000))
    assert sum(tag == "img" for tag, _ in parse(page.html).tags) == 3
    assert page.left_out == (
        "Figures of 1 game instead of 2 are shown: more would take over 0.25 MB (--figure-megabytes).",
    )
    none = make(options=Options(figures=2, figure_bytes=0))
    assert "<img" not in none.html
    assert "No figures are shown of 108 games." in none.html


def test_a_record_that_cannot_be_drawn_is_named() -> None:
    frame = synthetic.frame(seeds=1)
    page = build(frame, GAMES, lambda path: {"targets": {}}, [], overrides, Options(figures=1))
    [path] = frame["path"][:1]
    assert len(page.left_out) == 1
    assert re.match(r"The figures of store/game/.*\.json cannot be drawn", page.left_out[0])
    assert any(row in page.left_out[0] for row in frame["path"])
    assert path.endswith(".json")


def test_vendored_files_are_those_that_are_described() -> None:
    text = (FOLDER / "vendor" / "VENDORED.md").read_text()
    named = dict(re.findall(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", text, re.MULTILINE))
    present = {path.relative_to(FOLDER / "vendor").as_posix() for path in (FOLDER / "vendor").glob("*/*")}
    assert named.keys() == {name for name in present if not name.endswith("LICENSE")}
    for name, digest in named.items():
        assert hashlib.sha256((FOLDER / "vendor" / name).read_bytes()).hexdigest() == digest
        assert (FOLDER / "vendor" / name).parent.joinpath("LICENSE").is_file()


def test_ten_thousand_games_stay_small() -> None:
    settings = ("digits", "random", None, "retrain", "none", None)
    rng = np.random.default_rng(0)
    few = pd.DataFrame([row for seed in range(50) for row in synthetic.rows(settings, seed, rng)])
    page = make(synthetic.repeated(few, 200))
    assert page.games == 10_000
    assert page.left_out == ()
    assert len(page.html) < MOST_BYTES / 2
    assert parse(page.html).json["cells"]["rows"][0]["n"] == [10_000, 10_000]


# ---- The command line, with a store of one real game.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from experiments.play.play import play_config
    from tests.experiments.games import config
    from tests.experiments.small_sweeps import TINY

    folder = tmp_path_factory.mktemp("report")
    play_config(config(folder, *TINY, "attack=random", "figures=false"), folder / "out")
    damaged = folder / "store" / "game" / "00" / f"{'0' * 64}.json"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_text("{")
    return folder / "store"


def test_page_of_a_real_store(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "deep" / "page.html"
    arguments = ["attack=random", "--store", str(store), "--output", str(output), "--tables", str(tmp_path), "seed<5"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert re.fullmatch(rf"{re.escape(str(output))}: 1 game, \d+\.\d MB\n", said.out)
    assert f"{'0' * 64}.json was left out" in said.err
    found = parse(output.read_text(encoding="utf-8"))
    assert f"{'0' * 64}.json was left out" in found.text
    assert "attack=random 'seed<5'" in found.text
    assert sum(tag == "img" for tag, _ in found.tags) >= 2
    path = found.json["games"]["paths"]
    assert (output.parent / (path["prefix"] + path["rest"][0])).resolve().is_file()
    assert "attack=random" in shlex.split(found.json["cells"]["labels"]["command"][0])


def test_games_of_named_folders_are_looked_for(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "game").mkdir()
    (tmp_path / "game" / "mine.yaml").write_text("_target_: nowhere_at_all.Game\n")
    output = tmp_path / "page.html"
    arguments = ["--store", str(store), "--figures", "0", "--output", str(output), "--config-dir", str(tmp_path)]
    assert main(arguments) == 0
    assert "mine.yaml is left out" in capsys.readouterr().err
    assert "mine.yaml is left out" in parse(output.read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["attack=none"], "No game has attack=none; attack is random here."),
        (["seed<1", "part=over,under", "seed<0"], "passes"),
        (["atack=none"], "did you mean 'attack'"),
        (["seed<x"], "seed<x"),
        (["--output", "{file}/page.html"], "--output"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], words: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    typed = [each.format(file=tmp_path / "file") for each in arguments]
    assert main(["--store", str(store), "--figures", "0", "--output", str(tmp_path / "page.html"), *typed]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")
    assert words in line
    assert not (tmp_path / "page.html").exists()


def test_a_store_without_games_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(tmp_path)]) == 2
    assert "has no finished games" in capsys.readouterr().err
    assert main(["--store", str(tmp_path / "nowhere")]) == 2
    assert "There is no store" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--figures", "-1"], ["--figures", "x"], ["--figure-megabytes", "99"]])
def test_wrong_limits_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wrong) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {wrong[0]}: ")
    assert wrong[1] in line


def test_help_is_quick_and_teaches(tmp_path: Path) -> None:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "report.py"), "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert time.perf_counter() - began < 1
    assert "report.py data=digits" in done.stdout
    assert done.stderr == ""
