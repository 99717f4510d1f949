"""Training one model step by step: the same bits as plain training, and every step can be made again from its state."""

from functools import partial

import pytest
import torch

from data.digits import Digits
from data.errors import UserError
from models.descent import Diverged
from models.logistic import Logistic
from models.mlp import MLP
from models.plan import Plan, follow, orders
from models.small_cnn import SmallCNN
from models.stepwise import Gradients, Opening, State, Stepwise
from models.training import Training, initialise, train
from models.victim import Victim

DATA = Digits(train=300, test=1197).load()
RECIPES = {
    "plain": Training(epochs=2, batch_size=64, momentum=0.0, weight_decay=0.0, schedule="constant"),
    "momentum": Training(epochs=2, batch_size=64),
    "adam": Training(optimizer="adam", epochs=2, batch_size=64, lr=0.003, schedule="triangular"),
}
MODELS = {
    "mlp": partial(MLP, shape=DATA.shape, classes=10, widths=[16]),
    "dropout": partial(MLP, shape=DATA.shape, classes=10, widths=[16], dropout=0.3),
    "batch-norm": partial(SmallCNN, shape=DATA.shape, classes=10, widths=[4, 8], norm="batch"),
}


class Notes:
    """A recorder that keeps everything."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.batches: list[torch.Tensor] = []
        self.rates: list[float] = []
        self.ended = False

    def begin(self, opening, state):
        self.states.append(state.clone())

    def step(self, batch, lr, state, inputs=None):
        self.batches.append(batch.clone())
        self.rates.append(lr)
        self.states.append(state.clone())

    def end(self):
        self.ended = True


def run(model, training, recorder=None, ragged=True, n=300, seed=3, gradients=None):
    start = Victim(*initialise(MODELS[model], seed, DATA.train.x))
    plan = Plan(training, n, ragged)
    learner = Stepwise(start, training, DATA.train.x, seed, gradients)
    opening = Opening(training=training, steps=plan.steps, seed=seed)
    return follow(learner, DATA.train, plan, plan.batches(torch.arange(n), seed), opening, recorder)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", ["mlp", "batch-norm"])
def test_it_is_plain_training_bit_by_bit(model, recipe):
    expected = train(MODELS[model], DATA.train, RECIPES[recipe], [3])[0]
    found = run(model, RECIPES[recipe])
    assert torch.equal(found.flat(), expected.flat())
    for name, value in expected.buffers.items():
        assert torch.equal(found.buffers[name], value)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", MODELS)
def test_every_step_follows_from_the_state_before_it(model, recipe):
    """Also of models that draw, or that learn statistics of batches: from a state in the middle, bit by bit."""
    notes = Notes()
    run(model, RECIPES[recipe], notes)
    again = Stepwise(Victim(*initialise(MODELS[model], 8, DATA.train.x)), RECIPES[recipe], DATA.train.x, 3)
    for t in (5, 2, 7):
        again.load(notes.states[t])
        rows = notes.batches[t]
        again.step(DATA.train.x[rows], DATA.train.y[rows], notes.rates[t], t)
        after, now = notes.states[t + 1], again.state
        assert torch.equal(now.weights, after.weights)
        assert all(torch.equal(now.buffers[name], value) for name, value in after.buffers.items())
        assert all(torch.equal(now.moments[name], value) for name, value in after.moments.items())
    assert notes.ended


def test_moments_can_be_carried():
    """With the weights of the record and one's own moments, which is how a replay goes from key frame to key frame."""
    notes = Notes()
    run("mlp", RECIPES["momentum"], notes)
    again = Stepwise(Victim(*initialise(MODELS["mlp"], 8, DATA.train.x)), RECIPES["momentum"], DATA.train.x, 3)
    again.load(notes.states[0])
    for t, rows in enumerate(notes.batches):
        again.load(notes.states[t], moments=False)
        again.step(DATA.train.x[rows], DATA.train.y[rows], notes.rates[t], t)
    assert torch.equal(again.state.moments["velocity"], notes.states[-1].moments["velocity"])


def test_the_slope_is_the_gradient_of_the_mean_loss():
    """In float64 against autograd on a linear model, within rounding."""
    build = partial(Logistic, shape=DATA.shape, classes=10)
    x, y = DATA.train.x.double()[:40], DATA.train.y[:40]
    victim = Victim(*initialise(build, 0, x))
    slope = Stepwise(victim, RECIPES["plain"], x, 0).slope(x, y, 0)
    weights = {name: value.clone().requires_grad_() for name, value in victim.moving.items()}
    loss = torch.nn.functional.cross_entropy(torch.func.functional_call(victim.module, weights, (x,)), y)
    exact = torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(weights.values()))])
    assert torch.allclose(slope, exact, rtol=1e-12, atol=1e-14)


def test_what_is_pruned_stays_zero():
    start = Victim(*initialise(MODELS["mlp"], 0, DATA.train.x))
    mask = {name: (torch.rand_like(value) > 0.5).to(value) for name, value in start.moving.items()}
    pruned = Victim(start.module, start.moving, start.buffers, mask=mask)
    learner = Stepwise(pruned, RECIPES["momentum"], DATA.train.x, 0)
    learner.step(DATA.train.x[:64], DATA.train.y[:64], 0.1, 0)
    after = learner.victim()
    assert after.mask is not None
    assert all(bool((after.moving[name][mask[name] == 0] == 0).all()) for name in mask)
    assert not torch.equal(after.flat(), pruned.flat())


def test_gradients_and_updates_are_counted():
    counted = Gradients()
    run("mlp", RECIPES["plain"], gradients=counted)
    assert (counted.count, counted.updates) == (600, 10)


def test_a_plan_counts_its_steps():
    recipe = Training(epochs=3, batch_size=128, schedule="cosine")
    assert Plan(recipe, 38_000).per_epoch == 296
    assert Plan(recipe, 48_000).steps == 3 * 375
    assert Plan(recipe, 60_000, ragged=True).per_epoch == 469
    assert Plan(recipe, 38_000, most=500).steps == 500
    assert Plan(recipe, 38_000).lr(0) == recipe.lr
    batches = list(Plan(recipe, 300, most=5).batches(torch.arange(300), 0))
    assert [len(batch) for batch in batches] == [128] * 5
    assert len(set(torch.cat(batches[:2]).tolist())) == 256  # no record twice in an epoch
    assert [len(batch) for batch in Plan(recipe, 300, ragged=True).batches(torch.arange(300), 0)][:3] == [128, 128, 44]
    with pytest.raises(UserError, match=r"do not fill a batch of 128; lower training\.batch_size"):
        Plan(recipe, 100)


def test_orders_are_those_of_plain_training():
    first, second = orders(50, 7, 2)
    assert sorted(first.tolist()) == list(range(50))
    assert not torch.equal(first, second)
    assert torch.equal(next(iter(orders(50, 7, 1))), first)


def test_newton_has_no_steps_and_divergence_is_said():
    start = Victim(*initialise(MODELS["mlp"], 0, DATA.train.x))
    with pytest.raises(UserError, match="Newton's method has no steps"):
        Stepwise(start, Training(optimizer="newton"), DATA.train.x, 0)
    with pytest.raises(Diverged, match=r"lower training\.lr"):
        run("mlp", Training(epochs=2, batch_size=64, lr=1e38))
