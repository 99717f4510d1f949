"""`unlearning-games run|table|report|results|store|verify ...`: the scripts by one name, where they are installed."""

import runpy
import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).resolve().parents[1]
SCRIPTS = {"run": "run", "table": "tables", "report": "report", "results": "results", "store": "store"}
SCRIPTS |= {"verify": "verify"}


def main() -> None:
    """Do what the script of the first argument does with the others; ends with code 2 where there is no such script."""
    name, *rest = sys.argv[1:] or [""]
    if name in ("", "-h", "--help"):
        print(f"unlearning-games {'|'.join(SCRIPTS)} ...; `unlearning-games run --help` and so on explain each.")
    elif name not in SCRIPTS:
        sys.exit(_mistake(f"There is no command {name!r}; there are {', '.join(SCRIPTS)}."))
    elif not (EXPERIMENTS.parent / "conf").is_dir():
        sys.exit(_mistake("There is no conf/ beside the packages; install the toolkit with pip install -e FOLDER."))
    else:
        script = EXPERIMENTS / f"{SCRIPTS[name]}.py"
        sys.argv = [str(script), *rest]
        runpy.run_path(str(script), run_name="__main__")


def _mistake(sentence: str) -> int:
    print(f"Error: {sentence}", file=sys.stderr)
    return 2
