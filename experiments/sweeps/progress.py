"""The live line of a sweep: cells done, running, cached and failed, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from experiments.sweeps.launchers.launcher import Outcome


@dataclass
class Progress:
    """The counts of a sweep that is under way; `folder` is where its cells have theirs, `open` are those to play."""

    folder: Path
    total: int
    cached: int
    failed: int
    open: set[str]
    done: int = 0
    live: bool = False
    _began: float = field(default_factory=time.monotonic)
    _played: int = 0
    _running: tuple[float, int] = (0.0, 0)  # when they were counted, and how many they were

    def ended(self, outcome: Outcome) -> None:
        """Count the end of a cell; where nobody watches a live line, print one that stays."""
        if outcome.state == "failed":
            self.failed += 1
        else:
            self.done += 1
        self._played += 1
        self.open.discard(outcome.name)
        if not self.live:
            count = f"[{self.total - len(self.open)}/{self.total}]"
            print(f"{count} {outcome.state} {outcome.name} ({outcome.seconds:.1f} s)", file=sys.stderr)

    def served(self, name: str) -> None:
        """Count a cell that another process has finished meanwhile."""
        self.cached += 1
        self.open.discard(name)

    def running(self) -> int:
        """Cells whose own status says that they are under way; looked at every two seconds at most."""
        if time.monotonic() - self._running[0] > 2:
            count = sum(_is_running(self.folder / name / "status.json") for name in self.open)
            self._running = (time.monotonic(), count)
        return self._running[1]

    def __str__(self) -> str:
        """The counts, and the time left as estimated from the cells that were played."""
        left = len(self.open)
        parts = [f"{self.done} done", f"{self.running()} running", f"{self.cached} cached", f"{self.failed} failed"]
        if self._played and left:
            seconds = left * (time.monotonic() - self._began) / self._played
            parts.append(f"{timedelta(seconds=round(seconds))} left")
        return f"{self.total - left}/{self.total} cells: {', '.join(parts)}"


def _is_running(status: Path) -> bool:
    try:
        return b'"running"' in status.read_bytes()
    except OSError:
        return False


@contextmanager
def shown(label: str, progress: Progress) -> Iterator[None]:
    """Show the progress on standard error while the sweep runs: live on a terminal, else one line per cell."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    progress.live = console.is_terminal
    if not progress.live:
        print(f"{label}: {progress}", file=sys.stderr)
        yield
        return

    def line() -> Text:
        return Text(f"{label}: {progress}")

    with Live(get_renderable=line, console=console, refresh_per_second=2, transient=True):
        yield
    console.print(line())
