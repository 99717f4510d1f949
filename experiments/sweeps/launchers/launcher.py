"""What is launched, what comes back, what every launcher does, and the one that needs nothing for it."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Job:
    """One cell to play: its name, its resolved configuration, and the folder that is its own."""

    name: str
    config: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """How the job `name` ended, after how many seconds; `error` is one sentence.

    `busy` means that another process is computing the same cell, so that it is worth coming back to.
    """

    name: str
    state: Literal["done", "busy", "failed"]
    seconds: float = 0.0
    error: str | None = None
    traceback: str | None = None


Work = Callable[[Job], Outcome]


class Launcher(Protocol):
    """Plays jobs, some of them at a time."""

    def launch(self, jobs: Sequence[Job], work: Work) -> Iterator[Outcome]:
        """Yield the outcome of every job as it ends, each once, in the order of ending.

        Leave the iterator early only with `contextlib.closing`: closing it ends, or lets go of, what still runs.
        Raises UserError, at once, when jobs cannot be launched here.
        """


def failed(name: str, error: BaseException, seconds: float = 0.0) -> Outcome:
    """The outcome of the job `name` that `error` ended; with a traceback where it is no mistake of the user's."""
    from experiments.cli.explain import sentence

    if (mistake := sentence(error)) is not None:
        return Outcome(name, "failed", seconds, mistake)
    first = str(error).strip().partition("\n")[0]
    text = f"{type(error).__name__}: {first}".removesuffix(": ")
    return Outcome(name, "failed", seconds, text, "".join(traceback.format_exception(error)))


class InProcess:
    """One job after another in this process, in the order given. A crash of the interpreter is the end of all."""

    def launch(self, jobs: Sequence[Job], work: Work) -> Iterator[Outcome]:
        """Yield each outcome when its job has ended."""
        for job in jobs:
            started = time.monotonic()
            try:
                outcome = work(job)
            except Exception as error:
                outcome = failed(job.name, error, time.monotonic() - started)
            yield outcome
