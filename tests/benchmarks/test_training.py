"""Training of an MLP 784-32-32-10 on MNIST in batches of 128, one thread: ours against plain data loaders.

Plain loops get the fused optimiser, so that the comparison is about data and overhead. "One seed" is what candidate
sets retrain with: the models share initialisation and batches and differ by what is deleted.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from data.examples import Data, Examples
from models.training import Training, train

BATCH, LR, MOMENTUM, DECAY = 128, 0.1, 0.9, 1e-3
RECIPE = Training(
    epochs=1, batch_size=BATCH, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, schedule="constant", together=24
)
MODELS = 24


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


def plain_epoch(build: Callable[[], nn.Module], loader: DataLoader[Any]) -> int:
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


def test_training(benchmark: Any, mnist: Data, build: Any, rates: Any, report: Any) -> None:
    records = mnist.train
    assert len(records) == 60_000
    mean, std = float(mnist.mean), float(mnist.std)
    pixels = (records.x * std + mean).mul(255).round().to(torch.uint8).squeeze(1)
    official = ThroughPillow(pixels[:6000], records.y[:6000], (mean,), (std,))
    assert (official[7][0] - records.x[7]).abs().max() < 1e-5  # the same images
    tensors = TensorDataset(records.x, records.y)
    deleted = (torch.rand(MODELS, len(records), generator=torch.Generator().manual_seed(0)) < 0.001).float()

    def ours(examples: Examples, seeds: list[int], weights: Tensor) -> int:
        train(build, examples, RECIPE, seeds, weights)
        return len(seeds) * len(examples)

    half = records[:30_000]
    speed = rates(
        {
            "official data path": lambda: plain_epoch(build, DataLoader(official, BATCH, shuffle=True)),
            "TensorDataset": lambda: plain_epoch(build, DataLoader(tensors, BATCH, shuffle=True)),
            "one model": lambda: ours(records, [0], deleted[:1]),
            "24 models, one seed": lambda: ours(half, [0] * MODELS, deleted[:, :30_000]),
            "24 models, 24 seeds": lambda: ours(half[:9_984], list(range(MODELS)), deleted[:, :9_984]),
        }
    )
    one, together = speed["one model"], speed["24 models, one seed"]
    ratios = {
        "one model / official data path": one / speed["official data path"],
        "one model / TensorDataset": one / speed["TensorDataset"],
        "24 models, one seed / one model": together / one,
        "24 models, 24 seeds / one model": speed["24 models, 24 seeds"] / one,
    }
    report(
        "Training, model-examples per second (the official data path is timed on 6,000 examples)",
        {name: f"{value:,.0f}" for name, value in speed.items()} | {n: f"{r:.2f} x" for n, r in ratios.items()},
    )
    benchmark.extra_info.update(ratios)
    benchmark.pedantic(ours, args=(records, [0], deleted[:1]), rounds=1)
    assert ratios["one model / official data path"] >= 15
    assert ratios["one model / TensorDataset"] >= 1.3
    assert ratios["24 models, one seed / one model"] >= 2.5
