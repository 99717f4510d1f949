"""Adult: rows, labels, and the encoding of its columns."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.adult import COLUMNS, NUMERIC, TEST, TRAIN, Adult, encode, parse
from data.errors import UserError
from data.examples import Data
from data.files import read


@pytest.fixture(scope="module")
def loaded(data_root: Path) -> Data:
    return Adult(root=data_root).load()


def test_rows_and_positives(loaded: Data) -> None:
    held_out = torch.cat([loaded.test.y, loaded.trusted.y, loaded.auxiliary.y])
    assert [len(loaded.train), len(held_out)] == [32561, 16281]
    assert [int(loaded.train.y.sum()), int(held_out.sum())] == [7841, 3846]
    assert loaded.shape == (107,)
    assert loaded.classes == ("<=50K", ">50K")


def test_inputs_are_finite_and_standardised(loaded: Data) -> None:
    for part in (loaded.train, loaded.test, loaded.trusted, loaded.auxiliary):
        assert bool(torch.isfinite(part.x).all())
    one_hot = ((loaded.train.x == 0) | (loaded.train.x == 1)).all(dim=0)
    assert int((~one_hot).sum()) == 5
    numeric = loaded.train.x[:, ~one_hot].double()
    # capital-gain reaches 13.4 standard deviations, so float32 rounding errors are below 13.4 * 2^-24 = 8e-7
    assert bool((numeric.mean(dim=0).abs() < 8e-7).all())
    assert bool(((numeric.square().mean(dim=0) - 1).abs() < 2e-6).all())
    assert bool((loaded.train.x[:, one_hot].sum(dim=1) == 8).all())  # one category in each of 8 columns
    assert loaded.mean.eq(0).all()
    assert loaded.std.eq(1).all()


def test_held_out_parts_are_the_rows_of_the_test_file(data_root: Path) -> None:
    data = Adult(root=data_root, keep_fnlwgt=True).load()
    assert data.shape == (108,)
    train, test = (parse(read(source, data_root).decode())[0] for source in (TRAIN, TEST))
    expected = torch.from_numpy(encode(train, test, list(COLUMNS))[1]).double()
    parts = torch.cat([data.test.x, data.trusted.x, data.auxiliary.x]).double()
    code = torch.rand(108, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close((parts @ code).sort().values, (expected @ code).sort().values, rtol=1e-12, atol=1e-12)
    assert len((expected @ code).unique()) > 16000  # the code tells rows apart, so that equal sets mean disjoint parts


def test_split_and_subset(loaded: Data, data_root: Path) -> None:
    small, again = (Adult(root=data_root, subset=1000).load() for _ in range(2))
    assert torch.equal(small.train.x, again.train.x)
    assert torch.equal(small.test.x, loaded.test.x)
    assert int(small.train.y.sum()) == round(1000 * 7841 / 32561)
    assert int(loaded.trusted.y.sum()) == round(2000 * 3846 / 16281)


def test_fewer_test_examples(loaded: Data, data_root: Path) -> None:
    small = Adult(root=data_root, test=1000).load()
    assert int(small.test.y.sum()) == round(1000 * float(loaded.test.y.double().mean()))
    assert torch.equal(small.trusted.x, loaded.trusted.x)


def test_parse_and_encode_by_hand() -> None:
    def row(age: int, work: str, gain: int, income: str) -> str:
        return f"{age}, {work}, 1, HS-grad, 9, Divorced, Sales, Husband, White, Male, {gain}, 0, 40, Cuba, {income}"

    lines = [row(20, "Private", 5, "<=50K"), row(40, "?", 5, ">50K"), row(60, "Private", 5, "<=50K"), ""]
    train, labels = parse("\n".join(lines))
    test, test_labels = parse("\n".join(["|a heading", row(40, "Never-worked", 7, ">50K."), ""]))
    assert labels.tolist() == [0, 1, 0]
    assert test_labels.tolist() == [1]
    x, x_test, names = encode(train, test, ["age", "workclass", "capital-gain"])
    assert names == ["age", "workclass=Private", "workclass=missing", "capital-gain"]
    step = np.sqrt(3 / 2)  # 20, 40, 60: mean 40, variance 800 / 3
    np.testing.assert_allclose(x, [[-step, 1, 0, 0], [0, 0, 1, 0], [step, 1, 0, 0]], rtol=2**-23)
    np.testing.assert_allclose(x_test, [[0, 0, 0, 2]])  # an unseen category is zeros; a constant column is only centred


def test_numeric_columns_exist() -> None:
    assert set(COLUMNS) > NUMERIC
    assert len(COLUMNS) == 14


def test_missing_altered_and_impossible(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"adult\.data.*data\.root=FOLDER"):
        Adult(root=tmp_path).load()
    (tmp_path / "adult.data").write_bytes(read(TRAIN, data_root).replace(b"39, State-gov", b"38, State-gov", 1))
    with pytest.raises(UserError, match=f"should be {TRAIN.sha256}"):
        Adult(root=tmp_path).load()
    with pytest.raises(UserError, match="leaves nothing to test on"):
        Adult(root=data_root, trusted=16280).load()


def test_yaml_states_the_defaults() -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "data" / "adult.yaml")
    assert instantiate(config) == Adult()
    assert set(config) == {"_target_", *asdict(Adult())}
