"""Sixty digits MLPs 64-32-10 with seeds of their own, one thread: `learn_many` against a loop of `learn`.

Both give the same victims, bit by bit. In turns the models share the bookkeeping of a step (the optimiser, one pass
back for all of them), and nothing of what is computed; so the gain is what bookkeeping takes, a fifth to a half, and
larger for Adam, whose own bookkeeping is larger. Beside it stand the same models side by side, in one computation,
which agree with these to rounding only, and the machine's limit: their matrix products and the copies of their batches
alone.
"""

from typing import Any

import torch

from data.digits import Digits
from models.mlp import MLP
from models.training import Training, train
from tests.benchmarks.machine import Paired, gathered, gigaflops, in_turn, perceptron_products
from unlearning.learning import plain_learning, plain_learning_many
from unlearning.task import Task

MODELS, EPOCHS, BATCH, SIZES = 60, 5, 100, (64, 32, 10)
NOISE = 0.9  # in turns is not slower than one by one, within this


def test_learning_many(benchmark: Any, report: Any) -> None:
    data, seeds = Digits().load(), list(range(MODELS))
    n = len(data.train)
    sgd = Task(data.train, lambda: MLP(shape=data.shape, classes=10, widths=[SIZES[1]]), Training(epochs=EPOCHS))
    adam = Task(sgd.records, sgd.build, Training(epochs=EPOCHS, optimizer="adam", lr=1e-3))

    def loop(task: Task) -> int:
        for seed in seeds:
            plain_learning(task, seed)
        return MODELS

    def many(task: Task) -> int:
        return len(plain_learning_many(task, seeds))

    def together() -> int:
        return len(train(sgd.build, sgd.records, sgd.training, seeds))

    one, other = plain_learning(sgd, 7), plain_learning_many(sgd, [6, 7])[1]
    assert torch.equal(one.flat(), other.flat())
    runs = in_turn(
        {
            "loop of learn": lambda: loop(sgd),
            "learn_many": lambda: many(sgd),
            "side by side, to rounding": together,
            "only products": perceptron_products(SIZES, BATCH, EPOCHS * n),
            "only copies of batches": gathered(data.train.x.flatten(1), BATCH, EPOCHS * n),
            "loop of learn, Adam": lambda: loop(adam),
            "learn_many, Adam": lambda: many(adam),
        }
    )
    limits = [EPOCHS * n * (a + b) for a, b in zip(runs.seconds["only products"],
                                                  runs.seconds["only copies of batches"], strict=True)]  # fmt: skip
    paired = Paired({**runs.seconds, "limit": limits})
    timed = [name for name in runs.seconds if not name.startswith("only")]
    ratios = {
        "loop / learn_many": paired.ratio("loop of learn", "learn_many"),
        "loop / learn_many, Adam": paired.ratio("loop of learn, Adam", "learn_many, Adam"),
        "loop / side by side": paired.ratio("loop of learn", "side by side, to rounding"),
        "learn_many / limit": paired.ratio("learn_many", "limit"),
    }
    report(
        f"{MODELS} models on {n} digits, {EPOCHS} epochs in batches of {BATCH}: seconds for all",
        {name: f"{MODELS * paired.median(name):.2f}" for name in [*timed, "limit"]}
        | {name: f"{ratio:.2f} x" for name, ratio in ratios.items()}
        | {"a large matrix product": gigaflops()},
    )
    benchmark.extra_info.update(ratios)
    benchmark.pedantic(many, args=(sgd,), rounds=1)
    assert ratios["loop / learn_many"] >= NOISE
    assert ratios["loop / learn_many, Adam"] >= NOISE
