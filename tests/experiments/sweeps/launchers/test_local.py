import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import ValidationError

from experiments.sweeps.launchers.local import ENVIRONMENT, Local
from tests.experiments.sweeps.launchers.plays import jobs, play, starts

ROOT = Path(__file__).resolve().parents[4]


def children() -> set[int]:
    """The living children of this process."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.add(int(status.parent.name))
    return found


def commands(pids: set[int]) -> list[str]:
    """The command lines of processes, without those of the resource trackers, which serve this process to its end."""
    found = []
    for pid in pids:
        with suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    return [line for line in found if "resource_tracker" not in line]


def marked(marker: str) -> set[int]:
    """The processes with the text in their environment: all that descend from the one that was started with it."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if marker.encode() in path.read_bytes():
                found.add(int(path.parent.name))
    return found


def wait_until(true, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return bool(true())


@pytest.fixture
def parent(tmp_path):
    """A parent that has just begun to launch jobs of a minute on two workers, and the mark of its descendants."""
    marker = f"LAUNCH_TEST={uuid.uuid4()}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **dict([marker.split("=")])}
    command = [sys.executable, "-m", "tests.experiments.sweeps.launchers.parent", str(tmp_path)]
    process = subprocess.Popen(
        command, env=environment, cwd=tmp_path, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "launching\n"
    yield process, marker
    process.kill()
    process.communicate()
    for pid in marked(marker):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_jobs_run_in_other_processes_and_come_back_as_they_end(tmp_path):
    planned = jobs(tmp_path, {"sleep": 2.0}, {"end": "busy"}, {"end": "failed"}, {"end": "raise"}, {})
    outcomes = list(Local(workers=2).launch(planned, play))
    assert outcomes[-1].name == "job0"
    assert {o.name: o.state for o in outcomes} == {
        "job0": "done", "job1": "busy", "job2": "failed", "job3": "failed", "job4": "done"
    }  # fmt: skip
    raised = next(o for o in outcomes if o.name == "job3")
    assert raised.error == "ValueError: two and two"
    assert "plays.py" in (raised.traceback or "")
    assert len({starts(job)[0] for job in planned} - {os.getpid()}) == 2


def test_one_worker_is_a_process_too_and_none_is_left(tmp_path):
    planned = jobs(tmp_path, {}, {})
    assert [o.state for o in Local(workers=1).launch(planned, play)] == ["done", "done"]
    assert starts(planned[0]) == starts(planned[1])
    assert not children() & {starts(planned[0])[0]}
    assert starts(planned[0])[0] != os.getpid()


def test_no_jobs_start_no_worker():
    before = children()
    assert list(Local(workers=2).launch([], play)) == []
    assert children() == before


def test_every_library_gets_one_thread(tmp_path):
    (outcome,) = Local(workers=1).launch(jobs(tmp_path, {"end": "threads"}), play)
    said = dict(item.split("=") for item in (outcome.error or "").split())
    assert {name: said[name] for name in ENVIRONMENT} == dict.fromkeys(ENVIRONMENT, "1")
    assert {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"} <= set(ENVIRONMENT)


def test_auto_is_the_cores_of_this_process(tmp_path):
    available = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(available)})
    try:
        planned = jobs(tmp_path, {}, {}, {})
        assert [o.state for o in Local(workers="auto").launch(planned, play)] == ["done"] * 3
    finally:
        os.sched_setaffinity(0, available)
    assert len({starts(job)[0] for job in planned}) == 1


def test_many_workers_do_not_run_out_of_open_files(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        assert {o.state for o in Local(workers=8).launch(jobs(tmp_path, *[{"sleep": 0.5}] * 8), play)} == {"done"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.filterwarnings("error")
def test_workers_are_ended_and_replaced_on_a_system_without_pgrep(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    outcomes = list(Local(workers=2).launch(jobs(tmp_path, {"end": "kill"}, {}, {}), play))
    assert [o.state for o in outcomes] == ["done", "done", "failed"]
    assert "signal 9" in (outcomes[-1].error or "")


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": "many"}, {"threads": 2}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValidationError):
        Local(**wrong)


@pytest.mark.parametrize(("end", "cause"), [("kill", "signal 9"), ("exit", "exit code 3")])
def test_a_job_that_kills_its_process_fails_after_a_second_try_and_the_others_are_done(tmp_path, end, cause):
    planned = jobs(tmp_path, {"sleep": 0.5}, {"end": end, "sleep": 0.2}, {"sleep": 0.5}, {})
    *others, last = Local(workers=2).launch(planned, play)
    assert [(o.state, o.error) for o in others] == [("done", None)] * 3
    assert (last.name, last.state) == ("job1", "failed")
    assert cause in (last.error or "")
    assert [len(starts(job)) for job in planned] == [1, 2, 1, 1]


@pytest.mark.parametrize(("end", "cause"), [("kill beside a child", "signal 9"), ("close", "signal 9")])
def test_nobody_waits_for_what_a_dead_worker_has_left(tmp_path, end, cause):
    """Its child holds the pipe open; or it lives on, with its pipe closed."""
    began = time.monotonic()
    *others, last = Local(workers=2).launch(jobs(tmp_path, {"end": end}, {}, {}), play)
    assert time.monotonic() - began < 15
    assert [o.state for o in others] == ["done"] * 2
    assert cause in (last.error or "")


def test_what_is_no_folder_in_the_path_of_modules_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])
    assert [o.state for o in Local(workers=1).launch(jobs(tmp_path, {}), play)] == ["done"]


def test_a_job_whose_process_dies_once_is_done_at_the_second_try(tmp_path):
    outcomes = list(Local(workers=2).launch(jobs(tmp_path, {"end": "die once"}, {}), play))
    assert {o.name: o.state for o in outcomes} == {"job0": "done", "job1": "done"}


def test_a_job_that_exits_fails_like_any_other(tmp_path):
    (outcome,) = Local(workers=1).launch(jobs(tmp_path, {"end": "system exit"}), play)
    assert (outcome.state, outcome.error) == ("failed", "SystemExit: 4")


def test_the_users_main_module_is_not_imported_again(tmp_path):
    (tmp_path / "script.py").write_text(
        "from pathlib import Path\n"
        "from experiments.sweeps.launchers.local import Local\n"
        "from tests.experiments.sweeps.launchers.plays import jobs, play\n"
        "print('main', flush=True)\n"
        "print(*[outcome.state for outcome in Local(workers=2).launch(jobs(Path(), {}, {}), play)])\n"
    )
    command, environment = [sys.executable, "script.py"], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("main\ndone done\n", "")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05, None])
def test_closing_the_iterator_kills_the_workers_at_once(tmp_path, delay):
    before = children()
    planned = jobs(tmp_path, {}, {"sleep": 60}, {"sleep": 60})
    launched = Local(workers=2).launch(planned, play)
    assert next(launched).name == "job0"
    if delay is None:
        assert wait_until(lambda: starts(planned[1]) and starts(planned[2]), 20)
    else:
        time.sleep(delay)
    workers = commands(children() - before)
    assert len(workers) == 2
    begun = time.monotonic()
    launched.close()
    assert time.monotonic() - begun < 3
    assert commands(children() - before) == []


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_no_process_outlives_a_parent_killed_while_it_starts_workers(parent, delay):
    process, marker = parent
    time.sleep(delay)
    process.kill()
    process.wait()
    assert wait_until(lambda: not marked(marker), 10), marked(marker)


def test_no_process_outlives_a_parent_killed_amid_jobs(parent, tmp_path):
    process, marker = parent
    assert wait_until(lambda: (tmp_path / "job1/starts").exists() and (tmp_path / "job2/starts").exists(), 20)
    assert len(marked(marker)) >= 3  # the parent and two workers at least
    process.kill()
    process.wait()
    assert wait_until(lambda: not marked(marker), 10), marked(marker)


@pytest.mark.parametrize("to", ["parent", "group"])
@pytest.mark.parametrize("amid_jobs", [False, True])
def test_ctrl_c_ends_parent_and_workers_quietly(parent, tmp_path, amid_jobs, to):
    process, marker = parent
    if amid_jobs:
        assert wait_until(lambda: (tmp_path / "job2/starts").exists(), 20)
    else:
        time.sleep(0.2)
    (os.kill if to == "parent" else os.killpg)(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130, err
    assert out.endswith("interrupted\n")
    assert err == ""
    assert wait_until(lambda: not marked(marker), 2), marked(marker)
