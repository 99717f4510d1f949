"""The index of a proof: after the header one line for every step, each chained by its hash to the one before."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field
from typing import BinaryIO

from data.errors import UserError
from proofs.header import LARGEST, Header

LONGEST = 1000  # bytes of a line, at most
FASTEST = 1e6  # a learning rate, at most


class Damaged(UserError):
    """A step of a proof is not what was written, or not there; `step` is its number."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"The proof is damaged at step {step}: {what}.")
        self.step, self.what = step, what

    def __reduce__(self) -> tuple[type[Damaged], tuple[int, str]]:
        return Damaged, (self.step, self.what)  # from a worker to whoever asked it


@dataclass
class Index:
    """The lines of an index, by step; `complete` says that its last line is there."""

    counts: array[int] = field(default_factory=lambda: array("q"))
    rates: array[float] = field(default_factory=lambda: array("d"))
    shards: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    digests: bytearray = field(default_factory=bytearray)
    complete: bool = False

    @property
    def steps(self) -> int:
        """The number of the last step."""
        return len(self.counts) - 1

    def digest(self, step: int) -> bytes:
        """The hash of a step."""
        return bytes(self.digests[32 * step : 32 * step + 32])

    def ends_shard(self, step: int) -> bool:
        """Whether nothing comes after a step in its shard."""
        return self.complete if step == self.steps else self.shards[step + 1] != self.shards[step]


def head(step: int, count: int, lr: float) -> str:
    """What the line of a step begins with, and its hash is of."""
    return f'{{"t":{step},"n":{count},"lr":{lr!r},'


def line_of(step: int, count: int, lr: float, shard: int, digest: bytes) -> bytes:
    """The line of a step."""
    return f'{head(step, count, lr)}"s":{shard},"sha256":"{digest.hex()}"}}\n'.encode()


def last_line(steps: int, digest: bytes) -> bytes:
    """The line that says that there are no more steps."""
    return f'{{"end":{steps},"sha256":"{digest.hex()}"}}\n'.encode()


def read_index(file: BinaryIO, header: Header) -> Index:
    """The lines that follow the header. Raises `Damaged` for one that a writer does not write.

    A last line that was cut short is left out: its writer was killed.
    """
    found, offset = Index(), 0
    while line := file.readline(LONGEST + 1):
        step = found.steps + 1
        if not line.endswith(b"\n"):
            if len(line) > LONGEST:
                raise Damaged(step, "its line in the index is too long")
            break
        entry = _entry(line, step)
        if "end" in entry:
            if not found.counts or line != last_line(found.steps, found.digest(found.steps)):
                raise Damaged(max(0, found.steps), "the last line of the index is about another step")
            if file.read(1):
                raise Damaged(step, "the index goes on after its last line")
            found.complete = True
            break
        count, lr, shard, digest = _checked(entry, line, step, header, found.shards[-1] if step else -1)
        offset = 0 if not step or shard != found.shards[-1] else offset
        if offset > LARGEST:
            raise Damaged(step, "its shard is larger than any file")
        found.counts.append(count)
        found.rates.append(lr)
        found.shards.append(shard)
        found.offsets.append(offset)
        found.digests += digest
        offset += header.size(step, count)
    if not found.counts:
        raise Damaged(0, "the index has no step")
    return found


def _entry(line: bytes, step: int) -> dict[str, object]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Damaged(step, "its line in the index is not JSON") from error
    if not isinstance(entry, dict):
        raise Damaged(step, "its line in the index is no JSON object")
    return entry


def _checked(
    entry: dict[str, object], line: bytes, step: int, header: Header, before: int
) -> tuple[int, float, int, bytes]:
    """Batch size, learning rate, shard and hash of a line, which must be what a writer writes."""
    if set(entry) != {"t", "n", "lr", "s", "sha256"} or type(entry["t"]) is not int:
        raise Damaged(step, "its line in the index is not that of a step")
    if entry["t"] != step:
        raise Damaged(step, f"the index has step {entry['t']!r:.20} in its place")
    if step > header.steps:
        raise Damaged(step, f"the header announces {header.steps} steps")
    count, lr, shard, digest = entry["n"], entry["lr"], entry["s"], entry["sha256"]
    if type(count) is not int or not (count == 0 if step == 0 else 1 <= count <= header.most):
        raise Damaged(step, f"a batch of {count!r:.20} examples, and there are at most {header.most if step else 0}")
    if type(lr) is not float or not (lr == 0.0 if step == 0 else 0 <= lr <= FASTEST):
        raise Damaged(step, f"a learning rate of {lr!r:.20}")
    if type(shard) is not int or not max(before, 0) <= shard <= before + 1:
        raise Damaged(step, "its shard does not follow on the one before")
    if not isinstance(digest, str) or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise Damaged(step, "its hash is none")
    found = bytes.fromhex(digest)
    if line != line_of(step, count, lr, shard, found):
        raise Damaged(step, "its line in the index is not written as a proof writes it")
    return count, lr, shard, found
