"""The cells of a sweep: every combination of its overrides, resolved, each one once."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.naming import named
from experiments.cli.options import (
    CONF,
    Options,
    check_keys,
    composed,
    defaults,
    known_keys,
    option_files,
    search_path,
    written,
)  # fmt: skip
from experiments.play.settings import settings_from
from experiments.play.setup import resolved
from experiments.sweeps.sharing import Composed, Shared, apart
from storage.records import canonical_json, sha256

if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

LONGEST = 100  # characters of a cell's name, which is also a folder's
MOST = 100_000  # cells of a sweep
SEED = "seed"


@dataclass(frozen=True)
class Cell:
    """One resolved configuration of a sweep: a readable `name`, unique in it, and the `overrides` that make it."""

    name: str
    overrides: tuple[str, ...]
    config: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the cell's games; each game is one record in the store."""
        return [self.config[SEED] + i for i in range(self.config["repetitions"])]


def expand(
    overrides: Sequence[str], config_path: Path = CONF, config_name: str = "run", folders: Sequence[Path] = ()
) -> list[Cell]:
    """The cells of `overrides` in Hydra's sweep syntax (`a=b,c`, `seed=range(5)`): their product, in its order.

    A combination of config groups is composed once; values that are swept over are then set in a copy of it, which is
    what Hydra does with them too. What differs in its seed alone is resolved once. Cells whose resolved configurations
    are equal are one cell. Overrides of `hydra` are left out. Figures are drawn in a sweep only where `figures=true`
    asks for them. Options are found in `folders` too, as with `--config-dir`. A preset may hold `hydra.sweeper.params`:
    what is typed beside it counts more, and those with one value are set where a combination has such an option.

    Raises UserError, hydra.errors.HydraException or omegaconf.errors.OmegaConfBaseException for a mistake in any cell.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    schema = known_keys(config_path, config_name)
    with initialize_config_dir(str(Path(config_path).resolve()), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides([*overrides, *search_path(folders)])
        of_hydra = [str(override.input_line) for override in parsed if override.is_hydra_override()]
        typed = [override for override in parsed if not override.is_hydra_override()]
        keys = {override.get_key_element() for override in typed}
        preset = [each for each in _of_preset(typed, parser, folders) if each.get_key_element() not in keys]
        choices = _choices([*(each for each in preset if each.is_sweep_override()), *typed])
        optional = {each.get_key_element() for each in preset if "/" in each.get_key_element()}
        fitting = [str(override.input_line) for override in preset if not override.is_sweep_override()]
        options = Options((Path(config_path), *map(Path, folders)))
        return _product(choices, lambda words: composed(config_name, [*words, *of_hydra], options), schema, fitting,
                        optional, options.folders)  # fmt: skip


def _of_preset(typed: Sequence[Override], parser: OverridesParser, folders: Sequence[Path]) -> list[Override]:
    """What the preset that is typed, if one is, has as `hydra.sweeper.params`."""
    files = option_files("experiment", folders)
    chosen = [files.get(str(each.value())) for each in typed if each.key_or_group == "experiment"]
    nodes = [written(file) for file in chosen if file is not None]
    for key in ("hydra", "sweeper", "params"):
        nodes = [node[key] for node in nodes if isinstance(node.get(key), dict)]
    return parser.parse_overrides([f"{key}={value}" for node in nodes for key, value in node.items()])


def _choices(overrides: Sequence[Override]) -> dict[str, list[str]]:
    """The overrides without a sweep that each one stands for, by key; raises UserError before too many are made."""
    for override in overrides:
        if not override.key_or_group:
            raise UserError(f"{override.input_line!r} has no key; write KEY=VALUE.")
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(f"{override.input_line} has no finite list of values; write key=a,b,c or key=range(5).")
    count = math.prod(_length(override) for override in overrides)
    if count > MOST:
        raise UserError(
            f"This is a sweep of {count:,} cells, and {MOST:,} are the most, since all are planned before the first is "
            "played; sweep over fewer values."
        )
    choices: dict[str, list[str]] = {}
    for override in overrides:
        key, typed, swept = override.get_key_element(), str(override.input_line), override.is_sweep_override()
        choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()] if swept else [typed]
        if not choices[key]:
            raise UserError(f"{typed} gives no value at all; write key=a,b,c or key=range(5).")
    return choices


def _length(override: Override) -> int:
    """How many values an override has, before any is made; at least 1, since an empty one is refused where it is made.

    Raises UserError for a range that never ends, and for one in a list.
    """
    from hydra.core.override_parser.types import ChoiceSweep, RangeSweep, Sweep

    values = override.value()
    if isinstance(values, ChoiceSweep):
        if any(isinstance(value, Sweep) for value in values.list):
            raise UserError(f"{override.input_line} mixes a list with a range; write all values, or one range.")
        return max(1, len(values.list))
    if not isinstance(values, RangeSweep):
        return 1
    try:
        start, stop, step = (Fraction(number or 0) for number in (values.start, values.stop, values.step))
        return max(1, math.ceil((stop - start) / step))
    except (ZeroDivisionError, OverflowError, ValueError) as error:  # a step of 0, infinity, not a number
        raise UserError(
            f"{override.input_line} never ends; write range(START,STOP,STEP) with finite numbers and a step that is "
            "not 0."
        ) from error


def _product(
    choices: Mapping[str, list[str]], compose: Callable[[Sequence[str]], Composed], schema: Mapping[str, Any],
    fitting: Sequence[str], optional: Collection[str], folders: Sequence[Path],
) -> list[Cell]:  # fmt: skip
    swept = [key for key, values in choices.items() if len(values) > 1]
    first = _offered({key: values[0] for key, values in choices.items()}, optional, folders)
    initial = compose(list(first.values()))
    simple = {key for key in swept if _is_value(initial[0], key)}
    first = {key: text for key, text in first.items() if key not in simple}
    groups = {key: choices[key] for key in swept if key not in simple}
    shared = Shared(compose, first, {tuple(first.values()): initial}, apart(groups, choices, folders))
    settled: dict[tuple[str, ...], _Settled] = {}
    cells: dict[tuple[str, int], Cell] = {}
    for combination in itertools.product(*choices.values()):
        chosen = _offered(dict(zip(choices, combination, strict=True)), optional, folders)
        seedless = tuple(text for key, text in chosen.items() if key != SEED)
        alike = settled.get(seedless)
        if alike is None or alike.follows_seed:
            made = shared.of({key: text for key, text in chosen.items() if key not in simple})
            values = [text for text in fitting if _is_value(made[0], _parsed(text)[0])]
            values += [text for key, text in chosen.items() if key in simple]  # in the order typed
            alike = settled[seedless] = _settled(made, values, tuple(chosen.values()), schema)
        config = alike.config
        if SEED in simple:
            config = {**config, SEED: _parsed(chosen[SEED])[1]}
            check_keys({SEED: config[SEED]}, {SEED: schema[SEED]})
        name = _name([chosen[key] for key in swept if key in chosen] or list(combination))
        cells.setdefault((alike.text, config[SEED]), Cell(name, tuple(chosen.values()), config))
    return list(cells.values())


def _offered(chosen: dict[str, str], optional: Collection[str], folders: Sequence[Path]) -> dict[str, str]:
    """The overrides without those of `optional` groups that the option chosen around them does not have."""
    for group in optional & chosen.keys():
        outer, _, inner = group.rpartition("/")
        file = option_files(outer, folders).get(chosen.get(outer, "").partition("=")[2])
        if file is None or inner not in (place.split()[-1] for place, _ in defaults(file)):
            chosen = {key: text for key, text in chosen.items() if key != group}
    return chosen


@dataclass(frozen=True)
class _Settled:
    """A checked configuration, all but its seed as `text`, and whether a value in it may follow from the seed."""

    config: dict[str, Any]
    text: str
    follows_seed: bool


def _settled(composition: Composed, values: Sequence[str], words: Sequence[str], schema: Mapping[str, Any]) -> _Settled:
    """What was composed with the `values` set in a copy of it, resolved and checked; `words` are all overrides."""
    from omegaconf import OmegaConf

    cfg = copy.deepcopy(composition[0])
    for text in values:
        OmegaConf.update(cfg, *_parsed(text), merge=True)
    check_keys(cfg, schema)
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    _, cell = resolved({str(key): value for key, value in config.items()})
    settings_from(cell)
    cell["figures"] = cell["figures"] is True
    seedless = canonical_json({key: value for key, value in cell.items() if key != SEED})
    interpolates = "${" in str(OmegaConf.to_container(cfg, resolve=False))
    return _Settled(named(cell, composition[1], words), seedless, interpolates)


def _is_value(cfg: DictConfig, key: str) -> bool:
    """Whether `key` names a value of the configuration, rather than a group, or something to add or remove."""
    from omegaconf import OmegaConf

    if not re.fullmatch(r"[a-z_][\w.]*", key):
        return False
    node = OmegaConf.select(cfg, key, default=cfg)  # a key that is not there is left to Hydra, which says so
    return not OmegaConf.is_config(node)


@cache
def _parsed(text: str) -> tuple[str, Any]:
    """Key and value of an override that sets a value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    [override] = OverridesParser.create().parse_overrides([text])
    return override.get_key_element(), override.value()


def _name(texts: Sequence[str]) -> str:
    """A folder's name for a combination: what is swept over, shortened and made unique by a hash where it is long."""
    text = ",".join(texts)
    safe = re.sub(r"[^\w=.,+\-]+", "_", text).strip("_") or "cell"
    if safe == (text or "cell") and len(safe) <= LONGEST:
        return safe
    return f"{safe[: LONGEST - 9]}-{sha256(text)[:8]}"
