"""Commitments to records: a hash of every one, and of all of them."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from data.examples import Examples

DIGEST = 32  # bytes of a SHA-256
NOTHING = bytes(DIGEST)  # in place of the hash of a record that was deleted


def digests(records: Examples, deleted: Tensor | None = None) -> bytes:
    """The SHA-256 of every record, one after the other: of the raw bytes of its input, then of its label (int64).

    Of those at the positions `deleted` there are zeros: who has forgotten a record has no hash of it either.
    """
    x = records.x.detach().cpu().contiguous()
    y = records.y.detach().cpu().to(torch.int64).contiguous().numpy().tobytes()
    pixels: Any = x.numpy()
    raw, size = memoryview(pixels).cast("B"), x[:1].numel() * x.element_size()
    gone = set() if deleted is None else set(deleted.tolist())
    found = bytearray()
    for i in range(len(records)):
        if i in gone:
            found += NOTHING
        else:
            one = hashlib.sha256(raw[i * size : (i + 1) * size])
            one.update(y[8 * i : 8 * (i + 1)])
            found += one.digest()
    return bytes(found)


def root(found: bytes) -> str:
    """One hash, in hexadecimal, of the hashes that `digests` gave."""
    return hashlib.sha256(found).hexdigest()


def first_difference(own: bytes, other: bytes) -> int | None:
    """The position of the first record on which two lists of hashes differ; None where they do not."""
    for i in range(max(len(own), len(other)) // DIGEST):
        if own[i * DIGEST : (i + 1) * DIGEST] != other[i * DIGEST : (i + 1) * DIGEST]:
            return i
    return None
