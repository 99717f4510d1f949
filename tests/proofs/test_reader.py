"""A proof is read as it was written; whatever else lies in its folder is one sentence, and nothing is run."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data import memory
from data.errors import UserError
from models.training import Training
from proofs import reader, writer
from proofs.files import INDEX, RECORDS
from proofs.header import Architecture, written
from proofs.index import line_of
from proofs.reader import Damaged, open_proof
from proofs.replay import replay
from tests.proofs.small import IMAGES, RECIPE, TABLE, Small, small

SGD, ADAM = replace(RECIPE, momentum=0.0), replace(RECIPE, optimizer="adam", lr=0.01)
SHARD = "shard-00000.bin"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """A proof in several shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SHARD", 500)
        yield small(tmp_path_factory.mktemp("kept") / "proof")


@pytest.fixture
def made(kept: Small, tmp_path: Path) -> Small:
    """A copy of it."""
    shutil.copytree(kept.folder, tmp_path / "proof")
    return replace(kept, folder=tmp_path / "proof")


def read(folder: Path) -> list[reader.Step]:
    """Everything that a verifier reads."""
    proof = open_proof(folder)
    proof.hashes()
    return list(proof.read())


@pytest.mark.parametrize("shard", [2**26, 300])
@pytest.mark.parametrize(("every", "key"), [(1, 1), (1, 4), (3, 2), (50, 1)])
@pytest.mark.parametrize("training", [SGD, RECIPE, ADAM], ids=["sgd", "momentum", "adam"])
@pytest.mark.parametrize("architecture", [TABLE, IMAGES], ids=["mlp", "batch_norm"])
def test_it_is_read_as_it_was_written(
    architecture: Architecture, training: Training, every: int, key: int, shard: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(writer, "SHARD", shard)
    made = small(tmp_path / "proof", training, architecture=architecture, every=every, key=key)
    proof, steps = made.proof, read(made.folder)
    assert proof.complete
    assert [step.number for step in steps] == list(range(13))
    assert [step.number for step in steps if step.state is not None] == proof.checkpoints()
    assert [step.lr for step in steps[1:]] == made.kept.rates == [proof.lr(step) for step in range(1, 13)]
    for step, state in zip(steps, made.kept.states, strict=True):
        assert step.inputs is None
        assert torch.equal(step.batch, made.kept.batches[step.number - 1] if step.number else torch.empty(0))
        if step.state is not None:
            assert torch.equal(step.state.weights, state.weights)
            assert list(step.state.buffers) == list(state.buffers)
            keys = state.moments if proof.header.is_key(step.number) else {}
            assert list(step.state.moments) == list(keys)
            for name, value in {**state.buffers, **keys}.items():
                found = {**step.state.buffers, **step.state.moments}[name]
                assert (found.dtype, found.shape) == (value.dtype, value.shape)
                assert torch.equal(found, value)


def test_inputs_are_read_as_they_were_written(tmp_path: Path) -> None:
    made = small(tmp_path / "proof", inputs=True)
    for step, batch in zip(read(made.folder)[1:], made.kept.batches, strict=True):
        assert step.inputs is not None
        assert torch.equal(step.inputs, made.records.x[batch])


def test_parts_are_read_alone(made: Small) -> None:
    whole = read(made.folder)
    for first, last in ((0, 0), (5, 9), (12, 12)):
        part = list(made.proof.read(first, last))
        assert [step.number for step in part] == list(range(first, last + 1))
        for step in part:
            assert torch.equal(step.batch, whole[step.number].batch)
    assert made.proof.at(7).number == 7
    assert open_proof(made.folder / INDEX).header == made.proof.header


def test_damage_comes_from_a_worker_as_it_is() -> None:
    found = pickle.loads(pickle.dumps(Damaged(7, "its hash is none")))
    assert (found.step, found.what, str(found)) == (7, "its hash is none", str(Damaged(7, "its hash is none")))


def lines(made: Small) -> list[bytes]:
    return (made.folder / INDEX).read_bytes().splitlines(keepends=True)


def put(made: Small, found: list[bytes]) -> None:
    (made.folder / INDEX).write_bytes(b"".join(found))


def damage_of(folder: Path) -> Damaged:
    with pytest.raises(Damaged) as raised:
        read(folder)
    assert str(raised.value).startswith(f"The proof is damaged at step {raised.value.step}: ")
    assert str(raised.value).endswith(".")
    assert str(raised.value).isprintable()
    return raised.value


def test_a_last_line_that_was_cut_short_is_left_out(made: Small) -> None:
    """Whatever of it is there: a writer was killed, and its steps before are whole."""
    whole = lines(made)
    for cut in (0, 1, 30, len(whole[8]) - 1):
        put(made, [*whole[:8], whole[8][:cut]])  # the header, and steps 0 to 6
        assert (made.proof.steps, made.proof.complete) == (6, False)
        assert len(read(made.folder)) == 7
    put(made, [*whole[:-1], whole[-1][:-1]])
    assert (made.proof.steps, made.proof.complete) == (12, False)


@pytest.mark.parametrize("left", [0, 1, 100])
def test_a_shard_that_was_cut_short_is_damage_at_its_step(left: int, made: Small) -> None:
    shard = made.folder / "shard-00003.bin"
    first = list(made.proof.index.shards).index(3)
    os.truncate(shard, left)
    size = made.proof.header.size(first, made.proof.index.counts[first])
    found = damage_of(made.folder)
    with pytest.raises(Damaged, match=f"at step {found.step}: shard-00003.bin ends before it"):
        made.proof.check_files()
    assert found.step == first + left // size
    assert "shard-00003.bin ends before it" in found.what


@pytest.mark.parametrize("kind", ["missing", "folder", "link", "pipe", "unreadable"])
def test_a_shard_that_is_none_is_damage_at_its_step(kind: str, made: Small, tmp_path: Path) -> None:
    shard = made.folder / "shard-00003.bin"
    replaced(shard, kind, tmp_path)
    found = damage_of(made.folder)
    assert found.step == list(made.proof.index.shards).index(3)
    assert "shard-00003.bin cannot be read" in found.what
    assert len(list(made.proof.read(0, found.step - 1))) == found.step
    with pytest.raises(Damaged, match=f"at step {found.step}: shard-00003.bin cannot be read"):
        made.proof.check_files()


def replaced(path: Path, kind: str, elsewhere: Path) -> None:
    """Something else in the place of a file; a link leads to what was there."""
    path.rename(elsewhere / "aside")
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(elsewhere / "aside")
        case "pipe":
            os.mkfifo(path)
        case "unreadable":
            path.symlink_to(path.name)  # which root cannot read either


def test_a_foreign_file_in_the_place_of_a_shard_is_damage_at_its_step(made: Small) -> None:
    shard = made.folder / "shard-00002.bin"
    shard.write_bytes(random.Random(0).randbytes(shard.stat().st_size))
    found = damage_of(made.folder)
    assert found.step == list(made.proof.index.shards).index(2)
    assert "not those that were written" in found.what


def test_bytes_that_belong_to_no_step_are_damage(made: Small) -> None:
    for name in ("shard-00002.bin", sorted(path.name for path in made.folder.glob("shard*"))[-1]):
        with (made.folder / name).open("ab") as file:
            file.write(b"more")
        last = max(i for i, shard in enumerate(made.proof.index.shards) if f"shard-{shard:05d}.bin" == name)
        found = damage_of(made.folder)
        assert (found.step, "4 bytes after it" in found.what) == (last, True)
        with pytest.raises(Damaged, match=f"at step {last}: .*4 bytes after it"):
            made.proof.check_files()
        os.truncate(made.folder / name, (made.folder / name).stat().st_size - 4)
    assert len(read(made.folder)) == 13
    made.proof.check_files()


@pytest.mark.parametrize("kind", ["missing", "folder", "link", "pipe"])
@pytest.mark.parametrize("name", [INDEX, RECORDS])
def test_an_index_that_is_no_file_is_one_sentence(name: str, kind: str, made: Small, tmp_path: Path) -> None:
    replaced(made.folder / name, kind, tmp_path)
    with pytest.raises(UserError, match=r"no file index\.jsonl|cannot be read") as raised:
        read(made.folder)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize("path", ["nowhere", "file", "a\0b", "x" * 300, "file/proof", ""])
def test_what_is_no_folder_is_one_sentence(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"no proof.*name the folder that was handed over\."):
        open_proof(Path(path))


def test_a_link_to_a_proof_is_a_proof(made: Small, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(made.folder)
    assert len(read(tmp_path / "link")) == 13


def test_a_proof_of_another_version_says_so(made: Small) -> None:
    whole = lines(made)
    put(made, [whole[0].replace(b'"version":1', b'"version":2'), *whole[1:]])
    with pytest.raises(UserError, match=r"cannot be read as a proof: its first line says version 2, and version 1"):
        read(made.folder)


def test_a_header_that_is_too_long_is_not_read(made: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lines(made)
    put(made, [b'{"format":"unlearning-proof","machine":{"a":"' + b"x" * reader.LONGEST + b'"}}\n', *whole[1:]])
    with pytest.raises(UserError, match="its first line is longer than 16,777,216 bytes"):
        read(made.folder)
    (made.folder / INDEX).write_bytes(whole[0][:-1])
    with pytest.raises(UserError, match="its first line is cut short"):
        read(made.folder)


def test_huge_shapes_take_no_memory(made: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a state that would fit nor for one that does not."""
    whole, header = lines(made), made.proof.header
    first, *rest = header.weights.shapes
    for wide in (2**20, 2**31):
        count = header.weights.bytes // 4 - first[0] * first[1] + wide * first[1]
        weights = replace(header.weights, shapes=((wide, first[1]), *rest))
        other = replace(header, weights=weights, moments=replace(header.moments, shapes=((count,),)))
        put(made, [written(other).encode() + b"\n", *whole[1:]])
        monkeypatch.setattr(memory, "available", lambda: 2**30)
        with pytest.raises(UserError, match=r"ends before it|takes .* of memory"):
            read(made.folder)


def test_a_file_of_holes_takes_no_memory(made: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks as large as it is said to be and takes no place on the disk."""
    os.truncate(made.folder / RECORDS, 2**40)
    with pytest.raises(UserError, match="does not hold the hashes"):
        made.proof.hashes()
    os.truncate(made.folder / INDEX, 2**42)
    with pytest.raises(UserError, match="The index of the proof"):
        open_proof(made.folder)


LINES: dict[str, Callable[[bytes], bytes]] = {
    "no JSON": lambda _: b"{]\n", "no object": lambda _: b"[1]\n", "nothing": lambda _: b"\n",
    "null": lambda _: b"null\n", "no text": lambda line: line[:5] + b"\xff\xfe" + line[7:],
    "too long": lambda line: line[:-1] + b" " * 1000 + b"\n",
    "deep": lambda _: b'{"t":' + b"[" * 900 + b"\n", "a digit more": lambda _: b'{"t":' + b"9" * 900 + b"}\n",
    "a path": lambda line: line.replace(b'"s":', b'"path":"../../../etc/passwd","s":'),
    "a path for a shard": lambda line: line.replace(b'"s":', b'"s":"../../../etc/passwd",_').replace(b"_", b'"x":'),
    "a space": lambda line: line.replace(b",", b", ", 1), "a key twice": lambda line: line.replace(b"{", b'{"t":6,', 1),
    "upper case": lambda line: line[:-66] + line[-66:].upper(), "another order": lambda line: reordered(line),
}  # fmt: skip
for _key, _values in {
    "t": ("5", "7", "6.0", "true", "NaN", "null", '"6"'), "n": ("0", "6", "-5", "5.0", "true", "NaN", "9" * 50, "null"),
    "lr": ("NaN", "Infinity", "-0.1", "true", "null", "1", "1e7", '"0.1"', "1e400", "1e-1", "[0.1]"),
    "s": ("-1", "9", "0", "true", "2.0", "NaN", "null", '"2"', "9" * 50),
    "sha256": ('""', '"' + "0" * 63 + '"', '"' + "g" * 64 + '"', "0", "null", '"' + "\\u001b" * 64 + '"'),
}.items():  # fmt: skip
    for _value in _values:
        LINES[f"{_key} {_value:.30}"] = lambda line, key=_key, value=_value: changed(line, key, value)  # type: ignore[misc]


def changed(line: bytes, key: str, value: str) -> bytes:
    entry = json.loads(line)
    entry[key] = "\0"
    return json.dumps(entry, separators=(",", ":")).replace('"\\u0000"', value).encode() + b"\n"


def reordered(line: bytes) -> bytes:
    return json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize("kind", LINES)
def test_a_line_that_no_writer_writes_is_damage_at_its_step(kind: str, made: Small) -> None:
    whole = lines(made)
    other = LINES[kind](whole[7])
    assert other != whole[7]
    put(made, [*whole[:7], other, *whole[8:]])
    with pytest.raises(Damaged) as raised:
        open_proof(made.folder)
    assert raised.value.step == 6
    assert str(raised.value).isprintable()


def test_lines_in_another_order_are_damage_at_their_step(made: Small) -> None:
    whole = lines(made)
    for others, step in (
        ([*whole[:4], *whole[5:]], 3), ([*whole[:5], whole[4], *whole[5:]], 4),
        ([*whole[:4], whole[5], whole[4], *whole[6:]], 3), ([*whole[:-2], whole[-1]], 11), ([*whole, whole[-1]], 13),
        ([*whole, b"\n"], 13), ([whole[0], whole[-1]], 0), ([whole[0]], 0), ([whole[0], *whole[2:]], 0),
        ([*whole[:-1], line_of(13, 5, 0.1, made.proof.index.shards[12], bytes(32))], 13),
    ):  # fmt: skip
        put(made, others)
        assert damage_of(made.folder).step == step


def test_an_end_before_the_announced_steps_is_not_complete(made: Small) -> None:
    whole, proof = lines(made), made.proof
    put(made, [*whole[:8], b'{"end":6,"sha256":"%s"}\n' % proof.index.digest(6).hex().encode()])
    for path in made.folder.glob("shard-*.bin"):
        used = [s for s in range(7) if f"shard-{proof.index.shards[s]:05d}.bin" == path.name]
        size = sum(proof.header.size(step, proof.index.counts[step]) for step in used)
        os.truncate(path, size)
    assert len(read(made.folder)) == 7
    assert not made.proof.complete


def test_a_count_of_steps_that_is_none_is_damage(tmp_path: Path) -> None:
    """Adam divides by what it makes of it, in a replay."""
    for count in (float("nan"), float("inf"), -1.0):
        made = small(tmp_path / f"first-{count}", ADAM)
        writing = writer.ProofWriter(tmp_path / str(count), made.kept.writer.subject, key=4)
        opening = reader_opening(made)
        state = made.kept.states[0].clone()
        state.moments["step"].fill_(count)
        writing.begin(opening, state)
        for batch, lr, after in zip(made.kept.batches, made.kept.rates, made.kept.states[1:], strict=True):
            writing.step(batch, lr, after)
        writing.end()
        found = damage_of(tmp_path / str(count))
        assert (found.step, "its optimizer has made" in found.what) == (0, True)
        assert replay(open_proof(tmp_path / str(count)), made.records, made.start).damaged is not None


def reader_opening(made: Small) -> writer.Opening:
    return writer.Opening(training=made.training, steps=made.proof.header.steps, seed=made.seed)


FUZZED = int(os.environ.get("DAMAGES", "300"))


def test_random_damage_is_found_or_changes_nothing(kept: Small, tmp_path: Path) -> None:
    """Bytes flipped, cut, added, and lines swapped, removed and repeated, in every file: a sentence, or the same proof.

    DAMAGES=20000 in the environment does so more often.
    """
    rng, found = random.Random(11), 0
    files = {path.name: path.read_bytes() for path in kept.folder.iterdir()}
    truth = read(kept.folder)
    folder = tmp_path / "proof"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for turn in range(FUZZED):
        name = rng.choice([INDEX, INDEX, *files])
        other = mutated(files[name], rng, name == INDEX)
        (folder / name).write_bytes(other)
        try:
            steps = read(folder)
            whole = open_proof(folder).complete
        except UserError as error:
            found += 1
            said = str(error)
        else:
            said = ""
            for step, same in zip(steps, truth, strict=False):
                assert torch.equal(step.batch, same.batch), turn
                assert step.lr == same.lr, turn
                assert step.state is not None, turn
                assert same.state is not None
                assert torch.equal(step.state.weights, same.state.weights), turn
            assert other == files[name] or (name == INDEX and not whole), (turn, name)  # cut short in the last line
        assert said.replace(str(folder), "").isprintable(), turn
        (folder / name).write_bytes(files[name])
    assert found > 0.9 * FUZZED


def mutated(content: bytes, rng: random.Random, in_lines: bool) -> bytes:
    raw, rows = bytearray(content), content.splitlines(keepends=True)
    kind = rng.choice(
        ["flip", "flip", "byte", "cut", "more", "insert", "drop", *(("swap", "remove", "twice") * in_lines)]
    )
    place, row = rng.randrange(len(raw)), rng.randrange(len(rows))
    match kind:
        case "flip":
            raw[place] ^= 1 << rng.randrange(8)
        case "byte":
            raw[place] = rng.randrange(256)
        case "cut":
            del raw[place:]
        case "more":
            raw += rng.randbytes(rng.randrange(1, 9))
        case "insert":
            raw[place:place] = rng.choice([b"0", b" ", b"\n", b"9", b"\0", b'"', b"}"])
        case "drop":
            del raw[place]
        case "swap":
            other = rng.randrange(len(rows))
            rows[row], rows[other] = rows[other], rows[row]
        case "remove":
            del rows[row]
        case "twice":
            rows.insert(row, rows[row])
    return b"".join(rows) if kind in ("swap", "remove", "twice") else bytes(raw)
