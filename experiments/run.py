"""Play one game: `python experiments/run.py attack=uncertainty defense=influence`; `--help` shows the choices."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]


def main(cfg: "DictConfig") -> float:
    """Play the game that `cfg` describes and return its score, so that any Hydra sweeper can search over games."""
    from data.machine import importing

    with importing():  # torch: help, version and typing errors must answer without it
        from experiments.play.play import play

    return float(play(cfg)["score"])


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # Python put experiments/ there, whose modules must not hide others
    from experiments.cli.command import run

    run(main, "run", ROOT / "conf", sweeps=True)
