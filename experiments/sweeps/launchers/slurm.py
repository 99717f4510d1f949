"""The launcher for a cluster: submitit sends the jobs to SLURM as one array, and their outcomes come back as files.

A job that reaches its time limit, or makes room for another, is queued again and goes on from the store. Whether a job
is dead is asked of SLURM's queue, so that a cluster without accounting (`sacct`) will do.
"""

import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from data.errors import UserError
from experiments.sweeps.launchers.launcher import Job, Outcome, Work
from experiments.sweeps.launchers.slurm_queue import Submitted, array_limit, arrays, outcomes

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = ("sbatch", "srun", "squeue")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Slurm:
    """One array job per launch; conf/hydra/launcher/slurm.yaml explains the options.

    Interrupting the launch leaves the jobs in the queue: what they finish is in the store.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time_min: Annotated[int, Field(ge=1)] = 240
    signal_delay_s: Annotated[int, Field(ge=1)] = 120
    requeue: bool = True
    max_requeues: Annotated[int, Field(ge=0)] = 10
    cpus: Annotated[int, Field(ge=1)] = 1
    memory_gb: Annotated[float, Field(gt=0)] | None = 4.0
    gpus: Annotated[int, Field(ge=0)] = 0
    parallel: Annotated[int, Field(ge=1)] = 64
    setup: tuple[str, ...] = ()
    extra: dict[str, Any] = Field(default_factory=dict)
    poll_s: Annotated[float, Field(gt=0)] = 1.0
    result_wait_s: Annotated[float, Field(ge=0)] = 15.0

    @model_validator(mode="after")
    def _warned_in_time(self) -> "Slurm":
        if self.time_min * 60 <= self.signal_delay_s:
            raise ValueError(
                f"time_min={self.time_min} leaves no time to compute before the warning that comes signal_delay_s="
                f"{self.signal_delay_s} seconds before the end; raise time_min or lower signal_delay_s"
            )
        return self

    def launch(self, jobs: Sequence[Job], work: Work) -> Iterator[Outcome]:
        """Check that there is a SLURM, and return the iterator that submits the jobs and yields their outcomes."""
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            raise UserError(
                f"hydra/launcher=slurm needs SLURM's {missing[0]}, and it is not on the PATH; "
                "use hydra/launcher=local, or run on a login node."
            )
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"hydra/launcher=slurm needs the Python package {error.name}; "
                "install it with pip install -e '.[launch]'."
            ) from error
        return self._launch(jobs, work)

    def _launch(self, jobs: Sequence[Job], work: Work) -> Iterator[Outcome]:
        if not jobs:
            return
        common = Path(os.path.commonpath([job.folder.resolve().parent for job in jobs]))
        # a folder of its own: the numbers of jobs begin again when a cluster is set up anew
        folder = common / ".slurm" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}"
        waiting = self._submit(jobs, work, folder)
        try:
            yield from outcomes(waiting, self.poll_s, self.result_wait_s)
        except (KeyboardInterrupt, GeneratorExit):
            if waiting:
                count = f"{len(waiting)} jobs remain" if len(waiting) > 1 else "1 job remains"
                left = f"{count} in SLURM's queue, and the same sweep, started again, picks up what they finish"
                print(f"{left}; to cancel: scancel {' '.join(arrays(waiting))}", file=sys.stderr)
            raise

    def _submit(self, jobs: Sequence[Job], work: Work, folder: Path) -> dict[str, Submitted]:
        """Send the jobs off as one array, or as several where SLURM's limit on the size of an array demands it."""
        import submitit

        executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=self.max_requeues)
        size = array_limit()
        batches = [jobs[i : i + size] for i in range(0, len(jobs), size)]
        executor.update_parameters(**self._parameters(max(1, self.parallel // len(batches))))
        task = Requeued if self.requeue else functools.partial
        submitted: dict[str, Submitted] = {}
        for batch in batches:
            try:
                with _outside_of_a_job():
                    handles = executor.submit_array([task(work, job) for job in batch])
            except submitit.core.utils.FailedJobError as error:
                if submitted:
                    subprocess.run(["scancel", *arrays(submitted)], check=False, timeout=60)
                reason = str(error).strip().splitlines()[-1:] or ["no reason given"]
                raise UserError(
                    f"SLURM refuses the jobs ({reason[0].removeprefix('sbatch: ')}); "
                    "check what hydra.launcher requests: partition, account, time_min, memory_gb, gpus."
                ) from error
            for job, handle in zip(batch, handles, strict=True):
                submitted[handle.job_id] = Submitted(job, handle.paths.result_pickle, handle.paths.stderr)
        return submitted

    def _parameters(self, parallel: int) -> dict[str, Any]:
        """What submitit writes into the batch script."""
        given = {"partition": self.partition, "account": self.account, "qos": self.qos}
        if self.memory_gb is not None:
            given["mem"] = f"{round(self.memory_gb * 1024)}MB"
        if self.gpus:
            given["gpus_per_node"] = str(self.gpus)
        environment = [
            f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
            *(f"export {library}_NUM_THREADS={self.cpus}" for library in ("OMP", "MKL", "OPENBLAS")),
        ]
        return {
            "job_name": "unlearning-games",
            "time": self.time_min,
            "signal_delay_s": self.signal_delay_s,
            "cpus_per_task": self.cpus,
            "array_parallelism": parallel,
            "setup": [*self.setup, *environment],
            "srun_args": [f"--cpus-per-task={self.cpus}"],  # SLURM >= 22.05 does not hand it on to the step
            "additional_parameters": {"requeue" if self.requeue else "no-requeue": True, **self.extra},
            **{name: value for name, value in given.items() if value is not None},
        }


class Requeued(functools.partial[Outcome]):
    """Work on a job that, on the signal before the time limit, is queued again as it is: its progress is stored."""

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit runs at the next start."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextmanager
def _outside_of_a_job() -> Iterator[None]:
    """Hide the variables of the SLURM job that we run in, if any: sbatch would read requests of the new one in them."""
    kept, prefixes = ("SLURM_CONF", "SLURM_CLUSTERS"), ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
    inside = "SLURM_JOB_ID" in os.environ
    hidden = {n: v for n, v in os.environ.items() if inside and n.startswith(prefixes) and n not in kept}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
