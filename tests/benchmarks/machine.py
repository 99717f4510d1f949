"""How benchmarks measure: runs in turn, so that other load meets all of them, and what this machine can do at most."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

LARGE = 1024  # rows and columns of the large product


@dataclass(frozen=True)
class Paired:
    """Seconds for one unit of work (an example, a step) of several functions, one for each round."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """The median, which resists a busy machine."""
        return statistics.median(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> float:
        """How many times longer one takes than another: the median of the ratios of runs that followed each other."""
        return statistics.median(s / f for s, f in zip(self.seconds[slow], self.seconds[fast], strict=True))


def in_turn(functions: Mapping[str, Callable[[], int]], rounds: int = 5) -> Paired:
    """Run functions, which return how many units of work they did, A B A B; one round before is not counted."""
    seen: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            count = function()
            if number:
                seen[name].append((time.perf_counter() - began) / count)
    return Paired(seen)


def perceptron_products(
    sizes: Sequence[int], batch: int, total: int, forward: int = 1, weights: int = 1, inputs: int = 1, models: int = 1
) -> Callable[[], int]:
    """Only the matrix products of a computation with an MLP on `total` examples, in batches, for models side by side.

    For each layer of `sizes`: `forward` products x W', `weights` products d' x as gradients of weights have them, and
    `inputs` products d W as gradients of inputs have them, which no first layer needs. No computation that consists of
    these products can be faster here. Returns the number of examples x models.
    """
    layers = []
    for number, (a, b) in enumerate(pairwise(sizes)):
        x, w, d = torch.randn(models, batch, a), torch.randn(models, b, a), torch.randn(models, batch, b)
        y, g = torch.empty(models, batch, b), torch.empty(models, b, a)
        layers.append((x, w, d, y, g, torch.empty_like(x), inputs if number else 0))

    def run() -> int:
        for _ in range(total // batch):
            for x, w, d, y, g, e, below in layers:
                for _ in range(forward):
                    torch.bmm(x, w.mT, out=y)
                for _ in range(weights):
                    torch.bmm(d.mT, x, out=g)
                for _ in range(below):
                    torch.bmm(d, w, out=e)
        return total // batch * batch * models

    return run


def gathered(x: torch.Tensor, batch: int, total: int, models: int = 1) -> Callable[[], int]:
    """Only the copies of shuffled batches of `x` (n, ...), one for each model, which training cannot do without."""
    order = torch.randperm(len(x))[:total]

    def run() -> int:
        for part in order.split(batch):
            for _ in range(models):
                x.index_select(0, part)
        return total * models

    return run


def large_product() -> int:
    """A product of two large square matrices; returns how many floating-point operations it takes."""
    a = torch.ones(LARGE, LARGE)
    a @ a
    return 2 * LARGE**3


def gigaflops(rounds: int = 5) -> str:
    """What the machine can do at most, for a table: operations per second of a large product, on one thread."""
    return f"{1e-9 / in_turn({'large product': large_product}, rounds).median('large product'):.0f} GFLOP/s"
