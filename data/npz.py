"""Plain arrays out of an .npz file, whatever the file is: sizes are checked before memory is taken, nothing is code."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from data.errors import UserError
from data.memory import check_fits
from data.paths import is_file, reason

# how much larger than its compressed form a member can be: deflate cannot pack tighter, the others take any amount
DENSEST = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032, zipfile.ZIP_BZIP2: math.inf, zipfile.ZIP_LZMA: math.inf}
COPIES = 4  # of an array that stand beside each other while a data set is made of it: as read, as float32, its parts
SLACK = 64  # bytes of a compressed member that are no data
ENCRYPTED = 0x1  # bit of a member's flags
CHUNK = 2**24  # bytes that are read at a time


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Those of the arrays `names` that the .npz file `path` holds, by name; other members are not looked at.

    Raises `UserError` for a file that is no such archive or is damaged, and for an array of objects, one that is not
    as large as its header says, and one that does not fit into memory.
    """
    if not is_file(path):
        raise UserError(f"data.path={path} is not a file; set it to an .npz file with the arrays x and y.")
    try:
        with path.open("rb") as stream:
            if stream.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise UserError(f"{path} holds a single array; save x and y together with numpy.savez.")
        with zipfile.ZipFile(path) as archive:
            found = {name: _member(archive, name, path) for name in names}
            here = {name: info for name, info in found.items() if info is not None}
            for name, info in here.items():
                _check_size(info, name, path)
            check_fits(COPIES * sum(info.file_size for info in here.values()), f"{path}, read")
            return {name: _array(archive, info, name, path) for name, info in here.items()}
    except UserError:
        raise
    except Exception as error:  # zipfile and the decompressors raise whatever damaged bytes lead them to
        raise UserError(
            f"{path} cannot be read as an .npz file of plain arrays ({reason(error)}); save it again with numpy.savez."
        ) from error


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> zipfile.ZipInfo | None:
    found = [info for info in archive.infolist() if info.filename == f"{name}.npy"]
    if len(found) > 1:
        raise UserError(f"{path} holds the array {name} {len(found)} times; save it again with numpy.savez.")
    return found[0] if found else None


def _check_size(info: zipfile.ZipInfo, name: str, path: Path) -> None:
    """Refuse what cannot be decompressed, or cannot hold as many bytes as it claims."""
    if info.flag_bits & ENCRYPTED:
        raise UserError(f"The array {name} in {path} is encrypted; save it again with numpy.savez.")
    if info.compress_type not in DENSEST:
        raise UserError(
            f"The array {name} in {path} is compressed by method {info.compress_type}, which is not known here; "
            "save it again with numpy.savez."
        )
    held, most = path.stat().st_size, DENSEST[info.compress_type]
    if info.compress_size > held or info.file_size > most * (info.compress_size + SLACK):
        claimed = max(info.file_size, info.compress_size)
        raise UserError(
            f"The array {name} in {path} claims {claimed:,} bytes, more than the file of {held:,} bytes can "
            "hold; save it again with numpy.savez."
        )


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, path: Path) -> NDArray[Any]:
    with archive.open(info) as stream:
        shape, fortran, kind = _header(stream, name, path)
        size = math.prod(shape) * kind.itemsize
        if stream.tell() + size != info.file_size:
            raise UserError(
                f"The array {name} in {path} should take {size:,} bytes by its header, of shape "
                f"({_shown(shape)}), and takes {info.file_size - stream.tell():,}; save it again with numpy.savez."
            )
        values = np.empty(size, dtype=np.uint8)
        filled = 0
        while filled < size:
            chunk = stream.read(min(CHUNK, size - filled))
            if not chunk:
                raise UserError(f"The array {name} in {path} is truncated; save it again with numpy.savez.")
            values[filled : filled + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
            filled += len(chunk)
        if stream.read(1):  # to the end, where the checksum is compared
            raise UserError(f"The array {name} in {path} goes on after its end; save it again with numpy.savez.")
    return values.view(kind).reshape(shape, order="F" if fortran else "C")


def _header(stream: IO[bytes], name: str, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    reader: Any = npy  # numpy gives it no types
    try:
        old = reader.read_magic(stream) == (1, 0)
        shape, fortran, kind = (reader.read_array_header_1_0 if old else reader.read_array_header_2_0)(stream)
    except Exception as error:  # numpy's own text goes on with advice to trust the file
        advice = "save it again with numpy.savez"
        raise UserError(f"The array {name} in {path} has no readable header; {advice}.") from error
    if kind.hasobject or kind.itemsize == 0:
        raise UserError(f"The array {name} in {path} has type {kind!s:.60}; save arrays of plain numbers.")
    if any(length < 0 for length in shape):
        raise UserError(f"The array {name} in {path} has a negative length; save it again with numpy.savez.")
    return shape, fortran, kind


def _shown(shape: Sequence[int]) -> str:
    return ", ".join(f"{length:,}".replace(",", " ") for length in shape[:6]) + (", ..." if len(shape) > 6 else "")
