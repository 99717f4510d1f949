"""Progress bars: silent off a terminal, gone at the end on one."""

import io

import pytest
import rich.console

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
