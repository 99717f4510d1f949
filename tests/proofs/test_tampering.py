"""A valid proof with one thing changed never passes, and what was changed is named: its step, or its field.

Half of the changes are made in the files as they lie there. The other half is made as a cheating provider would, who
writes the whole proof anew around the change, with every hash as it should be.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from data.digits import Digits
from data.errors import UserError
from data.examples import Examples
from models.stepwise import State
from models.training import initialise
from models.victim import Victim
from proofs.audits import CHECKS, Expected
from proofs.checking import Checked, check_proof
from proofs.commitment import DIGEST, digests, root
from proofs.files import INDEX, RECORDS, shard_name
from proofs.header import Header, written
from proofs.index import Damaged, head, last_line, line_of
from proofs.reader import open_proof
from tests.proofs.small import RECIPE, Small, small

ORDER, STEPS = 5, 27
DELETED = (4, 40, 200)
HALF = 50


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of a machine on which more is tested wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def records() -> Examples:
    return Digits(train=300, test=1197).load().train


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, records: Examples) -> Small:
    """A proof of three epochs on digits, whose order of records the verifier chose."""
    training = replace(RECIPE, batch_size=32)
    made = small(
        tmp_path_factory.mktemp("tampering") / "proof", training, records, key=6, deleted=DELETED, order=ORDER,
        classes=10, name="digits",
    )  # fmt: skip
    assert made.proof.steps == STEPS
    return made


def check(folder: Path, made: Small, records: Examples | None = None) -> Checked:
    expected = Expected(
        made.records if records is None else records, made.deleted, made.build, made.training, order=ORDER,
        released=made.final, begins="seed",
    )  # fmt: skip
    return check_proof(open_proof(folder), expected, list(CHECKS))


def test_the_proof_holds_as_it_is(made: Small, tmp_path: Path) -> None:
    assert check(made.folder, made).problems == ()
    content = Content.of(made)
    content.seal(tmp_path / "sealed")
    for path in made.folder.iterdir():  # what `seal` writes is what the writer writes
        assert (tmp_path / "sealed" / path.name).read_bytes() == path.read_bytes()


@dataclass
class Found:
    """What was said of a proof: the first step that was named, and all fields."""

    step: int | None
    fields: set[str]
    said: list[str]

    @classmethod
    def of(cls, folder: Path, made: Small, records: Examples | None = None) -> Found:
        try:
            problems = check(folder, made, records).problems
        except Damaged as damage:
            return cls(damage.step, set(), [str(damage)])
        except UserError as error:  # of the header, whose sentence has the field
            return cls(None, {str(error)}, [str(error)])
        steps = [each.step for each in problems if each.step is not None]
        return cls(min(steps, default=None), {each.field or "" for each in problems}, [each.text for each in problems])

    def names(self, due: range | str) -> bool:
        if isinstance(due, str):
            return any(due in each for each in self.fields) or (self.step == 0 and "first line" in " ".join(self.said))
        return self.step is not None and self.step in due


def near(step: int, more: int = 0) -> range:
    return range(step, step + more + 1)


Change = Callable[[Path, random.Random], "range | str"]  # what is named of it then


def lines(folder: Path) -> list[bytes]:
    return (folder / INDEX).read_bytes().splitlines(keepends=True)


def put(folder: Path, rows: list[bytes]) -> None:
    (folder / INDEX).write_bytes(b"".join(rows))


def flip(path: Path, place: int, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1 << bit
    path.write_bytes(raw)


def bit_of_a_shard(folder: Path, rng: random.Random) -> range | str:
    index = open_proof(folder).index
    place = rng.randrange((folder / shard_name(0)).stat().st_size)
    flip(folder / shard_name(0), place, rng.randrange(8))
    return near(max(step for step in range(STEPS + 1) if index.offsets[step] <= place))


def swapped_indices(folder: Path, rng: random.Random) -> range | str:
    step, index = rng.randrange(1, STEPS + 1), open_proof(folder).index
    one, other = (index.offsets[step] + 4 * i for i in rng.sample(range(32), 2))
    raw = bytearray((folder / shard_name(0)).read_bytes())
    raw[one : one + 4], raw[other : other + 4] = raw[other : other + 4], raw[one : one + 4]
    (folder / shard_name(0)).write_bytes(raw)
    return near(step)


def altered_rate(folder: Path, rng: random.Random) -> range | str:
    step, rows, index = rng.randrange(1, STEPS + 1), lines(folder), open_proof(folder).index
    lr = index.rates[step] * rng.choice([0.5, 1 + 1e-12, 2.0])
    rows[step + 1] = line_of(step, index.counts[step], lr, index.shards[step], index.digest(step))
    put(folder, rows)
    return near(step)


def removed_line(folder: Path, rng: random.Random) -> range | str:
    step, rows = rng.randrange(STEPS + 1), lines(folder)
    del rows[step + 1]
    put(folder, rows)
    return near(max(0, step - 1), 1) if step == STEPS else near(step)


def repeated_line(folder: Path, rng: random.Random) -> range | str:
    step, rows = rng.randrange(STEPS + 1), lines(folder)
    rows.insert(step + 1, rows[step + 1])
    put(folder, rows)
    return near(step, 1)


def swapped_lines(folder: Path, rng: random.Random) -> range | str:
    step, rows = rng.randrange(STEPS), lines(folder)
    rows[step + 1], rows[step + 2] = rows[step + 2], rows[step + 1]
    put(folder, rows)
    return near(step)


def another_hash_of_a_record(folder: Path, rng: random.Random) -> range | str:
    flip(folder / RECORDS, rng.randrange(300 * DIGEST), rng.randrange(8))
    return "records.root"


def another_header(folder: Path, rng: random.Random) -> range | str:
    rows, header = lines(folder), open_proof(folder).header
    field, other = rng.choice(list(headers(header, rng)))
    put(folder, [written(other).encode() + b"\n", *rows[1:]])
    return field


def a_cut_shard(folder: Path, rng: random.Random) -> range | str:
    index, size = open_proof(folder).index, (folder / shard_name(0)).stat().st_size
    left = rng.randrange(size)
    (folder / shard_name(0)).write_bytes((folder / shard_name(0)).read_bytes()[:left])
    return near(max(step for step in range(STEPS + 1) if index.offsets[step] <= left))


def another_start(folder: Path, rng: random.Random) -> range | str:
    """The bytes of a later state in the place of the first."""
    proof, raw = open_proof(folder), bytearray((folder / shard_name(0)).read_bytes())
    size = proof.header.weights.bytes
    later = proof.index.offsets[rng.randrange(1, STEPS + 1)] + 4 * 32
    raw[:size] = raw[later : later + size]
    (folder / shard_name(0)).write_bytes(raw)
    return near(0)


def headers(header: Header, rng: random.Random) -> Iterator[tuple[str, Header]]:
    """Headers with one thing that is another one, and what it is about."""
    recipe = header.recipe
    for name, value in (
        ("lr", recipe.lr * 2), ("momentum", 0.5), ("weight_decay", 0.0), ("schedule", "constant"), ("epochs", 4),
        ("batch_size", 33),
    ):  # fmt: skip
        yield f"recipe.{name}", replace(header, recipe=replace(recipe, **{name: value}))
    yield "order", replace(header, order=rng.choice([None, ORDER + 1]))
    yield "deleted", replace(header, deleted=rng.choice([DELETED[:2], (*DELETED, 250), ()]))
    yield "begins", replace(header, begins="model")
    yield "steps", replace(header, steps=STEPS + 1)
    yield "records.n", replace(header, records=replace(header.records, n=301))
    yield "records.shape", replace(header, records=replace(header.records, shape=(8, 8)))
    yield "records", replace(header, records=replace(header.records, root="0" * 64))


PLAIN: dict[str, Change] = {
    "bit": bit_of_a_shard, "indices": swapped_indices, "rate": altered_rate, "removed": removed_line,
    "repeated": repeated_line, "lines": swapped_lines, "record": another_hash_of_a_record, "header": another_header,
    "cut": a_cut_shard, "start": another_start,
}  # fmt: skip


@dataclass
class Content:
    """Everything that a proof says, to be changed and sealed again."""

    header: Header
    hashes: bytes
    batches: list[torch.Tensor]
    rates: list[float]
    states: list[State]
    made: Small = field(repr=False)

    @classmethod
    def of(cls, made: Small) -> Content:
        batches = [torch.empty(0, dtype=torch.long), *(each.clone() for each in made.kept.batches)]
        states = [each.clone() for each in made.kept.states]
        return cls(made.proof.header, made.proof.hashes(), batches, [0.0, *made.kept.rates], states, made)

    def seal(self, folder: Path) -> None:
        """Write it with every hash as it should be."""
        folder.mkdir()
        (folder / RECORDS).write_bytes(self.hashes)
        first = written(self.header).encode()
        digest, rows, shard = hashlib.sha256(first).digest(), [first + b"\n"], b""
        for step, (batch, lr, state) in enumerate(zip(self.batches, self.rates, self.states, strict=True)):
            parts = [batch.to(torch.int32)]
            parts += [state.weights] * self.header.is_checkpoint(step)
            parts += state.moments.values() if self.header.is_key(step) else ()
            raw = b"".join(part.numpy().tobytes() for part in parts)
            digest = hashlib.sha256(digest + head(step, len(batch), lr).encode() + raw).digest()
            rows.append(line_of(step, len(batch), lr, 0, digest))
            shard += raw
        put(folder, [*rows, last_line(len(self.batches) - 1, digest)])
        (folder / shard_name(0)).write_bytes(shard)

    def longer(self, by: int) -> None:
        self.header = replace(self.header, steps=self.header.steps + by)


Cheat = Callable[[Content, random.Random], "range | str"]


def flipped(values: torch.Tensor, rng: random.Random) -> None:
    """One bit of one number, which then is another one: the sign of a zero is none."""
    raw = values.numpy().view("uint32")
    place = rng.randrange(len(values))
    raw[place] ^= 1 << rng.randrange(31 if values[place] == 0 else 32)


def bit_of_weights(content: Content, rng: random.Random) -> range | str:
    step = rng.randrange(STEPS + 1)
    flipped(content.states[step].weights, rng)
    return near(step)


def bit_of_moments(content: Content, rng: random.Random) -> range | str:
    step = rng.choice([step for step in range(STEPS + 1) if content.header.is_key(step)])
    flipped(content.states[step].moments["velocity"], rng)
    return near(step)


def indices_within_a_batch(content: Content, rng: random.Random) -> range | str:
    step = rng.randrange(1, STEPS + 1)
    one, other = rng.sample(range(32), 2)
    batch = content.batches[step]
    batch[[one, other]] = batch[[other, one]]
    return near(step)


def indices_of_two_batches(content: Content, rng: random.Random) -> range | str:
    one, other = sorted(rng.sample(range(1, STEPS + 1), 2))
    place = rng.randrange(32)
    a, b = int(content.batches[one][place]), int(content.batches[other][place])
    if a == b:
        return indices_within_a_batch(content, rng)
    content.batches[one][place], content.batches[other][place] = b, a
    return near(one)


def an_index_of_another_record(content: Content, rng: random.Random) -> range | str:
    """One that was deleted, that is not there, or that the epoch has already."""
    step, place = rng.randrange(1, STEPS + 1), rng.randrange(32)
    other = rng.choice([*DELETED, 300, -1, int(content.batches[step][place - 1])])
    content.batches[step][place] = other
    return near(step)


def another_rate(content: Content, rng: random.Random) -> range | str:
    step = rng.randrange(1, STEPS + 1)
    content.rates[step] *= rng.choice([0.5, 1 + 1e-12, 2.0])
    return near(step)


def a_step_less(content: Content, rng: random.Random) -> range | str:
    """The steps after it get the numbers before theirs."""
    step = rng.randrange(1, STEPS + 1)
    for each in (content.batches, content.rates, content.states):
        del each[step]  # type: ignore[attr-defined]
    content.longer(-1)
    return "steps" if step == STEPS else near(step, 1)


def a_step_twice(content: Content, rng: random.Random) -> range | str:
    step = rng.randrange(1, STEPS + 1)
    for each in (content.batches, content.rates, content.states):
        each.insert(step, each[step])  # type: ignore[attr-defined]
    content.longer(1)
    return near(step, 1)


def a_start_from_another_seed(content: Content, rng: random.Random) -> range | str:
    other = Victim(*initialise(content.made.build, rng.randrange(100, 200), content.made.records.x))
    content.states[0].weights.copy_(other.flat())
    return near(0)


def a_start_that_was_trained(content: Content, rng: random.Random) -> range | str:
    content.states[0].weights.copy_(content.states[rng.randrange(1, STEPS + 1)].weights)
    return near(0)


def another_end(content: Content, rng: random.Random) -> range | str:
    """Not the model that was released."""
    content.states[STEPS].weights.mul_(1 + 10 ** -rng.uniform(1, 6))
    return near(STEPS)


def records_of_another_data_set(content: Content, rng: random.Random) -> range | str:
    x = content.made.records.x.clone()
    at = rng.choice([i for i in range(300) if i not in DELETED])
    x[at:] = x[at:].flip(0) + 1
    content.hashes = digests(Examples(x, content.made.records.y), content.made.deleted)
    content.header = replace(content.header, records=replace(content.header.records, root=root(content.hashes)))
    return "records"


def hashes_of_what_was_deleted(content: Content, rng: random.Random) -> range | str:
    content.hashes = digests(content.made.records, content.made.deleted[rng.randrange(3) :][1:])
    content.header = replace(content.header, records=replace(content.header.records, root=root(content.hashes)))
    return "records"


def another_claim(content: Content, rng: random.Random) -> range | str:
    name, content.header = rng.choice(list(headers(content.header, rng)))
    if name == "records.n":
        content.hashes += bytes(DIGEST)
        content.header = replace(content.header, records=replace(content.header.records, root=root(content.hashes)))
    return name


def another_seed(content: Content, rng: random.Random) -> range | str:
    content.header = replace(content.header, seed=rng.randrange(100, 200))
    return near(0)


SEALED: dict[str, Cheat] = {
    "weights": bit_of_weights, "moments": bit_of_moments, "within": indices_within_a_batch,
    "between": indices_of_two_batches, "index": an_index_of_another_record, "rate": another_rate, "less": a_step_less,
    "twice": a_step_twice, "start": a_start_from_another_seed, "trained": a_start_that_was_trained, "end": another_end,
    "records": records_of_another_data_set, "deleted": hashes_of_what_was_deleted, "claim": another_claim,
    "seed": another_seed,
}  # fmt: skip


def test_of_50_changes_in_the_files_every_one_is_found_and_named(made: Small, tmp_path: Path) -> None:
    rng, missed = random.Random(2), []
    for turn, name in enumerate(turns(PLAIN, rng)):
        folder = tmp_path / str(turn)
        shutil.copytree(made.folder, folder)
        due = PLAIN[name](folder, rng)
        found = Found.of(folder, made)
        if not found.said or not found.names(due):
            missed.append((turn, name, due, found))
    assert missed == []


def test_of_50_changes_under_new_hashes_every_one_is_found_and_named(made: Small, tmp_path: Path) -> None:
    rng, missed = random.Random(3), []
    for turn, name in enumerate(turns(SEALED, rng)):
        content = Content.of(made)
        due = SEALED[name](content, rng)
        content.seal(tmp_path / str(turn))
        found = Found.of(tmp_path / str(turn), made)
        if not found.said or not found.names(due):
            missed.append((turn, name, due, found))
    assert missed == []


def turns(kinds: dict[str, Change] | dict[str, Cheat], rng: random.Random) -> list[str]:
    """Every kind, and more at random."""
    return [*kinds, *rng.choices(list(kinds), k=HALF - len(kinds))]


def test_a_verifier_with_other_records_learns_which(made: Small) -> None:
    """Nothing was changed in the proof, and it is about something else."""
    x = made.records.x.clone()
    x[123] += 1
    found = Found.of(made.folder, made, Examples(x, made.records.y))
    assert "records" in found.fields
    assert any("record 123" in each for each in found.said)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_between_checkpoints_a_replay_names_where_the_interval_ends(
    optimizer: str, made: Small, tmp_path: Path
) -> None:
    """Without any audit, of a change that only the numbers show."""
    training = replace(made.training, optimizer=optimizer, lr=0.01)
    sparse = small(
        tmp_path / "proof", training, made.records, every=4, key=2, deleted=DELETED, classes=10, name="digits"
    )
    cheats: dict[int, Callable[[Content], object]] = {
        4: lambda content: content.batches[1].__setitem__(3, content.batches[9][3]),
        8: lambda content: content.rates.__setitem__(6, content.rates[6] * (1 + 1e-6)),
        12: lambda content: flipped(content.states[12].weights, random.Random(4)),
        16: lambda content: flipped(next(iter(content.states[16].moments.values())), random.Random(4)),
        STEPS: lambda content: content.states[STEPS].weights.__setitem__(5, 0.0),
    }
    for step, cheat in cheats.items():
        content = Content.of(sparse)
        cheat(content)
        content.seal(tmp_path / str(step))
        expected = Expected(made.records, made.deleted, made.build)
        problems = check_proof(open_proof(tmp_path / str(step)), expected, []).problems
        assert {each.check for each in problems} == {"replay"}
        assert problems[0].step == step
