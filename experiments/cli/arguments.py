"""What was typed after the name of a script: overrides, folders with further options, and flags."""

import os
import re
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from data.errors import UserError
from data.paths import is_folder
from experiments.cli.options import quoted

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
        dry = any(re.fullmatch(r"\+{0,2}dry_run=true", each, re.IGNORECASE) for each in self.overrides)
        return bool(self.flags or dry) and set(self.flags) <= set(MULTIRUN) and not other


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


def with_first(key: str, arguments: Sequence[str]) -> list[str]:
    """The arguments with `KEY=` before the first that is no override, or that is a file or a folder."""
    first = next((each for each in parse(arguments).overrides if "=" not in each or os.path.exists(each)), None)
    return [f"{key}={quoted(each)}" if each == first else each for each in arguments]


def checked(arguments: Sequence[str]) -> list[str]:
    """The arguments with all flags first, as Hydra wants them, when they are right.

    Every flag must be one of Hydra's, used as it can be, and every folder of options must be there. Raises UserError
    where Hydra would print its usage, or would not say a word.
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        if not message.startswith("unrecognized arguments: "):
            raise UserError(f"{message[:1].upper()}{message[1:]}; --help shows how the command is written.")
        unknown = message.removeprefix("unrecognized arguments: ").split(" ")[0]
        hint = f": {unknown.lstrip('-')}" if "=" in unknown else " (KEY=VALUE)"
        name = unknown.partition("=")[0]
        raise UserError(f"There is no flag {name}; overrides are written without dashes{hint}, and --help shows all.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    typed = parser.parse_intermixed_args(list(arguments))
    if typed.experimental_rerun is not None:
        raise UserError("--experimental-rerun would run what a file says, and is not supported; type the overrides.")
    for folder in parse(arguments).folders:
        if not is_folder(folder):
            raise UserError(f"--config-dir={folder} is not a folder; name the one that holds your options.")
    left, flags = deque(typed.overrides), []
    for argument in arguments:
        if left and argument == left[0]:
            left.popleft()
        else:
            flags.append(argument)
    return [*flags, *typed.overrides]


def make_importable(folders: Sequence[Path]) -> None:
    """Let Python find modules in the folders of `--config-dir`, and beside one that is called conf, after all others.

    Processes that are started from here find them too.
    """
    resolved = [folder.resolve() for folder in folders]
    places = [str(place) for each in resolved for place in (each, *([each.parent] if each.name == "conf" else []))]
    sys.path += [place for place in dict.fromkeys(places) if place not in sys.path]
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if places:
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, (*known, *places))))
