"""The launcher for one machine: worker processes that play one job after another.

Every worker is a Python of its own at the end of a pipe, so that one that dies takes nothing with it but its job. None
outlives the process that started it: each watches for its parent's death, and leaves Ctrl-C to the parent.
"""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from data.bounds import at_most
from experiments.sweeps.launchers.launcher import Job, Outcome, Work, failed

# one thread per worker, whichever library computes: more would make the workers fight for the cores
ENVIRONMENT = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMEXPR", "VECLIB")}
WATCH_S = 0.5  # seconds between two looks of a worker at its parent, and of the parent at its workers


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Local:
    """`workers` processes on this machine, with one thread each unless a job sets its own.

    `auto` is one per core that this process may use, after affinity and the container's quota.

    A job whose process dies (no memory left, a fault in a library) is played again when all others have ended, alone,
    and is given up when its process dies a second time.
    """

    workers: Literal["auto"] | Annotated[int, Field(ge=1), at_most(1024, "each is a process")] = "auto"

    def launch(self, jobs: Sequence[Job], work: Work) -> Iterator[Outcome]:
        """Yield outcomes as jobs end; at the end, or when the iterator is closed, the workers are killed at once."""
        from joblib import cpu_count

        workers = min(cpu_count() if self.workers == "auto" else self.workers, len(jobs))
        _allow_files(128 + workers)
        for job, _ in (yield from _play(jobs, work, workers)):
            for _, outcome in (yield from _play([job], work, 1)):
                yield outcome


def _play(jobs: Sequence[Job], work: Work, workers: int) -> Generator[Outcome, None, list[tuple[Job, Outcome]]]:
    """Yield the outcomes of jobs as they end; returns those whose processes died, with what that is the second time."""
    waiting, idle = deque(jobs), list[_Worker]()
    running: dict[_Worker, tuple[Job, float]] = {}
    ended: list[Outcome] = []
    died: list[tuple[Job, Outcome]] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                worker, job = idle.pop() if idle else _Worker(), waiting.popleft()
                running[worker] = (job, time.monotonic())
                with suppress(ConnectionError):  # it has died meanwhile, which is seen below
                    worker.pipe.send((work, job))
            yield from ended  # now that all workers are busy again
            ended.clear()
            ready = wait([worker.pipe for worker in running], WATCH_S)
            for worker in [each for each in running if each.pipe in ready or each.process.poll() is not None]:
                job, began = running.pop(worker)
                if (outcome := worker.answer()) is not None:
                    ended.append(outcome)
                    idle += [worker] if worker.process.poll() is None else []
                else:
                    cause = _cause(worker.end(WATCH_S))
                    text = f"Its process died twice, the second time with no other beside it ({cause})."
                    died.append((job, Outcome(job.name, "failed", time.monotonic() - began, text)))
        yield from ended
        return died
    finally:
        for worker in [*idle, *running]:
            worker.end()


def _cause(code: int) -> str:
    """Why a process ended, from its return code."""
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code}, {signal.strsignal(-code)}" + ("; out of memory?" if -code == signal.SIGKILL else "")


class _Worker:
    """A process with a pipe for its jobs and their outcomes; unlike multiprocessing's, it imports no main module."""

    def __init__(self) -> None:
        self.pipe, theirs = Pipe()
        folders = [folder for folder in sys.path if isinstance(folder, str)]  # Python passes over all else
        start = f"import sys; sys.path = {folders}; del sys.argv[0]; from {__name__} import _serve; _serve"
        command = [sys.executable, "-c", f"{start}({theirs.fileno()}, {os.getpid()})", *sys.argv]
        environment = {**os.environ, **ENVIRONMENT}
        # a process inherits the mask: Ctrl-C cannot hit it before it has begun to ignore it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno()]
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def answer(self) -> Outcome | None:
        """The outcome that has come; None from a process that has died, even where its children hold the pipe open."""
        with suppress(EOFError, OSError):
            if self.pipe.poll():
                return self.pipe.recv()
        return None

    def end(self, patience: float = 0.0) -> int:
        """Kill the process, unless it ends by itself in time; returns its code. An idle one has nothing to lose."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(patience)
        self.process.kill()
        return self.process.wait()


def _serve(handle: int, parent: int) -> None:
    """What a worker does: leave Ctrl-C to its parent, watch that the parent lives, and play the jobs that come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with, args=(parent,), name="watch-parent", daemon=True).start()
    os.set_inheritable(handle, False)
    pipe = Connection(handle)
    with suppress(EOFError, OSError):
        while True:
            work, job = pipe.recv()
            began = time.monotonic()
            try:
                outcome = work(job)
            except BaseException as error:
                outcome = failed(job.name, error, time.monotonic() - began)
            with suppress(OSError, ValueError):
                print(end="", flush=True)  # a kill would lose what a buffer holds
            pipe.send(outcome)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:  # an orphan is adopted by another process
        time.sleep(WATCH_S)
    os._exit(1)


def _allow_files(number: int) -> None:
    """Raise the limit on open files to `number`, as far as the system lets us: many cores need more than the usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        most = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
