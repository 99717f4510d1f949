"""Config folders that installed packages bring, so that their attacks, defenses and games are played by name.

A package says in its pyproject.toml which of its folders is laid out as `conf/` is (attack/mine.yaml, game/mine.yaml):

    [project.entry-points."unlearning_games.config"]
    mine = "my_package.conf"

The folder is found in what was installed, and nothing of the package is imported before an option of it is played.
"""

import importlib.util
import logging
from functools import cache
from importlib import metadata
from pathlib import Path

from data.errors import UserError

GROUP = "unlearning_games.config"
log = logging.getLogger(__name__)


@cache
def plugins() -> dict[Path, str]:
    """The folder of every plug-in with the package that brings it; a warning names each that cannot be used."""
    packages: dict[str, metadata.Distribution] = {}
    for each in metadata.distributions():
        if GROUP in (each.read_text("entry_points.txt") or ""):
            packages.setdefault(str(each.name), each)  # installed twice: Python imports the first
    found: dict[Path, str] = {}
    for name, distribution in packages.items():
        try:
            for entry in distribution.entry_points.select(group=GROUP):
                found.setdefault(_folder(distribution, entry.value), name)
        except Exception as error:  # whatever is wrong with it, everything else plays
            said = f"{type(error).__name__}: " if not isinstance(error, UserError) else ""
            log.warning("The plug-in %s is left out: %s%s", name, said, error)
    return found


def _folder(distribution: metadata.Distribution, value: str) -> Path:
    """The folder that an entry point names as `package` or `package.folder`; `find_spec` of the first executes none."""
    first, *rest = value.split(".")
    named = all(part.isidentifier() for part in (first, *rest))  # and no path, which could lead anywhere
    places = [Path(str(distribution.locate_file("/".join((first, *rest)))))] if named else []
    if places and not places[0].is_dir():  # an editable installation is elsewhere
        spec = importlib.util.find_spec(first)
        places = [Path(place, *rest) for place in (spec and spec.submodule_search_locations) or ()]
    for place in places:
        if any(place.glob("*/**/*.yaml")):
            return place.resolve()
    raise UserError(f"its {value!r} names no folder with options, such as attack/NAME.yaml; install it again.")
