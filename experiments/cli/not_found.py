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
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, SyntaxError):
        line = f", line {error.lineno}" if error.lineno else ""
        return f"{Path(error.filename or target).name}{line} is no Python that can be read: {error.msg}"
    if not isinstance(error, ImportError | AttributeError):
        return None
    found: object = None
    inside = ""
    for part in target.split("."):
        name = f"{inside}.{part}".lstrip(".")
        if isinstance(found, ModuleType) and hasattr(found, part):
            found, inside = getattr(found, part), name
            continue
        try:
            found, inside = importlib.import_module(name), name
        except ModuleNotFoundError as missing:
            if missing.name not in (name, inside):
                return f"{name} imports {missing.name}, which is not installed"
            if found is None:
                return f"Python finds no module {part!r}: put {part}.py {ADVICE}"
            near = difflib.get_close_matches(part, [each for each in dir(found) if each[0] != "_"], n=1)
            return f"{inside} has no {part!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        except ImportError as missing:
            error = missing
            break
    return str(error).partition("\n")[0].removesuffix(".")
