"""What the launcher makes of SLURM's answers, given by a stand-in for `squeue` that prints what a file holds."""

import logging
import os
import pickle
import time
from pathlib import Path

import pytest

from experiments.sweeps.launchers import slurm_queue
from experiments.sweeps.launchers.launcher import Outcome
from experiments.sweeps.launchers.slurm_queue import FORGOTTEN, Queue, Submitted, array_limit, outcomes
from tests.experiments.sweeps.launchers.plays import jobs


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """A function that sets what squeue and scontrol answer from now on."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("squeue", "scontrol"):
        (programs / name).write_text(
            f"#!/bin/sh\ncat {tmp_path}/out\ncat {tmp_path}/err >&2\nexit $(cat {tmp_path}/rc)\n"
        )
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def set_answer(out: str = "", err: str = "", rc: int = 0) -> None:
        for name, text in (("out", out), ("err", err), ("rc", str(rc))):
            (tmp_path / name).write_text(text)

    return set_answer


def submitted(folder: Path, count: int = 1) -> dict[str, Submitted]:
    """Jobs by number."""
    made = jobs(folder, *[{}] * count)
    return {
        f"7_{i}": Submitted(job, folder / f"7_{i}_0_result.pkl", folder / f"7_{i}_0_log.err")
        for i, job in enumerate(made)
    }


def test_a_job_is_dead_when_slurm_says_twice_that_it_ended(answer):
    queue = Queue(wait_s=0.05)
    answer("7_0|RUNNING|None\n7_1|OUT_OF_MEMORY|None\n7_2|PENDING|Resources\n7_3|COMPLETING|None\n")
    numbers = ["7_0", "7_1", "7_2", "7_3"]
    assert queue.dead(numbers) == {}
    time.sleep(0.06)
    assert queue.dead(numbers) == {"7_1": "OUT_OF_MEMORY"}


def test_a_job_that_is_queued_again_is_not_dead(answer):
    queue = Queue(wait_s=0.05)
    answer("7_0|PREEMPTED|None\n")
    assert queue.dead(["7_0"]) == {}
    answer("7_0|PENDING|BeginTime\n")
    time.sleep(0.06)
    assert queue.dead(["7_0"]) == {}
    answer("7_0|TIMEOUT|None\n")
    assert queue.dead(["7_0"]) == {}


@pytest.mark.parametrize("gone", [{"err": "slurm_load_jobs error: Invalid job id specified", "rc": 1}, {"out": ""}])
def test_a_job_that_slurm_has_forgotten_is_dead(answer, gone):
    answer(**gone)
    assert Queue(wait_s=0).dead(["7_0"]) == {"7_0": FORGOTTEN}


def test_silence_kills_nobody_and_is_told_once(answer, monkeypatch, caplog):
    answer(err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)", rc=1)
    queue = Queue(wait_s=0)
    assert queue.dead(["7_0"]) == {}
    assert caplog.messages == []
    monkeypatch.setattr(slurm_queue, "SILENCE_S", -1.0)
    assert queue.dead(["7_0"]) == queue.dead(["7_0"]) == {}
    assert caplog.messages == ["SLURM's squeue gives no answer; still waiting for the outcomes of jobs."]


def test_a_job_that_will_never_start_is_told_once(answer, caplog):
    answer("7_0|PENDING|PartitionTimeLimit\n7_1|PENDING|Priority\n")
    queue = Queue(wait_s=0)
    assert queue.dead(["7_0", "7_1"]) == queue.dead(["7_0", "7_1"]) == {}
    (message,) = caplog.messages
    assert message.startswith("SLURM does not start job 7_0 as it is (PartitionTimeLimit)")


def test_an_outcome_counts_more_than_an_end_and_a_torn_one_waits(answer, tmp_path):
    waiting = submitted(tmp_path, 3)
    first, second, third = waiting.values()
    answer("7_0|COMPLETED|None\n7_1|FAILED|NonZeroExitCode\n7_2|FAILED|NonZeroExitCode\n")
    first.result.write_bytes(pickle.dumps(("success", Outcome("job0", "done", 1.5))))
    second.result.write_bytes(pickle.dumps(("success", Outcome("job1", "done")))[:-9])
    third.result.write_bytes(pickle.dumps(("error", "Traceback:\n  File\npackage.Problem: so\nand so")))
    second.messages.write_text("\n".join(f"line {i}" for i in range(100)))
    told = {o.name: o for o in outcomes(waiting, poll_s=0.01, wait_s=0.1)}
    assert waiting == {}
    assert told["job0"] == Outcome("job0", "done", 1.5)
    assert told["job1"].state == "failed"
    assert told["job1"].traceback.splitlines() == [f"line {i}" for i in range(60, 100)]
    assert told["job2"].error == "package.Problem: so"


def test_a_folder_that_is_away_for_a_while_is_told_and_waited_for(answer, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    waiting = submitted(tmp_path / "network")
    answer("7_0|RUNNING|None\n")
    (tmp_path / "network").rename(tmp_path / "away")

    def come_back(text: str) -> None:
        assert "cannot be looked for" in text
        (tmp_path / "away").rename(tmp_path / "network")
        waiting["7_0"].result.write_bytes(pickle.dumps(("success", Outcome("job0", "done"))))

    slurm_queue_notify, slurm_queue.notify = slurm_queue.notify, come_back
    try:
        assert [o.state for o in outcomes(waiting, poll_s=0.01, wait_s=60)] == ["done"]
    finally:
        slurm_queue.notify = slurm_queue_notify


@pytest.mark.parametrize(
    ("said", "limit"), [({"out": "MaxArrayUsage = 3\nMaxArraySize            = 500\n"}, 500), ({"rc": 1}, 1001)]
)
def test_the_size_of_an_array_is_what_slurm_says(answer, said, limit):
    answer(**said)
    assert array_limit() == limit
