"""All finished games of a store as one table: `python experiments/results.py attack=uncertainty 'seed<3'`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of experiments/, whose modules would hide others
    from experiments.listing.results import main

    sys.exit(main())
