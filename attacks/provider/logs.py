"""What providers do with the log of how the original was trained."""

from __future__ import annotations

from models.stepwise import Opening, Recorder, State
from proofs.reader import Proof


def opening_of(log: Proof) -> Opening:
    """What a log begins with."""
    header = log.header
    return Opening(training=header.recipe.training(), steps=header.steps, seed=header.seed, begins=header.begins)


def copy_log(log: Proof, recorder: Recorder) -> None:
    """Have a log taken down as a proof, step by step as it is.

    States between checkpoints are not in it, and a proof with the same checkpoints needs none of them.
    """
    state: State | None = None
    for step in log.read():
        state = step.state or state
        assert state is not None  # a log begins with one
        if step.number == 0:
            recorder.begin(opening_of(log), state)
        else:
            recorder.step(step.batch, step.lr, state)
    recorder.end()
