"""Verifying a proof offline: what is said of a right one, of a wrong one, and of what is none or asked wrongly."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data.digits import Digits
from data.examples import Data
from experiments.cli.explain import sentence
from experiments.cli.options import written
from experiments.play.architecture import architecture_of
from models.mlp import MLP
from models.victim import Victim
from proofs.files import INDEX, RECORDS, shard_name
from proofs.header import Architecture, Header
from proofs.offline import Supplied, verify
from tests.proofs import small as smalls
from tests.proofs.small import IMAGES, RECIPE, TABLE, Small, small
from tests.proofs.test_tampering import Content, lines, put

CONF = Path(__file__).resolve().parents[2] / "conf"
ASKED = {key: value for key, value in yaml.safe_load((CONF / "verify.yaml").read_text()).items() if key != "hydra"}
OURS = [written(path) for path in sorted((CONF / "model").glob("*.yaml"))]
TRAINING = replace(RECIPE, batch_size=32)
Verify = Callable[..., "tuple[int, str]"]


@cache
def data(train: int = 300, split_seed: int = 0) -> Data:
    return Digits(train=train, test=1197, split_seed=split_seed).load()


def digits(folder: Path, **changes: Any) -> Small:
    known = {"training": TRAINING, "architecture": TABLE, "classes": 10, "name": "digits", "key": 6}
    return small(folder, records=data().train, **{**known, **changes})


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.set_deterministic_debug_mode("default")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return digits(tmp_path_factory.mktemp("offline") / "proof")


@pytest.fixture
def made(kept: Small, tmp_path: Path) -> Small:
    """A copy that may be changed."""
    shutil.copytree(kept.folder, tmp_path / "proof")
    return replace(kept, folder=tmp_path / "proof")


@pytest.fixture
def verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verify:
    """What verifying a proof gives with some settings: the exit code, and what is said."""
    monkeypatch.chdir(tmp_path)

    def run(proof: object, records: Data | None = None, **settings: Any) -> tuple[int, str]:
        config = {**ASKED, "proof": str(proof), "data": {}, **settings}
        try:
            code = verify(config, Supplied(lambda _: records or data(), architecture_of, OURS))
        except Exception as error:
            text = sentence(error)
            if text is None:
                raise
            capsys.readouterr()
            return 2, text
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= 80
        assert ("The proof verifies." in said) == (code == 0)
        return code, said

    return run


def one_sentence(done: tuple[int, str], wanted: str) -> None:
    code, text = done
    assert code == 2, text
    assert text.isprintable(), text  # and so of one line
    assert text.endswith((".", "?")), text
    assert wanted in text
    assert len(text) < 700


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"data": None}, "Name the data that the proof is about, as in data=mnist; it calls them digits: 300 records"),
        ({"workers": 0}, "workers"), ({"workers": True}, "workers"), ({"workers": 5000}, "workers"),
        ({"threads": "many"}, "threads"), ({"tolerance": -1.0}, "tolerance"), ({"tolerance": True}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"tolerance": float("inf")}, "tolerance"), ({"queries": -1}, "queries"),
        ({"queries": None}, "queries"), ({"checks": "some"}, "checks"), ({"checks": 5}, "checks"),
        ({"checks": ["coverige"]}, "There is no check 'coverige' of proofs; the checks are"),
        ({"checks": ["final"]}, "final cannot be checked, since the released model is not here"),
        ({"checks": ["order", "coverage"]}, "order cannot be checked"), ({"order": -1}, "order"),
        ({"deleted": [300]}, "deleted has 300, and records have the positions 0 to 299"),
        ({"deleted": [-1]}, "deleted"),
        ({"deleted": [True]}, "deleted"), ({"deleted": [1.5]}, "deleted"), ({"deleted": 5}, "deleted"),
        ({"deleted": "file"}, "cannot be read"), ({"deleted": "folder"}, "deleted=folder cannot be read"),
        ({"deleted": "none.json"}, "deleted=none.json cannot be read (No such file or directory)"),
        ({"device": "tpu"}, "device=tpu is not known"), ({"json": "none/out.json"}, "json=none/out.json is no place"),
        ({"json": "folder"}, "json=folder is no place for a file"), ({"json": " "}, "is no place for a file"),
        ({"records": data(200)}, "has 200 of shape (1, 8, 8)"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_is_asked_wrongly_is_one_sentence(
    settings: dict[str, Any], wanted: str, kept: Small, verified: Verify, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("[3, 17")
    one_sentence(verified(kept.folder, **settings), wanted)


@pytest.mark.parametrize("proof", ["nowhere", "x" * 300, "file", "folder", " "])
def test_what_is_no_proof_is_one_sentence(proof: str, verified: Verify, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    one_sentence(verified(proof), "proof")


def test_which_records_were_deleted_comes_from_the_verifier(made: Small, verified: Verify, tmp_path: Path) -> None:
    (tmp_path / "deleted.json").write_text("[17, 3]")
    for same in ([3, 17], "deleted.json"):
        code, said = verified(made.folder, deleted=same)
        assert (code, "as the proof itself says" in said) == (0, False)
    code, said = verified(made.folder, deleted=[3, 17, 40])
    assert code == 1
    step = next(i for i, batch in enumerate(made.kept.batches, start=1) if 40 in batch.tolist())
    assert f"The batch of step {step} has record 40, which was to be\nforgotten." in said
    for name in ("removability", "commitment"):
        assert f"{name:22}FAILED" in said


def test_other_records_are_said_with_the_first_that_differs(made: Small, verified: Verify) -> None:
    code, said = verified(made.folder, data(split_seed=1))
    assert code == 1
    assert "Record 0 of the data is not record 0 of the proof; of" in said
    assert "replay: the records are other ones" in " ".join(said.split())
    assert "\nreplayed" not in said


def test_damage_is_said_with_its_step(made: Small, verified: Verify) -> None:
    """What can be read and is not what was written is wrong; what cannot be read is no proof."""
    shard = made.folder / shard_name(0)
    raw = bytearray(shard.read_bytes())
    raw[made.proof.index.offsets[11] + 9] ^= 4
    shard.write_bytes(raw)
    code, said = verified(made.folder)
    assert code == 1
    assert "damage                FAILED at step 11\n" in said
    shard.write_bytes(raw[: made.proof.index.offsets[20]])
    one_sentence(verified(made.folder), "damaged at step 20: shard-00000.bin ends before it.")
    shard.unlink()
    one_sentence(verified(made.folder), "damaged at step 0: shard-00000.bin cannot be read")
    put(made.folder, [*lines(made.folder)[:6], b'{"path":"../../etc/passwd"}\n'])
    one_sentence(verified(made.folder), "damaged at step 5: its line in the index is not that of a step.")


def test_a_proof_that_was_cut_short_is_not_complete(made: Small, verified: Verify) -> None:
    put(made.folder, lines(made.folder)[:8])
    code, said = verified(made.folder)
    assert code == 1
    assert "steps           6 of 27," in said
    assert "complete              FAILED at step 6, steps" in said
    assert "6 of 6 intervals" in said


def test_a_proof_that_has_other_hashes_than_it_names_is_no_proof(made: Small, verified: Verify) -> None:
    (made.folder / RECORDS).write_bytes(bytes(300 * 32))
    one_sentence(verified(made.folder), "does not hold the hashes that its header names")


def test_some_checks_and_some_steps(made: Small, verified: Verify) -> None:
    code, said = verified(made.folder, checks=["coverage"], queries=2, tolerance=1e-6, workers=2)
    assert code == 0
    assert "6 of 27 intervals" in said
    assert "tolerance       1e-06 (as it was asked)" in said
    assert [line.split()[0] for line in said.splitlines() if line.endswith("passed")] == [
        "architecture", "complete", "coverage", "replay"
    ]  # fmt: skip


def test_another_machine_has_a_floor(made: Small, verified: Verify, tmp_path: Path) -> None:
    content = Content.of(made)
    content.header = replace(content.header, machine={**content.header.machine, "processor": "another"})
    content.seal(tmp_path / "sealed")
    code, said = verified("sealed")
    assert code == 0
    assert "10 times the floor of " in said


@pytest.mark.parametrize(
    ("architecture", "optimizer", "every"), [(IMAGES, "adam", 3), (TABLE, "sgd", 4)], ids=["cnn_adam", "mlp_sgd"]
)
def test_other_architectures_and_optimizers(
    architecture: Architecture, optimizer: str, every: int, verified: Verify, tmp_path: Path
) -> None:
    training = replace(TRAINING, optimizer=optimizer, lr=0.01)
    digits(tmp_path / "proof", training=training, architecture=architecture, every=every, order=9)
    code, said = verified("proof", order=9)
    assert code == 0, said
    assert "order                 passed" in said
    assert "random_order: the order follows from a seed, which the check order" in " ".join(said.split())
    one_sentence(verified("proof", order=9, checks=["random_order"]), "random_order cannot be checked, since the order")
    code, said = verified("proof", order=8)
    assert (code, "order                 FAILED at order (and 1 more)" in said) == (1, True)


class Mine(MLP):
    """An architecture that is none of ours, though its states look like one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


def test_an_own_architecture_comes_from_the_verifier(
    verified: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(smalls.KINDS, None, partial(Mine, widths=[8]))
    digits(tmp_path / "proof", architecture=Architecture(name=None, options={}))
    one_sentence(verified("proof"), "is none of ours; give yours with model=NAME.")
    mine = {"_target_": f"{__name__}.Mine", "_partial_": True, "widths": [8]}
    code, said = verified("proof", model=mine)
    assert (code, "an architecture of the verifier's" in said) == (0, True)
    ours = {**mine, "_target_": "models.mlp.MLP"}
    code, said = verified("proof", model=ours)  # whose numbers are others
    assert (code, "replay                FAILED at step 1, weights" in said) == (1, True)
    code, said = verified("proof", model={**ours, "widths": [9]})
    assert code == 1
    assert "architecture          FAILED at weights" in said
    assert "replay: there is no step that could be" in said


def test_a_proof_that_begins_with_the_model_before(made: Small, verified: Verify, tmp_path: Path) -> None:
    """What it begins with cannot be checked here, and that is said."""
    before: Victim = made.final
    digits(tmp_path / "tuned", start=before)
    code, said = verified("tuned")
    assert code == 0
    assert "begins with     the model before deletion" in said
    assert "initialisation: it begins with the model before deletion" in said


HOSTILE: dict[str, Callable[[Header], Header]] = {
    "a name elsewhere": lambda header: named(header, "training.train"),
    "a module of others": lambda header: named(header, "..os.system"),
    "a path": lambda header: named(header, "../../../tmp/evil"),
    "no name": lambda header: named(header, ""),
    "an expression": lambda header: named(header, "mlp.MLP", activation="${oc.env:SECRET}"),
    "a target": lambda header: named(header, "mlp.MLP", _target_="os.system"),
    "arguments": lambda header: named(header, "mlp.MLP", _args_=["echo"]),
    "another option": lambda header: named(header, "mlp.MLP", depth=3),
    "the shape": lambda header: named(header, "mlp.MLP", shape=[1]),
    "a huge layer": lambda header: named(header, "mlp.MLP", widths=[2**31 - 1, 2**31 - 1]),
    "a longer number": lambda header: named(header, "mlp.MLP", widths=[10**40]),
    "no number": lambda header: named(header, "mlp.MLP", widths=[None]),
    "a word": lambda header: named(header, "mlp.MLP", widths="many"),
    "another activation": lambda header: named(header, "mlp.MLP", activation="evil"),
    "a rate": lambda header: named(header, "mlp.MLP", dropout=1e300),
    "a truth": lambda header: named(header, "mlp.MLP", dropout=True),
    "of images": lambda header: named(header, "resnet.ResNet18", width=10**9),
}


def named(header: Header, name: str, **options: Any) -> Header:
    return replace(header, architecture=Architecture(name=name, options=options))


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_a_proof_names_is_built_but_our_architectures(
    kind: str, made: Small, verified: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("it was run"))
    content = Content.of(made)
    content.header = HOSTILE[kind](content.header)
    content.seal(tmp_path / "sealed")
    done = verified("sealed")
    one_sentence(done, "")
    assert "s3cret" not in done[1]
    assert "odel" in done[1] or "architecture" in done[1]


@pytest.mark.parametrize(
    "line",
    [b"{}", b"[" * 50_000, b"\xff\xfe", b'{"format":"unlearning-proof","version":7}', b"x" * 2**25, b"null"],
    ids=["empty", "deep", "bytes", "version", "huge", "null"],
)
def test_what_has_no_header_is_one_sentence(line: bytes, made: Small, verified: Verify) -> None:
    put(made.folder, [line + b"\n", *lines(made.folder)[1:]])
    one_sentence(verified(made.folder), "cannot be read as a proof: its first line")


def test_an_index_that_is_a_link_or_a_folder_is_one_sentence(made: Small, verified: Verify, tmp_path: Path) -> None:
    (made.folder / INDEX).rename(tmp_path / "aside")
    (made.folder / INDEX).symlink_to(tmp_path / "aside")
    one_sentence(verified(made.folder), "index.jsonl cannot be read (it is a link, and a proof has none).")
    (made.folder / INDEX).unlink()
    (made.folder / INDEX).mkdir()
    one_sentence(verified(made.folder), "index.jsonl cannot be read (it is no regular file).")
    assert Path(made.folder, RECORDS).is_file()
