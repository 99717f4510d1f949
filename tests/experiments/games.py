"""Small games for the tests of the experiments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests import warm

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "game.targets.count=2",
    "game.targets.over=[0.3,0.65]",
    "game.targets.under=[0.7,0.97]",
    "game.stream.calibration_batches=2",
    "game.stream.benign_batches=1",
    "training.epochs=10",
    "attack.budget=6",
    "data.train=300",
    "data.test=1197",
    "figures=false",
)


def config(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    """The resolved configuration of a game that takes a second or two, with its own store."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("run", overrides=[*QUICK, f"store.dir={tmp_path / 'store'}", *overrides])
    resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def command(*overrides: str, script: str = "run.py") -> list[str]:
    return [sys.executable, str(ROOT / "experiments" / script), *overrides]


def run(*overrides: str, cwd: Path, timeout: float = 120, script: str = "run.py") -> subprocess.CompletedProcess[str]:
    """Run the script as a user would, from another folder."""
    return warm.run(script, *overrides, cwd=cwd, timeout=timeout, env={"COLUMNS": "120"})
