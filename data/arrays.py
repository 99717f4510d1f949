"""Arrays: your own data, from one .npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from data.errors import UserError
from data.examples import Data, Examples
from data.npz import read_npz
from data.paths import expanded
from data.randomness import generator
from data.splits import carve_stratified, fewer, stratified
from data.standardise import report_constant, standardised, statistics

Share = Annotated[float, Field(gt=0, lt=1)]
TEST = 0.2  # of all examples


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Arrays:
    """Arrays `x` (n, ...) and `y` (n,), and optionally `x_test` and `y_test`, in the .npz file `path`.

    Labels are the integers 0 to K-1. Images are (channels, height, width), as bytes 0 to 255 (divided by 255) or as
    floating point numbers in [0, 1]; tables are (features,). Inputs are standardised with the training part: by channel
    for images, by feature for tables, with one mean and std for any other shape; what is constant is only centred.

    `test`, `trusted` and `auxiliary` are shares of all examples, held out stratified. With `x_test` and `y_test`, all
    of `x` is for training, and the test arrays are divided in the proportion test : trusted : auxiliary. A whole number
    as `test` is how many examples to test on; of test arrays, out of what a share of 0.2 would leave.
    """

    path: Path
    test: Share | Annotated[int, Field(ge=1)] = TEST
    trusted: Share = 0.1
    auxiliary: Share = 0.1
    subset: Annotated[int, Field(ge=1)] | None = None
    split_seed: int = 0

    def load(self) -> Data:
        """Inputs of shape (n, ...), float32. Raises `UserError` for whatever is wrong with the file or the shares."""
        arrays, offset = _without_offset(read_npz(expanded(self.path), ("x", "y", "x_test", "y_test")))
        train = _examples(arrays, "x", "y")
        classes = _classes(train.y)
        if "x_test" in arrays or "y_test" in arrays:
            held_out = _examples(arrays, "x_test", "y_test")
            if held_out.x.shape[1:] != train.x.shape[1:] or held_out.x.dtype != train.x.dtype:
                raise UserError(f"x and x_test in {self.path} must have examples of the same shape and type.")
            if int(held_out.y.min()) < 0 or int(held_out.y.max()) >= classes:
                raise UserError(f"y_test in {self.path} has a label that y does not have; remove these examples.")
            held_out_share = (self.test if self.test < 1 else TEST) + self.trusted + self.auxiliary
            parts = self._parts(held_out.y, self.trusted / held_out_share, self.auxiliary / held_out_share, None)
            keep = int(self.test) if self.test >= 1 else None
            parts["rest"] = fewer(held_out.y, parts["rest"], keep, generator(self.split_seed, "arrays test"))
        else:
            if (self.test if self.test < 1 else 0) + self.trusted + self.auxiliary >= 1:
                raise UserError("data.test + data.trusted + data.auxiliary must be less than 1; make them smaller.")
            held_out = train
            parts = self._parts(train.y, self.trusted, self.auxiliary, self.test)
            train = train[parts["rest"].sort().values]
        mean, std = statistics(train.x, {4: (0, 2, 3), 2: (0,)}.get(train.x.ndim, tuple(range(train.x.ndim))))
        report_constant(f"x in {self.path}", train.x, mean, std)
        unit = 255.0 if train.x.dtype == torch.uint8 else 1.0
        if self.subset is not None:
            train = train[stratified(train.y, self.subset, generator(self.split_seed, "arrays subset"))]

        def ready(examples: Examples) -> Examples:
            return Examples(standardised(examples.x, mean, std), examples.y)

        test = held_out[parts["test" if "test" in parts else "rest"]]
        return Data(
            name="arrays",
            train=ready(train),
            test=ready(test),
            trusted=ready(held_out[parts["trusted"]]),
            auxiliary=ready(held_out[parts["auxiliary"]]),
            classes=tuple(str(label) for label in range(classes)),
            mean=((mean + offset) / unit).float(),
            std=(std / unit).float(),
        )

    def _parts(self, y: Tensor, trusted: float, auxiliary: float, test: float | None) -> dict[str, Tensor]:
        """Disjoint parts of the examples with labels `y`; without `test`, what is left is for testing."""
        shares = {"trusted": trusted, "auxiliary": auxiliary} | ({} if test is None else {"test": test})
        sizes = {name: round(share * len(y) if share < 1 else share) for name, share in shares.items()}
        if sizes["trusted"] < 2 or min(sizes.values()) < 1 or sum(sizes.values()) >= len(y):
            raise UserError(
                f"{len(y)} examples are too few for these shares of data.test, data.trusted and data.auxiliary; "
                "provide more examples or change the shares."
            )
        return carve_stratified(y, sizes, generator(self.split_seed, "arrays split"))


def _without_offset(arrays: dict[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], Tensor]:
    """A table of integers beyond 2^53, which float64 rounds, less its first row, and that row; else the arrays and 0.

    Differences of 64-bit integers are exact wherever they fit.
    """
    tables = {name: arrays[name] for name in ("x", "x_test") if name in arrays}
    kept = arrays, torch.zeros(1, dtype=torch.float64)
    if "x" not in tables or any(each.ndim != 2 or each.dtype.kind not in "iu" for each in tables.values()):
        return kept
    first = tables["x"][:1].astype(np.int64)
    if any(each.shape[1] != first.shape[1] or each.size == 0 for each in tables.values()):
        return kept
    rough = [each.astype(np.float64) for each in tables.values()]
    start = tables["x"][:1].astype(np.float64)
    if max(abs(each).max() for each in rough) <= 2**53 or max(abs(each - start).max() for each in rough) >= 2**62:
        return kept
    return arrays | {name: each.astype(np.int64) - first for name, each in tables.items()}, torch.from_numpy(start[0])


def _examples(arrays: dict[str, NDArray[Any]], x_name: str, y_name: str) -> Examples:
    """The arrays called `x_name` and `y_name`, checked; inputs stay bytes if they are, and are float32 else."""
    for name in (x_name, y_name):
        if name not in arrays:
            raise UserError(f"The array {name} is not in the file of data.path; save it there with numpy.savez.")
    x, y = arrays[x_name], arrays[y_name]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise UserError(f"{y_name} must be a list of integer labels, got type {y.dtype} and shape {y.shape}.")
    if x.ndim < 2 or x.dtype.kind not in "fiu":
        raise UserError(f"{x_name} must hold numbers of shape (n, ...), got type {x.dtype} and shape {x.shape}.")
    if len(x) != len(y) or x.size == 0:
        raise UserError(
            f"{x_name} and {y_name} must be as long as each other and not empty, got {len(x)} and {len(y)}."
        )
    if x.ndim == 4 and x.dtype.kind in "iu" and x.dtype != np.uint8:
        raise UserError(
            f"{x_name} has images of type {x.dtype}; store them as uint8 (0 to 255) or as numbers in [0, 1]."
        )
    with np.errstate(over="ignore"):  # what overflows is refused below
        finite = bool(np.isfinite(x.astype(np.float32, copy=False)).all())
    if not finite:
        raise UserError(
            f"{x_name} has entries that are infinite, not a number, or beyond float32; remove or replace them."
        )
    exact = x.dtype in (np.uint8, np.float32, np.float64)
    numbers = torch.from_numpy(x if exact else x.astype(np.float64))  # rounded to float32 when it is standardised
    return Examples(numbers, torch.from_numpy(y.astype(np.int64)))


def _classes(y: Tensor) -> int:
    """K, if the labels are 0 to K-1 and each occurs; `UserError` else."""
    labels = torch.unique(y)
    if len(labels) < 2 or not torch.equal(labels, torch.arange(len(labels))):
        raise UserError(f"y must use each of the labels 0 to K-1, with K at least 2; it uses {labels.tolist()[:20]}.")
    return len(labels)
