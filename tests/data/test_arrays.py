"""Your own arrays: accepted when they make sense, refused in one sentence when not."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.arrays import Arrays
from data.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (100, 3, 4, 5), dtype=np.uint8)
TABLE = RNG.normal(3, 2, (100, 6)).astype(np.float32)
LABELS = np.arange(100) % 4


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "mine.npz"
    np.savez(path, **arrays)
    return path


def test_byte_images(tmp_path: Path) -> None:
    data = Arrays(path=saved(tmp_path, x=IMAGES, y=LABELS)).load()
    parts = [data.train, data.test, data.trusted, data.auxiliary]
    assert [len(part) for part in parts] == [60, 20, 10, 10]
    assert data.shape == (3, 4, 5)
    assert data.mean.shape == (3, 1, 1)
    assert data.train.y.bincount().tolist() == [15] * 4
    shown = torch.cat([part.x for part in parts]) * data.std + data.mean
    rows = (shown * 255).round().reshape(100, -1)
    expected = torch.from_numpy(IMAGES).float().reshape(100, -1)
    assert torch.equal(rows.unique(dim=0), expected.unique(dim=0))  # 100 different rows: the parts are disjoint
    assert len(expected.unique(dim=0)) == 100


def test_table_is_standardised_by_feature(tmp_path: Path) -> None:
    constant = np.concatenate([TABLE, np.full((100, 1), 7, np.float32)], axis=1)
    data = Arrays(path=saved(tmp_path, x=constant, y=LABELS)).load()
    assert data.mean.shape == (7,)
    # values below 4 with float32 rounding errors below 4 * 2^-23 = 5e-7
    assert bool((data.train.x.double().mean(dim=0).abs() < 1e-6).all())
    torch.testing.assert_close(
        data.train.x.double().std(dim=0, correction=0)[:6], torch.ones(6).double(), atol=2e-6, rtol=0
    )
    assert bool((data.train.x[:, 6] == 0).all())


def test_test_arrays_are_divided_and_training_is_whole(tmp_path: Path) -> None:
    path = saved(tmp_path, x=TABLE, y=LABELS, x_test=TABLE[:40], y_test=LABELS[:40])
    data = Arrays(path=path).load()
    assert [len(part) for part in (data.train, data.test, data.trusted, data.auxiliary)] == [100, 20, 10, 10]
    assert torch.equal(data.train.y, torch.from_numpy(LABELS))


@pytest.mark.parametrize("with_test_arrays", [False, True])
def test_a_whole_number_of_examples_to_test_on(tmp_path: Path, with_test_arrays: bool) -> None:
    more = {"x_test": TABLE[:40], "y_test": LABELS[:40]} if with_test_arrays else {}
    path = saved(tmp_path, x=TABLE, y=LABELS, **more)
    data, usual = Arrays(path=path, test=8).load(), Arrays(path=path).load()
    assert data.test.y.bincount().tolist() == [2] * 4
    assert len(data.train) == (100 if with_test_arrays else 72)
    raw = [each.trusted.x * each.std + each.mean for each in (data, usual)]
    torch.testing.assert_close(*raw, atol=1e-5, rtol=1e-5)  # the trusted examples are the same
    with pytest.raises(UserError, match=r"data\.test"):
        Arrays(path=path, test=100).load()


def test_other_shapes_share_one_scale(tmp_path: Path) -> None:
    data = Arrays(path=saved(tmp_path, x=TABLE.reshape(100, 2, 3), y=LABELS)).load()
    assert data.mean.shape == (1, 1)
    assert abs(data.train.x.double().mean().item()) < 1e-6


def test_same_seed_same_data_and_subset(tmp_path: Path) -> None:
    path = saved(tmp_path, x=TABLE, y=LABELS)
    first, second, small = Arrays(path=path).load(), Arrays(path=path).load(), Arrays(path=path, subset=20).load()
    assert torch.equal(first.trusted.x, second.trusted.x)
    assert torch.equal(small.mean, first.mean)
    assert small.train.y.bincount().tolist() == [5] * 4


BAD_VALUE = TABLE.copy()
BAD_VALUE[3, 2] = np.nan
BEYOND = TABLE.astype(np.float64)
BEYOND[0, 0] = 1e300


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": TABLE}, "array y is not in the file"),
        ({"y": LABELS}, "array x is not in the file"),
        ({"x": TABLE, "y": LABELS[:-1]}, "as long as each other"),
        ({"x": TABLE[:0], "y": LABELS[:0]}, "not empty"),
        ({"x": TABLE, "y": LABELS.astype(float)}, "integer labels"),
        ({"x": TABLE, "y": LABELS[:, None]}, "integer labels"),
        ({"x": TABLE, "y": LABELS + 1}, "labels 0 to K-1"),
        ({"x": TABLE, "y": LABELS * 2}, "labels 0 to K-1"),
        ({"x": TABLE, "y": LABELS * 0}, "labels 0 to K-1"),
        ({"x": TABLE, "y": -LABELS}, "labels 0 to K-1"),
        ({"x": TABLE[:, 0], "y": LABELS}, r"shape \(n, \.\.\.\)"),
        ({"x": TABLE > 0, "y": LABELS}, "must hold numbers"),
        ({"x": IMAGES.astype(np.int64), "y": LABELS}, "uint8"),
        ({"x": BAD_VALUE, "y": LABELS}, "infinite, not a number"),
        ({"x": BEYOND, "y": LABELS}, "beyond float32"),
        ({"x": TABLE, "y": LABELS, "x_test": TABLE}, "array y_test is not in the file"),
        ({"x": TABLE, "y": LABELS, "x_test": TABLE[:, :3], "y_test": LABELS}, "same shape and type"),
        ({"x": TABLE, "y": LABELS, "x_test": TABLE, "y_test": LABELS + 1}, "a label that y does not have"),
        ({"x": TABLE[:8], "y": LABELS[:8]}, "too few"),
        ({"x": np.array([{}] * 4), "y": LABELS[:4]}, "arrays of plain numbers"),
    ],
)
def test_each_mistake_is_one_sentence(tmp_path: Path, arrays: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        Arrays(path=saved(tmp_path, **arrays)).load()
    assert "\n" not in str(caught.value)


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path=.* is not a file"):
        Arrays(path=tmp_path / "absent.npz").load()
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(UserError, match="cannot be read"):
        Arrays(path=tmp_path / "text.npz").load()
    np.save(tmp_path / "one.npy", TABLE)
    with pytest.raises(UserError, match="single array"):
        Arrays(path=tmp_path / "one.npy").load()
    path = saved(tmp_path, x=TABLE, y=LABELS)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        Arrays(path=path).load()


def test_shares_that_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be less than 1"):
        Arrays(path=saved(tmp_path, x=TABLE, y=LABELS), test=0.8).load()


def test_yaml_states_the_defaults() -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "data" / "arrays.yaml")
    assert OmegaConf.is_missing(config, "path")
    config.path = "mine.npz"
    assert instantiate(config) == Arrays(path=Path("mine.npz"))
    assert set(config) == {"_target_", *asdict(Arrays(path=Path("mine.npz")))}
