"""List and prune what the store keeps: `python experiments/store.py list`; `--help` explains."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of experiments/, whose modules would hide others
    from experiments.listing.command import main

    sys.exit(main())
