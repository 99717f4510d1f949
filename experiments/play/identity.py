"""What determines a trained victim and a game: the keys under which the store keeps them."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from data.errors import UserError
from data.examples import Data
from experiments.cli.roles import component
from games.game import Setup
from storage.records import canonical_json
from storage.versions.code_version import code_version
from storage.versions.named_files import contents
from unlearning.identity import learner_of

TRAINED = ("model", "training")  # the parts of a configuration that a victim depends on beside its data and learner
GAME = ("attack", "defense", "game", "judge")  # what a game depends on beside its victim


@dataclass(frozen=True)
class Machine:
    """What of a machine takes part in results: the kind of device, and the number of threads (order of sums)."""

    device: str
    threads: int


@dataclass(frozen=True)
class Keys:
    """What determines the artifacts of a resolved configuration, but for their seeds.

    `fingerprint` is that of the data set. With the store turned off nothing is kept under a key, and code without a
    file may play.
    """

    config: Mapping[str, Any]
    fingerprint: str
    machine: Machine

    def trained(self, code: Sequence[str] = (), learner: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Of what is trained plainly, whatever the procedure (`games.game.Keys`), or by a `learner`."""
        import torch

        parts = {part: self.config[part] for part in TRAINED} | ({} if learner is None else {"learner": learner})
        machine = {"torch": str(torch.__version__), **asdict(self.machine)}
        return {**parts, **_files(parts), "data": self.fingerprint, "code": self._code(parts, *code), **machine}

    def victim(self) -> dict[str, Any]:
        """Of a trained victim: what learns it, and no setting of forgetting."""
        node = self.config["unlearning"]
        place, settings = _learner(canonical_json(node))
        given = {name: node[name] for name in settings if name in node}  # their code and their files count too
        key = self.trained(Setup.code, {"_target_": place, **given})
        return {**key, "learner": {"_target_": place, **settings}}

    def of(self, *places: str, code: Sequence[str] = ()) -> dict[str, Any]:
        """Of what follows from a victim, its procedure, and the settings at `places` (`games.game.Keys`)."""
        parts = {place: _at(self.config, place) for place in dict.fromkeys(("unlearning", *places))}
        built = dict(parts)
        if "game" in built:  # which code computes with its settings, a game says itself
            built["game"] = {key: value for key, value in built["game"].items() if key != "_target_"}
        return {"victim": self.victim(), **parts, **_files(parts), "its code": self._code(built, *code)}

    def game(self) -> dict[str, Any]:
        """Of the record of a game."""
        played = _located(self.config["game"]["_target_"])
        return self.of(*GAME, code=tuple(played.code) or (played.__module__,))

    def _code(self, parts: Mapping[str, Any], *modules: str) -> str:
        """The code version of every `_target_` in a configuration, and of the `modules` named beside it."""
        kept = self.config.get("store", {}).get("enabled", True)
        return _code(tuple(sorted(set(targets(parts)))), modules) if kept else "not kept"


@cache  # cells of a sweep ask again and again, and building takes milliseconds
def _learner(node: str) -> tuple[str, dict[str, Any]]:
    """What learns the victims of the procedure of this configuration, as JSON, and with which settings."""
    return learner_of(component(json.loads(node), "unlearning"))


def _at(config: Mapping[str, Any], place: str) -> Any:
    node: Any = config
    for key in place.split("."):
        node = node.get(key)  # a YAML may leave a setting to its default
    return node


def _files(parts: Mapping[str, Any]) -> dict[str, Any]:
    found = contents(parts)
    return {"files": found} if found else {}


@cache  # a process runs the code that it imported: later edits of the files do not change what it computes
def _code(names: tuple[str, ...], modules: tuple[str, ...]) -> str:
    return code_version(*(_located(name) for name in names), *(importlib.import_module(name) for name in modules))


def _located(name: str) -> Any:
    from hydra._internal.utils import _locate  # hydra.utils.get_object would log what it cannot find

    try:
        return _locate(name)
    except ImportError as error:
        broken = error.__cause__ if isinstance(error.__cause__, SyntaxError) else None
        why = f"is no Python that can be read ({broken})" if broken else "does not exist (any more); check its _target_"
        raise UserError(f"The component {name} {why}.") from error


def targets(node: Any) -> Iterator[str]:
    """Every `_target_` of a nested configuration."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from targets(value)


def fingerprint(data: Data) -> str:
    """The name of the data set, and a hash of it and of every tensor, in its order and split."""
    digest = hashlib.blake2b(data.name.encode(), digest_size=16)
    for part in (data.train, data.test, data.trusted, data.auxiliary):
        for tensor in (part.x, part.y):
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return f"{data.name} {digest.hexdigest()}"
