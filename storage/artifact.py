"""The files of one artifact of the store: their names, their lock, and reading them with nothing taken on trust.

What is read here is data: it is parsed as JSON or as bytes and compared with its check sums, never built or run.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from storage.records import canonical_json, plain_json, sha256

FORMAT = 1  # part of every digest: raise it when the layout of the files changes
KINDS = {  # every kind of artifact that the toolkit keeps, in words
    "victim": "trained models",
    "attack": "crafted requests",
    "contribution": "training records that attackers handed in",
    "reference": "what verifications compare with",
    "released": "models that providers released",
    "copies": "copies of records that requests bring",
    "game": "finished games",
    "oracle": "models that never knew what others forgot",
    "margins": "how sure models are of points",
    "step": "slow steps of unfinished games",
}
PROOFS = "proofs"  # the folder of proofs of games that are played; one that is to stay has a file called as follows
STAYS = "stays"
PAYLOAD = b',"payload":'  # begins the last entry of a record
UNREADABLE = (ValueError, RecursionError)  # what parsing raises for text that is no JSON, or nested without end


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


def sealed(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description with a check sum of all of it but the key, which the file's name belongs to: `seal`."""
    return {**description, "seal": sha256(canonical_json({**description, "key": None}))}


def envelope(description: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it is written: its sealed description, and the content last.

    `text` is the SHA-256 of the content's JSON as it stands in the file, without spaces: checked without parsing it.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return {**sealed({**description, "text": sha256(text)}), "payload": value}


def read_description(path: Path) -> dict[str, Any] | None:
    """What was written about the artifact whose main file is `path`, verified but for its key; None where it is absent.

    Raises:
        Damaged: when it is not a JSON object, or has changed.
        OSError: when it cannot be read.
    """
    try:
        raw = (sidecar(path) if path.suffix == ".safetensors" else path).read_bytes()
    except FileNotFoundError:
        return None
    return _parts(raw)[0] if path.suffix != ".safetensors" else _unsealed(_object(raw))


def read_record(path: Path, key_text: str | None = None) -> tuple[dict[str, Any], bytes] | None:
    """The description of a record, and its verified content as JSON text; None where it is absent.

    The arguments and errors are those of `read_content`.
    """
    try:
        description, text = _parts(path.read_bytes())
    except FileNotFoundError:
        return None
    if description.get("text") != sha256(text):
        raise Damaged("its content has changed")
    _check_key(path, description, key_text)
    return description, text


def read_content(path: Path, key_text: str | None = None) -> bytes | dict[str, Any] | None:
    """The verified content of an artifact: the bytes of a safetensors file, or a record; None where it is absent.

    Args:
        path: the main file.
        key_text: the canonical key that it must have; without one, the key must fit the file's name.

    Raises:
        Damaged: when the content, or the key, is not what it must be.
        OSError: when a file cannot be read.
    """
    if path.suffix != ".safetensors":
        found = read_record(path, key_text)
        return None if found is None else _object(found[1])
    description = read_description(path)
    if description is None:
        return None  # a file of tensors without its description is a write that was cut short
    _check_key(path, description, key_text)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise Damaged("its tensors are missing") from error
    if sha256(content) != description.get("sha256"):
        raise Damaged("its content has changed")
    return content


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except UNREADABLE as error:
        raise Damaged("it is not JSON") from error
    if not isinstance(found, dict):
        raise Damaged("it is not a JSON object")
    return found


def _parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The description of a record and the text of its content."""
    head, mark, text = raw.partition(PAYLOAD)
    if not mark:
        _object(raw)
        raise Damaged("it holds no record of ours")
    return _unsealed(_object(head + b"}")), text.rstrip(b"\n").removesuffix(b"}")


def _unsealed(description: dict[str, Any]) -> dict[str, Any]:
    """The description without its seal, which is compared."""
    seal = description.pop("seal", None)
    try:
        if seal == sha256(plain_json({**description, "key": None})):
            return description
    except UNREADABLE:  # NaN, which our JSON never holds
        pass
    raise Damaged("its description has changed")


def _check_key(path: Path, description: Mapping[str, Any], key_text: str | None) -> None:
    try:
        stored = plain_json(description.get("key"))
        fits = stored == key_text if key_text is not None else digest(path.parent.parent.name, stored) == path.stem
    except UNREADABLE:  # also where the folder's name is no kind
        fits = False
    if not fits:
        raise Damaged("it belongs to another key")
