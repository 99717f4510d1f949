"""Checks that hold for every architecture."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap


def parameter_count(model: nn.Module) -> int:
    """Number of trained numbers."""
    return sum(parameter.numel() for parameter in model.parameters())


def assert_per_example_gradients(model: nn.Module, shape: tuple[int, ...], examples: int = 4) -> None:
    """In eval mode and float64, `vmap(grad)` gives the gradients that backpropagation gives one by one."""
    model = model.double().eval()
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(examples, *shape, generator=rng, dtype=torch.float64)
    y = torch.arange(examples) % 2
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(model, (parameters, buffers), (x[None],))
        return nn.functional.cross_entropy(logits, y[None])

    together = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    for i in range(examples):
        alone = torch.autograd.grad(nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), parameters.values())
        for name, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(together[name][i], gradient, rtol=1e-9, atol=1e-12)


def assert_initialisation_is_seeded(build: Callable[[], nn.Module]) -> None:
    """The same seed gives the same parameters, another seed others, and the caller's generator is left as it was."""

    def built(seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.cat([parameter.detach().flatten() for parameter in build().parameters()])

    before = torch.get_rng_state()
    assert torch.equal(built(1), built(1))
    assert not torch.equal(built(1), built(2))
    assert torch.equal(before, torch.get_rng_state())
