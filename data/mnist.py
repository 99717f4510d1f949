"""MNIST: 70,000 grey images of handwritten digits, 28 x 28 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.examples import Data, Examples
from data.files import Source, idx, read
from data.images import byte_statistics, image_data

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# name, sha256 of the content, sha256 of the compressed file as distributed
FILES = (
    (
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    (
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    (
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    (
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)
SOURCES = tuple(
    Source(folder="mnist", file=name, sha256=content, url=f"{URL}{name}.gz", url_hash=f"sha256:{compressed}")
    for name, content, compressed in FILES
)
CLASSES = tuple("0123456789")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Mnist:
    """LeCun, Bottou, Bengio, Haffner, Gradient-Based Learning Applied to Document Recognition, Proc. IEEE 1998.

    The training file is `train`, or a stratified `subset` of it; the test file is divided into `trusted`, `auxiliary`
    and `test`, which is all that is left, or a stratified part of `test` examples. Pixels are scaled to [0, 1] and
    standardised with one mean and one standard deviation, those of the whole training file. `root` is the folder that
    holds `mnist/*.gz` or the files themselves.
    """

    root: Path | None = None
    subset: Annotated[int, Field(ge=1)] | None = None
    test: Annotated[int, Field(ge=1)] | None = None
    trusted: Annotated[int, Field(ge=2)] = 2000
    auxiliary: Annotated[int, Field(ge=1)] = 2000
    split_seed: int = 0

    def load(self) -> Data:
        """Inputs of shape (n, 1, 28, 28), float32. Raises `UserError` for missing or damaged files and bad sizes."""
        train_x, train_y, test_x, test_y = (torch.from_numpy(idx(read(source, self.root))) for source in SOURCES)
        return image_data(
            "mnist",
            CLASSES,
            _examples(train_x, train_y),
            _examples(test_x, test_y),
            byte_statistics(train_x.unsqueeze(1), per_channel=False),
            subset=self.subset,
            keep_test=self.test,
            trusted=self.trusted,
            auxiliary=self.auxiliary,
            split_seed=self.split_seed,
        )


def _examples(images: Tensor, labels: Tensor) -> Examples:
    return Examples(images.unsqueeze(1), labels.long())
