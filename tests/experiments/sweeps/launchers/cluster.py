"""A real SLURM on one machine: munged, slurmctld and slurmd on the loopback interface, for the user who runs the tests.

    with cluster(folder) as environment:      # a few seconds; the node is idle
        subprocess.run(["srun", "hostname"], env={**os.environ, **environment})

Everything (keys, sockets, state, logs) lies in `folder`, and ports are free ones, so that several can run at a time.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

SYSTEM = "/usr/sbin:/sbin"  # where Debian keeps daemons; not on every user's PATH
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "setpriv")
CONFIG = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=2
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """The reason why no cluster can be started here, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if missing:
        return f"no {', '.join(missing)} here; install the Debian packages slurm-wlm and munge"
    try:
        socket.gethostbyname(_host())
    except OSError:
        return f"the name of this machine, {_host()}, has no address; give it 127.0.0.1 in /etc/hosts"
    return None


@contextmanager
def cluster(folder: Path, cpus: int = 2, memory: int = 4000) -> Iterator[dict[str, str]]:
    """Start a cluster of one node with `cpus` and `memory` MB; yield what its users need in their environment.

    On leaving, all jobs are killed and all daemons stopped; the logs stay in `folder`.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    controller_port, node_port = _free_ports(2)
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(
            host=_host(), user=_user(), folder=folder, cpus=cpus, memory=memory,
            controller_port=controller_port, node_port=node_port,
        )
    )  # fmt: skip
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    environment = {"SLURM_CONF": str(config), "PATH": _path()}
    munge = [f"--key-file={key}", *(f"--{name}-file={folder}/munge.{name}" for name in ("pid", "seed"))]
    with ExitStack() as daemons:
        # forced: that other users cannot reach the socket is what we want
        daemon = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge]
        daemons.enter_context(_daemon(daemon, folder, environment))
        _wait(lambda: _call(environment, "munge", "--no-input", f"--socket={folder}/munge.socket") is not None)
        for name in ("slurmctld", "slurmd"):
            daemons.enter_context(_daemon([name, "-D"], folder, environment))
        _wait(lambda: (_call(environment, "sinfo", "--noheader", "--format=%T") or "").strip() == "idle")
        try:
            yield environment
        finally:
            _end_jobs(environment, folder / "spool")


def start_again(environment: dict[str, str]) -> list[str]:
    """Let the jobs that were queued again start soon, where SLURM would hold them for two minutes; gives their numbers.

    Not at once: slurmd refuses a job that begins in the second in which its last start was ended.
    """
    lines = (_call(environment, "squeue", "-h", "-r", "-t", "PENDING", "-o", "%i %r") or "").splitlines()
    held = [number for number, reason in (line.split(maxsplit=1) for line in lines) if reason == "BeginTime"]
    if held:
        time.sleep(2.0)
    for number in held:
        _call(environment, "scontrol", "update", f"JobId={number}", "StartTime=now")
    return held


@contextmanager
def _daemon(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a daemon in the foreground mode; it ends with us, even when we are killed."""
    with (folder / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_jobs(environment: dict[str, str], spool: Path) -> None:
    """End all jobs, and wait until slurmstepd, which outlives slurmd, has left the spool folder.

    Their processes are killed, since submitit lets SIGTERM pass, and SLURM then takes ten seconds to end a job.
    """
    _call(environment, "scancel", "--state=PENDING", f"--user={_user()}")
    for line in (_call(environment, "scontrol", "listpids") or "").splitlines()[1:]:
        pid, _, step, task, *_ = line.split()
        if step.isdigit() and task.isdigit():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    _wait(lambda: not _call(environment, "squeue", "--noheader"), 2.0, strict=False)
    _call(environment, "scancel", f"--user={_user()}")
    _wait(lambda: not _call(environment, "squeue", "--noheader") and not list(spool.glob("*_[0-9]*.*")), strict=False)


def _call(environment: dict[str, str], *command: str) -> str | None:
    """What the command prints, or None when it fails."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout if done.returncode == 0 else None


def _wait(true: Callable[[], bool], seconds: float = 20.0, strict: bool = True) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            if strict:
                raise TimeoutError(f"SLURM is not ready after {seconds:.0f} s; see the logs in its folder")
            return
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    with ExitStack() as sockets:
        found = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:{SYSTEM}"


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _user() -> str:
    import getpass

    return getpass.getuser()
