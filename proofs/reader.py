"""Reading a proof: a stream of steps that are checked against their hashes. What is read is data and nothing else."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, prod
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from data.errors import UserError
from data.memory import check_fits
from data.paths import is_folder, reason
from models.stepwise import State
from proofs.commitment import DIGEST
from proofs.files import INDEX, RECORDS, opened, shard_name, size_of
from proofs.header import BadHeader, Header, Tensors, parse
from proofs.index import Damaged as Damaged
from proofs.index import Index, head, read_index

LONGEST = 2**24  # bytes of the first line, at most
MOST = 2**40  # steps of an optimizer


@dataclass(frozen=True, eq=False)
class Step:
    """One step as it was written: its batch, learning rate, own inputs where there are any, and the state after it.

    `state` is None where the step is no checkpoint; its moments are empty where it is no key frame.
    """

    number: int
    batch: Tensor
    lr: float
    inputs: Tensor | None
    state: State | None


@dataclass(frozen=True, eq=False)
class Proof:
    """A proof in `folder`, whose header and index were read; `open_proof` makes one.

    A proof whose writer was killed is not `complete`, and has the steps that were whole by then.
    """

    folder: Path
    header: Header
    index: Index = field(repr=False)
    start: bytes = field(repr=False)

    @property
    def steps(self) -> int:
        """The number of the last step that is there."""
        return self.index.steps

    @property
    def complete(self) -> bool:
        """Whether the proof has all the steps that it announces, and its last line."""
        return self.index.complete and self.steps == self.header.steps

    @cached_property
    def size(self) -> int:
        """How many bytes it takes on the disk."""
        return sum(each.stat().st_size for each in self.folder.iterdir() if each.is_file())

    def lr(self, step: int) -> float:
        """The learning rate of a step, as written."""
        return self.index.rates[step]

    def hashes(self) -> bytes:
        """The hashes of the records; raises UserError where they are not those that the header names."""
        path, size = self.folder / RECORDS, DIGEST * self.header.records.n
        try:
            with opened(path) as file:  # and no memory taken for what is larger than it is said to be
                found = b"".join(iter(lambda: file.read(2**20), b"")) if size_of(file) == size else b""
        except OSError as error:
            raise UserError(f"The hashes of its records cannot be read in {path} ({reason(error)}).") from error
        if len(found) != size or hashlib.sha256(found).hexdigest() != self.header.records.root:
            raise UserError(f"The proof is damaged: {path} does not hold the hashes that its header names.")
        return found

    def checkpoints(self) -> list[int]:
        """The steps whose states are there."""
        return [step for step in range(self.steps + 1) if self.header.is_checkpoint(step)]

    def read(self, first: int = 0, last: int | None = None) -> Iterator[Step]:
        """The steps from `first` to `last` (both included), each checked against its hash before it is given.

        Raises `Damaged` at the first that is not what was written.
        """
        file: BinaryIO | None = None
        shard = -1
        try:
            for number in range(first, self.steps + 1 if last is None else last + 1):
                if self.index.shards[number] != shard:
                    if file is not None:
                        file.close()
                    shard, file = self.index.shards[number], self._shard(number)
                assert file is not None
                yield self._step(number, file)
        finally:
            if file is not None:
                file.close()

    def check_files(self) -> None:
        """Raise `Damaged` at the first step whose shard is not there, or too short or too long; reads no state."""
        shard, there = -1, 0
        for number in range(self.steps + 1):
            if self.index.shards[number] != shard:
                shard = self.index.shards[number]
                with self._shard(number) as file:
                    there = size_of(file)
            self._check_end(number, there)

    def at(self, step: int) -> Step:
        """One step."""
        return next(self.read(step, step))

    def _step(self, number: int, file: BinaryIO) -> Step:
        count, lr = self.index.counts[number], self.index.rates[number]
        before = self.start if number == 0 else self.index.digest(number - 1)
        found = hashlib.sha256(before)
        found.update(head(number, count, lr).encode())
        raw = self._raw(number, file)
        found.update(raw)
        if found.digest() != self.index.digest(number):
            also = "" if number else ", or the first line of the index is not"
            raise Damaged(number, f"its bytes are not those that were written{also}")
        return self._parsed(number, count, raw)

    def _shard(self, number: int) -> BinaryIO:
        name = shard_name(self.index.shards[number])
        try:
            return opened(self.folder / name)
        except OSError as error:
            raise Damaged(number, f"{name} cannot be read ({reason(error)})") from error

    def _check_end(self, number: int, there: int) -> int:
        """The size of a step, which must lie in the bytes that are `there` in its shard; nothing may follow them."""
        name, size = shard_name(self.index.shards[number]), self.header.size(number, self.index.counts[number])
        end = self.index.offsets[number] + size
        if there < end:
            raise Damaged(number, f"{name} ends before it")
        if there > end and self.index.ends_shard(number):
            raise Damaged(number, f"{name} has {there - end:,} bytes after it that belong to no step")
        return size

    def _raw(self, number: int, file: BinaryIO) -> bytearray:
        """The bytes of a step. Its shard is looked at before memory is taken for them."""
        raw, got = bytearray(self._check_end(number, size_of(file))), 0
        try:
            file.seek(self.index.offsets[number])
            while got < len(raw):
                more = cast(io.FileIO, file).readinto(memoryview(raw)[got:])
                if not more:
                    raise OSError(0, "it became shorter")
                got += more
        except OSError as error:
            name = shard_name(self.index.shards[number])
            raise Damaged(number, f"{name} cannot be read ({reason(error)})") from error
        return raw

    def _parsed(self, number: int, count: int, raw: bytearray) -> Step:
        header, place = self.header, 0

        def take(kind: str, shape: tuple[int, ...]) -> Tensor:
            nonlocal place
            dtype: torch.dtype = getattr(torch, kind)
            if not prod(shape):
                return torch.empty(shape, dtype=dtype)
            found = torch.frombuffer(raw, dtype=dtype, count=prod(shape), offset=place)
            place += found.numel() * found.element_size()
            return found.view(shape)

        def taken(tensors: Tensors) -> dict[str, Tensor]:
            parts = zip(tensors.names, tensors.kinds, tensors.shapes, strict=True)
            return {name: take(kind, shape) for name, kind, shape in parts}

        batch = take("int32", (count,)).to(torch.int64)
        inputs = take("float32", (count, *header.records.shape)) if header.inputs and count else None
        state = None
        if header.is_checkpoint(number):
            weights = take(header.weights.kinds[0], (sum(map(prod, header.weights.shapes)),))
            buffers = taken(header.buffers)
            moments = taken(header.moments) if header.is_key(number) else {}
            made = float(moments.get("step", torch.zeros(1)))
            if not (isfinite(made) and 0 <= made <= MOST):  # a replay computes with it
                raise Damaged(number, f"its optimizer has made {made:g} steps by then")
            state = State(weights, buffers, moments)
        return Step(number, batch, self.index.rates[number], inputs, state)


def open_proof(path: Path) -> Proof:
    """The proof in a folder (or the folder of an index file).

    Raises UserError for what is no proof, is of another version, or says what cannot be; and `Damaged`, with its step,
    where a line of the index cannot be read. A last line that was cut short is left out: its writer was killed.
    """
    folder = path.parent if path.name == INDEX and not is_folder(path) else path
    if not is_folder(folder):
        raise UserError(
            f"{path} is no proof, which is a folder with the file {INDEX}; name the folder that was handed over."
        )
    try:
        with opened(folder / INDEX) as file, io.BufferedReader(cast(io.FileIO, file)) as lines:
            check_fits(size_of(file), f"The index of the proof in {folder}")  # half of it, in fact
            line = lines.readline(LONGEST + 1)
            if len(line) > LONGEST:
                raise BadHeader(f"its first line is longer than {LONGEST:,} bytes")
            if not line.endswith(b"\n"):
                raise BadHeader("its first line is cut short")
            header = parse(line[:-1])
            check_fits(header.size(0, header.most), f"A step of the proof in {folder}")
            return Proof(folder, header, read_index(cast(BinaryIO, lines), header), hashlib.sha256(line[:-1]).digest())
    except BadHeader as error:
        raise UserError(f"{folder} cannot be read as a proof: {error}.") from error
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no proof: no file {INDEX}; name the folder that was handed over.") from error
    except OSError as error:
        raise UserError(f"{folder / INDEX} cannot be read ({reason(error)}).") from error
