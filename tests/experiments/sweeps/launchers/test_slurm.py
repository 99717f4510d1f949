"""The launcher on a real SLURM: `pytest -m slurm`; with UNLEARNING_SLOW=1 also a time limit that is really met."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from data.errors import UserError
from experiments.sweeps.launchers import slurm as module
from experiments.sweeps.launchers.slurm import Slurm
from tests.experiments.sweeps.launchers.cluster import start_again
from tests.experiments.sweeps.launchers.plays import jobs, play, starts

ROOT = Path(__file__).resolve().parents[4]
SMALL = {"memory_gb": 0.2, "poll_s": 0.1, "result_wait_s": 0.5}
CLIMB = {"end": "steps", "steps": 20, "step": 0.2}


def call(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def numbers(state: str) -> dict[int, str]:
    """The jobs in this state: place in the array -> number."""
    lines = [line.split() for line in call("squeue", "-h", "-r", "-o", "%i %T").splitlines()]
    return {int(number.partition("_")[2] or 0): number for number, has in lines if has == state}


def wait_for(find, seconds: float = 30.0):
    """The first value of `find()` that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := find():
            return value
        time.sleep(0.1)
    raise AssertionError(f"nothing after {seconds} s; the queue holds {call('squeue')}")


@contextmanager
def launched(launcher: Slurm, planned):
    """Launch the jobs beside the test; gives the future of {name: outcome}."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(lambda: {o.name: o for o in launcher.launch(planned, play)})


@pytest.mark.slurm
def test_one_array_plays_all_jobs_and_says_which_failed(slurm, tmp_path):
    plans = ({"end": "threads"}, {"end": "failed"}, {"end": "raise"}, {"end": "busy"}, {})
    planned = jobs(tmp_path / "cells", *plans)
    outcomes = {o.name: o for o in Slurm(cpus=2, parallel=3, **SMALL).launch(planned, play)}
    assert [outcomes[job.name].state for job in planned] == ["done", "failed", "failed", "busy", "done"]
    assert "OMP_NUM_THREADS=2" in outcomes["job0"].error
    assert outcomes["job1"].error == "It did not work."
    assert outcomes["job2"].error == "ValueError: two and two"
    assert "plays.py" in outcomes["job2"].traceback
    assert all(len(starts(job)) == 1 for job in planned)
    (script,) = (tmp_path / "cells" / ".slurm").glob("*/[0-9]*_submission.sh")
    assert "--array=0-4%3\n" in script.read_text()


@pytest.mark.slurm
def test_more_jobs_than_an_array_takes_become_several(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "array_limit", lambda: 2)
    planned = jobs(tmp_path, {}, {}, {})
    assert {o.name: o.state for o in Slurm(**SMALL).launch(planned, play)} == {f"job{i}": "done" for i in range(3)}
    assert len(list((tmp_path / ".slurm").glob("*/[0-9]*_submission.sh"))) == 2


@pytest.mark.slurm
def test_dead_jobs_are_told_without_accounting_and_the_others_are_done(slurm, tmp_path):
    plans = ({"end": "kill"}, {"sleep": 60}, {"end": "exit"}, {}, {"sleep": 60})
    planned = jobs(tmp_path, *plans)
    with launched(Slurm(**SMALL), planned) as future:
        call("scancel", wait_for(lambda: numbers("PENDING").get(4)))
        wait_for(lambda: starts(planned[1]))
        call("scancel", numbers("RUNNING")[1])
        outcomes = future.result(60)
    assert {n: o.state for n, o in outcomes.items() if o.state != "failed"} == {"job3": "done"}
    for name in ("job0", "job1", "job2"):
        said = re.fullmatch(
            r"SLURM job \d+_\d ended without an outcome \((?:FAILED|CANCELLED)\); its messages are in (.*)\.",
            outcomes[name].error,
        )
        assert said, outcomes[name].error
        assert Path(said[1]).read_text().splitlines()[-1] == outcomes[name].traceback.splitlines()[-1]
        assert "srun: error" in outcomes[name].traceback
    assert re.fullmatch(r"SLURM job \d+_4 .* \(SLURM no longer .*\), and without a message\.", outcomes["job4"].error)


@pytest.mark.slurm
def test_a_job_that_is_told_to_stop_is_queued_again_and_goes_on_where_it_was(slurm, tmp_path):
    """The signal is the one that comes before the time limit. SLURM would hold such a job for two minutes."""
    planned = jobs(tmp_path, CLIMB)
    with launched(Slurm(**SMALL), planned) as future:
        wait_for(lambda: (planned[0].folder / "step").exists())
        call("scancel", "--signal=USR2", numbers("RUNNING")[0])
        wait_for(lambda: start_again(slurm))
        outcome = future.result(60)["job0"]
    assert outcome.state == "done", outcome
    assert int(outcome.error.removeprefix("from step ")) >= 1
    assert len(starts(planned[0])) == 2


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("options", "reason"),
    [({"requeue": False}, "timed-out and not checkpointable"), ({"max_requeues": 0}, "timed-out too many times")],
)
def test_a_job_that_may_not_be_queued_again_fails_when_it_is_told_to_stop(slurm, tmp_path, options, reason):
    planned = jobs(tmp_path, CLIMB)
    with launched(Slurm(time_min=5, **options, **SMALL), planned) as future:
        wait_for(lambda: (planned[0].folder / "step").exists())
        call("scancel", "--signal=USR2", numbers("RUNNING")[0])
        outcome = future.result(60)["job0"]
    assert outcome.state == "failed"
    assert reason in outcome.error
    assert len(starts(planned[0])) == 1


@pytest.mark.slurm
def test_ctrl_c_leaves_the_jobs_in_the_queue_and_says_so(slurm, tmp_path):
    planned = jobs(tmp_path, {}, {}, {})
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.experiments.sweeps.launchers.slurm_parent", str(tmp_path)], text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_for(lambda: all(map(starts, planned)))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
    left = list(numbers("RUNNING").values())
    for job in planned[1:]:
        os.kill(starts(job)[0], signal.SIGKILL)
    assert (process.returncode, out) == (130, "job0 done\n")
    (array,) = {number.partition("_")[0] for number in left}
    assert len(left) == 2
    assert err.splitlines() == [
        "2 jobs remain in SLURM's queue, and the same sweep, started again, picks up what they finish; "
        f"to cancel: scancel {array}"
    ]
    wait_for(lambda: not numbers("RUNNING"))


@pytest.mark.slurm
def test_what_slurm_refuses_is_said_in_a_sentence(slurm, tmp_path, capfd):
    with pytest.raises(UserError, match=r"^SLURM refuses the jobs \(.*Invalid partition.*\); check what .*partition"):
        next(Slurm(partition="nowhere", **SMALL).launch(jobs(tmp_path, {}, {}), play))


@pytest.mark.slurm
@pytest.mark.skipif(os.environ.get("UNLEARNING_SLOW") != "1", reason="takes a minute or two; set UNLEARNING_SLOW=1")
def test_a_job_that_meets_its_time_limit_is_queued_again_and_goes_on_where_it_was(slurm, tmp_path):
    planned = jobs(tmp_path, {"end": "steps", "steps": 55, "step": 1.0})  # the warning comes at 50 s, or much earlier
    with launched(Slurm(time_min=1, signal_delay_s=10, **SMALL), planned) as future:
        while not future.done():
            start_again(slurm)
            time.sleep(0.5)
    outcome = future.result()["job0"]
    assert outcome.state == "done", outcome
    assert int(outcome.error.removeprefix("from step ")) >= 1
    assert len(starts(planned[0])) >= 2


def test_without_slurm_nothing_is_launched(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs SLURM's sbatch, and it is not on the PATH; use hydra/launcher=local"):
        Slurm().launch(jobs(tmp_path, {}), play)
    assert not (tmp_path / ".slurm").exists()


def test_without_submitit_nothing_is_launched(tmp_path, monkeypatch):
    for program in module.PROGRAMS:
        (tmp_path / program).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"needs the Python package submitit; install it .* '\.\[launch\]'"):
        Slurm().launch(jobs(tmp_path, {}), play)


def test_the_warning_must_come_after_the_start():
    with pytest.raises(ValidationError, match="time_min=2 leaves no time to compute"):
        Slurm(time_min=2, signal_delay_s=120)
    assert Slurm(time_min=2, signal_delay_s=119).time_min == 2


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"memory_gb": 0}, {"parallel": 0}, {"partitions": "main"}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValidationError):
        Slurm(**wrong)


def test_requests_become_the_parameters_of_sbatch():
    asked = Slurm(
        partition="gpu", account="lab", qos="long", time_min=30, cpus=4, memory_gb=1.5, gpus=2, requeue=False,
        setup=["module load cuda"], extra={"constraint": "a100"},
    )._parameters(7)  # fmt: skip
    assert (asked["partition"], asked["account"], asked["qos"], asked["time"]) == ("gpu", "lab", "long", 30)
    assert (asked["cpus_per_task"], asked["mem"], asked["gpus_per_node"]) == (4, "1536MB", "2")
    assert (asked["array_parallelism"], asked["srun_args"]) == (7, ["--cpus-per-task=4"])
    assert asked["additional_parameters"] == {"no-requeue": True, "constraint": "a100"}
    assert asked["setup"][0] == "module load cuda"
    assert "export OMP_NUM_THREADS=4" in asked["setup"]
    assert {"partition", "mem", "gpus_per_node"} & set(Slurm(memory_gb=None)._parameters(1)) == set()


def test_a_launch_from_within_a_job_hides_that_job_from_sbatch(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    with module._outside_of_a_job():
        assert {name for name in os.environ if name.startswith("SLURM_")} == {"SLURM_CONF"}
    assert os.environ["SLURM_MEM_PER_NODE"] == "100"
