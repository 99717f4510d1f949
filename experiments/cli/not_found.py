"""Why a `_target_` cannot be loaded, and what to do about it."""

import difflib
import importlib
from pathlib import Path
from types import ModuleType

ADVICE = "in the folder of --config-dir, beside one called conf, or in a folder FOLDER with PYTHONPATH=FOLDER set"


def target_not_found(target: str, error: BaseException) -> str | None:
    """The reason, for the dotted path `target` whose loading raised `error`; None when the module is broken.

    A module that imports another one that is missing is told apart from one that is missing itself.
    """
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    if isinstance(root, SyntaxError):
        line = f", line {root.lineno}" if root.lineno else ""
        return f"{Path(root.filename or target).name}{line} is no Python that can be read: {root.msg}"
    if not isinstance(root, ImportError | AttributeError):
        return None
    found: object = None
    parts = target.split(".")
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        if isinstance(found, ModuleType) and hasattr(found, parts[i]):
            found = getattr(found, parts[i])
            continue
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name not in (name, ".".join(parts[:i])):
                return f"{name} imports {missing.name}, which is not installed"
            return _missing(found, parts[i], ".".join(parts[:i]))
        except ImportError as missing:
            return str(missing).partition("\n")[0].removesuffix(".")
    return str(root).partition("\n")[0].removesuffix(".")


def _missing(found: object, name: str, inside: str) -> str:
    if found is None:
        return f"Python finds no module {name!r}: put {name}.py {ADVICE}"
    near = difflib.get_close_matches(name, [each for each in dir(found) if not each.startswith("_")], n=1)
    return f"{inside} has no {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
