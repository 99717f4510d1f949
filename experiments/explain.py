"""A user's mistake in one sentence: what Hydra, OmegaConf and pydantic raise, said so that it can be put right."""

import difflib
import inspect
import re
from collections.abc import Iterable
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from data.errors import UserError


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
                f"The override {error.override!r} cannot be read ({_first(error)}); "
                "write KEY=VALUE, and quote values that hold special characters."
            )
        case HydraException():
            cause = error.__cause__
            known = isinstance(cause, OmegaConfBaseException) and "Could not override" in str(error)
            return _no_such_key(cause) if known and cause is not None else _flat(str(error))
        case MissingMandatoryValue():
            return f"{error.full_key} has no value; give one with {error.full_key}=VALUE."
        case OmegaConfBaseException():
            return _end(f"{error.full_key}: {_first(error)}" if error.full_key else _first(error))
    return None if in_game else _outside(error)


def no_such_option(path: str, known: Iterable[str]) -> str:
    """The sentence for the key `path`, which is not among the `known` keys of its mapping: the nearest, or all."""
    outer, _, name = path.rpartition(".")
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"There is no option {path!r}; did you mean {'.'.join(filter(None, (outer, near[0])))!r}?"
    return f"There is no option {path!r}" + (f"; known are {', '.join(known)}." if known else ".")


def validation(error: Any, where: str) -> str | None:
    """A pydantic `ValidationError` of the component configured at `where`, as one sentence."""
    wrong: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        kind, name = item["type"], ".".join(str(part) for part in item["loc"][:1])
        if kind == "unexpected_keyword_argument":
            return _unexpected(where, name, ())
        if kind == "missing" or kind == "missing_keyword_only_argument":
            wrong.setdefault(name, []).append("a value is needed")
        else:
            text = str(item["msg"]).removeprefix("Value error, ").removesuffix(".")
            got = "" if kind == "value_error" else f", got {item['input']!r:.60}"
            wrong.setdefault(name, []).append(text + got)
    said = [f"{'.'.join(filter(None, (where, name)))}: {' or '.join(texts)}" for name, texts in wrong.items()]
    return _end("; ".join(text.removeprefix(": ") for text in said))


def instantiation(error: InstantiationException, where: str) -> str | None:
    """What `hydra.utils.instantiate` raised for the configuration at `where`; None when the component has a defect."""
    text, cause = str(error), error.__cause__
    if found := re.search(r"full_key: (\S+)", text):
        where = found[1] if found[1].startswith(where) else f"{where}.{found[1]}"
    named = re.search(r"'([\w.]+)'", text)
    target = named[1] if named else "its _target_"
    if cause is None:
        return f"{where}: {_flat(text)}"
    if isinstance(cause, InstantiationException):
        return instantiation(cause, where)
    if isinstance(cause, ImportError):
        root: BaseException = cause
        while root.__cause__ is not None:
            root = root.__cause__
        if not isinstance(root, ImportError | AttributeError):
            return None  # the module was found, and is broken
        return f"{where}: cannot load {target!r} ({_first(root)}); check _target_."
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
        return f"{where}: a value is needed for {missing[1]}." if missing else None
    return _end(f"{where}: {error}") if isinstance(error, ValueError) else None


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


def _no_such_choice(error: MissingConfigException) -> str:
    found = re.search(r"Could not find '(.*?)'", str(error))
    wanted = found[1] if found else str(error.missing_cfg_file)
    group, _, name = wanted.rpartition("/")
    options = list(error.options or ())
    near = difflib.get_close_matches(name, options, n=1)
    guess = f"; did you mean {group}={near[0]}?" if near else ";"
    return f"There is no {group}={name}{guess} Available: {', '.join(options)}." if group else _flat(str(error))


def _no_such_key(cause: Any) -> str:
    parent = cause.parent_node
    known = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
    return no_such_option(str(cause.full_key), [key for key in known if key != "hydra" and not key.startswith("_")])


def _outside(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        return f"The run's folder cannot be made ({error.strerror}: {error.filename}); set hydra.run.dir=FOLDER."
    if "Config group override must be" in str(error):
        return "A group needs the name of one of its options: write GROUP=NAME, as in attack=none."
    if isinstance(error, ValueError) or type(error).__module__.startswith("yaml."):
        return _flat(str(error))
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
    return _end("; ".join(x.rstrip(".") for x in lines if x and not x.startswith(("See http", "full_key:"))))


def _end(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
