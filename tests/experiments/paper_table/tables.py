"""A small table for the tests, as its YAML would have it."""

from __future__ import annotations

import copy
from typing import Any

from experiments.paper_table.checking import specification
from experiments.paper_table.specification import Specification

TABLE: dict[str, Any] = {
    "title": "A & B at 100%",
    "source": "a paper",
    "about": "What it shows.",
    "sizes": {
        "tiny": {"seeds": 3, "overrides": ["attack.budget=5", "seed=0"], "about": "three seeds"},
        "big": {"seeds": 5},
    },
    "axes": [
        {
            "label": "targets",
            "options": [
                {"name": "single", "label": "single"},
                {
                    "name": "set", "label": "set_of", "overrides": ["game.targets.mode=set"],
                    "at": {"big": ["attack.budget=9"]},
                },
            ],
        },
        {
            "label": "attack",
            "options": [
                {"name": "mine", "label": "mine", "overrides": ["attack=uncertainty"]},
                {"name": "random", "label": "random", "overrides": ["attack=random"], "sizes": ["tiny"]},
            ],
        },
    ],
    "without": ["set.random"],
    "overrides": {"set.mine": ["attack.budget=7"]},
    "columns": [
        {"metric": "gain", "label": "gain"},
        {"metric": "kept_after", "label": "kept (%)", "digits": 0, "scale": "share"},
        {"metric": "accuracy_change_after", "label": "accuracy", "digits": 1, "scale": "points"},
    ],
    "claims": [
        {
            "id": "moves", "text": "It moves", "row": "single.mine", "metric": "gain", "part": "over",
            "comparison": "greater", "against": {"constant": 0.0}, "margin": 0.2, "unit": "confidence",
        },
        {
            "id": "beats", "text": "It beats random", "row": "single.mine", "metric": "gain", "part": "over",
            "comparison": "greater", "against": {"row": "single.random"},
        },
    ],
    "beside": [
        {"row": "single.mine", "metric": "gain", "part": "over", "value": 0.5, "provenance": "somewhere, table 1"}
    ],
}  # fmt: skip


def changed(**entries: Any) -> dict[str, Any]:
    """The content of the table with other entries."""
    return {**copy.deepcopy(TABLE), **entries}


def table(**entries: Any) -> Specification:
    return specification("small", changed(**entries))
