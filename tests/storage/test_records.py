"""What others read of a game: null for what is not a number, check sums, and a title whatever the attack is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from experiments.play.play import play_config
from games.request.game import RequestGame
from storage.records import checked, is_unchanged, jsonable, with_nulls, write_atomic
from tests.experiments.games import config
from tests.experiments.small_sweeps import TINY


def strings(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for key, value in node.items() if key != "config" for text in strings(value)]
    return [text for each in node for text in strings(each)] if isinstance(node, list) else [str(node)]


def test_what_is_not_a_number_is_null_for_others() -> None:
    plain = jsonable({"a": float("nan"), "b": [float("inf"), 1.0, float("nan")], "config": {"x": "nan"}, "c": "nano"})
    assert with_nulls(plain) == {"a": None, "b": ["inf", 1.0, None], "config": {"x": "nan"}, "c": "nano"}


def test_a_result_holds_no_nan(tmp_path: Path) -> None:
    """One target a direction, so no interval has bounds; an attack that asks for nothing has no objective."""
    played = play_config(config(tmp_path, *TINY, "attack=none", "game=request", "figures=false"), tmp_path / "out")
    assert "nan" in strings(jsonable(played))
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert not {"nan", "NaN"} & set(strings(result))
    assert result["games"][0]["requests"][0]["objective"] is None


def test_a_check_sum_of_json_fits_it_and_nothing_else() -> None:
    whole = checked({"a": [1, 2.5], "b": {"c": None}})
    assert is_unchanged(json.loads(json.dumps(whole)))
    for other in ({**whole, "a": [1, 2.4]}, {**whole, "z": 1}, {"a": [1, 2.5]}, {**whole, "a": float("nan")}, {}):
        assert not is_unchanged(other)


@pytest.mark.parametrize("missing", ["budget", "access", "functional"])
def test_a_title_needs_no_option_of_the_attack(missing: str, tmp_path: Path) -> None:
    """An attack of the user's own need not have the options of ours."""
    found = config(tmp_path, "attack=uncertainty")
    found["attack"].pop(missing)
    assert "uncertainty attack against retrain" in RequestGame().title(found)


def test_devices_pipes_and_links_stay_what_they_are(tmp_path: Path) -> None:
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "deep" / "file"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(pipe, b"one")
    assert os.read(reader, 10) == b"one"
    os.close(reader)
    assert pipe.is_fifo()
    write_atomic(Path(os.devnull), b"two")
    assert Path(os.devnull).is_char_device()
    link.symlink_to(file)
    for content in (b"three", b"four"):
        write_atomic(link, content)
        assert link.is_symlink()
        assert file.read_bytes() == content
    (tmp_path / "circle").symlink_to("circle")
    write_atomic(tmp_path / "circle", b"five")
    assert (tmp_path / "circle").read_bytes() == b"five"
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path, b"six")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["circle", "deep", "file", "link", "pipe"]
