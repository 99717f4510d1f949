"""What was typed after the name of a script: overrides, folders with further options, and flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MULTIRUN = ("-m", "--multirun")


@dataclass(frozen=True)
class Arguments:
    """`overrides` as typed, the `folders` of `--config-dir`, and every other flag."""

    overrides: tuple[str, ...]
    folders: tuple[Path, ...]
    flags: tuple[str, ...]

    @property
    def is_sweep(self) -> bool:
        """Whether this asks for a sweep that we play (`-m` alone, no other sweeper of Hydra's), or for a dry run."""
        other = any(each.lstrip("+~").startswith("hydra/sweeper") for each in self.overrides)
        return bool(self.flags or "dry_run=true" in self.overrides) and set(self.flags) <= set(MULTIRUN) and not other


def parse(arguments: Sequence[str]) -> Arguments:
    """Tell overrides, folders and flags apart; a flag that takes a value keeps it only as `--flag=value`."""
    overrides, folders, flags = [], [], []
    rest = iter(arguments)
    for argument in rest:
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value or next(rest, "")))
        elif argument.startswith("-"):
            flags.append(argument)
        else:
            overrides.append(argument)
    return Arguments(tuple(overrides), tuple(folders), tuple(flags))
