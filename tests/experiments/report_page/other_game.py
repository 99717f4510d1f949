"""A second game, as a plug-in brings one: another headline, one part, no metric behind a defense, one figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from games.game import Drawing, Game, Metric, Part, Record, Values

SHOWN = frozenset({"results", "report"})


def _of(name: str) -> Any:
    def values(part: Part) -> Values:
        return {"all": float(part.record[name])}

    return values


@dataclass(frozen=True, kw_only=True)
class ForgeGame(Game):
    """Somebody forges; how often it passes is a share."""

    name: ClassVar[str] = "forge"
    headline: ClassVar[str] = "passed"

    def metrics(self) -> Sequence[Metric]:
        """A share and a plain number."""
        return [
            Metric(name="passed", label="passed (%)", help="share of forgeries that passed.", values=_of("passed"),
                   digits=1, scale="share", share=True, shown=SHOWN),
            Metric(name="bits", label="bits", help="bits that leaked.", values=_of("bits"), digits=2, shown=SHOWN),
        ]  # fmt: skip

    def figures(self, records: Sequence[Record], data: Any) -> Iterator[Drawing]:
        """One line."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2, 2))
        figure.subplots().plot([0, 1], [0, len(records)])
        yield Drawing("line", figure, "A line.", "from 0 to the number of games")


def rows(seeds: int = 4) -> pd.DataFrame:
    """Games of a forger against one procedure, without a defense and with the defense `proof`, a row each."""
    rng = np.random.default_rng(1)
    return pd.DataFrame([
        _row(seed, defense, float(rng.random())) for defense in ("none", "proof") for seed in range(seeds)
    ])  # fmt: skip


def _row(seed: int, defense: str, passed: float) -> Mapping[str, Any]:
    return {
        "digest": f"forge{seed}{defense}", "path": f"store/game/fo/{seed}{defense}.json", "toolkit": "0.1.0",
        "created": "2026-02-01T10:00:00+00:00", "game": "forge", "data": "digits", "model": "mlp", "training": "sgd",
        "unlearning": "retrain", "attack": "forger", "defense": defense, "seed": seed, "goal": "", "part": "all",
        "heading": "forge", "passed": passed, "bits": 3.0 * passed, "game._target_": "mine.ForgeGame",
        "attack.tries": 5, "defense._target_": f"mine.{defense}",
    }  # fmt: skip
