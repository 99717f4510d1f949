"""A user's mistake in one sentence: what Hydra, OmegaConf and pydantic raise, said so that it can be put right."""

import difflib
import inspect
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from data.errors import UserError
from experiments.cli.not_found import target_not_found

LIKE = 0.7  # how much alike two names must be for one to be meant by the other


def sentence(error: BaseException, in_game: bool = True) -> str | None:
    """The mistake behind `error` in one sentence, or None when it is no user's mistake but a defect.

    Args:
        error: what was raised.
        in_game: whether it came from our code; a plain OSError or ValueError is a user's mistake only outside of it,
            where Hydra raises them for a bad command line or a run folder that cannot be made.
    """
    from pydantic import ValidationError

    match error:
        case UserError():
            return str(error)
        case ValidationError():
            return validation(error, "")
        case InstantiationException():
            return instantiation(error, "")
        case MissingConfigException(options=[*_]):
            return _no_such_choice(error)
        case OverrideParseException():
            return (
                f"The override {error.override!r} cannot be read ({_first(error).partition(' expecting ')[0]}); "
                "write KEY=VALUE, and quote values that hold special characters."
            )
        case HydraException():
            cause = error.__cause__
            known = isinstance(cause, OmegaConfBaseException) and "Could not override" in str(error)
            return _no_such_key(cause) if known and cause is not None else _hydra(error)
        case MissingMandatoryValue():
            return f"{error.full_key} has no value; give one with {error.full_key}=VALUE."
        case OmegaConfBaseException():
            return _end(f"{error.full_key}: {_first(error)}" if error.full_key else _first(error))
    return None if in_game else _outside(error)


def no_such_option(path: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """The sentence for the key `path`, which is not among the `known` keys of its mapping: the nearest, or all.

    Where one of the whole paths `elsewhere` is in the same component and ends in its name, that is what was meant.
    """
    outer, _, name = path.replace("/", ".").rpartition(".")
    known = sorted(known)
    within = f"{outer.partition('.')[0]}." if outer else ""
    same = [each for each in elsewhere if each.startswith(within) and each.endswith(f".{name}")]
    near = difflib.get_close_matches(name, known, n=1, cutoff=LIKE)
    meant = same[:3] or [".".join(filter(None, (outer, each))) for each in near]
    if meant:
        return f"There is no option {path!r}; did you mean {' or '.join(map(repr, meant))}?"
    return f"There is no option {path!r}" + (f"; known are {', '.join(known)}." if known else f"; {outer} takes none.")


def validation(error: Any, where: str) -> str | None:
    """A pydantic `ValidationError` of the component configured at `where`, as one sentence."""
    wrong: dict[str, list[Any]] = {}
    for item in error.errors(include_url=False):
        name = ".".join(str(part) for part in item["loc"][:1])
        if item["type"] == "unexpected_keyword_argument":
            return _unexpected(where, name, ())
        wrong.setdefault(name, []).append(item)
    said = [f"{'.'.join(filter(None, (where, name)))}: {_complaint(items)}" for name, items in wrong.items()]
    return _end("; ".join(text.removeprefix(": ") for text in said))


def _complaint(items: Sequence[Any]) -> str:
    """What is wrong with one value; where it may be of several kinds, what is wrong with it as the likeliest."""
    kinds = [item for item in items if not item["type"].endswith(("_type", "_parsing", "literal_error"))] or items
    texts = dict.fromkeys(_text(item) for item in kinds)
    first, *others = texts
    joined = " or ".join([first, *(each.removeprefix("Input should be ") for each in others)])
    silent = any(item["type"] in ("value_error", "missing", "missing_keyword_only_argument") for item in kinds)
    return joined if silent else f"{joined}, got {kinds[0]['input']!r:.60}"


def _text(item: Any) -> str:
    if item["type"] in ("missing", "missing_keyword_only_argument"):
        return "a value is needed" if len(item["loc"]) == 1 else "more values are needed"
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
        why = target_not_found(target, cause)
        return None if why is None else _end(f"{where}: cannot load {target!r}, since {why}")
    return construction(cause, where, target)


def construction(error: BaseException, where: str, target: str) -> str | None:
    """What the constructor of `target`, configured at `where`, raised; None when it is a defect of the constructor."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        unknown = [str(e["loc"][0]) for e in error.errors() if e["type"] == "unexpected_keyword_argument"]
        return _unexpected(where, unknown[0], _options(target)) if unknown else validation(error, where)
    if isinstance(error, TypeError):
        if unexpected := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
            return _unexpected(where, unexpected[1], _options(target))
        missing = re.search(r"missing \d+ required .*?argument.*?: (.*)", str(error))
        if missing:
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
    from hydra.utils import get_object

    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except (ImportError, ValueError, TypeError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _hydra(error: HydraException) -> str:
    """Hydra's other complaints, without advice that does not help here."""
    text = str(error)
    if found := re.match(r"Could not override '(.*?)'", text):
        return f"There is no group of options {found[1]!r}; --help shows all that there are."
    if found := re.match(r"Ambiguous value for argument '(.*?)=(.*)'$", text, re.M):
        key, values = found[1], found[2]
        return f"{key} has several values: add -m to sweep over {values}, or write {key}=[{values}] for one list."
    if text.startswith("Error merging override") and error.__cause__ is not None:
        return _end(f"{text.removeprefix('Error merging override ')}: {_first(error.__cause__)}")
    return _flat(text)


def _no_such_choice(error: MissingConfigException) -> str:
    found = re.search(r"Could not find '(.*?)'", str(error))
    wanted = found[1] if found else str(error.missing_cfg_file)
    group, _, name = wanted.rpartition("/")
    options = list(error.options or ())
    near = difflib.get_close_matches(name, options, n=1, cutoff=LIKE)
    guess = f"; did you mean {group}={near[0]}?" if near else ";"
    return f"There is no {group}={name}{guess} Available: {', '.join(options)}." if group else _flat(str(error))


def _no_such_key(cause: Any) -> str:
    parent = cause.parent_node
    known = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
    elsewhere = list(_paths(parent._get_root())) if isinstance(parent, DictConfig) else []
    mine = [key for key in known if key != "hydra" and not key.startswith("_")]
    return no_such_option(str(cause.full_key), mine, elsewhere)


def _paths(node: Any, outer: str = "") -> Iterator[str]:
    """The paths of all values of a configuration, without Hydra's own."""
    for key in node if isinstance(node, DictConfig) and not node._is_missing() and not node._is_none() else ():
        path = f"{outer}.{key!s}" if outer else str(key)
        if path != "hydra" and not str(key).startswith("_"):
            yield path
            yield from _paths(node._get_node(key), path)


def _outside(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        filename = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        why = ": ".join(filter(None, (error.strerror, filename))) or _first(error)
        if filename.endswith((".yaml", ".yml")):
            return f"A file of the configuration cannot be read ({why}); make it readable."
        return f"The run's folder cannot be made ({why}); set hydra.run.dir=FOLDER."
    if "Config group override must be" in str(error):
        return "A group needs the name of one of its options: write GROUP=NAME, as in attack=none."
    if isinstance(error, ValueError) or type(error).__module__.startswith("yaml."):
        return _flat(str(error))
    if isinstance(error, AssertionError | AttributeError | TypeError) and _at_the_call(error):
        said = f"{type(error).__name__}: {_first(error)}" if str(error) else "an assertion fails"
        return f"Hydra cannot work with these settings ({said}); check the overrides that begin with hydra."
    return None


def _first(error: BaseException) -> str:
    """The first line that says something: OmegaConf and Hydra go on with keys and links."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("See http", "Error parsing override"))]
    return lines[0].removesuffix(".") if lines else type(error).__name__


def _flat(text: str) -> str:
    """A message of several lines as one sentence, without Hydra's search path, links and advice to look elsewhere."""
    text = text.partition("Config search path:")[0]
    lines = [re.sub(r"^\d+\. (To)?", lambda m: "to" if m[1] else "", line.strip()) for line in text.splitlines()]
    joined = ""
    for line in (x for x in lines if x and not x.startswith(("See http", "full_key:"))):
        wrapped = joined and joined[-1].isalnum() and line[:1].islower() and not line.startswith("to ")
        joined += f"{' ' if wrapped else '; ' if joined else ''}{line.rstrip('.')}"
    return _end(joined)


def _end(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
