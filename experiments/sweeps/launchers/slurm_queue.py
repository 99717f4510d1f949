"""What becomes of jobs that were sent to SLURM: their outcomes from files, their deaths from `squeue`."""

import itertools
import logging
import pickle
import re
import subprocess
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from experiments.sweeps.launchers.launcher import Job, Outcome

FORGOTTEN = "SLURM no longer knows it"  # it forgets a job some minutes after its end, a cancelled task at once
# a job that SLURM queues again is PENDING, whatever ended it
ENDED = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT", FORGOTTEN,
})  # fmt: skip
NEVER = re.compile(r"held|PartitionTimeLimit|PartitionNodeLimit|BadConstraints|NeverSatisfied|Invalid|MaxWall", re.I)
ADVICE = {"OUT_OF_MEMORY": "; raise hydra.launcher.memory_gb", "TIMEOUT": "; raise hydra.launcher.time_min"}
QUEUE_EVERY = 10  # looks for files between two calls of squeue, which burden the whole cluster
SILENCE_S = 300.0  # how long squeue may give no answer before the user hears of it
MESSAGES = 40  # lines of a dead job's messages that are kept
notify = logging.getLogger(__name__).warning


@dataclass(frozen=True)
class Submitted:
    """A job with the file of its outcome, and the file with its messages."""

    job: Job
    result: Path
    messages: Path


def outcomes(waiting: dict[str, Submitted], poll_s: float, wait_s: float) -> Iterator[Outcome]:
    """Yield the outcome of every job as it ends; a job that died without one has failed.

    Args:
        waiting: the jobs by number (`ARRAY_TASK`); those that have ended are taken out.
        poll_s: seconds between two looks for outcomes; SLURM is asked `QUEUE_EVERY` times as rarely.
        wait_s: seconds that the outcome of an ended job may take to appear on a shared file system.
    """
    queue = Queue(wait_s)
    for look in itertools.count(1):
        dead = queue.dead(waiting) if look % QUEUE_EVERY == 0 else {}
        for number, outcome in _written(waiting):  # after SLURM was asked: what it ended has written before
            del waiting[number]
            yield outcome
        for number, state in dead.items():
            if number in waiting:
                yield _failed(number, waiting.pop(number), state)
        if not waiting:
            return
        time.sleep(poll_s)


def arrays(numbers: Collection[str]) -> list[str]:
    """The numbers of the arrays that jobs are tasks of."""
    return sorted({number.partition("_")[0] for number in numbers})


def array_limit() -> int:
    """The most jobs that SLURM takes in one array; its default where it does not say."""
    answer = _ask("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer or "", re.M)
    return int(found[1]) if found else 1001


@dataclass
class Queue:
    """What SLURM says about jobs, over time; silence is no answer, and nobody is dead for it."""

    wait_s: float
    ended: dict[str, float] = field(default_factory=dict)  # when a job was first seen to have ended
    told: set[str] = field(default_factory=set)
    answered: float = field(default_factory=time.monotonic)

    def dead(self, numbers: Collection[str]) -> dict[str, str]:
        """The jobs among `numbers` that ended at least `wait_s` seconds ago, each with the state they ended in."""
        now, states = time.monotonic(), _states(numbers)
        if states is None:
            if now - self.answered > SILENCE_S:
                self._tell("SLURM's squeue gives no answer; still waiting for the outcomes of jobs.")
            return {}
        self.answered = now
        gone = {}
        for number in numbers:
            state, reason = states.get(number, (FORGOTTEN, ""))
            if state not in ENDED:
                self.ended.pop(number, None)  # queued again
            elif now - self.ended.setdefault(number, now) >= self.wait_s:
                gone[number] = state
            if state == "PENDING" and NEVER.search(reason):
                self._tell(
                    f"SLURM does not start job {number} as it is ({reason}); release it or change what it requests "
                    f"with scontrol, or cancel it with scancel {number}."
                )
        return gone

    def _tell(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            notify(text)


def _states(numbers: Collection[str]) -> dict[str, tuple[str, str]] | None:
    """State and reason of the jobs that SLURM knows, or None when it does not answer."""
    jobs = ",".join(arrays(numbers))
    answer = _ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={jobs}", "--format=%i|%T|%r")
    if answer is None:
        return None
    lines = (line.split("|", 2) for line in answer.splitlines() if line.count("|") >= 2)
    return {number.strip(): (state, reason) for number, state, reason in lines}


def _ask(*command: str) -> str | None:
    """What the command prints; nothing when SLURM knows no such job, None when it does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return done.stdout
    return "" if "Invalid job id" in done.stderr else None


def _written(waiting: dict[str, Submitted]) -> Iterator[tuple[str, Outcome]]:
    """The outcomes that have appeared; a folder is listed, since that shows new files on a network, where stat lags."""
    there: set[Path] = set()
    for folder in {job.result.parent for job in waiting.values()}:
        try:
            there.update(folder.iterdir())
        except OSError as error:
            notify(f"The outcomes of jobs in {folder} cannot be looked for ({error.strerror}); trying again.")
    for number, job in list(waiting.items()):
        if job.result in there and (outcome := _read(job)) is not None:
            yield number, outcome


def _read(job: Submitted) -> Outcome | None:
    """What submitit has written: ("success", outcome), or ("error", traceback); None while it cannot be read."""
    try:
        kind, value = pickle.loads(job.result.read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError):
        return None
    if kind == "success" and isinstance(value, Outcome):
        return value
    lines = str(value).strip().splitlines() or ["It returned no outcome."]
    error = next((line for line in reversed(lines) if re.match(r"[\w.]+(:|$)", line)), lines[-1])
    return Outcome(job.job.name, "failed", error=error, traceback=str(value))


def _failed(number: str, job: Submitted, state: str) -> Outcome:
    text = f"SLURM job {number} ended without an outcome ({state}{ADVICE.get(state, '')})"
    try:
        lines = job.messages.read_text(encoding="utf-8", errors="replace").splitlines()[-MESSAGES:]
    except OSError:
        return Outcome(job.job.name, "failed", error=f"{text}, and without a message.")
    text += f"; its messages are in {job.messages}."
    return Outcome(job.job.name, "failed", error=text, traceback="\n".join(lines))
