"""CIFAR-10: the rebuilt batch files with their exclusions, and the path of the official archive."""

import csv
import hashlib
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data import cifar10
from data.cifar10 import Cifar10
from data.errors import UserError
from data.examples import Data
from data.files import read

FOLDER = "cifar10"


@pytest.fixture(scope="module")
def loaded(data_root: Path) -> Data:
    return Cifar10(root=data_root).load()


def test_counts_without_the_substitutes(loaded: Data, data_root: Path) -> None:
    held_out = torch.cat([loaded.test.y, loaded.trusted.y, loaded.auxiliary.y])
    assert [len(loaded.train), len(held_out)] == [49919, 9977]
    assert loaded.shape == (3, 32, 32)
    with (data_root / FOLDER / "jpeg_substitutes.csv").open() as file:
        rows = list(csv.DictReader(file))
    for split, labels, each in (("train", loaded.train.y, 5000), ("test", held_out, 1000)):
        out = torch.tensor([int(row["label"]) for row in rows if row["split"] == split]).bincount(minlength=10)
        assert labels.bincount().tolist() == (each - out).tolist()


def test_excluded_records_are_the_listed_ones(loaded: Data, data_root: Path) -> None:
    """Label and pixels of the records around each excluded one, read from the file by their position."""
    with (data_root / FOLDER / "jpeg_substitutes.csv").open() as file:
        out = sorted(int(row["index"]) for row in csv.DictReader(file) if row["split"] == "train")
    raw = read(cifar10.REBUILT[0], data_root)
    shown = ((loaded.train.x[:9000] * loaded.std + loaded.mean) * 255).round().to(torch.uint8).reshape(-1, 3072)
    for position in [0, out[0] - 1, out[0] + 1, out[1] - 1, out[1] + 1, out[2] + 1]:
        record = torch.frombuffer(bytearray(raw[3073 * position : 3073 * (position + 1)]), dtype=torch.uint8)
        kept = position - sum(index < position for index in out)
        assert torch.equal(shown[kept], record[1:])
        assert loaded.train.y[kept] == record[0]


def test_normalisation(loaded: Data) -> None:
    published = torch.tensor([0.49140, 0.48216, 0.44653]), torch.tensor([0.24703, 0.24348, 0.26159])
    torch.testing.assert_close(loaded.mean.flatten(), published[0], rtol=0, atol=6e-6)  # published to five digits
    torch.testing.assert_close(loaded.std.flatten(), published[1], rtol=0, atol=6e-6)
    # The scale is that of all 50,000 records; 81 are out, each at most 2.2 from 0: a mean moves by < 81 * 2.2 / 49919.
    assert bool((loaded.train.x.mean(dim=(0, 2, 3), dtype=torch.float64).abs() < 3.6e-3).all())


def test_root_may_hold_the_files_themselves_and_a_subset_is_stratified(loaded: Data, data_root: Path) -> None:
    small = Cifar10(root=data_root / FOLDER, subset=1000, exclude_substitutes=False).load()
    assert small.train.y.bincount().tolist() == [100] * 10
    assert len(small.test) == 6000
    assert torch.equal(small.mean, loaded.mean)


def test_missing_list_is_an_error_unless_not_needed(data_root: Path, tmp_path: Path) -> None:
    for source in cifar10.REBUILT:
        (tmp_path / f"{source.file}.gz").symlink_to(data_root / FOLDER / f"{source.file}.gz")
    with pytest.raises(UserError, match=r"jpeg_substitutes\.csv is not in .* data\.exclude_substitutes=false"):
        Cifar10(root=tmp_path).load()


def test_missing_and_truncated_batches(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data_batch_1\.bin.*data\.root=FOLDER"):
        Cifar10(root=tmp_path).load()
    whole = (data_root / FOLDER / "data_batch_1.bin.gz").read_bytes()
    (tmp_path / "data_batch_1.bin.gz").write_bytes(whole[:1_000_000])
    with pytest.raises(UserError, match=r"data_batch_1\.bin\.gz is truncated or damaged"):
        Cifar10(root=tmp_path).load()
    (tmp_path / "data_batch_1.bin.gz").unlink()
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    with pytest.raises(UserError, match=r"should be 0def081c.*put the official cifar-10-binary\.tar\.gz"):
        Cifar10(root=tmp_path).load()


def test_official_archive(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive laid out as the official one is read whole, if its md5 is right, and refused if not.

    The real md5 cannot be met without the official file, so that the archive built here takes its place.
    """
    archive = tmp_path / cifar10.ARCHIVE
    test_only = tmp_path / "batch.bin"
    with test_only.open("wb") as file:
        file.write(read(cifar10.REBUILT[5], data_root)[: 3073 * 1000])
    with tarfile.open(archive, "w") as tar:
        for source in cifar10.REBUILT:
            tar.add(test_only, arcname=f"cifar-10-batches-bin/{source.file}")
    with pytest.raises(UserError, match=f"md5 should be {cifar10.ARCHIVE_MD5}"):
        Cifar10(root=tmp_path).load()
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", digest)
    data = Cifar10(root=tmp_path, trusted=100, auxiliary=100).load()
    assert [len(data.train), len(data.test)] == [5000, 800]


def test_yaml_states_the_defaults() -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "data" / "cifar10.yaml")
    assert instantiate(config) == Cifar10()
    assert set(config) == {"_target_", *asdict(Cifar10())}
