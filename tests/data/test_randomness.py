"""Seeds derived by name."""

import hashlib
import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from data.randomness import derive, generator

NAMES = st.text(alphabet="abcdefgé_ 0123456789", max_size=12)


@given(st.integers(), st.lists(NAMES, max_size=3))
def test_seed_is_the_documented_hash(seed: int, names: list[str]) -> None:
    """The top 63 bits of SHA-256, on every machine: torch accepts them all."""
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).hexdigest()
    assert derive(seed, *names) == int(digest[:16], 16) // 2 < 2**63


def test_names_and_seeds_give_different_streams() -> None:
    names = [("batches",), ("dropout",), ("batches", 0), ("batches", 1), ()]
    seeds = [derive(seed, *name) for seed, name in itertools.product(range(20), names)]
    assert len(set(seeds)) == len(seeds)


def test_generators_repeat_and_leave_the_global_one() -> None:
    before = torch.get_rng_state()
    first, again = (torch.rand(5, generator=generator(3, "a")) for _ in range(2))
    other = torch.rand(5, generator=generator(3, "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_of_neighbouring_seeds_are_uncorrelated() -> None:
    """400 pairs of 100 numbers: a correlation has standard deviation 0.1, their mean 0.005; 6 standard deviations."""
    draws = torch.stack([torch.randn(100, generator=generator(seed, "x"), dtype=torch.float64) for seed in range(401)])
    draws = draws - draws.mean(1, keepdim=True)
    draws = draws / draws.norm(dim=1, keepdim=True)
    assert (draws[1:] * draws[:-1]).sum(1).mean().abs() < 0.03
