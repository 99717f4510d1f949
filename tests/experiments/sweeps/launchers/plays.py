"""Small pieces of work that a worker of another process can import, and jobs for them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from experiments.sweeps.launchers.launcher import Job, Outcome


def jobs(folder: Path, *plans: dict[str, object]) -> list[Job]:
    """One job per plan, named job0, job1, ..., each with its folder."""
    made = []
    for number, plan in enumerate(plans):
        own = folder / f"job{number}"
        own.mkdir(parents=True, exist_ok=True)
        made.append(Job(f"job{number}", plan, own))
    return made


def play(job: Job) -> Outcome:
    """Do what the plan says, after leaving the process id in a new line of the folder's `starts`."""
    with (job.folder / "starts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    started = time.monotonic()
    time.sleep(float(job.config.get("sleep", 0)))
    match job.config.get("end"):
        case "raise":
            raise ValueError("two and two\nmake five")
        case "failed":
            return Outcome(job.name, "failed", error="It did not work.", traceback="line 1")
        case "busy":
            return Outcome(job.name, "busy")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill beside a child":
            if os.fork() == 0:  # it has a copy of everything that its parent has open
                time.sleep(20)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        case "close":
            os.closerange(3, 1024)
            time.sleep(20)
        case "exit":
            os._exit(3)
        case "system exit":
            raise SystemExit(4)
        case "die once" if len(starts(job)) == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        case "threads":
            names = [name for name in os.environ if name.endswith("_NUM_THREADS")]
            return Outcome(job.name, "done", error=" ".join(sorted(f"{n}={os.environ[n]}" for n in names)))
        case "steps":
            return climb(job)
    return Outcome(job.name, "done", seconds=time.monotonic() - started)


def climb(job: Job) -> Outcome:
    """Go up `steps` steps of `step` seconds, each kept in a file; `error` says from which step this start went on."""
    kept = job.folder / "step"
    first = int(kept.read_text()) if kept.exists() else 0
    for step in range(first, int(str(job.config["steps"]))):
        time.sleep(float(str(job.config["step"])))
        kept.with_suffix(".new").write_text(str(step + 1))
        kept.with_suffix(".new").replace(kept)
    return Outcome(job.name, "done", error=f"from step {first}")


def starts(job: Job) -> list[int]:
    """The process ids of the job's starts so far."""
    path = job.folder / "starts"
    return [int(line) for line in path.read_text().split()] if path.exists() else []
