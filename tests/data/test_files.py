"""Files are found, verified, downloaded, and refused with a sentence that helps."""

import gzip
import hashlib
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from data import adult, cifar10, fashion_mnist, files, mnist
from data.errors import UserError
from data.files import Source, download, idx, members, read

CONTENT = bytes(range(256)) * 40
SOURCE = Source(folder="toy", file="numbers.bin", sha256=hashlib.sha256(CONTENT).hexdigest())


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The address of a local web server and the folder that it serves; the cache is in a folder of its own."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", folder
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("place", ["toy/numbers.bin", "toy/numbers.bin.gz", "numbers.bin", "numbers.bin.gz"])
def test_reads_each_place(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(CONTENT) if place.endswith(".gz") else CONTENT)
    assert read(SOURCE, tmp_path) == CONTENT


def test_missing_file_names_file_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"numbers\.bin.*data\.root=FOLDER") as caught:
        read(SOURCE, tmp_path)
    assert str(tmp_path / "toy") in str(caught.value)


def test_root_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read(SOURCE, tmp_path / "absent")


def test_truncated_file(tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    (tmp_path / "numbers.bin.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match="truncated or damaged"):
        read(SOURCE, tmp_path)


def test_flipped_byte_in_compressed_file(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(CONTENT))
    packed[len(packed) // 2] ^= 1
    (tmp_path / "numbers.bin.gz").write_bytes(packed)
    with pytest.raises(UserError, match="fetch it again"):
        read(SOURCE, tmp_path)


def test_flipped_byte_in_plain_file_states_both_hashes(tmp_path: Path) -> None:
    wrong = bytearray(CONTENT)
    wrong[77] ^= 1
    (tmp_path / "numbers.bin").write_bytes(wrong)
    with pytest.raises(UserError, match=SOURCE.sha256) as caught:
        read(SOURCE, tmp_path)
    assert hashlib.sha256(wrong).hexdigest() in str(caught.value)


def test_downloads_once_and_verifies(served: tuple[str, Path]) -> None:
    url, folder = served
    packed = gzip.compress(CONTENT)
    (folder / "numbers.bin.gz").write_bytes(packed)
    known = f"sha256:{hashlib.sha256(packed).hexdigest()}"
    source = Source(**{**vars(SOURCE), "url": f"{url}numbers.bin.gz", "url_hash": known})
    assert read(source, None) == CONTENT
    (folder / "numbers.bin.gz").unlink()
    assert read(source, None) == CONTENT  # from the cache


def test_download_of_another_file_is_refused(served: tuple[str, Path]) -> None:
    url, folder = served
    (folder / "numbers.bin").write_bytes(b"another file")
    with pytest.raises(UserError, match="not the expected file"):
        download(f"{url}numbers.bin", f"sha256:{SOURCE.sha256}", "toy")


def test_download_that_fails_names_root(served: tuple[str, Path]) -> None:
    with pytest.raises(UserError, match=r"could not be downloaded.*data\.root=FOLDER"):
        download(f"{served[0]}absent.bin", f"sha256:{SOURCE.sha256}", "toy")
    with pytest.raises(UserError, match=r"could not be downloaded.*data\.root=FOLDER"):
        download("http://127.0.0.1:9/numbers.bin", f"sha256:{SOURCE.sha256}", "toy")  # nobody listens there


def test_source_without_url_needs_a_root() -> None:
    with pytest.raises(UserError, match=r"data\.root"):
        read(SOURCE, None)


def test_members_of_an_archive(tmp_path: Path) -> None:
    names = ["b.bin", "a.bin"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 1000)
    archive = tmp_path / "all.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in sorted(names):
            tar.add(tmp_path / name, arcname=f"folder/{name}")
    assert members(archive, names) == [name.encode() * 1000 for name in names]
    with pytest.raises(UserError, match=r"does not hold c\.bin"):
        members(archive, ["a.bin", "c.bin"])
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(UserError, match="truncated or damaged"):
        members(archive, names)


def test_idx_round_trip_and_damage() -> None:
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    content = b"\0\0\x08\x03" + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()
    np.testing.assert_array_equal(idx(content), array)
    for wrong in (content[:-1], content[:9], b"", b"\0\0\x0d" + content[3:]):
        with pytest.raises(UserError, match="fetch it again"):
            idx(wrong)


@pytest.mark.parametrize("source", [*mnist.SOURCES, *fashion_mnist.SOURCES], ids=lambda s: f"{s.folder}/{s.file}")
def test_download_hash_is_that_of_the_distributed_file(data_root: Path, source: Source) -> None:
    compressed = (data_root / source.folder / f"{source.file}.gz").read_bytes()
    assert source.url_hash == f"sha256:{hashlib.sha256(compressed).hexdigest()}"


def test_every_source_is_named_once() -> None:
    sources = [*mnist.SOURCES, *fashion_mnist.SOURCES, adult.TRAIN, adult.TEST, *cifar10.REBUILT, cifar10.SUBSTITUTES]
    assert len({(source.folder, source.file) for source in sources}) == len(sources)
    assert len({source.sha256 for source in sources}) == len(sources)
    assert all(len(bytes.fromhex(source.sha256)) == 32 for source in sources)


def test_a_few_bytes_that_stand_for_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 2**20)
    (tmp_path / "numbers.bin.gz").write_bytes(gzip.compress(bytes(2**24)))
    with pytest.raises(UserError, match=r"holds more than 1,048,576 bytes"):
        read(SOURCE, tmp_path)
    archive = tmp_path / "all.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("a.bin"))
    huge = tarfile.TarInfo("a.bin")
    huge.size = 10**12
    archive.write_bytes(huge.tobuf() + archive.read_bytes()[512:])
    with pytest.raises(UserError, match=r"a\.bin is too large in it"):
        members(archive, ["a.bin"])


@pytest.mark.parametrize("root", ["x" * 5000, "~nobody-at-all", "a\0b"])
def test_a_root_that_cannot_be_looked_up(root: str) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read(SOURCE, Path(root))


def test_idx_headers_that_claim_too_much() -> None:
    sizes = np.array([2**32 - 1] * 2 + [0], dtype=">u4").tobytes()
    for wrong in (b"\0\0\x08\x03" + sizes + b"x", b"\0\0\x08\xff" + bytes(4 * 255), b"\0\0\x08\0x"):
        with pytest.raises(UserError, match="fetch it again"):
            idx(wrong)
