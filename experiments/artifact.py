"""The files of one artifact of the store: their names, their lock, and reading them with nothing taken on trust."""

import json
import re
from pathlib import Path
from typing import Any

from filelock import FileLock

from experiments.records import plain_json, sha256

FORMAT = 1  # part of every digest: raise it when the layout of the files changes


class Damaged(Exception):
    """A stored file is not what was written; the message says in which way."""


def digest(kind: str, key_text: str) -> str:
    """The SHA-256 that names the artifact of this kind whose canonical key is `key_text`."""
    if not re.fullmatch(r"[a-z0-9_-]+", kind):
        raise ValueError(f"A kind of artifact is named by lower-case letters, digits, _ and -, not {kind!r}.")
    return sha256(f"{FORMAT}/{kind}/{key_text}")


def lock(path: Path) -> FileLock:
    """The lock of the artifact whose main file is `path`."""
    return FileLock(path.with_name(f"{path.name}.lock"))


def sidecar(path: Path) -> Path:
    """The description of a safetensors file, which says what it holds and is written after it."""
    return path.with_name(f"{path.name}.json")


def read_description(path: Path) -> dict[str, Any] | None:
    """What was written about the artifact whose main file is `path`, unchecked; None where it is absent.

    Raises:
        Damaged: when it is not a JSON object.
        OSError: when it cannot be read.
    """
    try:
        description = json.loads((sidecar(path) if path.suffix == ".safetensors" else path).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Damaged("it is not JSON") from error
    if not isinstance(description, dict):
        raise Damaged("it is not a JSON object")
    return description


def read_content(path: Path, key_text: str | None = None) -> bytes | dict[str, Any] | None:
    """The verified content of an artifact: the bytes of a safetensors file, or a record; None where it is absent.

    Args:
        path: the main file.
        key_text: the canonical key that it must have; without one, the key must fit the file's name.

    Raises:
        Damaged: when the content, or the key, is not what it must be.
        OSError: when a file cannot be read.
    """
    description = read_description(path)
    if description is None:
        return None  # a file of tensors without its description is a write that was cut short
    stored = plain_json(description.get("key"))
    if stored != key_text and (key_text is not None or digest(path.parent.parent.name, stored) != path.name[:64]):
        raise Damaged("it belongs to another key")
    content: Any
    if path.suffix == ".safetensors":
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise Damaged("its tensors are missing") from error
    else:
        content = description.get("payload")
    if sha256(content if isinstance(content, bytes) else plain_json(content)) != description.get("sha256"):
        raise Damaged("its content has changed")
    return content  # type: ignore[no-any-return]
