"""A proof is written as training goes on, says what it takes before it begins, and survives a kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.errors import UserError
from models.stepwise import Opening, State
from models.training import Training
from proofs import writer as writing
from proofs.reader import open_proof
from tests.proofs.small import IMAGES, RECIPE, small

ROOT = Path(__file__).resolve().parents[2]
ADAM = replace(RECIPE, optimizer="adam", lr=0.01)


@pytest.mark.parametrize("training", [RECIPE, replace(RECIPE, momentum=0.0), ADAM], ids=["momentum", "sgd", "adam"])
@pytest.mark.parametrize(("every", "key"), [(1, 1), (1, 50), (3, 2), (100, 1)])
def test_the_size_is_known_before_the_first_step(training: Training, every: int, key: int, tmp_path: Path) -> None:
    made = small(tmp_path / "proof", replace(training, epochs=20), every=every, key=key)
    proof = made.proof
    written = sum(each.stat().st_size for each in made.folder.iterdir())
    assert proof.size == made.kept.writer.size == written
    assert proof.header.total == pytest.approx(written, rel=0.1)


def test_the_size_with_inputs_and_buffers_is_known_too(tmp_path: Path) -> None:
    made = small(tmp_path / "proof", architecture=IMAGES, inputs=True)
    assert made.proof.header.total == pytest.approx(made.proof.size, rel=0.1)


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=writing.SPARE + 1000))
    with pytest.raises(UserError, match=r"A proof of 12 steps takes 0\.0 GB.*raise game\.proof\.every \(now 1\)"):
        small(tmp_path / "deep" / "proof")
    assert not list(tmp_path.iterdir())
    free = small_size(tmp_path, monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=writing.SPARE + free))
    assert small(tmp_path / "again").proof.complete


def small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**60))
    return small(tmp_path / "sized").proof.header.total


def test_a_folder_with_something_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "proof").mkdir()
    (tmp_path / "proof" / "mine").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        small(tmp_path / "proof")
    assert [each.name for each in (tmp_path / "proof").iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written in .*set game\.proof\.folder"):
        small(tmp_path / "file" / "proof")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("place", [0, 1])
def test_a_disk_that_fills_up_is_a_sentence(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = writing.ProofWriter.step

    def filling(self: writing.ProofWriter, *args: object) -> None:
        if self._steps == 4:
            self._files[place].close()
            self._files[place] = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - the writer closes it
        step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(writing.ProofWriter, "step", filling)
    with pytest.raises(UserError, match=r"cannot be written in .*No space left on device.*make room"):
        small(tmp_path / "proof")
    proof = open_proof(tmp_path / "proof")
    assert (proof.steps, proof.complete) == (4, False)


def test_a_shard_is_no_larger_than_it_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SHARD", 500)
    made = small(tmp_path / "proof")
    sizes = [path.stat().st_size for path in sorted(made.folder.glob("shard-*.bin"))]
    assert len(sizes) > 3
    assert max(sizes) <= 500
    assert [step.number for step in made.proof.read()] == list(range(13))


def test_many_parts_are_written_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PARTS", 2)
    made = small(tmp_path / "proof", architecture=IMAGES)
    assert len(list(made.proof.read())) == 13


def test_a_system_that_takes_a_part_only_gets_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = small(tmp_path / "whole", ADAM)
    monkeypatch.setattr(writing.os, "writev", lambda file, parts: os.write(file, parts[0][:7]))
    made = small(tmp_path / "proof", ADAM)
    for path in whole.folder.iterdir():
        assert (made.folder / path.name).read_bytes() == path.read_bytes()


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    """Nothing of when or where a proof was written is in it."""
    one, other = small(tmp_path / "one"), small(tmp_path / "other")
    names = sorted(path.name for path in one.folder.iterdir())
    assert names == sorted(path.name for path in other.folder.iterdir())
    assert names == ["index.jsonl", "records.sha256", "shard-00000.bin"]
    for name in names:
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_a_buffer_of_a_type_that_no_proof_holds_is_a_sentence(tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    odd = State(made.kept.states[0].weights, {"angle": torch.zeros(2, dtype=torch.complex64)}, {})
    other = writing.ProofWriter(tmp_path / "other", made.kept.writer.subject)
    with pytest.raises(UserError, match="buffer 'angle' is of type complex64"):
        other.begin(Opening(training=replace(RECIPE, momentum=0.0), steps=3, seed=0), odd)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tests.proofs.small import RECIPE, small
from proofs import writer as writing
torch.set_num_threads(1)
write, after = os.write, int(sys.argv[2])

class Index:  # the index of the proof, whose line number `after` kills the process half-way
    lines = 0
    def __init__(self, file): self.file = file
    def write(self, line):
        Index.lines += 1
        if Index.lines == after:
            self.file.write(line[: len(line) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return self.file.write(line)

begin = writing.ProofWriter._append
def append(self, *args):
    if not isinstance(self._files[0], Index):
        self._files[0] = Index(self._files[0])
    begin(self, *args)
writing.ProofWriter._append = append
small(Path(sys.argv[1]), every=int(sys.argv[3]))
"""


@pytest.mark.parametrize("every", [1, 3])
def test_what_was_written_when_the_process_is_killed_is_read_to_the_last_whole_step(every: int, tmp_path: Path) -> None:
    whole = small(tmp_path / "whole", every=every)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), "8", str(every)], cwd=ROOT, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    proof = open_proof(tmp_path / "killed")
    assert (proof.steps, proof.complete) == (6, False)  # lines 1 to 7 are steps 0 to 6
    for step, same in zip(proof.read(), whole.proof.read(), strict=False):
        assert torch.equal(step.batch, same.batch)
        assert step.state is None if same.state is None else torch.equal(step.state.weights, same.state.weights)
