"""The command that looks after the store: `python experiments/store.py list|prune`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from data.errors import UserError
from data.naming import option
from experiments.cli.script import Parser, ended, place, printable
from storage.artifact import KINDS
from storage.inventory import DAY, Artifact, artifacts, chosen, remove, strays
from storage.store import default_folder

HEADS = ("kind", "what it is", "data", "seed", "size", "age", "artifact")
UNKNOWN = "?"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after a mistake of the user's."""
    return ended(lambda: _command(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    kinds = "; ".join(f"{kind}: {words}" for kind, words in KINDS.items())
    parser = Parser("store.py", description="List or prune the store of victims and finished games.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|prune")
    for verb, text in (
        ("list", "show the artifacts and their total size"),
        ("prune", "remove the artifacts that meet every condition, or all of them, and what killed runs left"),
    ):
        command = verbs.add_parser(verb, help=text, description=text)
        command.add_argument("--dir", type=place, help=f"the store's folder (default: {default_folder()})")
        command.add_argument("--kind", help=f"only this kind of artifact ({kinds})")
        command.add_argument("--older-than", type=_days, metavar="DAYS", help="only artifacts of this age")
        if verb == "prune":
            command.add_argument("--damaged", action="store_true", help="only artifacts that fail their check")
            command.add_argument("--all", action="store_true", help="every artifact; takes no other condition")
            command.add_argument("--dry-run", action="store_true", help="name what would be removed, remove nothing")
    return parser


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1
    if not days >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 0 on")
    return days


def _command(args: argparse.Namespace) -> None:
    if args.dir is not None and not args.dir.is_dir():
        raise UserError(f"There is no store in {args.dir}; give the folder with --dir FOLDER.")
    folder = args.dir or default_folder()
    try:
        (_list if args.verb == "list" else _prune)(folder, args)
    except OSError as error:
        if error.filename is None:  # of the output
            raise
        raise UserError(f"{error.filename}: {error.strerror}; is the folder yours to change?") from error


def _list(folder: Path, args: argparse.Namespace) -> None:
    found = [each for each in artifacts(folder, args.kind) if each.age >= (args.older_than or 0)]
    if not found:
        print(f"The store {folder} has no artifacts" + (f" of kind {args.kind}." if args.kind else "."))
        return
    _show(found)
    print(f"{len(found)} artifacts, {decimal(sum(each.size for each in found))} in {folder}")


def _prune(folder: Path, args: argparse.Namespace) -> None:
    conditions = args.kind is not None or args.older_than is not None or args.damaged
    if conditions and args.all:
        raise UserError("--all removes every artifact; leave it out, or the other conditions.")
    found = chosen(folder, args.kind, args.older_than or 0.0, args.damaged) if conditions or args.all else []
    if args.dry_run and found:
        _show(found)
    for kind in sorted({each.kind for each in found}):  # before anything is removed
        sizes = [each.size for each in found if each.kind == kind]
        print(f"{kind}: {len(sizes)} artifacts ({KINDS.get(kind, 'another kind')}), {decimal(sum(sizes))}")
    if not args.dry_run:
        sys.stdout.flush()
        remove(found)
    left, freed = strays(folder, args.kind, args.dry_run)
    does = "Would remove" if args.dry_run else "Removed"
    total = decimal(freed + sum(each.size for each in found))
    print(f"{does} {len(found)} artifacts and {left} left-over files ({total}) in {folder}.")
    if not conditions and not args.all:
        print("Artifacts are removed by --kind, --older-than and --damaged, all of them by --all.")


def _show(found: Sequence[Artifact]) -> None:
    rows = [(*_words(each), decimal(each.size), _age(each.age), each.path.name[:12]) for each in found]
    plain = [tuple(printable(cell) for cell in row) for row in rows]
    if not sys.stdout.isatty():
        for row in (HEADS, *plain):
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*HEADS, box=None)
    for row in plain:
        table.add_row(*map(Text, row))
    Console().print(table, markup=False)


def _words(artifact: Artifact) -> tuple[str, str, str, str]:
    """The kind of an artifact, what it is, of which data, and its seed."""
    if artifact.damage is not None:
        return artifact.kind, f"damaged: {artifact.damage}", UNKNOWN, UNKNOWN
    key = artifact.key
    victim = _mapping(key.get("victim", key))  # of models and of what was measured on them the key itself
    model, procedure, learner = _option(victim, "model"), _option(key, "unlearning"), _mapping(victim.get("learner"))
    access = str(_mapping(key.get("attack")).get("access") or "").replace("_", "-")
    attack = _option(key, "attack") + (f" ({access})" if access else "")
    game = str(_mapping(key.get("game")).get("_target_", UNKNOWN)).rpartition(".")[0]
    game = game.removeprefix("games.").removesuffix(".game") or UNKNOWN  # ours are named by their packages
    what = {
        "victim": f"{model} of {learner.get('_target_', UNKNOWN)}", "oracle": f"{model} retrained",
        "released": f"{model} released by {attack}", "reference": f"what {_option(key, 'defense')} compares with",
        "attack": f"requests of {attack} against {procedure}, {model}", "margins": f"margins of {model}",
        "copies": f"copies that requests of {attack} against {procedure}, {model}, bring",
        "game": f"{attack} against {procedure}, defense {_option(key, 'defense')}, {model} ({game} game)",
        "step": f"a step of an unfinished game: {procedure}, {model}", "contribution": f"records of {attack}, {model}",
    }.get(artifact.kind, "of another kind")  # fmt: skip
    data = str(victim.get("data", UNKNOWN)).rpartition(" ")[0] or UNKNOWN  # a name, and a hash
    return artifact.kind, what, data, str(key.get("seed", UNKNOWN))


def _option(config: Mapping[str, Any], group: str) -> str:
    try:
        return option(config, group)
    except (LookupError, TypeError, AttributeError):  # a key is what its file says it is
        return UNKNOWN


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _age(days: float) -> str:
    for unit, length in (("day", DAY), ("hour", 3600), ("minute", 60)):
        count = int(days * DAY // length)
        if count > 0:
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    return "now"
