"""What the benchmarks share: MNIST, one thread, and a table on the screen."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from data.examples import Data
from data.mnist import Mnist
from models.mlp import MLP

Report = Callable[[str, Mapping[str, str]], None]


@pytest.fixture(scope="session")
def mnist(data_root: Path) -> Data:
    """The 60,000 training images, as a game sees them."""
    if not any((data_root / "mnist").glob("train-images-idx3-ubyte*")):
        pytest.skip(f"no MNIST in {data_root}")
    return Mnist(root=data_root).load()


@pytest.fixture
def build() -> Callable[[], nn.Module]:
    """The MLP 784-32-32-10."""
    return partial(MLP, shape=(1, 28, 28), classes=10, widths=(32, 32))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models are fastest on one thread, ours and the plain loops alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Print a table of two columns past pytest's capture."""

    def show(title: str, rows: Mapping[str, str]) -> None:
        width = max(map(len, rows))
        with capsys.disabled():
            print(f"\n\n{title}", *(f"  {name:<{width}}  {value:>14}" for name, value in rows.items()), sep="\n")

    return show
