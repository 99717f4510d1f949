"""Our scripts without the seconds that Python and torch take to start: a process that has imported them forks.

The fork runs the script as `__main__`, with the words, the folder, the environment and the outputs of a command. What
depends on how a process starts or ends (what is imported when, closed outputs, encodings, signals, kills, the seed of
hashes) is tested with `subprocess`, and so are the commands of the README.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

ROOT = str(Path(__file__).resolve().parents[1])
IMPORTED = (
    "experiments.listing.results", "experiments.paper_table.command", "experiments.play.play",
    "experiments.report_page.report", "experiments.sweeps.sweep", "experiments.sweeps.table", "games.request.play",
    "hydra.main", "torch._decomp.decompositions_for_jvp", "torch.fx.experimental.symbolic_shapes",
)  # fmt: skip

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([*IMPORTED])


def run(
    script: str, *words: str, cwd: Path, timeout: float = 300, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` gives for `python experiments/<script> <words>`, with one thread and output as text."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    with tempfile.TemporaryDirectory() as outputs:
        files = [str(Path(outputs, name)) for name in ("stdout", "stderr")]
        process = _server.Process(
            target=_play, args=(str(Path(ROOT, "experiments", script)), words, str(cwd), environment, files)
        )
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=ROOT, PYTHONSAFEPATH="1"):
            process.start()  # the first one starts the server, which imports what lies here
        try:
            process.join(timeout)
        finally:
            process.kill()  # which had its time, or is what Ctrl-C ends
            process.join()
        if process.exitcode == -signal.SIGKILL:
            raise subprocess.TimeoutExpired([script, *words], timeout)
        said = (Path(file).read_text(encoding="utf-8") for file in files)
        return subprocess.CompletedProcess([script, *words], process.exitcode, *said)


def _play(script: str, words: tuple[str, ...], cwd: str, environment: dict[str, str], files: list[str]) -> None:
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [script, *words]
    named = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [str(Path(script).parent), *named, *(each for each in sys.path if each != ROOT)]
    runpy.run_path(script, run_name="__main__")
