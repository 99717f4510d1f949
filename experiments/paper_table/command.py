"""Make a table of a paper and check its claims: `python experiments/tables.py table=uncertainty`; `--help` explains."""

import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli.options import quoted

if TYPE_CHECKING:
    from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[2]
MOST_SEEDS = 10_000
PROGRAM = "python experiments/tables.py"
QUOTES = "'\""


def main() -> None:
    """The command line of `experiments/tables.py`."""
    from experiments.cli.command import run

    typed = shlex.join([*PROGRAM.split(), *sys.argv[1:]])
    sys.argv[1:] = gathered(sys.argv[1:])
    run(functools.partial(table, command=typed), "tables", ROOT / "conf")


def table(cfg: "DictConfig", command: str = PROGRAM) -> None:
    """Play what the table that `cfg` names is missing, and write it; ends with code 1 when a game failed."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    name, work = hydra.runtime.choices.get("table"), Path(hydra.runtime.output_dir)
    GlobalHydra.instance().clear()  # the rows compose configurations of their own
    try:
        code = _make(cfg, name, work, hydra.launcher, command)
    finally:
        if not any(work.iterdir()):  # nothing was played, so nothing was logged
            work.rmdir()
    if code:
        sys.stdout.flush()
        sys.exit(code)


def _make(cfg: "DictConfig", name: str | None, work: Path, launcher: "DictConfig", command: str) -> int:
    from omegaconf import OmegaConf

    from data.errors import UserError
    from experiments.cli.arguments import parse
    from experiments.paper_table.play import TableRequest, make

    folders = parse(sys.argv[1:]).folders
    if name is None or cfg.table is None:
        names = sorted({path.stem for place in (ROOT / "conf", *folders) for path in place.glob("table/*.yaml")})
        raise UserError(f"Choose a table: {' or '.join(f'table={name}' for name in names)}.")
    content = OmegaConf.to_container(cfg.table, resolve=True, throw_on_missing=True)
    if not isinstance(content, dict):
        raise UserError(f"A table is a YAML with title, axes, columns and claims, not {content!r:.60}.")
    if cfg.seeds is not None and (type(cfg.seeds) is not int or not 1 <= cfg.seeds <= MOST_SEEDS):  # true is none
        raise UserError(
            f"seeds must be null or a whole number from 1 to {MOST_SEEDS:,}, since each is a game for every row, "
            f"got {cfg.seeds!r}."
        )
    for key, folder in (("output", cfg.output), ("store.dir", cfg.store.dir)):
        if folder is not None and not (isinstance(folder, str) and folder.strip()):
            raise UserError(f"{key} must be a folder or null, got {folder!r:.60}.")
    if not isinstance(cfg.run, Sequence) or isinstance(cfg.run, str):
        raise UserError(f"run is a list of overrides (or write run.data.root=FOLDER), got {cfg.run!r}.")
    output = Path(cfg.output or f"outputs/tables/{name}-{cfg.size}").absolute()
    store = [f"store.dir={quoted(str(Path(cfg.store.dir)))}"] if cfg.store.dir else []
    further = (*map(str, cfg.run), *store)
    asked = TableRequest(name, str(cfg.size), cfg.seeds, further, output, work, folders, cfg.dry_run, command)
    return make({str(key): value for key, value in content.items()}, asked, launcher)


def gathered(arguments: Sequence[str]) -> list[str]:
    """The arguments with all `run.KEY=VALUE` and the items of all `run=[KEY=VALUE,...]` in one list, quoted.

    Hydra would take them for options of the table.
    """
    further, rest = [], []
    for each in arguments:
        if each.startswith("run.") and each != "run.":
            further.append(each.removeprefix("run."))
        elif each.startswith("run=[") and each.endswith("]"):
            further += split_outside(each[len("run=[") : -1])
        else:
            rest.append(each)
    if not further:
        return list(arguments)
    return [*rest, f"run=[{','.join(each if each[0] in QUOTES else quoted(each) for each in further)}]"]


def split_outside(text: str) -> list[str]:
    """The parts of `text` between commas that stand outside brackets and quotes; empty ones are left out."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if character in QUOTES and quote in ("", character):
            quote = "" if quote else character
        depth += 0 if quote else (character in "[{(") - (character in ")}]")
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
