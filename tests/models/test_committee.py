"""A committee of models: what it answers, and the names of its tensors."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from data.examples import Examples
from data.randomness import generator
from models.committee import Aggregation, Committee, constituent, join
from models.gradients import inner_products, weighted_gradient
from models.mlp import MLP
from models.training import initialise
from models.victim import Victim, stack

BUILD = partial(MLP, shape=(4,), classes=3, widths=[5], dropout=0.5)
LIKE = torch.zeros(1, dtype=torch.float64)
X = torch.randn(50, 4, generator=generator(0, "x"), dtype=torch.float64)


def committee(aggregation: Aggregation = "mean", weights: tuple[int, ...] = (2, 3, 5), seed: int = 0) -> Victim:
    """Parameters with a spread of about one, so that constituents disagree."""
    module, parameters, buffers = initialise(partial(Committee, BUILD, weights, aggregation), seed, LIKE)
    rng = generator(seed, "spread")
    spread = {n: v + torch.randn(v.shape, generator=rng, dtype=v.dtype) for n, v in parameters.items()}
    return Victim(module, spread, buffers)


def alone(model: Victim, k: int) -> Tensor:
    """Probabilities of constituent k as a plain module."""
    module = BUILD().double().eval()
    module.load_state_dict(constituent(model.parameters, k) | constituent(model.buffers, k))
    with torch.no_grad():
        return module(X).softmax(-1)


class Fixed(nn.Module):
    """Answers with the logarithm of fixed probabilities (classes,)."""

    def __init__(self, p: list[float], dtype: torch.dtype) -> None:
        super().__init__()
        self.log_p = torch.tensor(p, dtype=dtype).log()

    def forward(self, x: Tensor) -> Tensor:
        return self.log_p.expand(len(x), -1)


def vote(weights: tuple[int, ...], *answers: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    modules = iter([Fixed(p, dtype) for p in answers])
    return Committee(lambda: next(modules), weights, "vote")(torch.zeros(2, 1))[0]


def test_mean_is_the_weighted_mean_of_softmax() -> None:
    model = committee()
    expected = sum(w / 10 * alone(model, k) for k, w in enumerate((2, 3, 5)))
    torch.testing.assert_close(model.probabilities(X), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(model.logits(X).exp().sum(-1), torch.ones(50, dtype=torch.float64))


def test_vote_is_the_share_of_votes() -> None:
    model = committee("vote")
    ballots = torch.stack([torch.nn.functional.one_hot(alone(model, k).argmax(-1), 3).double() for k in range(3)])
    expected = (torch.tensor([2, 3, 5]).double()[:, None, None] / 10 * ballots).sum(0)
    assert 0 < (expected == 1).any(-1).double().mean() < 1  # some inputs are contested
    torch.testing.assert_close(model.probabilities(X), expected, rtol=1e-14, atol=1e-14)
    tiny = torch.finfo(torch.float64).tiny
    torch.testing.assert_close(model.logits(X)[expected == 0].exp(), torch.full_like(expected[expected == 0], tiny))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_votes_go_to_the_higher_mean_probability(dtype: torch.dtype) -> None:
    """Classes 0 and 2 have two votes of four each; class 1 has the highest mean and no vote."""
    left, right = [0.51, 0.49, 0.0], [0.0, 0.44, 0.56]
    logits = vote((1, 1, 1, 1), left, right, left, right, dtype=dtype)
    assert logits.dtype == dtype
    assert logits.argmax() == 2
    assert logits.softmax(-1).argmax() == 2
    close = 32 * torch.finfo(dtype).eps
    torch.testing.assert_close(logits.softmax(-1), torch.tensor([0.5, 0, 0.5], dtype=dtype), rtol=close, atol=close)
    timid = [0.0, 0.499, 0.501]
    assert vote((1, 1, 1, 1), left, timid, left, timid, dtype=dtype).argmax() == 0


def test_weights_count_votes() -> None:
    left, right = [0.51, 0.49, 0.0], [0.0, 0.44, 0.56]
    assert vote((3, 1, 1, 1), left, right, right, right).argmax() == 2  # three each
    assert vote((4, 1, 1, 1), left, right, right, right).argmax() == 0


def test_tensors_are_named_by_constituent() -> None:
    model = committee()
    parts = [constituent(model.parameters, k) for k in range(3)]
    assert [list(part) for part in parts] == [[name for name, _ in BUILD().named_parameters()]] * 3
    joined = join(parts)
    assert list(joined) == list(model.parameters) == [name for name, _ in model.module.named_parameters()]
    assert all(torch.equal(joined[name], value) for name, value in model.parameters.items())
    assert len({float(part["head.bias"][0]) for part in parts}) == 3
    assert set(join([constituent(model.buffers, k) for k in range(3)])) == set(model.buffers)
    many = committee(weights=(1,) * 11)  # "1." is no prefix of "10."
    assert not constituent(many.parameters, 1).keys() - parts[0].keys()


@pytest.mark.parametrize("aggregation", ["mean", "vote"])
def test_many_committees_answer_as_each_alone(aggregation: Aggregation) -> None:
    models = [committee(aggregation, seed=seed) for seed in range(3)]
    together = stack(models).logits(X)
    for row, model in zip(together, models, strict=True):
        torch.testing.assert_close(row, model.logits(X), rtol=1e-12, atol=1e-12)


def test_mean_has_gradients_and_vote_has_zeros() -> None:
    examples = Examples(X, torch.arange(50) % 3)
    direction = torch.randn(committee().flat().shape, generator=generator(1, "d"), dtype=torch.float64)
    mean, votes = committee("mean"), committee("vote")
    moved = [mean.moved(step * direction[None])[0].logits(X) for step in (1e-5, -1e-5)]
    losses = [torch.nn.functional.cross_entropy(each, examples.y, reduction="none") for each in moved]
    difference = (losses[0] - losses[1]) / 2e-5  # truncation about 1e-10, rounding about 1e-11
    torch.testing.assert_close(inner_products(mean, examples, direction), difference, rtol=1e-7, atol=1e-8)
    assert inner_products(votes, examples, direction).abs().max() == 0
    assert weighted_gradient(votes, examples, torch.ones(2, 50, dtype=torch.float64)).abs().max() == 0
