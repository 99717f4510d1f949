"""The keys of a composed configuration: known ones, with values of the right kind, and none missing."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from experiments.cli.options import written

if TYPE_CHECKING:
    from omegaconf import DictConfig

OPEN = "?"  # in place of the value of a group from which nothing need be chosen


def known_keys(folder: Path, name: str) -> dict[str, Any]:
    """The top-level keys of the config `folder/name.yaml`: its own with their values, its groups with None.

    A group whose default is null has OPEN: it may be absent, or stand for what it sets elsewhere (a preset).
    """
    own = dict(written(Path(folder) / f"{name}.yaml"))
    keys: dict[str, Any] = {}
    for item in own.pop("defaults", []):
        if isinstance(item, dict):
            [(group, chosen)] = item.items()
            place, _, package = str(group).split()[-1].partition("@")  # without `optional` or `override`
            keys[(package or place.replace("/", ".")).partition(".")[0]] = OPEN if chosen is None else None
        elif item != "_self_":
            keys |= known_keys(folder, item)
    return {key: value for key, value in (own | keys).items() if key not in ("hydra", "_global_", "_here_")}


def check_keys(cfg: Mapping[Any, Any], schema: Mapping[str, Any], where: str = "") -> None:
    """Compare a composed config with the `schema` that `known_keys` gives; `+key=value` adds keys that nothing reads.

    Mappings of the schema are compared key by key, unless they are empty or built from a `_target_` (whose class checks
    its own options). Where the schema has a truth value or a number, the config must have one too.

    Raises:
        UserError: for an unknown key, a missing key, or a value of the wrong type.
    """
    from experiments.cli.explain import no_such_option

    for key, value in cfg.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in schema:
            raise UserError(no_such_option(path, schema))
        default = schema[key]
        if isinstance(default, dict) and default and "_target_" not in default:
            if not isinstance(value, Mapping):
                raise UserError(f"{path} has the options {', '.join(default)}; set one of them, not {path} itself.")
            check_keys(value, default, path)
        elif wanted := _wrong_type(value, default):
            raise UserError(f"{path} must be {wanted}, got {value!r}.")
    for key in {key for key, value in schema.items() if value != OPEN} - cfg.keys():
        raise UserError(f"{f'{where}.' if where else ''}{key} was removed, and a game needs it.")


def _wrong_type(value: Any, default: Any) -> str | None:
    match default:
        case bool():
            return None if isinstance(value, bool) else "true or false"
        case int():
            return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
        case float():
            return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    return None


def resolve(cfg: "DictConfig") -> None:
    """Resolve every interpolation of `cfg` in place and make sure that no value is missing.

    Raises:
        omegaconf.errors.OmegaConfBaseException: naming the key.
    """
    from omegaconf import OmegaConf

    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # first, because only this one names the key
    OmegaConf.resolve(cfg)
