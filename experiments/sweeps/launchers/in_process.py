"""The launcher that needs nothing: one job after another, in this process."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.sweeps.launchers.launcher import Job, Outcome, Work, failed


@dataclass(frozen=True)
class InProcess:
    """One job after another, in the order given. A crash of the interpreter is the end of all."""

    def launch(self, jobs: Sequence[Job], work: Work) -> Iterator[Outcome]:
        """Yield each outcome when its job has ended."""
        for job in jobs:
            started = time.monotonic()
            try:
                outcome = work(job)
            except Exception as error:
                outcome = failed(job.name, error, time.monotonic() - started)
            yield outcome
