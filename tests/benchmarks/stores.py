"""Stores with thousands of games: copies of one, with changed seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.artifact import digest
from experiments.records import canonical_json, sha256


def fill(folder: Path, envelope: dict[str, Any], count: int) -> None:
    """Write `count` games into the store `folder`, each a valid record of its own seed."""
    for seed in range(count):
        envelope["key"]["seed"] = envelope["payload"]["seed"] = envelope["payload"]["config"]["seed"] = seed
        envelope["sha256"] = sha256(canonical_json(envelope["payload"]))
        name = digest("game", canonical_json(envelope["key"]))
        path = folder / "game" / name[:2] / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(envelope, separators=(",", ":")))
