"""Progress bars that appear on a terminal only, and are silent in pipes, files and cluster logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

SOON = 0.5  # seconds: a step within a step that is done by then is not shown
_displays: list[Progress] = []  # of the outermost step, while it runs: a terminal has room for one


class Tick(Protocol):
    """Reports that `steps` more steps are done."""

    def __call__(self, steps: float = 1) -> None: ...


@contextmanager
def progress(label: str, total: float) -> Iterator[Tick]:
    """A transient progress bar with the time left, on standard error; yields the function that advances it.

    A step within another gets a bar below that of the other, unless it is done soon.
    """
    if _displays:
        with _within(_displays[-1], label, total) as tick:
            yield tick
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _silent
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        _displays.append(bar)

        def tick(steps: float = 1) -> None:
            bar.advance(task, steps)

        try:
            yield tick
        finally:
            _displays.pop()


@contextmanager
def _within(bar: Progress, label: str, total: float) -> Iterator[Tick]:
    began = monotonic()
    task = bar.add_task(label, total=total, visible=False)

    def tick(steps: float = 1) -> None:
        bar.update(task, advance=steps, visible=monotonic() - began > SOON)

    try:
        yield tick
    finally:
        bar.remove_task(task)


def _silent(steps: float = 1) -> None:
    """What a tick does where nobody looks."""
