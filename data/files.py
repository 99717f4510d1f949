"""The files of a data set: find or download them, decompress them, and trust them only if their hash is right."""

from __future__ import annotations

import gzip
import hashlib
import math
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from data.paths import expanded, is_file, is_folder, reason

CACHE = "unlearning-games"
DIMENSIONS = 4  # of the arrays in IDX files, at most
LARGEST = 2**28  # bytes of one decompressed file; the largest that there is has 47 MB


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a data set.

    `folder` is the data set's folder, `file` the name without `.gz`, `sha256` the hash of the decompressed content.
    `url` is where it can be had, and `url_hash` ("sha256:...") the hash of the file found there, which ends in `.gz` if
    it is compressed. A source without `url` exists only in a local folder. `advice` says what to do about a wrong hash.
    """

    folder: str
    file: str
    sha256: str
    url: str | None = None
    url_hash: str | None = None
    advice: str = "delete it and fetch it again"


def read(source: Source, root: Path | None) -> bytes:
    """The decompressed content of a file, with its sha256 verified.

    With a `root`, the file (or the file with `.gz`) is taken from `root/<folder>/` or `root/`; without one it is
    downloaded once into the user's cache folder. Raises `UserError` if it is missing, damaged, or cannot be downloaded.
    """
    if root is None:
        if source.url is None:
            raise UserError(f"{source.file} cannot be downloaded; set data.root to a folder that holds it.")
        path = download(source.url, source.url_hash, source.folder)
    else:
        found = locate(source.folder, (source.file, f"{source.file}.gz"), root)
        if found is None:
            raise UserError(missing(source.folder, (source.file, f"{source.file}.gz"), root))
        path = found
    content = decompressed(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise UserError(
            f"{path} is not the file it should be: the sha256 of its decompressed content should be {source.sha256}, "
            f"and is {digest}; {source.advice}."
        )
    return content


def locate(folder: str, names: Sequence[str], root: Path) -> Path | None:
    """The first of `names` that exists in `root/<folder>/` or `root/`, or None. A `root` that is no folder raises."""
    root = expanded(root)
    if not is_folder(root):
        raise UserError(f"data.root={root} is not a folder; set data.root=FOLDER or data.root=null to download.")
    candidates = (place / name for place in (root / folder, root) for name in names)
    return next((path for path in candidates if is_file(path)), None)


def missing(folder: str, names: Sequence[str], root: Path) -> str:
    """The sentence that says which file is missing, where it was looked for, and what to do."""
    root = expanded(root)
    return (
        f"Neither {' nor '.join(names)} is in {root / folder} or {root}; "
        "set data.root=FOLDER to a folder that holds the file, or data.root=null to download it."
    )


def decompressed(path: Path) -> bytes:
    """The content of a file, decompressed if its name ends in `.gz`; `UserError` if it cannot be read to its end.

    No more than `LARGEST` bytes are read, whatever a few compressed ones stand for.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is truncated or damaged ({reason(error)}); delete it and fetch it again.") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}); make it readable or set data.root to another folder."
        ) from error
    if len(content) > LARGEST:
        raise UserError(
            f"{path} holds more than {LARGEST:,} bytes, which no file of these data sets does; "
            "delete it and fetch it again."
        )
    return content


def download(url: str, known_hash: str | None, folder: str) -> Path:
    """The file at `url`, downloaded once into the user's cache folder and verified against `known_hash` each time."""
    import pooch

    name = url.rsplit("/", 1)[-1]
    cache = Path(pooch.os_cache(CACHE)) / folder
    try:
        return Path(pooch.retrieve(url, known_hash=known_hash, fname=name, path=cache))
    except OSError as error:  # includes every failure of the connection
        raise UserError(
            f"{url} could not be downloaded to {cache} ({error}); connect to the internet, "
            f"or set data.root=FOLDER to a folder that holds {name}."
        ) from error
    except ValueError as error:  # the hash of what arrived is wrong
        raise UserError(
            f"The download is not the expected file ({error}); try again or set data.root=FOLDER."
        ) from error


def members(archive: Path, names: Sequence[str]) -> list[bytes]:
    """The contents of the members of a tar archive whose base names are `names`, in this order.

    Raises `UserError` if the archive cannot be read to its end or a member is not in it.
    """
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:  # in the archive's order: a compressed archive cannot be rewound cheaply
                base = member.name.rsplit("/", 1)[-1]
                if base in names and member.size > LARGEST:
                    raise UserError(f"{archive} is damaged: {base} is too large in it; delete it and fetch it again.")
                stream = tar.extractfile(member) if base in names else None
                if stream is not None:
                    contents[base] = stream.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        why = reason(error)
        raise UserError(f"{archive} is truncated or damaged ({why}); delete it and fetch it again.") from error
    absent = [name for name in names if name not in contents]
    if absent:
        raise UserError(f"{archive} does not hold {', '.join(absent)}; delete it and fetch it again.")
    return [contents[name] for name in names]


def idx(content: bytes) -> NDArray[np.uint8]:
    """The array in an IDX file of bytes (the format of MNIST).

    Four header bytes (0, 0, 8 for unsigned bytes, number of dimensions), then each dimension as a big-endian 32-bit
    integer, then the entries, last dimension fastest. Raises `UserError` if header and length do not fit.
    """
    header = 4 + 4 * content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else None
    if header is None or len(content) < header:
        raise UserError("This is not an IDX file of unsigned bytes; fetch it again.")
    sizes = np.frombuffer(content[4:header], dtype=">u4").tolist()
    body = np.frombuffer(content, dtype=np.uint8, offset=header)
    if body.size != math.prod(sizes):
        raise UserError(f"This IDX file should hold {sizes[:4]} entries and holds {body.size}; fetch it again.")
    if not 1 <= len(sizes) <= DIMENSIONS:
        raise UserError(f"This IDX file has {len(sizes)} dimensions; fetch it again.")
    return body.reshape(sizes).copy()  # a copy, because bytes are read-only and tensors are not
