"""The live line of a sweep: cells done, running, cached and failed, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from experiments.sweeps.launchers.launcher import Outcome


@dataclass
class Watch:
    """The counts of a sweep that is under way; `folder` is where its cells have theirs."""

    folder: Path
    total: int
    cached: int
    failed: int
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    seconds: list[float] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    _live: bool = False
    _counted: tuple[float, int] = (0.0, 0)

    def ended(self, outcome: Outcome) -> None:
        """Count the end of a cell; where nobody watches a live line, print one that stays."""
        if outcome.state == "failed":
            self.failed += 1
        else:
            self.done += 1
        self.seconds.append(outcome.seconds)
        self.open.discard(outcome.name)
        if not self._live:
            what = "failed" if outcome.state == "failed" else "done"
            print(f"[{self.ended_cells}/{self.total}] {what} {outcome.name} ({outcome.seconds:.1f} s)", file=sys.stderr)

    def served(self, name: str) -> None:
        """Count a cell that another process has finished meanwhile."""
        self.cached += 1
        self.open.discard(name)

    def running(self) -> int:
        """Cells whose own status says that they are under way; looked at every two seconds at most."""
        when, count = self._counted
        if time.monotonic() - when > 2:
            count = sum(_is_running(self.folder / name / "status.json") for name in self.open)
            self._counted = (time.monotonic(), count)
        return count

    @property
    def ended_cells(self) -> int:
        """Cells that need nothing more."""
        return self.done + self.cached + self.failed

    def line(self) -> str:
        """The counts, and the time left as estimated from the cells that were played."""
        left = self.total - self.ended_cells
        parts = [f"{self.done} done", f"{self.running()} running", f"{self.cached} cached", f"{self.failed} failed"]
        if self.seconds and left:
            rate = len(self.seconds) / (time.monotonic() - self.began)
            parts.append(f"{duration(left / rate)} left")
        return f"{self.ended_cells}/{self.total} cells: {', '.join(parts)}"


def _is_running(status: Path) -> bool:
    try:
        return b'"running"' in status.read_bytes()
    except OSError:
        return False


@contextmanager
def watching(label: str, watch: Watch) -> Iterator[Watch]:
    """Show the line of `watch` on standard error while the sweep runs: live on a terminal, else one line per cell."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    watch._live = console.is_terminal
    if not watch._live:
        print(f"{label}: {watch.line()}", file=sys.stderr)
        yield watch
        return

    class Line:
        def __rich__(self) -> Text:
            return Text(f"{label}: {watch.line()}")

    with Live(Line(), console=console, refresh_per_second=2, transient=True):
        yield watch
    console.print(f"{label}: {watch.line()}", highlight=False)


def duration(seconds: float) -> str:
    """A time in words: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
