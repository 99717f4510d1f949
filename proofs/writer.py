"""Writing a proof as training goes on: raw shards and one index, with nothing of it kept in memory."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import UserError
from data.machine import versions
from data.memory import gigabytes
from data.paths import reason
from models.stepwise import Opening, State
from models.training import Training
from proofs.files import INDEX, RECORDS, shard_name
from proofs.header import RECIPE, Architecture, Header, Recipe, Records, layout, written
from proofs.index import head, last_line, line_of

SHARD = 2**26  # bytes after which a new shard begins
PARTS = 512  # that the system takes in one call
SPARE = 2**28  # bytes that a disk must have left


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a proof is about: the architecture, the shapes of its moving parameters, records by hash, what was deleted.

    `hashes` are those of `proofs.commitment.digests`. `order` is the seed of the order that a verifier chose.
    """

    architecture: Architecture
    shapes: dict[str, tuple[int, ...]]
    records: Records
    hashes: bytes
    deleted: tuple[int, ...]
    order: int | None = None


@dataclass
class ProofWriter:
    """A recorder (`models.stepwise.Recorder`) that writes a proof into `folder`, which it makes.

    There is a checkpoint every `every` steps, and the optimiser's moments at every `key`-th of them. What was written
    when the process is killed is read up to the last whole step. `inputs` says that steps bring inputs of their own.
    Raises UserError where the disk has too little room for the whole proof, before the first step, and where it cannot
    be written.
    """

    folder: Path
    subject: Subject
    every: int = 1
    key: int = 50
    inputs: bool = False
    header: Header | None = field(default=None, init=False)
    _steps: int = field(default=0, init=False)
    _shard: int = field(default=-1, init=False)
    _room: int = field(default=0, init=False)
    _digest: bytes = field(default=b"", init=False)
    _files: list[Any] = field(default_factory=list, init=False)

    def begin(self, opening: Opening, state: State) -> None:
        """Write the header and the state before the first step."""
        self.header = self._header(opening, state)
        self._check_room(self.header)
        with self._written():
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                raise UserError(f"{self.folder} is not empty; a proof is written into a folder of its own.")
            (self.folder / RECORDS).write_bytes(self.subject.hashes)
            self._files = [(self.folder / INDEX).open("xb", buffering=0), None]
        line = written(self.header).encode()
        self._digest = hashlib.sha256(line).digest()
        self._line(line + b"\n")
        self._append(torch.empty(0, dtype=torch.int32), 0.0, state, None)

    def step(self, batch: Tensor, lr: float, state: State, inputs: Tensor | None = None) -> None:
        """Write one step: positions of its batch, its learning rate, the state after it."""
        if self.header is None:
            raise UserError("A proof begins with begin(opening, state), and then has step() for every step.")
        self._steps += 1
        self._append(batch.to("cpu", torch.int32).contiguous(), float(lr), state, inputs)

    def end(self) -> None:
        """Write that there are no more steps."""
        self._line(last_line(self._steps, self._digest))
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            if file is not None:
                file.close()
        self._files = []

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return sum(each.stat().st_size for each in self.folder.iterdir())

    def _append(self, batch: Tensor, lr: float, state: State, inputs: Tensor | None) -> None:
        header, step = self.header, self._steps
        assert header is not None
        parts = [_bytes(batch)] if len(batch) else []
        if inputs is not None and len(batch):
            parts.append(_bytes(inputs.to(torch.float32)))
        if header.is_checkpoint(step):
            parts += [_bytes(state.weights), *map(_bytes, state.buffers.values())]
        if header.is_key(step):
            parts += map(_bytes, state.moments.values())
        found = hashlib.sha256(self._digest)
        found.update(head(step, len(batch), lr).encode())
        size = 0
        for part in parts:
            found.update(part)
            size += len(part)
        if self._room < size or self._shard < 0:
            self._next_shard()
        self._write(parts, size)
        self._room -= size
        self._digest = found.digest()
        self._line(line_of(step, len(batch), lr, self._shard, self._digest))

    def _write(self, parts: list[memoryview], size: int) -> None:
        """Every part, in one call where the system takes it so."""
        if len(parts) > PARTS:
            parts = [memoryview(b"".join(parts))]
        with self._written():
            while size:
                wrote = os.writev(self._files[1].fileno(), parts)
                size -= wrote
                while parts and wrote >= len(parts[0]):
                    wrote -= len(parts.pop(0))
                if wrote:
                    parts[0] = parts[0][wrote:]

    def _line(self, line: bytes) -> None:
        left = memoryview(line)
        with self._written():
            while left:
                left = left[self._files[0].write(left) :]

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            raise UserError(
                f"The proof cannot be written in {self.folder} ({reason(error)}); make room, raise game.proof.every, "
                "or set game.proof.folder to another disk."
            ) from error

    def _next_shard(self) -> None:
        if self._files[1] is not None:
            self._files[1].close()
        self._shard, self._room = self._shard + 1, SHARD
        with self._written():
            self._files[1] = (self.folder / shard_name(self._shard)).open("xb", buffering=0)

    def _header(self, opening: Opening, state: State) -> Header:
        return header_of(self.subject, opening, state, self.every, self.key, self.inputs)

    def _check_room(self, header: Header) -> None:
        place = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        free = shutil.disk_usage(place).free - SPARE
        if header.total > free:
            raise UserError(
                f"A proof of {header.steps:,} steps takes {gigabytes(header.total)}, and {gigabytes(max(0, free))} are "
                f"free in {place}; raise game.proof.every (now {self.every}), or set game.proof.folder to another disk."
            )


def header_of(
    subject: Subject, opening: Opening, state: State, every: int, key: int, inputs: bool = False
) -> Header:  # fmt: skip
    """The header of a proof that begins like this."""
    recipe = opening.training
    return Header(
        format="unlearning-proof", version=1, architecture=subject.architecture,
        **layout(state, subject.shapes), recipe=recipe_of(recipe), begins=opening.begins,  # type: ignore[arg-type]
        seed=opening.seed, steps=opening.steps, every=every, key=key, inputs=inputs, order=subject.order,
        records=subject.records, deleted=subject.deleted, machine=machine(state.weights),
    )  # fmt: skip


def recipe_of(training: Training) -> Recipe:
    """What a proof says of a recipe."""
    return Recipe(**{name: value for name, value in asdict(training).items() if name in RECIPE})


def machine(like: Tensor) -> dict[str, str | int]:
    """What of a machine takes part in the rounding of a step."""
    import platform

    return {
        "torch": versions().get("torch", ""), "device": like.device.type, "threads": torch.get_num_threads(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}", "system": platform.system(),
    }  # fmt: skip


def _bytes(tensor: Tensor) -> memoryview:
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:
        plain = plain.view(torch.int16)
    array: Any = plain.reshape(-1).numpy()
    return memoryview(array).cast("B")
