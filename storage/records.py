"""Records as strict JSON, and files that are either whole or absent: what the store and `result.json` share."""

import enum
import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_ELEMENTS = 100_000  # a record holds numbers to read; larger arrays belong into the store's tensor files


def jsonable(obj: Any) -> Any:
    """`obj` with nothing left but dict (string keys), list, str, int, float, bool and None.

    Tuples become lists, sets sorted lists, paths, devices and dtypes strings, enums their values, numpy and torch
    scalars Python numbers and their arrays (up to `MAX_ELEMENTS` elements) nested lists. JSON has no NaN and no
    infinity, so these become the strings "nan", "inf" and "-inf", which cannot be mistaken for a missing value.

    Raises:
        TypeError: for anything else (an object has no one obvious record).
        ValueError: for a mapping with two keys of the same text, or too large an array.
    """
    if obj is None or isinstance(obj, bool):
        return obj
    if isinstance(obj, enum.Enum):
        return jsonable(obj.value)
    if isinstance(obj, str):
        return str(obj)
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else repr(float(obj))
    if isinstance(obj, Path):
        return str(obj)
    if isinstance(obj, Mapping):
        return _mapping(obj)
    if isinstance(obj, list | tuple):
        return [jsonable(item) for item in obj]
    if isinstance(obj, set | frozenset):
        return sorted((jsonable(item) for item in obj), key=lambda item: json.dumps(item, sort_keys=True))
    return _foreign(obj)


def _mapping(obj: Mapping[Any, Any]) -> dict[str, Any]:
    result = {str(key): jsonable(value) for key, value in obj.items()}
    if len(result) != len(obj):
        raise ValueError(f"A record has two keys of the same text among {list(obj)}.")
    return result


def _foreign(obj: Any) -> Any:
    """The scalars, arrays, devices and dtypes of numpy and torch, recognised without importing either."""
    kind = type(obj)
    root = kind.__module__.partition(".")[0]
    if root == "torch" and kind.__name__ in ("device", "dtype"):
        return str(obj)
    if root in ("torch", "numpy") and hasattr(obj, "tolist"):
        size = obj.numel() if hasattr(obj, "numel") else obj.size
        if size > MAX_ELEMENTS:
            raise ValueError(f"A record cannot hold an array of {size:,} elements (at most {MAX_ELEMENTS:,}).")
        return jsonable(obj.tolist())
    raise TypeError(f"A record cannot hold a {kind.__module__}.{kind.__qualname__}: {obj!r:.80}")


def with_nulls(plain: Any) -> Any:
    """What `jsonable` gave, for files that others read: what is not a number is null, outside of configurations.

    The records of the store keep "nan", which reads back as the number that it was.
    """
    if isinstance(plain, dict):
        return {key: value if key == "config" else with_nulls(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [with_nulls(value) for value in plain]
    return None if plain == "nan" else plain


def canonical_json(obj: Any) -> str:
    """The one text of `jsonable(obj)`: sorted keys, no spaces, ASCII. Equal records have equal texts."""
    return json.dumps(jsonable(obj), sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain_json(obj: Any) -> str:
    """`canonical_json` of what was read from JSON, which needs no conversion and is several times faster."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(content: str | bytes) -> str:
    """The SHA-256 of `content` in hexadecimal."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that `path` is at every moment the old file, the new one, or absent; never a part.

    The bytes go to a temporary file of the same folder, reach the disk, and are renamed. A killed process leaves at
    most a file called `NAME.*.tmp`, which nothing reads. Of a link the file that it names is replaced; a device or a
    pipe, such as /dev/stdout, stays what it is and is written to.

    Raises:
        OSError: when the folder cannot be written or the disk is full; the temporary file is removed.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for links in a circle
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json_atomic(path: Path, obj: Any, indent: int | None = 2) -> None:
    """Write `jsonable(obj)` to `path` as strict JSON in the order given, whole or not at all; no indent, no spaces."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(jsonable(obj), indent=indent, separators=separators, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def checked(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What `jsonable` gave, with a check sum of all of it under `sha256`."""
    return {**plain, "sha256": sha256(plain_json(plain))}


def is_unchanged(plain: Mapping[str, Any]) -> bool:
    """Whether what was read from JSON is what `checked` gave."""
    rest = {key: value for key, value in plain.items() if key != "sha256"}
    try:
        return plain.get("sha256") == sha256(plain_json(rest))
    except ValueError:  # NaN, which our JSON never holds
        return False


def significant(obj: Any, digits: int = 9) -> Any:
    """`obj` with every float inside dicts and lists rounded to `digits` significant digits (float32 has 7)."""
    if isinstance(obj, float):
        return float(f"{obj:.{digits}g}")
    if isinstance(obj, Mapping):
        return {key: significant(value, digits) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [significant(value, digits) for value in obj]
    return obj
