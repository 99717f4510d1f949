"""Fashion-MNIST: 70,000 grey images of clothing, 28 x 28 pixels."""

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

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# name, sha256 of the content, sha256 of the compressed file as distributed
FILES = (
    (
        "train-images-idx3-ubyte",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    (
        "train-labels-idx1-ubyte",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    (
        "t10k-images-idx3-ubyte",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    (
        "t10k-labels-idx1-ubyte",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
)
SOURCES = tuple(
    Source(folder="fashion_mnist", file=name, sha256=content, url=f"{URL}{name}.gz", url_hash=f"sha256:{compressed}")
    for name, content, compressed in FILES
)
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class FashionMnist:
    """Xiao, Rasul, Vollgraf, arXiv:1708.07747.

    The training file is `train`, or a stratified `subset` of it; the test file is divided into `trusted`, `auxiliary`
    and `test`, which is all that is left, or a stratified part of `test` examples. Pixels are scaled to [0, 1] and
    standardised with one mean and one standard deviation, those of the whole training file. `root` is the folder that
    holds `fashion_mnist/*.gz` or the files themselves.
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
            "fashion_mnist",
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
