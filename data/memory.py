"""How much memory there is, asked before much is taken."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from data.errors import UserError


def available() -> int:
    """Bytes of memory that this process may still take: what the system has free, or its container allows."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, IndexError, StopIteration):  # /proc is Linux's
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with suppress(OSError, ValueError, StopIteration):  # no limit reads "max"
        folder = Path("/sys/fs/cgroup")
        limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (folder / "memory.stat").read_text().splitlines()
        cache = int(next(line for line in lines if line.startswith("inactive_file ")).split()[1])
        free = min(free, max(0, limit - used + cache))
    return free


def check_fits(size: int, what: str) -> None:
    """Raise `UserError` where `size` bytes, which `what` takes, are more than there are."""
    there = available()
    if size > there:
        raise UserError(
            f"{what}, takes {gigabytes(size)} of memory, and {gigabytes(there)} are available; "
            "make it smaller, or use a machine with more memory."
        )


def gigabytes(size: int) -> str:
    """A number of bytes in GB."""
    return f"{size / 1e9:,.1f} GB" if size < 1e15 else f"{size / 1e9:.0e} GB"
