"""Influence scores <grad l_i, v> of the 60,000 MNIST examples for an MLP: one pass against the per-example loop.

The machine's limit is that of its matrix products alone: x W' and x V' for every layer, the logits and their change.
The softmax, the loss, the activations and the change of each go through memory beside that, a dozen times: up to as
long again. A quarter of the limit is asserted, a half with a margin. The loop takes a hundred operations of PyTorch for
each example, which are a microsecond or more on any machine, where the pass takes a few: at least 20 times as long.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.examples import Data, Examples
from models.gradients import inner_products, per_example_gradients, weighted_gradient
from models.training import Training, train
from models.victim import Victim
from tests.benchmarks.machine import gigaflops, in_turn, perceptron_products

LOOP = 2000  # examples on which the loop is timed

# In a process of its own, since a peak cannot be reset; values do not matter for memory, so no file is read there.
MEMORY = """
import resource, torch
from functools import partial
from data.examples import Examples
from models.gradients import inner_products
from models.mlp import MLP
from models.training import initialise
from models.victim import Victim
torch.set_num_threads(1)
x = torch.empty(60_000, 1, 28, 28).normal_()
data = Examples(x, torch.zeros(60_000, dtype=torch.long))
victim = Victim(*initialise(partial(MLP, shape=(1, 28, 28), classes=10, widths=(32, 32)), 0, x))
direction = torch.randn_like(victim.flat())
inner_products(victim, data[:10], direction)  # what is loaded on first use is not memory of the scores
before = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")][0]
scores = inner_products(victim, data, direction)
assert scores.isfinite().all() and len(scores) == 60_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def extra_megabytes() -> float:
    """Peak memory of the whole pass above that of the data: an upper bound, since an earlier peak counts too."""
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is measured through /proc, which this system has not")
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


def loop(victim: Victim, data: Examples, direction: Tensor) -> Tensor:
    """As a researcher writes it: backpropagate each example's loss, and take the inner product."""
    model = victim.module
    for name, parameter in model.named_parameters():
        parameter.data.copy_(victim.parameters[name])
    parameters, scores = list(model.parameters()), []
    for i in range(len(data)):
        loss = F.cross_entropy(model(data.x[i : i + 1]), data.y[i : i + 1])
        gradients = torch.autograd.grad(loss, parameters)
        scores.append(torch.cat([g.flatten() for g in gradients]) @ direction)
    return torch.stack(scores)


def explicit(victim: Victim, data: Examples, direction: Tensor) -> Tensor:
    """Per-example gradients, all of them, times the direction."""
    return torch.cat(
        [per_example_gradients(victim, data[slice(i, i + 500)]) @ direction for i in range(0, len(data), 500)]
    )


def test_influence_scores(benchmark: Any, mnist: Data, build: Any, report: Any) -> None:
    data = mnist.train
    assert len(data) == 60_000
    victim = train(build, data, Training(epochs=1, batch_size=128, lr=0.1), [0])[0]
    test = mnist.test[:100]
    direction = weighted_gradient(victim, test, torch.full((1, len(test)), 1 / len(test)))[0]

    scores = benchmark.pedantic(inner_products, args=(victim, data, direction), rounds=3, warmup_rounds=1)
    reference = explicit(victim, data, direction)
    error = float((scores - reference).norm() / reference.norm())
    double = Victim(victim.module, {n: v.double() for n, v in victim.parameters.items()}, victim.buffers)
    exact = explicit(double, data[:6000].to(dtype=torch.float64), direction.double())
    error64 = float((scores[:6000] - exact).norm() / exact.norm())
    part = data[:LOOP]
    torch.testing.assert_close(loop(victim, part[:50], direction), scores[:50], rtol=1e-3, atol=1e-5)

    limit = perceptron_products((784, 32, 32, 10), len(data), len(data), forward=2, weights=0, inputs=0)
    runs = in_turn(
        {
            "per-example loop": lambda: len(loop(victim, part, direction)),
            "one pass": lambda: len(inner_products(victim, data, direction)),
            "products alone": limit,
        }
    )
    ratio, share = runs.ratio("per-example loop", "one pass"), runs.ratio("products alone", "one pass")
    memory = extra_megabytes()
    report(
        f"Influence scores of 60,000 examples, 26,506 parameters (the loop is timed on {LOOP:,} examples)",
        {name: f"{1 / runs.median(name):,.0f} / s" for name in runs.seconds}
        | {
            "one pass / loop": f"{ratio:.1f} x",
            "share of the machine's limit": f"{share:.2f}",
            "seconds of one pass": f"{len(data) * runs.median('one pass'):.2f}",
            "a large matrix product": gigaflops(),
            "peak extra memory": f"{memory:.0f} MB",
            "difference from explicit inner products, float32": f"{error:.1e}",
            "difference from float64 on 6,000 examples": f"{error64:.1e}",
        },
    )
    benchmark.extra_info.update(ratio=ratio, share=share, memory_megabytes=memory, error=error, error64=error64)
    assert memory < 1000
    assert error < 1e-5
    assert error64 < 1e-5
    assert ratio >= 20
    assert share >= 1 / 4
