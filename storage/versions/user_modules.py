"""Where the modules are that a user's code imports: found as Python finds them, and none of them executed."""

import importlib.machinery
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path


def files(name: str) -> Iterator[tuple[str, Path]]:
    """The module `name` and its parent packages, with their files, as far as these are the user's own code.

    Nothing is given of the standard library, of installed packages, of what is built in, and of what does not exist.
    """
    found: ModuleSpec | None = None
    parts = name.split(".")
    if not parts[0] or parts[0] in sys.stdlib_module_names:
        return
    for depth in range(1, len(parts) + 1):
        found = _spec(".".join(parts[:depth]), found)
        if found is None:
            return
        path = _file(found)
        if path is not None and not _installed(path):
            yield found.name, path


def _spec(name: str, parent: ModuleSpec | None) -> ModuleSpec | None:
    """The spec of a module that is loaded, or else could be; `find_spec` of a submodule would execute its parents."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, ModuleSpec):
        return loaded
    with suppress(ImportError, ValueError, AttributeError, TypeError):
        if parent is None:
            return importlib.util.find_spec(name)
        if parent.submodule_search_locations is not None:
            return importlib.machinery.PathFinder.find_spec(name, list(parent.submodule_search_locations))
    return None


def _file(spec: ModuleSpec) -> Path | None:
    """The source file, or the compiled one that stands without a source; None of what is built in or a namespace."""
    if not spec.has_location or spec.origin is None:
        return None
    path = Path(spec.origin)
    return path.resolve() if path.is_file() else None


@cache
def _installed(path: Path) -> bool:
    """Whether a file is in a folder of the standard library or of installed packages."""
    known = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders = {*known, *site.getsitepackages(), site.getusersitepackages()}
    return any(path.is_relative_to(Path(each).resolve()) for each in folders)
