"""`run.py -m`: a sweep from the command line, with what failed listed at the end and one table over its seeds."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from experiments.cli import folders
from experiments.cli.arguments import Arguments
from experiments.cli.options import search_path
from experiments.sweeps.cells import Cell, expand
from storage.records import write_atomic

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from experiments.sweeps.launchers.launcher import Launcher, Outcome
    from experiments.sweeps.sweep import Plan
    from storage.store import Store

SHOWN = 2  # cells that failed for one reason and are named; sweep.json has all
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # Hydra's default: ours for it is in this process


def main(arguments: Arguments, config_name: str, config_path: Path) -> int:
    """Play the sweep; returns 0, or 1 when a cell failed.

    Raises UserError for a mistake that concerns all cells; nothing was played then.
    """
    said = logging.StreamHandler(sys.stderr)
    said.setLevel(logging.WARNING)  # every cell's run.log has the rest
    logging.basicConfig(format="%(message)s", handlers=[said])
    cells = expand(arguments.overrides, config_path, config_name, arguments.folders)
    node = hydra_node(arguments, config_name, config_path)
    launcher, store = launcher_of(node.launcher), common_store(cells)
    from experiments.sweeps import sweep  # brings torch: mistakes in the overrides answer without it
    from experiments.sweeps.table import show

    check_all_tracking(cells)
    store.check()
    todo = sweep.plan(cells, store)
    if any(cell.config["dry_run"] for cell in cells):
        show_plan(todo, cells, store)
        if todo.refused:
            print(f"Error: {next(iter(todo.refused.values())).error}", file=sys.stderr)
        return 2 if todo.refused else 0
    todo.check()
    folder = Path(str(node.sweep.dir)).absolute()  # which makes it, unless the user has named one
    outcomes = sweep.play(todo, cells, launcher, store, folder)
    show([todo.located[name] for name, outcome in outcomes.items() if outcome.state == "done"], store, folder)
    print(f"Cells and logs: {folder}")
    return show_failures(outcomes, folder)


def check_all_tracking(cells: Sequence[Cell]) -> None:
    """Raise UserError where a cell could not be tracked as it asks."""
    from experiments.play.tracking import check_tracking

    for tracked in {str(cell.config["wandb"]): cell.config["wandb"] for cell in cells}.values():
        check_tracking(tracked["mode"], tracked["project"], tracked["group"])


def hydra_node(arguments: Arguments, config_name: str, config_path: Path) -> DictConfig:
    """Hydra's own part of the configuration: the launcher, and the folder of the sweep."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    folders.register()
    of_hydra = [text for text in arguments.overrides if text.lstrip("+~").startswith(("hydra.", "hydra/"))]
    with initialize_config_dir(str(config_path.resolve()), version_base="1.3"):
        cfg = compose(config_name, [*of_hydra, *search_path(arguments.folders)], return_hydra_config=True)
    node: DictConfig = cfg.hydra
    OmegaConf.resolve(node.launcher)
    return node


def launcher_of(node: Mapping[str, Any]) -> Launcher:
    """The launcher of `hydra/launcher=NAME`: in this process by default."""
    from experiments.cli.roles import component
    from experiments.sweeps.launchers.launcher import InProcess

    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"hydra.launcher must be a component, got {node!r:.60}; write hydra/launcher=local (a slash).")
    target = str(node["_target_"])
    if target == BASIC:
        return InProcess()
    if target.startswith(("hydra_plugins.", "hydra.")):
        raise UserError(
            f"The launcher {target} is a plug-in of Hydra's, which cannot tell which cells are finished; "
            "use hydra/launcher=local (all cores) or hydra/launcher=slurm."
        )
    launcher: Launcher = component(node, "hydra.launcher")
    return launcher


def common_store(cells: Sequence[Cell]) -> Store:
    """The one store of all cells."""
    from experiments.play.setup import store_of

    stores = {(cell.config["store"]["dir"], cell.config["store"]["enabled"]) for cell in cells}
    if len(stores) > 1 or not next(iter(stores))[1]:
        raise UserError(
            "The cells of a sweep share one store, which makes it resumable: "
            "set store.dir only once, and leave out store.enabled=false."
        )
    return store_of(cells[0].config)


def show_plan(todo: Plan, cells: Sequence[Cell], store: Store) -> None:
    """What a sweep would do, cell by cell."""
    finished = {status.cell.name for status in todo.finished}
    for cell in cells:
        if cell.name in todo.refused:
            state = f"cannot be played: {todo.refused[cell.name].error}"
        elif cell.name in finished:
            state = "done"
        elif any(store.is_locked(file) for file in todo.located[cell.name].files):
            state = "being played by another process"
        else:
            state = "to play"
        print(f"{cell.name}: {state}")
    total = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    print(f"{total}: {len(finished)} done, {len(todo.to_play)} to play, {len(todo.refused)} cannot be played.")


def show_failures(outcomes: Mapping[str, Outcome], folder: Path) -> int:
    """Why cells failed, each reason once, with the cells, on standard error; returns the exit code."""
    failures = [outcome for outcome in outcomes.values() if outcome.state == "failed"]
    reasons = {reason: [each for each in failures if each.error == reason] for reason in {o.error: 0 for o in failures}}
    for reason, cells in reasons.items():
        names = [each.name for each in cells]
        print(f"Failed: {'; '.join(names[:SHOWN])}{_more(names)}: {reason}", file=sys.stderr)
        if cells[0].traceback is not None:
            log = folder / cells[0].name / "traceback.txt"
            try:
                write_atomic(log, cells[0].traceback.encode())
                print(f"        see {log}", file=sys.stderr)
            except OSError as error:
                print(f"        (its traceback cannot be written: {error.strerror})", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(outcomes)} cells failed; the others are kept.", file=sys.stderr)
    return 1 if failures else 0


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
