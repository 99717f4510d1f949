"""Commitments to records are SHA-256s that anybody can compute."""

from __future__ import annotations

import hashlib

import pytest
import torch

from data.examples import Examples
from proofs.commitment import DIGEST, NOTHING, digests, first_difference, root
from tests.proofs.small import rows


def test_a_digest_is_of_the_raw_bytes_of_input_and_label() -> None:
    records = rows(6, (2, 3))
    found = digests(records)
    assert len(found) == 6 * DIGEST
    for i in range(6):
        one = records.x[i].numpy().tobytes() + int(records.y[i]).to_bytes(8, "little")
        assert found[i * DIGEST : (i + 1) * DIGEST] == hashlib.sha256(one).digest()
    assert root(found) == hashlib.sha256(found).hexdigest()


def test_how_the_tensors_lie_in_memory_changes_nothing() -> None:
    records = rows(6, (2, 3))
    other = Examples(records.x.transpose(1, 2).contiguous().transpose(1, 2), records.y.to(torch.int32))
    assert not other.x.is_contiguous()
    assert digests(other) == digests(records)


def test_of_deleted_records_there_are_zeros() -> None:
    records = rows(6)
    gone = digests(records, torch.tensor([4, 1]))
    assert [i for i in range(6) if gone[i * DIGEST : (i + 1) * DIGEST] == NOTHING] == [1, 4]
    changed = Examples(records.x.clone(), records.y)
    changed.x[4] += 1
    assert digests(changed, torch.tensor([1, 4])) == gone
    assert digests(changed) != digests(records)


@pytest.mark.parametrize("part", ["x", "y"])
def test_the_first_record_that_differs_is_named(part: str) -> None:
    records = rows(9)
    changed = Examples(records.x.clone(), records.y.clone())
    getattr(changed, part)[[5, 7]] += 1
    assert first_difference(digests(records), digests(changed)) == 5
    assert first_difference(digests(records), digests(records)) is None
    assert first_difference(digests(records), digests(records[:8])) == 8
