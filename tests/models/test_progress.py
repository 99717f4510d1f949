"""Progress bars: silent off a terminal, gone at the end on one."""

import io

import pytest
import rich.console

import models.progress
from models.progress import progress


def test_silent_in_pipes(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("training", 3) as tick:
        for _ in range(3):
            tick()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == ""


def test_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, original = io.StringIO(), rich.console.Console
    monkeypatch.setattr(
        rich.console, "Console", lambda stderr: original(file=screen, force_terminal=True, width=80, stderr=stderr)
    )
    with progress("training", 4) as tick:
        tick(2)
    assert "training" in screen.getvalue()
    assert "50%" in screen.getvalue()


def test_error_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt), progress("training", 3):
        raise KeyboardInterrupt


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    shown, original = io.StringIO(), rich.console.Console
    monkeypatch.setattr(
        rich.console, "Console", lambda stderr: original(file=shown, force_terminal=True, width=80, stderr=stderr)
    )
    return shown


def test_a_long_step_within_a_step_has_a_bar_of_its_own(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.progress, "SOON", -1.0)
    with progress("judging", 2) as tick:
        for _ in range(2):
            with progress("predicting", 4) as inner:
                inner(3)
                models.progress._displays[-1].refresh()
            tick()
    for text in ("judging", "50%", "predicting", "75%"):
        assert text in screen.getvalue()
    assert not models.progress._displays


def test_a_short_step_within_a_step_is_not_shown(screen: io.StringIO) -> None:
    with progress("judging", 2), progress("predicting", 4) as inner:
        inner(3)
    assert "judging" in screen.getvalue()
    assert "predicting" not in screen.getvalue()


def test_an_error_within_a_step_leaves_no_display_behind(screen: io.StringIO) -> None:
    with pytest.raises(KeyboardInterrupt), progress("judging", 2), progress("predicting", 4):
        raise KeyboardInterrupt
    assert not models.progress._displays
    with progress("training", 1) as tick:
        tick()
    assert "training" in screen.getvalue()
