"""The launcher for one machine: joblib's worker processes (loky), one job at a time in each.

Every worker is a pool of its own, so that one that dies takes nothing with it but its job. No worker outlives the
process that started it: each watches for its parent's death, and ignores Ctrl-C, which the parent answers for all.
"""

import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from data.bounds import at_most
from experiments.sweeps.launchers.launcher import Job, Outcome, Work, failed

if TYPE_CHECKING:
    from concurrent.futures import Future

# one thread per worker, whichever library computes: more would make the workers fight for the cores
THREADS = ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMEXPR", "VECLIB")
ENVIRONMENT = {f"{library}_NUM_THREADS": "1" for library in THREADS}
WATCH_S = 0.5  # seconds between two looks of a worker at its parent
FILES = 8  # what the pipes of one worker take of the process's limit on open files, with one to spare


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

        workers = cpu_count() if self.workers == "auto" else self.workers
        crew = [_Worker() for _ in range(min(workers, len(jobs)))]
        _allow_files(128 + FILES * len(crew))
        try:
            for job, _ in (yield from _play(jobs, work, crew)):
                _stop(crew)  # their memory may be what the dead job lacked
                for _, outcome in (yield from _play([job], work, crew[:1])):
                    yield outcome
        finally:
            _stop(crew)


def _play(
    jobs: Sequence[Job], work: Work, crew: Sequence["_Worker"]
) -> Generator[Outcome, None, list[tuple[Job, Outcome]]]:
    """Yield the outcomes of jobs as they end; returns those whose processes died, with what that is the second time."""
    from concurrent.futures import FIRST_COMPLETED, Future, wait

    from joblib.externals.loky import BrokenProcessPool

    waiting, idle = deque(jobs), list(crew)
    running: dict[Future[Outcome], tuple[Job, _Worker, float]] = {}
    ended: list[Outcome] = []
    died: list[tuple[Job, Outcome]] = []
    while waiting or running:
        while waiting and idle:
            job, worker = waiting.popleft(), idle.pop()
            running[worker.start(job, work)] = (job, worker, time.monotonic())
        yield from ended  # now that all workers are busy again
        ended.clear()
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job, worker, began = running.pop(future)
            idle.append(worker)
            error, seconds = future.exception(), time.monotonic() - began
            if error is None:
                ended.append(future.result())
            elif isinstance(error, BrokenProcessPool):
                worker.stop()
                text = f"Its process died twice, the second time with no other beside it ({_cause(error)})."
                died.append((job, Outcome(job.name, "failed", seconds, text)))
            else:
                ended.append(failed(job.name, error, seconds))
    yield from ended
    return died


def _cause(error: BaseException) -> str:
    """Why a worker died; loky says it as `SIGKILL(-9)` or `EXIT(3)` among other words."""
    code = re.search(r"\w+\((-?\d+)\)", str(error))
    if code is None:
        return str(error).partition("\n")[0].rstrip(".")
    number = int(code[1])
    if number >= 0:
        return f"exit code {number}"
    return f"signal {-number}, {signal.strsignal(-number)}" + ("; out of memory?" if -number == signal.SIGKILL else "")


class _Worker:
    """One process for one job at a time; it starts with its first job, and anew after it was stopped or has died."""

    def __init__(self) -> None:
        self._pool: Any = None

    def start(self, job: Job, work: Work) -> "Future[Outcome]":
        from multiprocessing import resource_tracker

        from joblib.externals.loky import process_executor

        if self._pool is None:
            resource_tracker.ensure_running()  # its start would lift the mask set below
            process_executor.kill_process_tree = _kill  # loky's own fails where there is neither psutil nor pgrep
            initial = {"initializer": _begin, "initargs": (os.getpid(),), "env": ENVIRONMENT}
            self._pool = process_executor.ProcessPoolExecutor(max_workers=1, timeout=None, **initial)
        # a process inherits the mask: Ctrl-C cannot hit it before it has begun to ignore it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._pool.submit(work, job)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(self) -> None:
        """Kill the process, if there is one; an idle one has nothing to lose, and a kill cannot hang."""
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list(pool._processes.values()):  # loky's own kill trips over a job that was just submitted
                _signal_kill(process)
            pool.shutdown(wait=True)


def _stop(crew: Sequence[_Worker]) -> None:
    """Stop all workers, at the same time; returns when their processes are gone."""
    threads = [threading.Thread(target=worker.stop) for worker in crew]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _signal_kill(process: Any) -> None:
    if process.exitcode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _kill(process: Any) -> None:
    _signal_kill(process)
    process.join()


def _allow_files(number: int) -> None:
    """Raise the limit on open files to `number`, as far as the system lets us: many cores need more than the usual."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        most = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _begin(parent: int) -> None:
    """What a worker does first: leave Ctrl-C to the parent, and watch that the parent lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with, args=(parent,), name="watch-parent", daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:  # an orphan is adopted by another process
        time.sleep(WATCH_S)
    os._exit(1)
