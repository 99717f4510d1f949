"""Verify a proof of training: `python experiments/verify.py PROOF data=mnist data.root=FOLDER`; `--help` explains."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main(cfg: Any) -> None:
    """Verify the proof that `cfg` names; ends with code 1 where it does not verify."""
    from omegaconf import OmegaConf

    from experiments.cli.options import written
    from experiments.play.architecture import architecture_of
    from experiments.play.setup import load
    from proofs.offline import Supplied, verify

    ours = [written(path) for path in sorted((ROOT / "conf" / "model").glob("*.yaml"))]
    sys.exit(verify(OmegaConf.to_container(cfg), Supplied(load, architecture_of, ours)))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # Python put experiments/ there, whose modules must not hide others
    from experiments.cli.arguments import with_first
    from experiments.cli.command import run

    sys.argv[1:] = with_first("proof", sys.argv[1:])
    run(main, "verify", ROOT / "conf")
