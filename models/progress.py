"""Progress bars that appear on a terminal only, and are silent in pipes, files and cluster logs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Tick(Protocol):
    """Reports that `steps` more steps are done."""

    def __call__(self, steps: int = 1) -> None: ...


@contextmanager
def progress(label: str, total: int) -> Iterator[Tick]:
    """A transient progress bar on standard error; yields the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)

        def tick(steps: int = 1) -> None:
            bar.advance(task, steps)

        yield tick
