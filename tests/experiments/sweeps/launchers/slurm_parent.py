"""A launch on SLURM in a process of its own: `python -m tests.experiments.sweeps.launchers.slurm_parent FOLDER`."""

import signal
import sys
from pathlib import Path

from experiments.sweeps.launchers.slurm import Slurm
from tests.experiments.sweeps.launchers.plays import jobs, play

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what the tests run in may ignore it
    planned = jobs(Path(sys.argv[1]), {}, {"sleep": 60}, {"sleep": 60})
    try:
        for outcome in Slurm(memory_gb=0.2, poll_s=0.1).launch(planned, play):
            print(outcome.name, outcome.state, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
