"""A user's mistake in one sentence: what Hydra, OmegaConf and pydantic raise, said so that it can be put right."""

import difflib
import importlib
import inspect
import itertools
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic_core import ValidationError
from yaml import YAMLError  # type: ignore[import-untyped]

from data.errors import UserError
from data.signatures import parameters_of
from experiments.cli.options import LIKE, no_such_option

PLACES = "in the folder of --config-dir, beside one called conf, or in a folder FOLDER with PYTHONPATH=FOLDER set"
KINDS = ("int", "float", "str", "bool", "none")  # in the place of an error: which of several types was tried


def sentence(error: BaseException, in_game: bool = True) -> str | None:
    """The mistake behind `error` in one sentence, or None when it is no user's mistake but a defect.

    A plain OSError or ValueError is a defect of ours where a game has begun (`in_game`); before, Hydra raises them for
    a bad command line or a run folder that cannot be made.
    """
    for kind, pattern, say in RULES if in_game else (*RULES, *OUTSIDE):
        if isinstance(error, kind) and (found := re.search(pattern, str(error), re.MULTILINE)):
            return say.format(*found.groups(), error=error) if isinstance(say, str) else say(error, found)
    return None


def validation(error: ValidationError, where: str, options: Sequence[str] = ()) -> str:
    """A pydantic `ValidationError` of the component configured at `where`, which has `options`, as one sentence."""
    wrong: dict[str, list[Any]] = {}
    for item in error.errors(include_url=False):
        names = itertools.takewhile(lambda part: str(part).isidentifier() and part not in KINDS, item["loc"])
        path = ".".join(filter(None, (where, *map(str, names))))
        if item["type"] == "unexpected_keyword_argument":
            outer, _, name = path.rpartition(".")
            return _unexpected(outer, name, options if outer == where else ())
        wrong.setdefault(path, []).append(item)
    return _end("; ".join(f"{path}: {_complaint(items)}".removeprefix(": ") for path, items in wrong.items()))


def _complaint(items: Sequence[Any]) -> str:
    """What is wrong with one value; where it may be of several kinds, what is wrong with it as the likeliest."""
    kinds = [item for item in items if not item["type"].endswith(("_type", "_parsing", "literal_error"))] or items
    first, *others = dict.fromkeys(map(_text, kinds))
    joined = " or ".join([first, *(each.removeprefix("Input should be ") for each in others)])
    silent = any(item["type"] in ("value_error", "missing", "missing_keyword_only_argument") for item in kinds)
    return joined if silent else f"{joined}, got {kinds[0]['input']!r:.60}"


def _text(item: Any) -> str:
    match item["type"]:
        case "missing" | "missing_keyword_only_argument":
            return "more values are needed" if isinstance(item["loc"][-1], int) else "a value is needed"
        case "dataclass_type":
            return "it has options; set one of them"
    return str(item["msg"]).removeprefix("Value error, ").removesuffix(".")


def instantiation(error: InstantiationException, where: str) -> str | None:
    """What `hydra.utils.instantiate` raised for the configuration at `where`; None when the component has a defect."""
    text, cause = str(error), error.__cause__
    if found := re.search(r"full_key: (\S+)", text):
        where = found[1] if found[1].startswith(where) else f"{where}.{found[1]}"
    named = re.search(r"'([\w.]+)'", text)
    target = named[1] if named else "its _target_"
    if cause is None:
        refused = "blocklisted" in text
        return f"{where}: Hydra does not call {target!r}; name a component." if refused else f"{where}: {_flat(text)}"
    if isinstance(cause, InstantiationException):
        return instantiation(cause, where)
    if isinstance(cause, ImportError):
        why = _not_found(target, cause)
        return None if why is None else _end(f"{where}: cannot load {target!r}, since {why}")
    return construction(cause, where, target)


def _not_found(target: str, error: BaseException) -> str | None:
    """Why the dotted path `target`, whose loading raised `error`, leads nowhere; None when its module has a defect."""
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
        try:
            known = inspect.ismodule(found) and hasattr(found, part)
            found, inside = getattr(found, part) if known else importlib.import_module(name), name
        except ModuleNotFoundError as missing:
            if missing.name not in (name, inside):
                return f"{name} imports {missing.name}, which is not installed"
            if found is None:
                return f"Python finds no module {part!r}: put {part}.py {PLACES}"
            near = difflib.get_close_matches(part, [each for each in dir(found) if each[0] != "_"], n=1)
            return f"{inside} has no {part!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        except ImportError as broken:
            return _first(broken)
    return _first(error)


def construction(error: BaseException, where: str, target: str) -> str | None:
    """What the constructor of `target`, configured at `where`, raised; None when it is a defect of the constructor."""
    if isinstance(error, ValidationError):
        return validation(error, where, _options(target))
    if isinstance(error, TypeError):
        if unexpected := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
            return _unexpected(where, unexpected[1], _options(target))
        if missing := re.search(r"missing \d+ required .*?argument.*?: (.*)", str(error)):
            return f"{where}: a value is needed for {missing[1]}."
        taken = f"{where}: {target} does not take these options ({_first(error)}); check _target_ and the options."
        return taken if _at_the_call(error) else None
    return _flat(f"{where}: {error}") if isinstance(error, ValueError) else None


def _at_the_call(error: BaseException) -> bool:
    """Whether the error was raised by calling something, rather than inside of it."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return not frames or frames[-1][0].f_globals.get("__name__", "").partition(".")[0] in ("hydra", "experiments")


def _unexpected(where: str, name: str, options: Iterable[str]) -> str:
    known = ", ".join(options)
    return f"{where or 'The component'} has no option {name!r}" + (f"; its options are {known}." if known else ".")


def _options(target: str) -> list[str]:
    """The names of the parameters of the callable at the dotted path `target`."""
    parameters = (parameters_of(target) or {}).values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _no_such_choice(error: Any, found: re.Match[str]) -> str:
    group, _, name = found[1].rpartition("/")
    options = list(error.options or ())
    if not group or not options:
        return _flat(str(error))
    guess = "".join(f" did you mean {group}={near}?" for near in difflib.get_close_matches(name, options, 1, LIKE))
    return f"There is no {group}={name};{guess} Available: {', '.join(options)}."


def _no_such_key(error: BaseException, found: re.Match[str]) -> str:
    cause: Any = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(cause, OmegaConfBaseException):
        return f"There is no group of options {found[1]!r}; --help shows all that there are."
    if str(cause.full_key) == "game":
        return "No game is chosen, so it has no settings; name one, as in game=request."
    parent = cause.parent_node
    inside = isinstance(parent, DictConfig)
    mine = [str(key) for key in parent if key != "hydra" and not str(key).startswith("_")] if inside else []
    elsewhere = list(_paths(parent._get_root())) if inside else []
    typed = found[1] if cause is not error and str(cause.full_key) != found[1] else ""
    return no_such_option(str(cause.full_key), mine, elsewhere, typed)


def _paths(node: Any, outer: str = "") -> Iterator[str]:
    """The paths of all values of a configuration, without Hydra's own."""
    for key in node if isinstance(node, DictConfig) and not node._is_missing() and not node._is_none() else ():
        path = f"{outer}.{key!s}" if outer else str(key)
        if path != "hydra" and not str(key).startswith("_"):
            yield path
            yield from _paths(node._get_node(key), path)


def _no_file(error: Any, _: re.Match[str]) -> str:
    if error.errno is None:
        return f"A file of the configuration holds no options ({_first(error)}); write KEY: VALUE."
    filename = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    why = ": ".join(filter(None, (error.strerror, filename)))
    if error.filename is None:
        return f"What is said cannot be written ({why})."
    if filename.endswith((".yaml", ".yml")):
        return f"A file of the configuration cannot be read ({why}); make it readable."
    return f"The run's folder cannot be made ({why}); set hydra.run.dir=FOLDER."


def _within_hydra(error: BaseException, _: re.Match[str]) -> str | None:
    said = f"{type(error).__name__}: {_first(error)}" if str(error) else "an assertion fails"
    advice = f"Hydra cannot work with these settings ({said}); check the overrides that begin with hydra."
    return advice if _at_the_call(error) else None


def _first(error: BaseException | None) -> str:
    """The first line that says something: OmegaConf and Hydra go on with keys and links."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("See http", "Error parsing override"))]
    return lines[0].removesuffix(".") if lines else type(error).__name__


def _flat(text: str) -> str:
    """A message of several lines as one sentence, without Hydra's search path, links and advice to look elsewhere."""
    joined = ""
    for each in text.partition("Config search path:")[0].splitlines():
        line = re.sub(r"^\d+\. (To)?", lambda found: "to" if found[1] else "", each.strip())
        if not line or line.startswith(("See http", "full_key:")):
            continue
        wrapped = joined and joined[-1].isalnum() and line[:1].islower() and not line.startswith("to ")
        joined += f"{' ' if wrapped else '; ' if joined else ''}{line.rstrip('.')}"
    return _end(joined)


def _end(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


Kinds = type[BaseException] | tuple[type[BaseException], ...]
Rule = tuple[Kinds, str, str | Callable[[Any, re.Match[str]], str | None]]
# what is raised, a pattern in its text, and the sentence or what writes it; the first that fits counts
RULES: tuple[Rule, ...] = (
    (UserError, "", "{error}"),
    (ValidationError, "", lambda error, _: validation(error, "")),
    (InstantiationException, "", lambda error, _: instantiation(error, "")),
    (MissingConfigException, r"Could not find '(.*?)'", _no_such_choice),
    (OverrideParseException, "", lambda error, _: (
        f"The override {error.override!r} cannot be read ({_first(error).partition(' expecting ')[0]}); "
        "write KEY=VALUE, and quote values that hold special characters."
    )),
    (HydraException, r"\ACould not override '(.*?)'", _no_such_key),
    (HydraException, r"\AAmbiguous value for argument '(.*?)=(.*)'$",
     "{0} has several values: add -m to sweep over {1}, or write {0}=[{1}] for one list."),
    (HydraException, r"\AError merging override (.*)", lambda error, m: _end(f"{m[1]}: {_first(error.__cause__)}")),
    (HydraException, "", lambda error, _: _flat(str(error))),
    (MissingMandatoryValue, "", "{error.full_key} has no value; give one with {error.full_key}=VALUE."),
    (OmegaConfBaseException, "is not in struct", _no_such_key),
    (OmegaConfBaseException, "", lambda error, _: _end(": ".join(filter(None, (error.full_key, _first(error)))))),
)  # fmt: skip
OUTSIDE: tuple[Rule, ...] = (
    (OSError, "", _no_file),
    (Exception, "Config group override must be",
     "A group needs the name of one of its options: write GROUP=NAME, as in attack=none."),
    (RuntimeError, r"Invalid plugin '(.*?)': not the hydra_plugins package",
     "Hydra itself plays this sweep, and takes no launcher {0}; leave out hydra/launcher, or -m."),
    ((ValueError, YAMLError), "", lambda error, _: _flat(str(error))),
    ((AssertionError, AttributeError, TypeError), "", _within_hydra),
)  # fmt: skip
