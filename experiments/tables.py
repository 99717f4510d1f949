"""Make a table of a paper and check its claims: `python experiments/tables.py table=uncertainty`; `--help` explains."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of experiments/, whose modules would hide others
    from experiments.paper_table.command import main

    main()
