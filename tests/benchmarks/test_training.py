"""Training of an MLP 784-32-32-10 on MNIST in batches of 128, one thread: ours against plain data loaders.

Plain loops get the fused optimiser, so that the comparison is about data and overhead. "One seed" is what candidate
sets retrain with: the models share initialisation and batches and differ by what is deleted.

How many times faster that is depends on the machine: on how fast it interprets Python, and multiplies matrices. So what
is asserted are shares of what this machine can do at most, measured in the same rounds:

* One model: a plain loop over batches that lie ready, with no data path at all. Beside its operations ours copies
  shuffled batches (each as large as what the first product reads) and weights examples: at least SHARE_ALONE.
* Many models: the matrix products alone, in stacks, and where every model has a seed of its own the copies of their
  batches. An elementwise pass takes a number through memory for one operation and a product of these sizes for tens;
  there are about ten passes over the layers' outputs, and four over gradients and parameters: together at most about
  as long as the products. A half of the limit is asserted; a quarter where each has its seed, since there labels and
  weights are gathered for each model too, and inputs pass through memory twice more.
* Against one by one: models that share batches save the operations' start, so they are faster; where each has its own
  batches these copies are most of the work, and nothing is promised but that it is not slower, within NOISE.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from data.examples import Data, Examples
from models.training import Training, train
from tests.benchmarks.machine import Paired, gathered, gigaflops, in_turn, perceptron_products

BATCH, LR, MOMENTUM, DECAY = 128, 0.1, 0.9, 1e-3
RECIPE = Training(
    epochs=1, batch_size=BATCH, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, schedule="constant", together=24
)
MODELS, SIZES = 24, (784, 32, 32, 10)
SHARE_ALONE, SHARE_ONE_SEED, SHARE_SEEDS, NOISE = 0.6, 1 / 2, 1 / 4, 0.75


class ThroughPillow(Dataset[tuple[Tensor, int]]):
    """The data path of the official code: uint8 array -> PIL image -> float tensor -> normalised, for each example.

    Operation by operation what torchvision's MNIST, ToTensor and Normalize do (torchvision itself is not needed), and
    without their checks of types and shapes.
    """

    def __init__(self, data: Tensor, targets: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.data, self.targets, self.mean, self.std = data, targets, mean, std

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, label = self.data[index], int(self.targets[index])
        return self.normalise(self.to_tensor(Image.fromarray(pixels.numpy()))), label

    def to_tensor(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image, np.uint8, copy=True))
        pixels = pixels.view(image.size[1], image.size[0], len(image.getbands()))
        return pixels.permute((2, 0, 1)).contiguous().to(torch.float32).div(255)

    def normalise(self, image: Tensor) -> Tensor:
        image = image.clone()
        mean, std = torch.as_tensor(self.mean, dtype=image.dtype), torch.as_tensor(self.std, dtype=image.dtype)
        if (std == 0).any():
            raise ValueError("the standard deviation is zero")
        return image.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


def plain_epoch(build: Callable[[], nn.Module], loader: Iterable[Any]) -> int:
    """One epoch as a researcher writes it; returns the number of examples."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=DECAY, fused=True)
    seen = 0
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        seen += len(y)
    return seen


def test_training(benchmark: Any, mnist: Data, build: Any, report: Any) -> None:
    records = mnist.train
    assert len(records) == 60_000
    mean, std = float(mnist.mean), float(mnist.std)
    pixels = (records.x * std + mean).mul(255).round().to(torch.uint8).squeeze(1)
    official = ThroughPillow(pixels[:2560], records.y[:2560], (mean,), (std,))
    assert (official[7][0] - records.x[7]).abs().max() < 1e-5  # the same images
    deleted = (torch.rand(MODELS, len(records), generator=torch.Generator().manual_seed(0)) < 0.001).float()
    most, half, few = records[:19_968], records[:9_984], records[:4_992]
    ready = list(zip(most.x.split(BATCH), most.y.split(BATCH), strict=True))

    def ours(examples: Examples, seeds: list[int], weights: Tensor) -> int:
        train(build, examples, RECIPE, seeds, weights[:, : len(examples)])
        return len(seeds) * len(examples)

    runs = in_turn(
        {
            "official data path": lambda: plain_epoch(build, DataLoader(official, BATCH, shuffle=True)),
            "TensorDataset": lambda: plain_epoch(
                build, DataLoader(TensorDataset(most.x, most.y), BATCH, shuffle=True)
            ),
            "batches that lie ready": lambda: plain_epoch(build, ready),
            "one model": lambda: ours(most, [0], deleted[:1]),
            "24 models, one seed": lambda: ours(half, [0] * MODELS, deleted),
            "24 models, 24 seeds": lambda: ours(few, list(range(MODELS)), deleted),
            "only products": perceptron_products(SIZES, BATCH, len(most)),
            "only products, 24 models": perceptron_products(SIZES, BATCH, len(half), models=MODELS),
            "only copies of batches": gathered(few.x, BATCH, len(few), MODELS),
        }
    )  # fmt: skip
    ratios = {
        "official data path / one model": runs.ratio("official data path", "one model"),
        "  at most, without any data path": runs.ratio("official data path", "batches that lie ready"),
        "TensorDataset / one model": runs.ratio("TensorDataset", "one model"),
        "one model / 24 models, one seed": runs.ratio("one model", "24 models, one seed"),
        "  at most, products alone": runs.ratio("one model", "only products, 24 models"),
        "one model / 24 models, 24 seeds": runs.ratio("one model", "24 models, 24 seeds"),
    }
    limit = [sum(pair) for pair in zip(runs.seconds["only products, 24 models"],
                                       runs.seconds["only copies of batches"], strict=True)]  # fmt: skip
    shares = {
        "one model": runs.ratio("batches that lie ready", "one model"),
        "24 models, one seed": runs.ratio("only products, 24 models", "24 models, one seed"),
        "24 models, 24 seeds": Paired({**runs.seconds, "limit": limit}).ratio("limit", "24 models, 24 seeds"),
    }
    report(
        "Training, microseconds for an example of a model (the official data path is timed on 2,560 examples)",
        {name: f"{1e6 * runs.median(name):.2f}" for name in runs.seconds}
        | {name: f"{ratio:.2f} x" for name, ratio in ratios.items()}
        | {f"share of the machine's limit, {name}": f"{share:.2f}" for name, share in shares.items()}
        | {"a large matrix product": gigaflops()},
    )
    benchmark.extra_info.update(ratios | {f"share, {name}": share for name, share in shares.items()})
    benchmark.pedantic(ours, args=(most, [0], deleted[:1]), rounds=1)
    assert shares["one model"] >= SHARE_ALONE
    assert shares["24 models, one seed"] >= SHARE_ONE_SEED
    assert shares["24 models, 24 seeds"] >= SHARE_SEEDS
    assert ratios["TensorDataset / one model"] >= 1.3
    assert ratios["one model / 24 models, one seed"] >= 1
    assert ratios["one model / 24 models, 24 seeds"] >= NOISE
