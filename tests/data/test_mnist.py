"""MNIST: the real files, or none."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.errors import UserError
from data.examples import Data
from data.files import read
from data.mnist import SOURCES, Mnist

TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="module")
def loaded(data_root: Path) -> Data:
    return Mnist(root=data_root, trusted=2000, auxiliary=1000).load()


def test_counts_and_classes(loaded: Data) -> None:
    parts = (loaded.train, loaded.test, loaded.trusted, loaded.auxiliary)
    assert [len(part) for part in parts] == [60000, 7000, 2000, 1000]
    assert loaded.shape == (1, 28, 28)
    assert len(loaded.classes) == 10
    assert loaded.train.y.bincount().tolist() == TRAIN_COUNTS
    held_out = torch.cat([loaded.test.y, loaded.trusted.y, loaded.auxiliary.y])
    assert held_out.bincount().tolist() == TEST_COUNTS


def test_headers(data_root: Path) -> None:
    numbers = [torch.frombuffer(bytearray(read(source, data_root)[:16]), dtype=torch.uint8) for source in SOURCES]
    weights = torch.tensor([2**24, 2**16, 2**8, 1])
    headers = [(head.reshape(4, 4) * weights).sum(dim=1).tolist() for head in numbers]
    assert headers[0] == [2051, 60000, 28, 28]
    assert headers[1][:2] == [2049, 60000]
    assert headers[2] == [2051, 10000, 28, 28]
    assert headers[3][:2] == [2049, 10000]


def test_normalisation(loaded: Data) -> None:
    assert [round(loaded.mean.item(), 4), round(loaded.std.item(), 4)] == [0.1307, 0.3081]
    # each value is below 3 in size, with a float32 rounding error below 3 * 2^-24 in each of 3 steps
    assert abs(loaded.train.x.mean(dtype=torch.float64).item()) < 6e-7
    assert abs(loaded.train.x.square().mean(dtype=torch.float64).item() - 1) < 3e-6
    shown = loaded.test.x * loaded.std + loaded.mean
    assert -1e-6 < shown.min().item() < shown.max().item() < 1 + 1e-6


def test_held_out_parts_are_disjoint(loaded: Data, data_root: Path) -> None:
    """The parts together are the images of the test file, each as often as there."""
    parts = torch.cat([loaded.test.x, loaded.trusted.x, loaded.auxiliary.x])
    code = torch.rand(784, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raw = torch.frombuffer(bytearray(read(SOURCES[2], data_root)[16:]), dtype=torch.uint8).reshape(-1, 784)
    shown = ((parts * loaded.std + loaded.mean) * 255).round().reshape(-1, 784).double()
    # exact integers before the product; its rounding error is below 784 * 255 * 784 * 2^-53 = 2e-8
    torch.testing.assert_close((shown @ code).sort().values, (raw.double() @ code).sort().values, rtol=0, atol=1e-7)
    assert len((raw.double() @ code).unique()) > 9900  # so that the codes tell images apart


def test_trusted_part_is_stratified(loaded: Data) -> None:
    expected = torch.tensor(TEST_COUNTS) / 5
    assert bool(((loaded.trusted.y.bincount() - expected).abs() < 1).all())


def test_subset_is_a_part_of_the_training_file_on_the_same_scale(loaded: Data, data_root: Path) -> None:
    small, again = (Mnist(root=data_root, subset=500, trusted=2000, auxiliary=1000).load() for _ in range(2))
    assert torch.equal(small.train.x, again.train.x)
    assert torch.equal(small.mean, loaded.mean)
    assert torch.equal(small.test.x, loaded.test.x)
    expected = torch.tensor(TRAIN_COUNTS) / 120
    assert bool(((small.train.y.bincount() - expected).abs() < 1).all())
    codes = [data.train.x.sum(dim=(1, 2, 3), dtype=torch.float64) for data in (small, loaded)]
    assert bool(torch.isin(*codes).all())


def test_truncated_and_altered_files(data_root: Path, tmp_path: Path) -> None:
    for source in SOURCES:
        name = f"{source.file}.gz"
        (tmp_path / name).write_bytes((data_root / source.folder / name).read_bytes())
    labels = tmp_path / f"{SOURCES[1].file}.gz"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz is truncated or damaged"):
        Mnist(root=tmp_path).load()
    labels.write_bytes(whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:])
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz is .* fetch it again"):
        Mnist(root=tmp_path).load()
    labels.unlink()
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte.*data\.root=FOLDER"):
        Mnist(root=tmp_path).load()


def test_yaml_states_the_defaults() -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "data" / "mnist.yaml")
    assert instantiate(config) == Mnist()
    assert set(config) == {"_target_", *asdict(Mnist())}
