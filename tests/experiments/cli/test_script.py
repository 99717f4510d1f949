"""What the scripts without Hydra share."""

from __future__ import annotations

import argparse
import io
import sys
from typing import NoReturn

import pytest

from data.errors import UserError
from experiments.cli.script import Parser, ended, place, printable, whole_number


def raising(error: BaseException) -> NoReturn:
    raise error


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda: None) == 0
    assert capsys.readouterr().err == ""
    assert ended(lambda: raising(UserError("No."))) == 2
    assert capsys.readouterr().err == "Error: No.\n"
    assert ended(lambda: raising(KeyboardInterrupt())) == 130
    with pytest.raises(ZeroDivisionError):  # a defect of ours is none of the user's mistakes
        ended(lambda: raising(ZeroDivisionError()))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_takes_every_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert ended(lambda: print("0.5 ± 0.1 … ━ \udcff 漢 end")) == 0
    text = raw.getvalue().decode(encoding)
    assert text.startswith("0.5 +- 0.1" if encoding == "ascii" else "0.5 ± 0.1")
    assert text.endswith("end\n")


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (["--limt", "3"], "There is no option '--limt'; did you mean --limit?"),
        (["--xyz"], "There is no option '--xyz'; `some.py --help` lists them."),
        (["--limit", "1.5"], "--limit: '1.5' is not a whole number from 0 on; `some.py --help` explains."),
        (["--limit", "9" * 19], "is not a whole number"),
        (["--limit", "٣"], "is not a whole number"),
        (["--out", " "], "--out: an empty name is no file and no folder"),
        (["--limit"], "--limit needs a value"),
        (["words"], "There is no place for 'words'"),
    ],
)
def test_a_mistake_on_the_command_line_is_a_sentence(typed: list[str], text: str) -> None:
    parser = Parser("some.py")
    parser.add_argument("--limit", type=whole_number)
    parser.add_argument("--out", type=place)
    with pytest.raises(UserError) as found:
        parser.parse_args(typed)
    assert text in str(found.value)
    assert "usage" not in str(found.value)
    assert isinstance(parser.parse_args(["--limit", "3"]), argparse.Namespace)


def test_text_of_a_file_does_not_steer_a_terminal() -> None:
    assert printable("a ± b 漢\x1b[2J\n\r\u202e") == "a ± b 漢\\x1b[2J\\x0a\\x0d\\x202e"
