import os

import pytest

from experiments.sweeps.launchers.launcher import InProcess
from tests.experiments.sweeps.launchers.plays import jobs, play, starts


def test_jobs_are_played_here_one_after_another_in_order(tmp_path):
    planned = jobs(tmp_path, {"sleep": 0.05}, {}, {"end": "busy"}, {"end": "failed"})
    launched = InProcess().launch(planned, play)
    assert next(launched).name == "job0"
    assert not starts(planned[1])
    assert [(o.name, o.state) for o in launched] == [("job1", "done"), ("job2", "busy"), ("job3", "failed")]
    assert [starts(job) for job in planned] == [[os.getpid()]] * 4


def test_work_that_raises_fails_alone_with_one_sentence(tmp_path):
    first, second = InProcess().launch(jobs(tmp_path, {"end": "raise"}, {}), play)
    assert (first.state, first.error) == ("failed", "ValueError: two and two")
    assert first.traceback is not None
    assert "plays.py" in first.traceback
    assert second.state == "done"


def test_an_interrupt_passes(tmp_path):
    def interrupted(job):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(InProcess().launch(jobs(tmp_path, {}), interrupted))
