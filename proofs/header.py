"""The first line of a proof: what it claims, as data. Nothing that stands in it is ever run or looked up by path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from math import prod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from models.stepwise import MOMENTS, State
from models.training import Training

FORMAT, VERSION = "unlearning-proof", 1
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has characters that cannot be shown")
    return text


Count = Annotated[int, Field(ge=0, le=2**53)]
Shape = Annotated[tuple[Count, ...], Field(max_length=8)]
Name = Annotated[str, Field(max_length=500), AfterValidator(_printable)]
Option = bool | int | float | Name | None
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
LARGEST = 2**42  # bytes of a state
LINE = 130  # bytes of a step in the index, about
TYPES = {"float32": 4, "float64": 8, "int64": 8, "int32": 4, "bool": 1, "float16": 2, "bfloat16": 2, "uint8": 1}
Kind = Literal["float32", "float64", "int64", "int32", "bool", "float16", "bfloat16", "uint8"]
RECIPE = ("optimizer", "epochs", "batch_size", "lr", "momentum", "weight_decay", "schedule")


class BadHeader(ValueError):
    """The first line of a proof says nothing that a proof says; the message names the field."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tensors:
    """Tensors that lie one after the other: their names, types and shapes."""

    names: tuple[Name, ...]
    kinds: tuple[Kind, ...]
    shapes: tuple[Shape, ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.kinds) == len(self.shapes):
            raise ValueError("names, kinds and shapes must be equally many")
        if len(set(self.names)) < len(self.names):
            raise ValueError("a name stands twice")

    @property
    def bytes(self) -> int:
        """How many bytes they take."""
        return sum(TYPES[kind] * prod(shape) for kind, shape in zip(self.kinds, self.shapes, strict=True))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Architecture:
    """One of our architectures by its name and options; of a user's own the name is null and `options` are empty."""

    name: Name | None
    options: dict[Name, Option | Annotated[list[Option], Field(max_length=1000)]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Records:
    """The records by hash: `root` is the SHA-256 of the SHA-256s of all of them, with zeros for what was deleted."""

    name: Name
    n: Annotated[int, Field(ge=1, le=2**31 - 1)]
    shape: Shape
    root: Sha256


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """How was trained; the fields are those of `models.training.Training`."""

    optimizer: Literal["sgd", "adam"]
    epochs: Annotated[int, Field(ge=1, le=2**31)]
    batch_size: Annotated[int, Field(ge=1, le=2**31)]
    lr: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["constant", "cosine", "triangular"]

    def training(self) -> Training:
        """The recipe as models are trained by it."""
        return Training(**asdict(self))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Header:
    """Everything that is needed to apply the steps of a proof, and what they are said to be.

    A checkpoint, the state after a step, stands at every `every`-th step and the last; the optimiser's moments stand at
    every `key`-th checkpoint. `weights`, `buffers` and `moments` say how the bytes of a state are to be read. `inputs`
    says that every step brings inputs of its own. `order` is the seed that a verifier gave for the order of records,
    `deleted` are positions of records that no batch has, and `machine` is information only.
    """

    format: Literal["unlearning-proof"]
    version: Literal[1]
    architecture: Architecture
    weights: Tensors
    buffers: Tensors
    moments: Tensors
    recipe: Recipe
    begins: Literal["seed", "model"]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    steps: Annotated[int, Field(ge=1, le=2**40)]
    every: Annotated[int, Field(ge=1, le=2**31)]
    key: Annotated[int, Field(ge=1, le=2**31)]
    inputs: bool
    order: Annotated[int, Field(ge=0, lt=2**63)] | None
    records: Records
    deleted: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...]
    machine: dict[Name, Name | int]

    def __post_init__(self) -> None:
        kinds = set(self.weights.kinds)
        if len(kinds) != 1 or not kinds <= {"float32", "float64"} or not self.weights.bytes:
            raise ValueError("weights must be of one type, float32 or float64, and there must be some")
        if self.size(0, self.most) > LARGEST:
            raise ValueError("a state is larger than any model")
        if not _are_moments(self.moments, self.recipe, self.weights):
            raise ValueError("moments are not those of the recipe's optimizer")
        if any(a >= b for a, b in pairwise((*self.deleted, self.records.n))):
            raise ValueError("deleted must be positions of records in their order, each once")

    @property
    def most(self) -> int:
        """The largest batch that a step may have."""
        return min(self.recipe.batch_size, self.records.n)

    def is_checkpoint(self, step: int) -> bool:
        """Whether the state after `step` is in the proof."""
        return step % self.every == 0 or step == self.steps

    def is_key(self, step: int) -> bool:
        """Whether the moments after `step` are in the proof too."""
        return step % (self.every * self.key) == 0 or step == self.steps

    def size(self, step: int, n: int) -> int:
        """How many bytes a step with a batch of n examples takes."""
        inputs = 4 * n * prod(self.records.shape) if self.inputs else 0
        state = self.weights.bytes + self.buffers.bytes if self.is_checkpoint(step) else 0
        return 4 * n + inputs + state + (self.moments.bytes if self.is_key(step) else 0)

    @property
    def total(self) -> int:
        """How many bytes the whole proof takes, its index included."""
        batch = 4 + (4 * prod(self.records.shape) if self.inputs else 0)
        steps = self.steps * (batch * self.most + LINE) + 32 * self.records.n + len(written(self))
        states = _stops(self.steps, self.every) * (self.weights.bytes + self.buffers.bytes)
        return steps + states + _stops(self.steps, self.every * self.key) * self.moments.bytes


def _stops(steps: int, every: int) -> int:
    """How many of the steps from 0 to `steps` are multiples of `every`, or the last."""
    return steps // every + 1 + (steps % every > 0)


def _are_moments(moments: Tensors, recipe: Recipe, weights: Tensors) -> bool:
    names = () if recipe.optimizer == "sgd" and recipe.momentum == 0 else MOMENTS[recipe.optimizer]
    count = (sum(map(prod, weights.shapes)),)
    wanted: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(names, (weights.kinds[0], count))
    if recipe.optimizer == "adam":
        wanted["step"] = ("float32", (1,))
    found = zip(moments.kinds, moments.shapes, strict=True)
    return dict(zip(moments.names, found, strict=True)) == wanted


def layout(state: State, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensors]:
    """How the bytes of `state` are to be read; `shapes` are those of the parameters that move.

    Raises UserError for a buffer of a type that no proof holds.
    """
    for name, value in state.buffers.items():
        if (kind := str(value.dtype).removeprefix("torch.")) not in TYPES:
            raise UserError(f"model: its buffer {name!r} is of type {kind}, and a proof holds {', '.join(TYPES)}.")
    weights = dict.fromkeys(shapes, state.weights)
    return {
        "weights": _tensors(weights, shapes), "buffers": _tensors(state.buffers), "moments": _tensors(state.moments)
    }  # fmt: skip


def _tensors(values: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]] | None = None) -> Tensors:
    kinds: tuple[Any, ...] = tuple(str(value.dtype).removeprefix("torch.") for value in values.values())
    shapes = {name: tuple(value.shape) for name, value in values.items()} if shapes is None else shapes
    return Tensors(names=tuple(values), kinds=kinds, shapes=tuple(map(tuple, shapes.values())))


def written(header: Header) -> str:
    """The header as one line of JSON: the only one that is read as it."""
    return _line(asdict(header))


def _line(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse(line: bytes) -> Header:
    """The header that a line says. Raises `BadHeader` naming the field."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadHeader("its first line is not JSON") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadHeader("its first line does not say that it is a proof")
    if found.get("version") != VERSION:
        raise BadHeader(f"its first line says version {found.get('version')!r:.20}, and version {VERSION} is read here")
    try:
        header = _reader().validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        what = str(first["msg"]).removeprefix("Value error, ")
        raise BadHeader(f"its first line is wrong at {where!r:.200}: {what:.120}") from error
    if (own := written(header)) != line.decode():
        again = json.loads(own)
        other = next((key for key in found if _text(found[key]) != _text(again.get(key))), None)
        raise BadHeader(f"its first line is not written as a proof writes it{f', at {other!r:.50}' if other else ''}")
    return header


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


@cache
def _reader() -> TypeAdapter[Header]:
    return TypeAdapter(Header)
