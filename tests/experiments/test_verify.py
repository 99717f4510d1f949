"""`experiments/verify.py`: what it shows, its exit codes, and one sentence for what is no proof or asked wrongly.

What it is built on has more tests, in tests/proofs/test_offline.py.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from data.digits import Digits
from data.examples import Examples
from experiments import verify
from experiments.cli.command import run as run_script
from tests import warm
from tests.experiments.games import ROOT
from tests.proofs.small import RECIPE, TABLE, Small, small
from tests.proofs.test_tampering import Content

DATA = ("data=digits", "data.train=300", "data.test=1197")
TRAINING = replace(RECIPE, batch_size=32)
MINE = """
from models.mlp import MLP
class Mine(MLP):
    def forward(self, x):
        return -super().forward(x)
"""


@pytest.fixture(scope="module")
def records() -> Examples:
    torch.set_num_threads(1)  # as the command has it, so that replays are exact
    return Digits(train=300, test=1197).load().train


def digits(folder: Path, records: Examples, **changes: Any) -> Small:
    known = {"training": TRAINING, "architecture": TABLE, "classes": 10, "name": "digits", "key": 6}
    return small(folder, records=records, **{**known, **changes})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, records: Examples) -> Small:
    return digits(tmp_path_factory.mktemp("verify") / "proof", records)


@pytest.fixture
def made(kept: Small, tmp_path: Path) -> Small:
    """A copy that may be changed."""
    shutil.copytree(kept.folder, tmp_path / "proof")
    return replace(kept, folder=tmp_path / "proof")


Verify = Callable[..., "tuple[int, str, str]"]


@pytest.fixture
def verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Verify]:  # fmt: skip
    """The command in this process: its exit code, and what it says on both outputs."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)

    def run(*words: object) -> tuple[int, str, str]:
        from experiments.cli.arguments import with_first

        monkeypatch.setattr(sys, "argv", ["verify.py", *with_first("proof", [*map(str, words)])])
        with pytest.raises(SystemExit) as ended:
            run_script(verify.main, "verify", ROOT / "conf")
        GlobalHydra.instance().clear()
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    yield run
    torch.set_deterministic_debug_mode("default")
    root.handlers[:], logging.raiseExceptions = handlers, raises
    root.setLevel(level)
    GlobalHydra.instance().clear()


def one_sentence(done: tuple[int, str, str], wanted: str) -> None:
    code, _, error = done
    assert code == 2, done
    assert error.startswith("Error: "), error
    assert error.count("\n") == 1, error
    assert error.rstrip().endswith((".", "?")), error
    assert wanted in error
    assert len(error) < 700


def test_a_proof_is_verified_end_to_end(made: Small, tmp_path: Path) -> None:
    """As a process of its own: exit code 0, a result that fits a terminal, and nothing left behind."""
    (tmp_path / "here").mkdir()
    done = warm.run("verify.py", "../proof", *DATA, "json=out.json", cwd=tmp_path / "here")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    for said in (
        "digits, 300 records of shape (1, 8, 8); 2 left out, as the", "mlp.MLP (activation=tanh, dropout=0.0, widt",
        "sgd, 3 epochs, batches of 32, learning rate 0.1 (cosine),", "steps           27, a checkpoint at every one",
        "coverage              passed", "replay                passed", "order: nobody gave a seed",
        "27 of 27 intervals", "largest error   0\n", "gradient evaluations", "\nThe proof verifies.\n",
    ):  # fmt: skip
        assert said in done.stdout
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["out.json"]
    content = json.loads((tmp_path / "here" / "out.json").read_text())
    assert (content["verifies"], content["largest_error"], content["exact"], content["problems"]) == (True, 0, True, [])
    assert content["gradients"] == 27 * 32
    assert content["checks"]["order"] == "skipped"
    assert content["bytes"] == made.proof.size


def test_a_wrong_proof_and_bad_input_end_to_end(made: Small, tmp_path: Path) -> None:
    content = Content.of(made)
    content.batches[7][[0, 1]] = content.batches[20][[0, 1]]
    content.seal(tmp_path / "sealed")
    done = warm.run("verify.py", "sealed", *DATA, cwd=tmp_path)
    assert done.returncode == 1
    assert "replay                FAILED at step 7, weights" in done.stdout
    assert "\nThe proof does not verify. Replayed, the weights of step 7 are " in done.stdout
    assert "multiplicity          FAILED" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    done = warm.run("verify.py", "nowhere", *DATA, cwd=tmp_path)
    one_sentence((done.returncode, done.stdout, done.stderr), "nowhere is no proof")
    for flag, said in (("--help", "python experiments/verify.py PROOF data=mnist"), ("--version", "unlearning-games ")):
        done = warm.run("verify.py", flag, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout


def test_help_names_what_can_be_chosen(verified: Verify, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "conf" / "verify.yaml").read_text()
    for group in ("data", "model"):
        names = ", ".join(sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml")))
        assert f"{group}: {names} (and your own)" in text


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], "Name one proof: python experiments/verify.py PROOF"),
        (["proof=[a,b]"], "Name one proof"),
        (["PROOF", "other", *DATA], "'other' cannot be read"),
        (["PROOF"], "Name the data that the proof is about, as in data=mnist; it calls them digits: 300 records"),
        (["PROOF", "data=nope"], "There is no data=nope"),
        (["PROOF", "data=mnist", "data.root=."], "mnist"),
        (["PROOF", "model=nope"], "There is no model=nope"),
        (["PROOF", *DATA, "workers=true"], "workers"),
        (["PROOF", *DATA, "queries=1.5"], "queries must be a whole number"),
        (["PROOF", *DATA, "deleted=[-1]"], "deleted"),
        (["PROOF", *DATA, "deleted=none.json"], "deleted=none.json cannot be read (No such file or directory)"),
        (["PROOF", "quieries=3"], "did you mean 'queries'?"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_what_is_asked_wrongly_is_one_sentence(
    words: list[str], wanted: str, kept: Small, verified: Verify
) -> None:  # fmt: skip
    one_sentence(verified(*(str(kept.folder) if word == "PROOF" else word for word in words)), wanted)


def test_an_own_architecture_and_odd_paths(records: Examples, verified: Verify, tmp_path: Path) -> None:
    """A proof in a folder whose name looks like an override, of a model from a folder of one's own."""
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "of_mine.py").write_text(MINE)
    (tmp_path / "own" / "model" / "mine.yaml").write_text("_target_: of_mine.Mine\n_partial_: true\nwidths: [3]\n")
    folder = tmp_path / "a=b, 'c' [d]" / "proof"
    digits(folder, records)
    code, said, _ = verified(folder.relative_to(tmp_path), *DATA)
    assert (code, "The proof verifies." in said) == (0, True)
    done = warm.run("verify.py", "--config-dir", "own", str(folder), *DATA, "model=mine", "json=out.json", cwd=tmp_path)
    assert (done.returncode, "replay                FAILED at step 1, weights" in done.stdout) == (1, True)
    assert json.loads((tmp_path / "out.json").read_text())["verifies"] is False
