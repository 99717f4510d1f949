"""The machine a game runs on: threads, device, determinism, peak memory and the versions that go into a record."""

import contextlib
import gc
import importlib.metadata
import os
import platform
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError

if TYPE_CHECKING:
    import torch

DISTRIBUTION = "unlearning-games"
MOST_THREADS = 1024
RECORDED = ("torch", "numpy", "scipy", "nevergrad")


@cache
def toolkit_version() -> str:
    """The toolkit's version: that of the installed distribution or, without installation, of pyproject.toml."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        pyproject = Path(__file__).resolve().parents[1] / "pyproject.toml"
        return str(tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["version"])


def versions() -> dict[str, str]:
    """Versions of the toolkit, Python and the numerical packages, read from metadata (nothing is imported)."""
    found = {"toolkit": toolkit_version(), "python": platform.python_version()}
    for name in RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """For the imports of a process, once: what they make stays as long as the process, and is never garbage.

    The collector would go through its 200,000 objects again and again, for a twentieth of a game.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was:
            gc.enable()


def use_threads(threads: int | str = "auto") -> int:
    """Set torch's threads for this process and return their number.

    `auto` is one thread. The victims here are small, and one thread is fastest for them: an epoch of an MLP on MNIST
    (48,000 examples) took 0.35 s with one intra-op thread and 5.8 s with two on two busy cores, because the threads
    wait for each other at every tiny operation. Use several only for large convolutional models on a CPU. Operations
    are never run beside each other (one inter-op thread), so that sums are taken in one order.

    Raises:
        UserError: when `threads` is neither `auto` nor a positive whole number.
    """
    import torch

    number = 1 if threads == "auto" else threads
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise UserError(f"threads={threads} is not possible; use threads=auto or a whole number from 1 on.")
    if number > MOST_THREADS:
        raise UserError(f"threads={number} is not possible: {MOST_THREADS} is the most, and no machine has more cores.")
    torch.set_num_threads(number)
    if torch.get_num_interop_threads() != 1:
        # torch refuses once work has run in parallel (a notebook, say); the games never use inter-op threads anyway
        with contextlib.suppress(RuntimeError):
            torch.set_num_interop_threads(1)
    return number


def use_device(device: str = "auto") -> "torch.device":
    """The torch device called `auto` (a CUDA GPU where there is one, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        UserError: for any other name, or a device that this machine does not have.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, str) or not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise UserError(f"device={device} is not known; use device=auto, cpu, cuda, cuda:N or mps.")
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(f"device={device} needs a CUDA GPU, and none is visible; use device=cpu or device=auto.")
        index, count = int(device.partition(":")[2] or 0), torch.cuda.device_count()
        if index >= count:
            raise UserError(f"device={device} is not here: GPUs 0 to {count - 1} are visible; use one of these.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps needs an Apple GPU, and none is visible; use device=cpu or device=auto.")
    return torch.device(device)


def be_deterministic(device: "torch.device") -> None:
    """Ask torch for results that are bit-equal from run to run on `device`; call it before the first GPU operation.

    On the CPU every operation has a deterministic form, and torch takes it. On CUDA cuBLAS needs a fixed workspace, and
    an operation without a deterministic form warns with its name instead of ending the game.
    """
    import torch

    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    # use_deterministic_algorithms does this and tells a compiler, which nothing here uses and which takes a second
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "warn")
    # filling fresh memory with NaN would only slow down code that never reads it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def peak_memory_mb() -> float:
    """The largest resident memory of this process so far, in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB on Linux


def peak_gpu_memory_mb(device: "torch.device") -> float | None:
    """The largest memory that torch held on the CUDA `device` so far, in MiB; None for other devices."""
    import torch

    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
