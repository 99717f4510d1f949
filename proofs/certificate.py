"""A certificate that no two batches of given records have the same gradient: the rank of gradients over GF(2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.gradients import gradients_at_once, per_example_gradients
from models.victim import Victim

Packed = NDArray[np.uint64]
WORD = 64
NUMBERS = 2**22  # gradient entries that are rounded at once, in float64
BITS = 149  # the smallest float32 is 2^-149
EVEN = 2.0**53  # from here on every float64 is an even number


@dataclass(frozen=True)
class Certificate:
    """The rank over GF(2) of the parities of `rows` gradients, rounded to `bits` fractional bits.

    `zero_rows` counts the other records: their rounded gradients are zero, so that any set has the same sum with them
    as without. Nothing is said of them.

    Where it is `full`, no two different sets of these `rows` records (each at most once in a set) have the same sum of
    rounded gradients. For let a_i be the gradients times 2^b as integers, and let the sets S and T have equal sums.
    Then sum_i c_i a_i = 0 with c_i = [i in S] - [i in T] in {-1, 0, 1}, not all zero if S differs from T. Modulo 2 this
    is a dependency of the parities of the a_i (and of |a_i|, which are the same) whose coefficients |c_i| are not all
    zero: the rank is less than the number of rows. The reverse does not hold: parities may depend on each other while
    no sums agree. Rows that are more than there are parameters depend on each other always.

    It is about sums at one checkpoint, in the arithmetic of b fractional bits: sums of unrounded gradients of m and m'
    records that agree differ, once rounded, by less than (m + m') 2^-b in every entry. It says nothing of who chose the
    batches: a trace that really was trained on chosen or substituted records has nothing forged.
    Source: Baluta et al., Unforgeability in Stochastic Gradient Descent, CCS 2023.
    """

    rows: int
    zero_rows: int
    rank: int
    bits: int

    @property
    def full(self) -> bool:
        """Whether the certificate says what it is for."""
        return 0 < self.rows == self.rank


def certify(victim: Victim, examples: Examples, bits: int = 26) -> Certificate:
    """The certificate of `examples` at the model `victim`; n p / 8 bytes, and gradients of some of them at a time.

    Raises UserError where a gradient is not finite.
    """
    size = gradients_at_once(victim, examples.x)
    parts: list[Packed] = []
    for first in range(0, len(examples), size):
        gradients = per_example_gradients(victim, examples[slice(first, first + size)])
        parts.append(parities(gradients[_nonzero(gradients, bits)], bits))
    packed = np.concatenate(parts) if parts else np.zeros((0, 0), np.uint64)
    return Certificate(rows=len(packed), zero_rows=len(examples) - len(packed), rank=rank(packed), bits=bits)


def parities(gradients: Tensor, bits: int) -> Packed:
    """floor(|g| 2^b) mod 2 of gradients (n, d), packed: uint64 (n, ceil(d / 64)), column j in bit j mod 64.

    In float64, where scaling by 2^b and the parity are exact. Raises UserError for gradients that are not finite, and
    for `bits` outside 0 to 149.
    """
    if not 0 <= bits <= BITS:
        raise UserError(f"A certificate rounds gradients to 0 to {BITS} fractional bits, not to {bits}.")
    n, d = gradients.shape
    packed = np.zeros((n, -(-d // WORD) * WORD // 8), np.uint8)
    size = max(1, NUMBERS // max(1, d))
    for first in range(0, n, size):
        part = gradients[first : first + size].detach().double().abs()
        if not bool(part.isfinite().all()):
            raise UserError("A gradient is not finite, so it has no parities; lower training.lr.")
        whole = part.mul_(2.0**bits)
        odd = (whole.long() & 1).bool() & (whole < EVEN)
        packed[first : first + size, : -(-d // 8)] = np.packbits(odd.cpu().numpy(), axis=1, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


def rank(packed: Packed) -> int:
    """The rank over GF(2) of packed rows (n, words).

    Words are first folded into some more than n columns (by sums of columns over GF(2)), which is all that rows of full
    rank need. The combinations of rows that vanish there, K, decide the rest: rank(L) = rank(folded) + rank(K L), for
    whatever vanishes in L vanishes folded, and is a combination of theirs.
    """
    n, words = packed.shape
    narrow = -(-n // WORD) + 1
    if words <= 2 * narrow:
        return n - len(_vanishing(packed, 0)[0])
    folded = np.zeros((n, narrow), np.uint64)
    for first in range(0, words, narrow):
        part = packed[:, first : first + narrow]
        folded[:, : part.shape[1]] ^= part
    unit = np.packbits(np.eye(n, -(-n // WORD) * WORD, dtype=np.uint8), axis=1, bitorder="little").view("<u8")
    at, combinations = _vanishing(np.concatenate([folded, unit.astype(np.uint64)], axis=1), unit.shape[1])
    if not len(at):
        return n
    if len(at) > n // 4:  # so many combinations cost more than the rows that they are of
        return n - len(_vanishing(packed, 0)[0])
    members = np.unpackbits(combinations.astype("<u8").view(np.uint8), axis=1, count=n, bitorder="little").astype(bool)
    left = np.empty((len(at), words), np.uint64)
    step = max(1, NUMBERS // n)
    for first in range(0, words, step):
        part = packed[:, first : first + step]
        for row, each in zip(left, members, strict=True):
            row[first : first + step] = np.bitwise_xor.reduce(part[each], axis=0)
    return n - len(_vanishing(left, 0)[0])


def _vanishing(rows: Packed, tail: int) -> tuple[NDArray[np.int64], Packed]:
    """Gaussian elimination over GF(2) in all but the last `tail` words of a copy of `rows`.

    Gives which rows become zero there, and what is in their tails. Each row clears its first bit in all later ones.
    """
    rows = rows.copy()
    width = rows.shape[1] - tail
    zero: list[int] = []
    for i in range(len(rows)):
        words = np.flatnonzero(rows[i, :width])
        if not len(words):
            zero.append(i)
            continue
        word = words[0]
        bit = rows[i, word] & (~rows[i, word] + np.uint64(1))
        later = i + 1 + np.flatnonzero(rows[i + 1 :, word] & bit)
        rows[later] ^= rows[i]
    return np.array(zero, np.int64), rows[zero, width:]


def _nonzero(gradients: Tensor, bits: int) -> Tensor:
    """Which gradients have an entry that is not rounded to zero, (n,); one that is not finite counts."""
    return ~(gradients.detach().abs().amax(1).double() < 2.0**-bits)
