"""Small sweeps for the tests: cells of a quarter of a second, and the records they leave."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tests.experiments.games import QUICK

TINY = (*QUICK, "unlearning=first_order", "game.targets.count=1")  # a quarter of a second, one thread


def options(folder: Path) -> tuple[str, ...]:
    """The overrides of a tiny sweep with its own store and its own folder."""
    return (*TINY, f"store.dir={folder / 'store'}", f"hydra.sweep.dir={folder / 'sweep'}")


def records(store: Path) -> dict[str, dict[str, Any]]:
    """Every game of a store by its file's name, without times, memory and dates."""
    found = {}
    for path in sorted(store.glob("game/??/*.json")):
        payload = copy.deepcopy(json.loads(path.read_text())["payload"])
        del payload["seconds"], payload["memory_mb"]
        found[path.stem] = payload
    return found


def cell_states(folder: Path) -> dict[str, str]:
    """The state of every cell of a sweep's folder."""
    return {cell["name"]: cell["state"] for cell in json.loads((folder / "sweep.json").read_text())["cells"]}
