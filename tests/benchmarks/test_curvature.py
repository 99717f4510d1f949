"""Inverse curvature of an MLP on MNIST, one thread: ours against LiSSA as a plain double-backward loop.

How a product compares with a forward pass depends on the machine, whose kernels multiply these matrices at different
speeds; so it is compared with its own matrix products alone, measured in turn with it. With x the inputs of a layer, W
its weights and d the slopes at its outputs, a product with V needs for every layer x W' and x V' (forward, and its
change), and for the way back d W and a gradient d' x; the Hessian needs d W once more, for the slopes themselves. A
solver that holds activations and slopes needs no second forward pass. What is done elementwise on top are softmax, its
curvature, and the activations of 74 units in each of these directions: in a chunk that fits into the cache about as
much again. SHARE of the limit is asserted: a half, and a margin of a third of that.

Newton's direction takes as many products as its iterations, and a preconditioner from a subsample that costs some: a
fifth of the limit of its products. The loop in memory takes 10,000 steps for the same; what a loader adds to it is
up to Python and the machine, and a factor of three is asserted where five to ten were measured.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from data.errors import UserError
from data.examples import Data
from data.randomness import generator
from models import curvature
from models.gradients import objective_gradient
from models.influence import inverse_curvature
from models.lanczos import extreme_eigenvalues
from models.mlp import MLP
from models.solver import Solution, Solver
from models.training import Training, train
from models.victim import Victim, forward
from tests.benchmarks.conftest import Report
from tests.benchmarks.machine import gigaflops, in_turn, perceptron_products
from tests.benchmarks.test_training import ThroughPillow

DAMPING, TOLERANCE = 0.01, 1e-2
RECIPE = Training(epochs=6, batch_size=128, optimizer="adam", lr=1e-3, schedule="constant", weight_decay=0.0)
REPETITIONS, STEPS, BATCH = 10, 1000, 10
TIMED = 1000  # of the 10,000 steps of a plain loop that is only timed
SIZES = (784, 32, 32, 10)
SHARE, SHARE_OF_SOLVER = 1 / 3, 1 / 5  # of the machine's limit, for a product and for all products of a solver
NEEDED = {  # how often a product needs each kind of matrix product, and how often one that is held
    "gauss_newton": ({"forward": 2, "weights": 1, "inputs": 1}, {"forward": 1, "weights": 1, "inputs": 1}),
    "hessian": ({"forward": 2, "weights": 1, "inputs": 2}, {"forward": 1, "weights": 1, "inputs": 2}),
    "fisher": ({"forward": 2, "weights": 1, "inputs": 1}, {"forward": 1, "weights": 1, "inputs": 1}),
}
SCALES = (1000.0, 300.0, 100.0)  # the first is the official code's; a smaller one converges faster, to more noise

# In a process of its own, since a peak cannot be reset; values do not matter for memory, so no file is read there.
MEMORY = """
import sys, torch
from functools import partial
from data.examples import Examples
from models.curvature import gauss_newton, hessian
from models.influence import inverse_curvature
from models.mlp import MLP
from models.solver import Solver
from models.training import initialise
from models.victim import Victim
torch.set_num_threads(1)
x = torch.empty(60_000, 1, 28, 28).normal_()
data, nothing = Examples(x, torch.zeros(60_000, dtype=torch.long)), torch.zeros(1, 60_000)
victim = Victim(*initialise(partial(MLP, shape=(1, 28, 28), classes=10, widths=(32, 32)), 0, x))
vector = torch.randn(1, victim.flat().numel())
def hessian_product(count):
    hessian(victim.copies(1), data[:count], nothing[:, :count], 0.01)(vector)
def gauss_newton_product(count):
    gauss_newton(victim.copies(1), data[:count], nothing[:, :count], 0.01)(vector)
def woodbury(count):
    solver = Solver(method="woodbury", curvature="fisher", rank=min(count, 1000), damping=0.01)
    inverse_curvature(solver, victim.copies(1), data[:count], nothing[:, :count], 0.0, vector)
def newton_direction(count):
    solver = Solver(damping=0.01, tolerance=1e-2, preconditioner="subsample")
    inverse_curvature(solver, victim.copies(1), data[:count], nothing[:, :count], 0.0, vector, base=victim)
call = globals()[sys.argv[1]]
call(10)  # what is loaded on first use is not counted
def kilobytes(name):  # of this process alone; getrusage's peak begins with that of the parent
    return [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)][0]
before = kilobytes("VmRSS")
call(60_000)
print(kilobytes("VmHWM") - before)
"""


def extra_megabytes(call: str) -> float:
    """Peak memory of a call above that of the data: an upper bound, since an earlier peak counts too."""
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is measured through /proc, which this system has not")
    words = [sys.executable, "-c", MEMORY, call]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


@dataclass(frozen=True, eq=False)
class Problem:
    """A model that was trained on 60,000 examples, 1,000 of which are to be forgotten."""

    data: Data
    victim: Victim
    deleted: Tensor
    slope: Tensor

    def solve(self, solver: Solver) -> Solution:
        """The Newton direction from the gradient, as LiSSA gets it, by someone who knows nothing else yet."""
        victim, records = Victim(self.victim.module, self.victim.parameters, self.victim.buffers), self.data.train
        return inverse_curvature(solver, victim.copies(1), records, self.deleted, 0.0, self.slope, base=victim)

    def product(self, name: str, shift: float = DAMPING, hold: bool = False) -> curvature.Product:
        return curvature.CURVATURES[name](self.victim.copies(1), self.data.train, self.deleted, shift, hold)

    def residual(self, x: Tensor) -> float:
        """||b - A x|| / ||b|| with A the Gauss-Newton matrix of the retained objective + 0.01 I."""
        return float((self.slope - self.product("gauss_newton")(x[None])).norm() / self.slope.norm())


@pytest.fixture(scope="module")
def problem(mnist: Data) -> Problem:
    torch.set_num_threads(1)
    build = partial(MLP, shape=(1, 28, 28), classes=10, widths=(32, 32), activation="relu")
    assert len(mnist.train) == 60_000
    victim = train(build, mnist.train, RECIPE, [0])[0]
    assert victim.flat().numel() == 26_506
    deleted = torch.zeros(1, 60_000)
    deleted[0, torch.randperm(60_000, generator=generator(0, "benchmark"))[:1000]] = 1
    return Problem(mnist, victim, deleted, objective_gradient(victim, mnist.train, deleted, 0.0))


def plain_lissa(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], b: Tensor, repetitions: int, steps: int, scale: float
) -> Tensor:
    """LiSSA as research code writes it: one small batch after the other, backpropagated twice.

    The squared regulariser is added where its product is known, which is cheaper than as a part of the loss.
    """
    parameters = list(model.parameters())
    pieces = torch.split(b.flatten(), [value.numel() for value in parameters])
    right = [piece.view_as(value) for piece, value in zip(pieces, parameters, strict=True)]
    total = [torch.zeros_like(value) for value in parameters]
    for _ in range(repetitions):
        u = [piece.clone() for piece in right]
        for _ in range(steps):
            x, y = next(batches)
            slopes = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, create_graph=True)
            curved = torch.autograd.grad(slopes, parameters, grad_outputs=u)
            u = [r + a - (h + DAMPING * a) / scale for r, a, h in zip(right, u, curved, strict=True)]
        total = [t + a / scale for t, a in zip(total, u, strict=True)]
    return torch.cat([t.flatten() for t in total]) / repetitions


def in_memory(problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of retained examples, indexed out of tensors."""
    left = (problem.deleted[0] == 0).nonzero()[:, 0]
    x, y, rng = problem.data.train.x[left], problem.data.train.y[left], torch.Generator().manual_seed(0)
    while True:
        batch = torch.randint(len(left), (BATCH,), generator=rng)
        yield x[batch], y[batch]


def endless(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def loaders(data: Data) -> dict[str, DataLoader[Any]]:
    """Per-example loaders: of tensors, and through Pillow, which is the data path of the official code."""
    mean, std = float(data.mean), float(data.std)
    pixels = (data.train.x * std + mean).mul(255).round().to(torch.uint8).squeeze(1)
    images = ThroughPillow(pixels, data.train.y, (mean,), (std,))
    return {
        "DataLoader of tensors": DataLoader(TensorDataset(data.train.x, data.train.y), BATCH, shuffle=True),
        "DataLoader of images": DataLoader(images, BATCH, shuffle=True),
    }


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = function()
    return time.perf_counter() - began, found


def test_newton_direction(benchmark: Any, problem: Problem, report: Report) -> None:
    """No slower than 10 x 1,000 plain steps in memory, and 3 times faster than those fed by a per-example loader."""
    module, b = problem.victim.module, problem.slope
    module.load_state_dict(problem.victim.parameters)
    rows: dict[str, str] = {}
    feeds = {"in memory": in_memory(problem)} | {n: endless(loader) for n, loader in loaders(problem.data).items()}
    for feed in feeds.values():
        plain_lissa(module, feed, b, 1, 20, SCALES[0])
    solver = Solver(damping=DAMPING, tolerance=TOLERANCE, preconditioner="subsample")
    solution = problem.solve(solver)

    def ours() -> int:
        problem.solve(solver)
        return REPETITIONS * STEPS  # what it replaces

    def plain(feed: Iterator[tuple[Tensor, Tensor]]) -> int:
        plain_lissa(module, feed, b, 1, TIMED, SCALES[0])
        return TIMED

    products = perceptron_products(SIZES, 2000, 60_000, **NEEDED["gauss_newton"][1])
    runs = in_turn(
        {"ours": ours, "products alone": products} | {name: partial(plain, feed) for name, feed in feeds.items()},
        rounds=3,
    )
    seconds = REPETITIONS * STEPS * runs.median("ours")
    share = solution.iterations * 60_000 * runs.median("products alone") / seconds
    assert problem.residual(solution.x[0]) <= TOLERANCE
    rows["subsample (ours)"] = (
        f"{solution.iterations} iterations, {seconds:.2f} s, residual {problem.residual(solution.x[0]):.1e}"
    )
    rows["subsample, share of the machine's limit for its products"] = f"{share:.2f}"
    memory = extra_megabytes("newton_direction")
    rows["subsample, peak extra memory"] = f"{memory:.0f} MB"
    gradient = partial(objective_gradient, problem.victim, problem.data.train, problem.deleted, 0.0)
    rows["the gradient before it (not counted on either side)"] = f"{timed(gradient)[0]:.2f} s"
    for kind in ("none", "diagonal", "nystroem"):
        variant = Solver(damping=DAMPING, tolerance=TOLERANCE, preconditioner=kind, rank=50)
        took, solution = timed(lambda variant=variant: problem.solve(variant))
        rows[kind + (" of rank 50" if kind == "nystroem" else "")] = (
            f"{solution.iterations} iterations, {took:.2f} s, residual {problem.residual(solution.x[0]):.1e}"
        )
    for name in feeds:
        row = f"plain LiSSA, {name}, 10 x 1,000 steps (1,000 timed)"
        rows[row] = f"{REPETITIONS * STEPS * runs.median(name):.1f} s"
    for scale in SCALES:
        left = problem.residual(plain_lissa(module, feeds["in memory"], b, REPETITIONS, STEPS, scale))
        rows[f"its residual after all steps, scale {scale:g}"] = f"{left:.2f}"
    ratios = {f"plain LiSSA, {name} / ours": runs.ratio(name, "ours") for name in feeds}
    rows |= {name: f"{ratio:.1f} x" for name, ratio in ratios.items()}
    rows["a large matrix product"] = gigaflops()
    report("Newton direction: 1,000 of 60,000 deleted, 26,506 parameters, damping 0.01", rows)
    benchmark.extra_info.update(ratios)
    benchmark.pedantic(lambda: None)
    assert memory <= 500  # what a solver holds is bounded: here all of 60,000 x 138 activations and slopes
    assert share >= SHARE_OF_SOLVER
    assert ratios["plain LiSSA, in memory / ours"] >= 1
    assert ratios["plain LiSSA, DataLoader of tensors / ours"] >= 3
    assert ratios["plain LiSSA, DataLoader of images / ours"] >= 3


def test_products(benchmark: Any, problem: Problem, report: Report) -> None:
    """A product with all 60,000 examples: a share of the machine's limit, whatever the chunk; memory of a chunk."""
    victim, x = problem.victim, problem.data.train.x
    vector = torch.randn(1, 26_506, generator=generator(0, "benchmark"))

    def passes() -> int:
        with torch.no_grad():
            for part in x.split(2048):
                forward(victim.module, victim.parameters, victim.buffers, part)
        return len(x)

    def multiply(product: Callable[[], curvature.Product]) -> int:
        product()(vector)
        return len(x)

    def limit(**times: int) -> Callable[[], int]:
        return perceptron_products(SIZES, 2000, len(x), **times)

    held = {name: problem.product(name, hold=True) for name in NEEDED}
    for product in held.values():
        product(vector)  # what is held is computed with the first
    functions: dict[str, Callable[[], int]] = {"forward pass": passes}
    for name, (whole, again) in NEEDED.items():
        functions |= {
            name: partial(multiply, partial(problem.product, name)),
            f"{name}, products alone": limit(**whole),
            f"{name}, held": partial(multiply, partial(held.get, name)),
            f"{name}, held, products alone": limit(**again),
        }
    runs = in_turn(functions)
    kinds = [each for name in NEEDED for each in (name, f"{name}, held")]
    shares = {each: runs.ratio(f"{each}, products alone", each) for each in kinds}
    drift = {name: chunk_drift(problem, name, vector) for name in NEEDED}
    memory = {name: extra_megabytes(f"{name}_product") for name in ("gauss_newton", "hessian")}
    rows = {"one forward pass": f"{len(x) * runs.median('forward pass'):.3f} s"}
    rows |= {each: f"{runs.ratio(each, 'forward pass'):.1f} forward passes" for each in kinds}
    rows |= {f"{each}, share of the machine's limit": f"{share:.2f}" for each, share in shares.items()}
    rows |= {f"{name}, chunks of 1,000 and 60,000 differ by": f"{value:.0e}" for name, value in drift.items()}
    rows |= {f"{name}, peak extra memory": f"{value:.0f} MB" for name, value in memory.items()}
    report("Products with the curvature over 60,000 examples", rows | {"a large matrix product": gigaflops()})
    benchmark.extra_info.update(shares)
    benchmark.pedantic(multiply, args=(partial(problem.product, "hessian"),), rounds=1)
    assert min(shares.values()) >= SHARE
    assert max(drift.values()) <= 1e-6
    assert max(memory.values()) <= 100


def chunk_drift(problem: Problem, name: str, vector: Tensor) -> float:
    """Relative difference, in single precision, between products in small chunks and in one."""
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        for chunk in (1000, 60_000):
            patch.setattr(curvature, "CHUNK", chunk)
            patch.setattr(curvature, "INPUTS", chunk * 784)
            seen.append(problem.product(name)(vector))
    return float((seen[0] - seen[1]).norm() / seen[1].norm())


def test_negative_curvature(benchmark: Any, problem: Problem, report: Report) -> None:
    """The Hessian of a trained network is indefinite; a damping that leaves it so is refused, and one beyond works."""
    spectrum = extreme_eigenvalues(problem.product("hessian", 0.0), problem.slope)
    lowest = float(spectrum.lowest)
    with pytest.raises(UserError, match=r"smallest eigenvalue .* raise the solver's damping") as refused:
        problem.solve(Solver(curvature="hessian", damping=-lowest / 2, tolerance=TOLERANCE))
    solution = problem.solve(Solver(curvature="hessian", damping=1.5 * -lowest, tolerance=TOLERANCE))
    rows = {
        "smallest eigenvalue": f"{lowest:.3f} (an eigenvalue within {float(spectrum.error):.3f})",
        "largest eigenvalue": f"{float(spectrum.highest):.2f}",
        "products": str(spectrum.products),
        f"damping {-lowest / 2:.3f}": str(refused.value),
        f"damping {-lowest * 1.5:.3f}": f"{solution.iterations} iterations, residual {float(solution.residual):.1e}",
    }
    report("The Hessian of the retained objective", rows)
    benchmark.pedantic(lambda: None)
    assert lowest < -0.05


def test_woodbury(benchmark: Any, problem: Problem, report: Report) -> None:
    """The inverse of the empirical Fisher of 1,000 gradients: seconds and memory."""
    solver = Solver(method="woodbury", curvature="fisher", rank=1000, damping=DAMPING)
    seconds, solution = min((timed(lambda: problem.solve(solver)) for _ in range(3)), key=lambda pair: pair[0])
    memory = extra_megabytes("woodbury")
    report(
        "Woodbury with 1,000 gradients of 26,506 parameters (106 MB)",
        {
            "gradients, factor and solution": f"{seconds:.2f} s",
            "peak extra memory": f"{memory:.0f} MB",
            "relative residual": f"{float(solution.residual):.1e}",
        },
    )
    benchmark.pedantic(lambda: None)
    assert float(solution.residual) <= solver.tolerance
    assert memory <= 1000
