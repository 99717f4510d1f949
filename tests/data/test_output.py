"""Whatever takes the output, and however it takes it, a game that was played ends well."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data import output
from experiments.play import play as game
from experiments.play.play import play_config
from games.request import figures
from tests.experiments.games import ROOT, command, config
from tests.experiments.small_sweeps import TINY

GAME = ("attack=random", "defense=none", "game.targets.direction=over")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the game: what is tested is what comes after it."""
    folder = tmp_path_factory.mktemp("played")
    play_config(config(folder, *TINY, *GAME, "figures=false"), folder / "out")
    return folder / "store"


def shell(store: Path, out: Path, around: str, *more: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    words = command(*TINY, *GAME, "figures=false", f"store.dir={store}", f"hydra.run.dir={out}", *more)
    line = around.replace("GAME", " ".join(f"'{word}'" for word in words))
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def test_an_encoding_that_lacks_characters(store: Path, tmp_path: Path) -> None:
    done = shell(store, tmp_path, "GAME", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "Over-confidence" in done.stdout.decode("ascii")
    assert (tmp_path / "result.json").is_file()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_characters_become_plainer_where_they_must(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    output.ready()
    print("0.50 ± 0.10 — label\u2028 ≥ 3 日本", end="", flush=True)
    said = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert (
        said
        in {
            "ascii": {"0.50 +- 0.10 - label? >= 3 ??"},
            "cp1252": {"0.50 ± 0.10 — label? >= 3 ??"},
            "latin-1": {"0.50 ± 0.10 - label? >= 3 ??"},
            "utf-8": {"0.50 ± 0.10 — label\u2028 ≥ 3 日本"},
        }[encoding]
    )


@pytest.mark.parametrize(
    ("around", "code", "said"),
    [
        ("GAME >&- 2>&-", 0, b""),
        ("GAME > /dev/full", 0, b"The table could not be printed (No space left on device); it is all in"),
        ("set -o pipefail; GAME | head -n 1 > /dev/null", 1, b""),
    ],
)
def test_an_output_that_takes_nothing(around: str, code: int, said: bytes, store: Path, tmp_path: Path) -> None:
    done = shell(store, tmp_path, around)
    assert done.returncode in (code, 0)  # a reader may leave after the last line, too
    assert b"Traceback" not in done.stderr
    assert b"Logging error" not in done.stderr
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == bool(said)
    assert json.loads((tmp_path / "result.json").read_text())["games"]


def test_the_users_settings_of_matplotlib_do_not_reach_our_figures(store: Path, tmp_path: Path) -> None:
    """Backends that are not there, a font that is not there, TeX that is not there: the same picture comes out."""
    own = (
        "backend: nonsense\ntext.usetex: true\nfont.family: Not A Font At All\nfigure.facecolor: red\nsavefig.dpi: 7\n"
    )
    pictures = []
    for number, (settings, backend) in enumerate((("", ""), (own, "no://backend"))):
        folder = tmp_path / str(number)
        (folder / "style").mkdir(parents=True)
        (folder / "style" / "matplotlibrc").write_text(settings)
        environment = {"MPLBACKEND": backend} if backend else {}
        if settings:
            environment["MATPLOTLIBRC"] = str(folder / "style")
        done = shell(store, folder / "out", "GAME", "figures=true", **environment)
        assert done.returncode == 0, done.stderr
        assert b"Over-confidence" in done.stdout
        pictures.append((folder / "out" / "figures" / "targets.png").read_bytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("no font"), RuntimeError()])
def test_figures_that_fail_are_a_warning_after_the_table(
    error: Exception, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        assert shown == ["shown"]
        raise error

    shown: list[str] = []
    monkeypatch.setattr(figures, "_targets", fail)
    played = config(tmp_path, *TINY, *GAME, f"store.dir={store}", "figures=true")
    result = play_config(played, tmp_path / "out", present=lambda *_: shown.append("shown"))
    assert json.loads((tmp_path / "out" / "result.json").read_text())["score"] == pytest.approx(result["score"])
    assert "The figures could not be drawn" in caplog.text


def test_a_result_that_cannot_be_written_is_said_after_the_table(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shown: list[str] = []
    played = config(tmp_path, *TINY, *GAME, f"store.dir={store}", "figures=false")
    with pytest.raises(game.UserError, match="The result cannot be written"):
        play_config(played, tmp_path / "file" / "out", present=lambda *_: shown.append("shown"))
    assert shown == ["shown"]


def test_our_modules_leave_the_backend_of_a_notebook_alone() -> None:
    code = (
        "import os; os.environ['MPLBACKEND'] = 'svg'\n"
        "import matplotlib; before = dict(matplotlib.rcParams)\n"
        "from data.figure_style import our_style\n"
        "with our_style(): assert matplotlib.rcParams['savefig.dpi'] == 200\n"
        "assert dict(matplotlib.rcParams) == before and os.environ['MPLBACKEND'] == 'svg'\n"
        "import sys; assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
