"""Randomness is passed, never global: every component's generator is derived from the root seed by its name."""

import hashlib

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the component called `names`, independent of every other name.

    Adding a component therefore never changes what another one draws. The mapping is SHA-256 of the root seed and the
    names, so it is the same on every machine and Python version.
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded with `derive(seed, *names)`; draws are made on the CPU so that devices agree."""
    return torch.Generator().manual_seed(derive(seed, *names))
