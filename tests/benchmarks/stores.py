"""Stores with thousands of games: copies of one, with changed seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from storage.artifact import digest, envelope
from storage.records import canonical_json


def fill(folder: Path, game: dict[str, Any], count: int) -> None:
    """Write `count` games into the store `folder`, each a valid record of its own seed."""
    for seed in range(count):
        game["key"]["seed"] = game["payload"]["seed"] = game["payload"]["config"]["seed"] = seed
        description = {part: game[part] for part in ("kind", "key", "created", "toolkit")}
        name = digest("game", canonical_json(game["key"]))
        path = folder / "game" / name[:2] / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(envelope(description, game["payload"]), separators=(",", ":")) + "\n")
