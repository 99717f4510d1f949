"""The cells of a sweep: every combination of its overrides, resolved, and where its games are kept."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.naming import named
from experiments.cli.command import check_keys, known_keys
from experiments.cli.options import CONF, Options, composed
from experiments.play.settings import settings_from
from experiments.play.setup import resolved
from experiments.storage.records import canonical_json, sha256
from experiments.sweeps.size import check_count

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from experiments.storage.identity import Machine
    from experiments.storage.store import Store

LONGEST = 100  # characters of a cell's name, which is also a folder's


@dataclass(frozen=True)
class Cell:
    """One resolved configuration of a sweep: a readable `name`, unique in it, and the `overrides` that make it."""

    name: str
    overrides: tuple[str, ...]
    config: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the cell's games; each game is one record in the store."""
        return [self.config["seed"] + i for i in range(self.config["repetitions"])]


def expand(
    overrides: Sequence[str], config_path: Path = CONF, config_name: str = "run", folders: Sequence[Path] = ()
) -> list[Cell]:
    """The cells of `overrides` in Hydra's sweep syntax (`a=b,c`, `seed=range(5)`): their product, in its order.

    A combination of config groups is composed once; values that are swept over are then set in a copy of it, which is
    what Hydra does with them too. Cells whose resolved configurations are equal are one cell. Overrides of `hydra` are
    left out. Figures are drawn in a sweep only where `figures=true` asks for them.

    Args:
        overrides: as on the command line.
        config_path: the folder of the configuration.
        config_name: its name there.
        folders: further folders to find options in, as with `--config-dir`.

    Raises:
        UserError, hydra.errors.HydraException, omegaconf.errors.OmegaConfBaseException: for a mistake in any cell.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    schema = known_keys(config_path, config_name)
    search = ",".join(f'"file://{Path(folder).resolve()}"' for folder in folders)
    extra = [f"hydra.searchpath=[{search}]"] if search else []
    with initialize_config_dir(str(Path(config_path).resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(config_loader=loader).parse_overrides([*overrides, *extra])
        hydra_overrides = [each.input_line for each in parsed if each.is_hydra_override()]
        choices: dict[str, list[str]] = {}
        check_count(parsed)
        for each in (each for each in parsed if not each.is_hydra_override()):
            if each.is_sweep_override() and not each.is_discrete_sweep():
                raise UserError(f"{each.input_line} has no finite list of values; write key=a,b,c or key=range(5).")
            key, typed = each.get_key_element(), str(each.input_line)
            swept = each.is_sweep_override()
            choices[key] = [f"{key}={value}" for value in each.sweep_string_iterator()] if swept else [typed]
            if not choices[key]:
                raise UserError(f"{typed} gives no value at all; write key=a,b,c or key=range(5).")
        options = Options((Path(config_path), *map(Path, folders)))
        return _product(choices, [str(each) for each in hydra_overrides], config_name, schema, options)


def _product(
    choices: Mapping[str, list[str]], hydra_overrides: list[str], config_name: str, schema: Mapping[str, Any],
    options: Options,
) -> list[Cell]:  # fmt: skip
    from omegaconf import OmegaConf

    swept = [key for key, values in choices.items() if len(values) > 1]
    initial = [values[0] for values in choices.values()]
    first = composed(config_name, [*initial, *hydra_overrides], options)
    simple = {key for key in swept if _is_value(first[0], key)}
    made = {tuple(t for key, t in zip(choices, initial, strict=True) if key not in simple): first}
    cells: dict[str, Cell] = {}
    for combination in itertools.product(*choices.values()):
        chosen = dict(zip(choices, combination, strict=True))
        slow = tuple(text for key, text in chosen.items() if key not in simple)
        if slow not in made:
            made[slow] = composed(config_name, [*slow, *hydra_overrides], options)
        cfg, typed = copy.deepcopy(made[slow][0]), made[slow][1]
        for key in choices:  # in the order typed
            if key in simple:
                _set(cfg, key, chosen[key])
        check_keys(cfg, schema)
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        assert isinstance(config, dict)
        _, cell = resolved({str(key): value for key, value in config.items()})
        settings_from(cell)
        cell["figures"] = cell["figures"] is True
        same = canonical_json(cell)
        cell = named(cell, typed, combination)
        name = _name([chosen[key] for key in swept] or list(combination))
        cells.setdefault(same, Cell(name, combination, cell))
    return list(cells.values())


def _is_value(cfg: DictConfig, key: str) -> bool:
    """Whether `key` names a value of the configuration, rather than a group, or something to add or remove."""
    from omegaconf import OmegaConf

    if not re.fullmatch(r"[a-z_][\w.]*", key):
        return False
    node = OmegaConf.select(cfg, key, default=cfg)  # a key that is not there is left to Hydra, which says so
    return not OmegaConf.is_config(node)


def _set(cfg: DictConfig, key: str, text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    [override] = OverridesParser.create().parse_overrides([text])
    OmegaConf.update(cfg, key, override.value(), merge=True)


def _name(texts: Sequence[str]) -> str:
    """A folder's name for a combination: what is swept over, shortened and made unique by a hash where it is long."""
    text = ",".join(texts)
    if not text:
        return "cell"
    safe = re.sub(r"[^\w=.,+\-]+", "_", text).strip("_") or "cell"
    if safe == text and len(safe) <= LONGEST:
        return safe
    return f"{safe[: LONGEST - 9]}-{sha256(text)[:8]}"


def paths(cell: Cell, store: Store, machine: Machine, fingerprint: str) -> list[Path]:
    """The files of the cell's games in the store, one per seed, whether they exist or not."""
    from experiments.storage.identity import Keys

    key = Keys(cell.config, fingerprint, machine).game()
    return [store.record_path("game", {**key, "seed": seed}) for seed in cell.seeds]
