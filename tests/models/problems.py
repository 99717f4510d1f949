"""Small models in float64 with data, for tests of derivatives against independent ones."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.examples import Examples
from data.randomness import generator
from models.logistic import Logistic
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.training import initialise
from models.victim import Victim

N = 12
SHAPES = {"logistic": (4,), "mlp": (4,), "cnn": (1, 4, 4), "batch_norm": (1, 4, 4)}
BUILDS: dict[str, Callable[[], nn.Module]] = {
    "logistic": partial(Logistic, shape=(4,), classes=3),
    "mlp": partial(MLP, shape=(4,), classes=3, widths=[5, 3]),
    "cnn": partial(SmallCNN, shape=(1, 4, 4), classes=3, widths=[2, 3], norm="group"),
    "batch_norm": partial(SmallCNN, shape=(1, 4, 4), classes=3, widths=[2, 3], norm="batch"),
}


def examples(name: str, n: int = N) -> Examples:
    rng = generator(0, "examples")
    return Examples(
        torch.randn(n, *SHAPES[name], generator=rng, dtype=torch.float64), torch.randint(3, (n,), generator=rng)
    )


def victim(name: str, seed: int = 0) -> Victim:
    """Parameters with a spread of about one, so that no softmax is flat; running statistics that are not trivial."""
    module, parameters, buffers = initialise(BUILDS[name], seed, torch.zeros(1, dtype=torch.float64))
    rng = generator(seed, "problem")
    parameters = {n: v + 0.7 * torch.randn(v.shape, generator=rng, dtype=v.dtype) for n, v in parameters.items()}
    for buffer in buffers.values():
        if buffer.is_floating_point():
            buffer += torch.rand(buffer.shape, generator=rng, dtype=buffer.dtype)
    return Victim(module, parameters, buffers)


def directions(victim: Victim, count: int) -> Tensor:
    return torch.randn(count, len(victim.flat()), generator=generator(3, "directions"), dtype=torch.float64)


def deletions(m: int, n: int = N) -> Tensor:
    """Weights in [0, 1]; the first row deletes nothing, the second one example wholly."""
    weights = torch.rand(m, n, generator=generator(4, "deletions"), dtype=torch.float64)
    weights[0] = 0
    if m > 1:
        weights[1] = 0
        weights[1, 5] = 1
    return weights


def flat_objective(victim: Victim, data: Examples, deleted: Tensor, weight_decay: float) -> Callable[[Tensor], Tensor]:
    """theta -> F(theta; w) written with a plain module, whose parameters are replaced one by one."""

    def objective(theta: Tensor) -> Tensor:
        tensors, first = {}, 0
        for name, value in victim.parameters.items():
            tensors[name] = theta[first : first + value.numel()].view(value.shape)
            first += value.numel()
        logits = torch.func.functional_call(victim.module, {**tensors, **victim.buffers}, (data.x,))
        total = data.x.new_zeros(())
        for i in range(len(data)):
            total = total + (1 - deleted[i]) * F.cross_entropy(logits[i], data.y[i])
        return total / len(data) + weight_decay / 2 * theta.square().sum()

    return objective


def gradient_by_autograd(victim: Victim, data: Examples, deleted: Tensor, weight_decay: float) -> Tensor:
    theta = victim.flat().clone().requires_grad_()
    return torch.autograd.grad(flat_objective(victim, data, deleted, weight_decay)(theta), theta)[0]
