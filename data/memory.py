"""How much memory there is, asked before much is taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError


def available() -> int:
    """Bytes of memory that this process may still take: what the system has free, and its control groups allow.

    Where neither is known, what the machine has.
    """
    return min(free(), default=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def free(root: Path = Path("/")) -> Iterator[int]:
    """What is free by the kernel's count, and by that of every control group of this process."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        yield from (1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError, IndexError):
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / (controllers and "memory")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        folder = base / path.strip("/")
        for level in (folder, *folder.parents):
            limit, used = (_number(level / name) for name in names)
            if limit is not None and used is not None:
                yield max(0, limit - used + (_reclaimable(level) or 0))
            if level == base:
                break


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there, or `max`
        return None


def _reclaimable(group: Path) -> int | None:
    """Bytes of files in memory, which count as used and which the kernel gives back."""
    try:
        pairs = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(pairs.get("total_inactive_file", pairs.get("inactive_file", "0")))
    except (OSError, ValueError):
        return None


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
