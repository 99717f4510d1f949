"""The two sorts of artifacts of the store, tensors and records, by the suffix of their files: written and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.artifact import Damaged, envelope, read_content, sealed, sidecar
from storage.records import sha256, write_atomic, write_json_atomic

if TYPE_CHECKING:
    from torch import Tensor

TENSORS, RECORD = ".safetensors", ".json"


def write(path: Path, description: Mapping[str, Any], value: Mapping[str, Any]) -> None:
    """Write tensors or a record, as the suffix says; raises OSError."""
    if path.suffix == RECORD:  # without spaces: a sweep leaves thousands, which take a third of the room
        write_json_atomic(path, envelope(description, value), indent=None)
        return
    from safetensors.torch import save

    # safetensors sorts the names; a dict that comes back in another order would flatten to another vector
    content = save(dict(value), metadata={"order": json.dumps(list(value))})
    write_atomic(path, content)  # the description comes last: with it the artifact exists
    write_json_atomic(sidecar(path), sealed({**description, "sha256": sha256(content)}))


def read(path: Path, key_text: str) -> dict[str, Any] | None:
    """The tensors or the record of this key, verified; None where there is nothing. Raises Damaged and OSError."""
    content = read_content(path, key_text)
    if not isinstance(content, bytes):
        return content
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:  # its check sum fits, and yet it need not be ours
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        tensors = load(content)
        return {name: tensors[name] for name in json.loads(header["__metadata__"]["order"])}
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise Damaged("it holds no tensors of ours") from error


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
