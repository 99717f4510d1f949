"""CIFAR-10: 60,000 colour images of ten kinds of things, 32 x 32 pixels."""

from __future__ import annotations

import csv
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Data, Examples
from data.files import Source, download, locate, members, read
from data.images import byte_statistics, image_data
from data.paths import reason

ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
# A copy put together again from lossless sources, in which 104 records were only to be had as JPEG.
REBUILT = tuple(
    Source(folder="cifar10", file=name, sha256=content, advice=f"put the official {ARCHIVE} in its folder instead")
    for name, content in (
        ("data_batch_1.bin", "0def081c410489f98b3935c2d405fc7436d23377894a5d6a710ce1fad8082588"),
        ("data_batch_2.bin", "bfb92ecee3ace02fdb768866911a0123cb3cf369e071b18c8e1be79297a35a28"),
        ("data_batch_3.bin", "121076ec0d3c7be3f1a6e3e94430ab5bb10bdb03bdf439c59ec721c0c800071e"),
        ("data_batch_4.bin", "801fea19102f4d15ea4305e84c63adeee65cd3f094d35b7b0c1cde585010b85c"),
        ("data_batch_5.bin", "682b209e35d9768151f3289c0b3578b1a87cb95bbeb6488b39bf115a8af93fae"),
        ("test_batch.bin", "12b72019dddc66aa680d9654ddcc864aa808e6540641e0887054d04d415d6427"),
    )
)
SUBSTITUTES = Source(
    folder="cifar10",
    file="jpeg_substitutes.csv",
    sha256="e0f9868506247ac6c32df7dd272d4223d6d3aefd42c1b0cccf54a7ab91c67413",
)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Cifar10:
    """Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; the binary version.

    The training file is `train`, or a stratified `subset` of it; the test file is divided into `trusted`, `auxiliary`
    and `test`, which is all that is left, or a stratified part of `test` examples. Pixels are scaled to [0, 1] and
    standardised with the mean and the standard deviation of each channel over all 50,000 training records.

    Without a `root` the official archive is downloaded. In `root` or `root/cifar10` the official archive is used if it
    is there, and else the rebuilt batch files `data_batch_1.bin.gz` to `test_batch.bin.gz`. These hold 104 records (81
    for training, 23 for testing) with approximate pixels, listed in `jpeg_substitutes.csv`; `exclude_substitutes`
    leaves them out. It changes nothing for the official archive, which has none.
    """

    root: Path | None = None
    subset: Annotated[int, Field(ge=1)] | None = None
    test: Annotated[int, Field(ge=1)] | None = None
    trusted: Annotated[int, Field(ge=2)] = 2000
    auxiliary: Annotated[int, Field(ge=1)] = 2000
    split_seed: int = 0
    exclude_substitutes: bool = True

    def load(self) -> Data:
        """Inputs of shape (n, 3, 32, 32), float32. Raises `UserError` for missing or damaged files and bad sizes."""
        archive = _archive(self.root)
        batches = _rebuilt(self.root) if archive is None else members(archive, [source.file for source in REBUILT])
        train, test = _records(batches[:5]), _records(batches[5:])
        statistics = byte_statistics(train.x, per_channel=True)
        if archive is None and self.exclude_substitutes:
            substitutes = _substitutes(self.root)
            train, test = _without(train, substitutes["train"]), _without(test, substitutes["test"])
        return image_data(
            "cifar10",
            CLASSES,
            train,
            test,
            statistics,
            subset=self.subset,
            keep_test=self.test,
            trusted=self.trusted,
            auxiliary=self.auxiliary,
            split_seed=self.split_seed,
        )


def _archive(root: Path | None) -> Path | None:
    """The official archive, downloaded or in `root`, with its md5 verified; None if `root` has none."""
    if root is None:
        return download(ARCHIVE_URL, f"md5:{ARCHIVE_MD5}", "cifar10")
    path = locate("cifar10", (ARCHIVE,), root)
    if path is not None:
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "md5").hexdigest()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({reason(error)}); make it readable.") from error
        if digest != ARCHIVE_MD5:
            raise UserError(
                f"{path} is not the official archive: its md5 should be {ARCHIVE_MD5}, and is {digest}; "
                "delete it and fetch it again."
            )
    return path


def _rebuilt(root: Path | None) -> list[bytes]:
    with ThreadPoolExecutor(max_workers=2) as pool:  # decompressing and hashing run outside the interpreter lock
        return list(pool.map(lambda source: read(source, root), REBUILT))


def _records(batches: list[bytes]) -> Examples:
    """Byte images (n, 3, 32, 32) and labels of batch files: records of one label byte and 3 x 1024 pixel bytes."""
    table = np.concatenate([np.frombuffer(batch, dtype=np.uint8).reshape(-1, 3073) for batch in batches])
    pixels = np.ascontiguousarray(table[:, 1:]).reshape(-1, 3, 32, 32)
    return Examples(torch.from_numpy(pixels), torch.from_numpy(table[:, 0].astype(np.int64)))


def _substitutes(root: Path | None) -> dict[str, list[int]]:
    """The positions of the approximate records in the training and in the test file."""
    if root is not None and locate("cifar10", (SUBSTITUTES.file,), root) is None:
        raise UserError(
            f"These CIFAR-10 files hold approximate records, and their list {SUBSTITUTES.file} is not in "
            f"{root}; put it next to the batch files, or keep the records with data.exclude_substitutes=false."
        )
    rows = list(csv.DictReader(read(SUBSTITUTES, root).decode().splitlines()))
    return {split: [int(row["index"]) for row in rows if row["split"] == split] for split in ("train", "test")}


def _without(examples: Examples, positions: list[int]) -> Examples:
    keep: Tensor = torch.ones(len(examples), dtype=torch.bool)
    keep[positions] = False
    return examples[keep]
