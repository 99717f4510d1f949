"""Finished games as one HTML page: `python experiments/report.py attack=uncertainty 'seed<3'`; it needs no network."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of experiments/, whose modules would hide others
    from experiments.report_page.report import main

    sys.exit(main())
