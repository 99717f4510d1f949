"""What determines a trained victim and a game: the keys under which the store keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from data.errors import UserError
from data.examples import Data
from experiments.storage.code_version import code_version
from experiments.storage.named_files import contents

VICTIM = ("model", "training", "unlearning")  # the parts of a configuration that a victim depends on, beside its data
GAME = ("attack", "defense", "targets", "stream", "fresh_seeds", "judge")  # what a game depends on beside its victim


@dataclass(frozen=True)
class Machine:
    """What of a machine takes part in results: the kind of device, and the number of threads (order of sums)."""

    device: str
    threads: int

    def as_dict(self) -> dict[str, Any]:
        """The machine and the version of torch, as they stand in a key."""
        import torch

        return {"torch": str(torch.__version__), "device": self.device, "threads": self.threads}


def victim_key(config: Mapping[str, Any], fingerprint: str, machine: Machine) -> dict[str, Any]:
    """What determines a trained victim, but for its seed; `fingerprint` is that of the data set."""
    parts = {part: config[part] for part in VICTIM}
    return {**parts, **_files(parts), "data": fingerprint, "code": _code_of(config, parts), **machine.as_dict()}


def attack_key(config: Mapping[str, Any], fingerprint: str, machine: Machine) -> dict[str, Any]:
    """What determines the requests that an attack crafts, but for the seed: no defense takes part in it."""
    parts = {part: config[part] for part in ("attack", "targets")}
    parts["reserved"] = config["stream"]["reserved"]  # records that the attack cannot name
    victim = victim_key(config, fingerprint, machine)
    return {
        "victim": victim,
        **parts,
        **_files(parts),
        "attack code": _code_of(config, parts, "games.request.crafting"),
    }


def game_key(config: Mapping[str, Any], fingerprint: str, machine: Machine) -> dict[str, Any]:
    """What determines the record of a game, but for its seed."""
    parts = {part: config[part] for part in GAME if part in config or part != "judge"}  # older records have no judge
    victim = victim_key(config, fingerprint, machine)
    return {"victim": victim, **parts, **_files(parts), "game code": _code_of(config, parts, "games.request.play")}


def _files(parts: Mapping[str, Any]) -> dict[str, Any]:
    found = contents(parts)
    return {"files": found} if found else {}


def _code_of(config: Mapping[str, Any], parts: Mapping[str, Any], *modules: str) -> str:
    """The code version; with the store turned off nothing is kept under a key, and code without a file may play."""
    kept = config.get("store", {}).get("enabled", True)
    return component_code(parts, *modules) if kept else "not kept"


def component_code(parts: Mapping[str, Any], *modules: str) -> str:
    """The code version of every `_target_` in a configuration, and of the `modules` named beside it."""
    return _code(tuple(sorted(set(targets(parts)))), modules)


@cache  # a process runs the code that it imported: later edits of the files do not change what it computes
def _code(names: tuple[str, ...], modules: tuple[str, ...]) -> str:
    import importlib

    return code_version(*(_located(name) for name in names), *(importlib.import_module(name) for name in modules))


def _located(name: str) -> Any:
    from hydra.utils import get_object

    try:
        return get_object(name)
    except ImportError as error:
        raise UserError(f"The component {name} does not exist (any more); check its _target_.") from error


def targets(node: Any) -> Iterator[str]:
    """Every `_target_` of a nested configuration."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from targets(value)


def fingerprint(data: Data) -> str:
    """A hash of every tensor of the data set, in its order and split."""
    digest = hashlib.blake2b(data.name.encode(), digest_size=16)
    for part in (data.train, data.test, data.trusted, data.auxiliary):
        for tensor in (part.x, part.y):
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
