"""Digits: 1,797 grey images of 8 x 8 pixels that come with scikit-learn; the set that needs no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from data.examples import Data, Examples
from data.randomness import generator
from data.splits import carve, stratified


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Digits:
    """Optical recognition of handwritten digits (Alpaydin and Kaynak, UCI, 1998), the copy embedded in scikit-learn.

    There is only one file, so all parts are carved from it by one permutation derived from `split_seed`; `test` null
    takes all that is left. Pixels, 0 to 16, are divided by 16 and standardised with one mean and one standard
    deviation, those of the whole training part.
    """

    train: Annotated[int, Field(ge=10)] = 1000
    test: Annotated[int, Field(ge=1)] | None = 497
    trusted: Annotated[int, Field(ge=2)] = 150
    auxiliary: Annotated[int, Field(ge=1)] = 150
    subset: Annotated[int, Field(ge=1)] | None = None
    split_seed: int = 0

    def load(self) -> Data:
        """Inputs of shape (n, 1, 8, 8), float32. Raises `UserError` if the sizes exceed the 1,797 images."""
        table = torch.from_numpy(_table())
        x, y = table[:, :-1].div(16).reshape(-1, 1, 8, 8), table[:, -1].long()
        others = self.train + self.trusted + self.auxiliary
        test = max(1, len(y) - others) if self.test is None else self.test
        sizes = {"train": self.train, "test": test, "trusted": self.trusted, "auxiliary": self.auxiliary}
        parts = carve(len(y), sizes, generator(self.split_seed, "digits split"))
        mean, std = x[parts["train"]].mean().reshape(1, 1, 1), x[parts["train"]].std(correction=0).reshape(1, 1, 1)
        if self.subset is not None:
            train = parts["train"]
            parts["train"] = train[stratified(y[train], self.subset, generator(self.split_seed, "digits subset"))]
        x = ((x - mean) / std).float()
        return Data(
            name="digits",
            **{part: Examples(x[parts[part]], y[parts[part]]) for part in sizes},
            classes=tuple("0123456789"),
            mean=mean.float(),
            std=std.float(),
        )


def _table() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Pixels and label of every image, (1797, 65), out of scikit-learn's file: to import it takes longer than a game's
    other imports together.
    """
    spec = find_spec("sklearn")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []
    for file in (folder / "datasets" / "data" / "digits.csv.gz" for folder in folders):
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # wherever its file is in this version

    bunch = load_digits()
    return np.concatenate([bunch.data, bunch.target[:, None]], axis=1)
