"""The two sorts of artifacts of the store, tensors and records: how they are written and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from experiments.storage.artifact import Damaged, envelope, read_content, sealed, sidecar
from experiments.storage.records import sha256, write_atomic, write_json_atomic

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Form(Generic[T]):
    """How one sort of artifact is written and read; `read` gives None where there is nothing."""

    suffix: str
    write: Callable[[Path, dict[str, Any], T], None]
    read: Callable[[Path, str], T | None]


def _write_tensors(path: Path, description: dict[str, Any], value: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    # safetensors sorts the names; a dict that comes back in another order would flatten to another vector
    content = save(value, metadata={"order": json.dumps(list(value))})
    write_atomic(path, content)  # the description comes last: with it the artifact exists
    write_json_atomic(sidecar(path), sealed({**description, "sha256": sha256(content)}))


def _read_tensors(path: Path, key_text: str) -> dict[str, Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_content(path, key_text)
    if not isinstance(content, bytes):
        return None
    try:  # its check sum fits, and yet it need not be ours
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        tensors = load(content)
        return {name: tensors[name] for name in json.loads(header["__metadata__"]["order"])}
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise Damaged("it holds no tensors of ours") from error


def _write_record(path: Path, description: dict[str, Any], value: dict[str, Any]) -> None:
    # without spaces: a sweep leaves thousands, which take a third of the room and are read faster
    write_json_atomic(path, envelope(description, value), indent=None)


def _read_record(path: Path, key_text: str) -> dict[str, Any] | None:
    content = read_content(path, key_text)
    return content if isinstance(content, dict) else None


TENSORS = Form(".safetensors", _write_tensors, _read_tensors)
RECORDS = Form(".json", _write_record, _read_record)


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are written: detached, contiguous, on the CPU, and none a view of another."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()  # safetensors holds no views
        seen.add(tensor.untyped_storage().data_ptr())
        found[name] = tensor
    return found
