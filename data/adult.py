"""Adult (Census Income): does a person earn more than 50,000 dollars a year? A table of mixed columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from data.errors import UserError
from data.examples import Data, Examples
from data.files import Source, read
from data.randomness import generator
from data.splits import carve_stratified, fewer, stratified
from data.standardise import report_constant, standardised, statistics

URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
TRAIN, TEST = (
    Source(folder="adult", file=name, sha256=content, url=f"{URL}{name}", url_hash=f"sha256:{content}")
    for name, content in (
        ("adult.data", "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"),
        ("adult.test", "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05"),
    )
)
COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
)
NUMERIC = {"age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"}

Table = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Adult:
    """Becker and Kohavi, UCI Machine Learning Repository, 1996; label 1 means more than 50K.

    Numeric columns are standardised with the statistics of the whole training file, the others are one-hot encoded with
    the categories of the training file; a missing value ("?") is the category "missing". `fnlwgt`, a sampling weight
    and not a property of the person, is dropped unless `keep_fnlwgt`. The inputs are standardised already, so that
    `mean` and `std` of the data set are zeros and ones. The training file is `train`, or a stratified `subset` of it;
    the test file is divided into `trusted`, `auxiliary` and `test`, which is all that is left, or a stratified part of
    `test` examples.
    """

    root: Path | None = None
    subset: Annotated[int, Field(ge=1)] | None = None
    test: Annotated[int, Field(ge=1)] | None = None
    trusted: Annotated[int, Field(ge=2)] = 2000
    auxiliary: Annotated[int, Field(ge=1)] = 2000
    split_seed: int = 0
    keep_fnlwgt: bool = False

    def load(self) -> Data:
        """Inputs of shape (n, 107), float32 (108 with `fnlwgt`).

        Raises `UserError` for missing or damaged files and impossible sizes.
        """
        train, train_y = parse(read(TRAIN, self.root).decode())
        test, test_y = parse(read(TEST, self.root).decode())
        if self.trusted + self.auxiliary >= len(test_y):
            raise UserError(
                f"data.trusted={self.trusted} + data.auxiliary={self.auxiliary} leaves nothing to test on: the test "
                f"file has {len(test_y)} examples; make them smaller."
            )
        columns = [name for name in COLUMNS if name != "fnlwgt" or self.keep_fnlwgt]
        train_x, test_x, names = encode(train, test, columns)
        learned, held_out = _examples(train_x, train_y), _examples(test_x, test_y)
        sizes = {"trusted": self.trusted, "auxiliary": self.auxiliary}
        parts = carve_stratified(held_out.y, sizes, generator(self.split_seed, "adult split"))
        rng = generator(self.split_seed, "adult test")
        parts["rest"] = fewer(held_out.y, parts["rest"], self.test, rng)
        if self.subset is not None:
            learned = learned[stratified(learned.y, self.subset, generator(self.split_seed, "adult subset"))]
        return Data(
            name="adult",
            train=learned,
            test=held_out[parts["rest"]],
            trusted=held_out[parts["trusted"]],
            auxiliary=held_out[parts["auxiliary"]],
            classes=("<=50K", ">50K"),
            mean=torch.zeros(len(names)),
            std=torch.ones(len(names)),
        )


def parse(text: str) -> tuple[Table, NDArray[np.int64]]:
    """The columns by name and the labels (n,) in the text of a file, without its blank lines and its heading."""
    rows = [line.split(", ") for line in text.splitlines() if line.strip() and not line.startswith("|")]
    *columns, income = zip(*rows, strict=True)
    table = {
        name: ["missing" if value == "?" else value for value in column]
        for name, column in zip(COLUMNS, columns, strict=True)
    }
    # the test file ends each label in a full stop
    return table, np.array([value.startswith(">50K") for value in income], dtype=np.int64)


def encode(
    train: Table, test: Table, columns: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
    """Both tables as numbers (n, features), and the names of the features, such as `age` and `sex=Male`.

    Statistics and categories come from `train`; a category that only `test` has becomes zeros in all of its features.
    """
    names: list[str] = []
    blocks: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for column in columns:
        if column in NUMERIC:
            names.append(column)
            blocks.append(_standardised(column, _numbers(train[column]), _numbers(test[column])))
        else:
            categories = sorted(set(train[column]))
            names.extend(f"{column}={category}" for category in categories)
            blocks.append((_one_hot(train[column], categories), _one_hot(test[column], categories)))
    of_train, of_test = zip(*blocks, strict=True)
    return np.concatenate(of_train, axis=1), np.concatenate(of_test, axis=1), names


def _numbers(column: list[str]) -> NDArray[np.float64]:
    return np.array([float(value) for value in column])[:, None]


def _standardised(
    name: str, train: NDArray[np.float64], test: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    learned = torch.from_numpy(train)
    mean, std = statistics(learned, (0,))
    report_constant(f"Adult, {name}", learned, mean, std)
    first, second = (standardised(each, mean, std).numpy() for each in (learned, torch.from_numpy(test)))
    return first, second


def _one_hot(column: list[str], categories: list[str]) -> NDArray[np.float32]:
    """One column for each category; a row is zeros if its value is none of them."""
    places = {category: place for place, category in enumerate(categories)}
    place = np.array([places.get(value, -1) for value in column])
    known = np.flatnonzero(place >= 0)
    block = np.zeros((len(column), len(categories)), dtype=np.float32)
    block[known, place[known]] = 1
    return block


def _examples(x: NDArray[np.float32], y: NDArray[np.int64]) -> Examples:
    return Examples(torch.from_numpy(x), torch.from_numpy(y))
