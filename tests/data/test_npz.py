"""Archives that somebody has damaged or forged: one sentence each, and no memory for what they claim."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data import memory
from data.arrays import Arrays
from data.errors import UserError
from data.npz import read_npz

X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
Y = np.arange(200) % 4
NAMES = ("x", "y")


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    padded = text.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(padded)) + padded


def claims(shape: str, kind: str = "<f4", fill: int = 64) -> bytes:
    return header(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}") + bytes(fill)


def zipped(path: Path, x: bytes, kind: int = zipfile.ZIP_DEFLATED, more: tuple[str, ...] = ()) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in (("x.npy", x), ("y.npy", npy(Y)), *((each, x) for each in more)):
            archive.writestr(name, content)


def changed(path: Path, change: Callable[[bytearray], None], x: bytes | None = None, kind: int = 8) -> None:
    zipped(path, npy(X) if x is None else x, kind)
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def entry(content: bytearray, offset: int, layout: str, value: int) -> None:
    """Set a field of the first member, in the directory of the archive and in front of the member."""
    struct.pack_into(layout, content, content.index(b"PK\x01\x02") + offset, value)
    if offset != 24 or layout == "<I":
        struct.pack_into(layout, content, offset - 2, value)


def middle(content: bytearray) -> None:
    place = content.index(b"x.npy") + 60
    content[place : place + 40] = bytes(40)


FORGED: dict[str, Callable[[Path], None]] = {
    "10^12 elements": lambda path: zipped(path, claims("(1000000000000,)")),
    "10^30 elements": lambda path: zipped(path, claims(f"({10**15}, {10**15})")),
    "negative length": lambda path: zipped(path, claims("(-1, 6)")),
    "empty and huge": lambda path: zipped(path, claims(f"(0, {10**30})", fill=0)),
    "a thousand dimensions": lambda path: zipped(path, claims(str((1,) * 1000))),
    "header of a megabyte": lambda path: zipped(path, header(" " * 10**6, b"\x02\x00")),
    "no header": lambda path: zipped(path, b"nothing"),
    "empty member": lambda path: zipped(path, b""),
    "code for a header": lambda path: zipped(path, header("__import__('os').system('true')")),
    "unknown version": lambda path: zipped(path, header("{}", b"\x09\x00")),
    "objects": lambda path: zipped(path, npy(np.array([{}] * 200, dtype=object))),
    "text": lambda path: zipped(path, npy(np.array(["a"] * 200))),
    "encrypted": lambda path: changed(path, lambda content: entry(content, 8, "<H", 1)),
    "unknown compression": lambda path: changed(path, lambda content: entry(content, 10, "<H", 95)),
    "claims terabytes": lambda path: changed(path, lambda content: entry(content, 24, "<I", 2**32 - 2)),
    "claims to be packed larger": lambda path: changed(path, lambda content: entry(content, 20, "<I", 2**32 - 2)),
    "damaged deflate": lambda path: changed(path, middle),
    "damaged bzip2": lambda path: changed(path, middle, kind=zipfile.ZIP_BZIP2),
    "damaged lzma": lambda path: changed(path, middle, kind=zipfile.ZIP_LZMA),
    "damaged stored": lambda path: changed(path, middle, kind=zipfile.ZIP_STORED),
    "twice": lambda path: zipped(path, npy(X), more=("x.npy",)),
    "truncated": lambda path: changed(path, lambda content: content.__delitem__(slice(1500, None))),
    "empty file": lambda path: path.write_bytes(b"") and None,
    "no zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)) and None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a link in a circle": lambda path: path.symlink_to(path),
    "single array": lambda path: path.write_bytes(npy(X)) and None,
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", FORGED)
def test_a_forged_archive_is_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.npz"
    FORGED[name](path)
    with pytest.raises(UserError) as caught:
        Arrays(path=path).load()
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "pickle" not in sentence


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-at-all/x.npz", "a\0b", "/dev/zero"])
def test_a_path_that_is_no_file(name: str) -> None:
    with pytest.raises(UserError, match="is not a file"):
        Arrays(path=Path(name)).load()


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("kept", [X, np.asfortranarray(X), X.astype(">f8"), X[:0], np.float16(X), np.zeros((3, 0, 2))])
def test_what_numpy_saves_is_read_as_numpy_reads_it(tmp_path: Path, kind: int, kept: np.ndarray) -> None:
    path = tmp_path / "mine.npz"
    zipped(path, npy(kept), kind, more=("notes.txt", "z.npy", "x/"))
    found = read_npz(path, ("x", "y", "x_test"))
    assert set(found) == {"x", "y"}
    np.testing.assert_array_equal(found["x"], kept)
    assert found["x"].dtype == kept.dtype
    np.testing.assert_array_equal(found["y"], Y)


def test_members_that_are_no_arrays_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    zipped(path, npy(X), more=("model.pkl", "x", "readme"))
    assert set(read_npz(path, NAMES)) == {"x", "y"}


def test_zeros_that_are_packed_tightly_take_memory_only_where_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.npz"
    zipped(path, npy(np.zeros((10**6, 6), np.float32)), zipfile.ZIP_LZMA)
    assert path.stat().st_size < 50_000
    assert read_npz(path, NAMES)["x"].shape == (10**6, 6)
    monkeypatch.setattr(memory, "available", lambda: 50 * 10**6)
    with pytest.raises(UserError, match=r"takes 0\.1 GB of memory, and 0\.1 GB are available"):
        read_npz(path, NAMES)
