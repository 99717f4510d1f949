"""Randomness is passed, never global: every component's generator is derived from the root seed by its name."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python for a while, for code that knows no others.

    Afterwards they are as they were. Inside, `reseed` seeds them again.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is others who draw from it)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            reseed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


def reseed(seed: int) -> None:
    """Seed all global generators, those of GPUs included."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def global_states(device: torch.device) -> tuple[Any, ...]:
    """Where the global generators stand, as values to compare: whoever draws from one of them moves it."""
    _, keys, position, *gauss = cast(tuple[Any, ...], np.random.get_state())  # noqa: NPY002
    own = (torch.cuda.get_rng_state(device).numpy().tobytes(),) if device.type == "cuda" else ()
    return random.getstate(), keys.tobytes(), position, *gauss, torch.get_rng_state().numpy().tobytes(), *own
