"""The parent of a crowd of workers, a process of its own: `python -m tests.experiments.sweeps.launchers.parent DIR`."""

import signal
import sys
from contextlib import closing
from pathlib import Path

from experiments.sweeps.launchers.local import Local
from tests.experiments.sweeps.launchers.plays import jobs, play


def main(folder: Path) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what the tests run in may ignore it
    planned = jobs(folder, {}, *[{"sleep": 60}] * 3)
    launched = Local(workers=2).launch(planned, play)
    print("launching", flush=True)
    try:
        with closing(launched):
            for outcome in launched:
                print(outcome.name, outcome.state, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
