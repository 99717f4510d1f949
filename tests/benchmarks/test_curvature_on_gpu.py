"""Curvature of a ResNet-18 on CIFAR-10-shaped data on a CUDA GPU, in float32 and bfloat16 where that is sound."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from data.examples import Examples
from data.randomness import generator
from models.curvature import CURVATURES
from models.gradients import objective_gradient
from models.influence import inverse_curvature
from models.resnet import ResNet18
from models.solver import Solver
from models.training import Training, train
from models.victim import Victim
from tests.benchmarks.conftest import Report
from tests.benchmarks.test_curvature import BATCH, plain_lissa

DEVICE, COUNT, DELETED = "cuda", 50_000, 1000
DAMPING, TOLERANCE = 0.1, 1e-2
RECIPE = Training(epochs=1, batch_size=512, lr=0.05, weight_decay=0.0)
STEPS, SCALE = 100, 1000.0  # of the 10 x 1,000 steps of plain LiSSA that are timed
FITTING = 20  # gradients of 11 million parameters that the Woodbury solver agrees to hold


@dataclass(frozen=True, eq=False)
class Problem:
    """A briefly trained network, and 1,000 of its examples to forget."""

    victim: Victim
    records: Examples
    deleted: Tensor
    slope: Tensor

    def cast(self, dtype: torch.dtype) -> "Problem":
        """The same in another precision."""
        parameters, buffers = (
            {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
            for tensors in (self.victim.parameters, self.victim.buffers)
        )
        victim = Victim(self.victim.module, parameters, buffers)
        records = Examples(self.records.x.to(dtype), self.records.y)
        return Problem(victim, records, self.deleted.to(dtype), self.slope.to(dtype))

    def product(self, name: str, vector: Tensor) -> Tensor:
        make = CURVATURES[name]
        return make(self.victim.copies(1), self.records, self.deleted, DAMPING)(vector.to(self.records.x))


@pytest.fixture(scope="module")
def problem() -> Iterator[Problem]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU is at hand")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, as it does for the data and the solver
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(10, 3, 32, 32, generator=rng)
    y = torch.randint(10, (COUNT,), generator=rng)
    records = Examples((means[y] + 3 * torch.randn(COUNT, 3, 32, 32, generator=rng)).to(DEVICE), y.to(DEVICE))
    victim = train(partial(ResNet18, shape=(3, 32, 32), classes=10), records, RECIPE, [0])[0]
    deleted = torch.zeros(1, COUNT, device=DEVICE)
    deleted[0, torch.randperm(COUNT, generator=generator(0, "benchmark"))[:DELETED].to(DEVICE)] = 1
    yield Problem(victim, records, deleted, objective_gradient(victim, records, deleted, 0.0))
    torch.backends.cudnn.allow_tf32 = before


def seconds(function: Callable[[], Any], rounds: int = 3) -> tuple[float, Any]:
    """The median of some runs after one that is not counted, and what the last one gave."""
    times = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        found = function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:]), found


def peak_gigabytes(function: Callable[[], Any]) -> float:
    """Peak memory of a call above what was held before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def test_products(benchmark: Any, problem: Problem, report: Report) -> None:
    """A product with all examples: at most six forward passes in float32; the error of bfloat16 is printed."""
    vector = torch.randn(1, problem.victim.flat().numel(), generator=generator(0, "benchmark")).to(DEVICE)
    rows, costs, exact = {"parameters": f"{vector.numel():,}"}, {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        at, label = problem.cast(dtype), str(dtype).removeprefix("torch.")
        forward, _ = seconds(partial(at.victim.logits, at.records.x))
        rows[f"forward pass, {label}"] = f"{forward:.2f} s"
        for name in CURVATURES:
            taken, found = seconds(partial(at.product, name, vector))
            memory = peak_gigabytes(partial(at.product, name, vector))
            costs[name, label], line = taken / forward, f"{taken / forward:.1f} forward passes, {memory:.1f} GB"
            if label == "float32":
                exact[name] = found
            else:
                line += f", {float((found.float() - exact[name]).norm() / exact[name].norm()):.0e} off float32"
            rows[f"{name}, {label}"] = line
    report(f"Products with the curvature of a ResNet-18 over {COUNT:,} examples", rows)
    benchmark.extra_info.update({f"{name} {label}": cost for (name, label), cost in costs.items()})
    benchmark.pedantic(lambda: None)
    assert max(cost for (_, label), cost in costs.items() if label == "float32") <= 6


def test_newton_direction(benchmark: Any, problem: Problem, report: Report) -> None:
    """To a relative residual of 1e-2 in float32, in no more time than 10 x 1,000 plain LiSSA steps of batch 10."""
    base, rows, taken = problem.victim, {}, {}
    for kind in ("none", "subsample"):
        solver = Solver(damping=DAMPING, tolerance=TOLERANCE, preconditioner=kind)

        def solve(solver: Solver = solver) -> Any:
            fresh = Victim(base.module, base.parameters, base.buffers)  # nothing is known of it yet
            start = fresh.copies(1)
            return inverse_curvature(solver, start, problem.records, problem.deleted, 0.0, problem.slope, base=fresh)

        taken[kind], solution = seconds(solve, rounds=1)
        left = float((problem.slope - problem.product("gauss_newton", solution.x)).norm() / problem.slope.norm())
        rows[f"conjugate gradients, {kind}"] = f"{solution.iterations} iterations, {taken[kind]:.1f} s, {left:.1e}"
        assert left <= TOLERANCE
    base.module.load_state_dict({**base.parameters, **base.buffers})
    loop = partial(plain_lissa, base.module, on_the_gpu(problem), problem.slope, 1, STEPS, SCALE)
    plain, _ = seconds(loop, rounds=1)
    plain *= 10 * 1000 / STEPS
    rows[f"plain LiSSA, 10 x 1,000 steps ({STEPS} timed)"] = f"{plain:.1f} s"
    report(f"Newton direction of a ResNet-18: {DELETED:,} of {COUNT:,} deleted, damping {DAMPING}", rows)
    benchmark.extra_info["plain / ours"] = plain / min(taken.values())
    benchmark.pedantic(lambda: None)
    assert min(taken.values()) <= plain


def on_the_gpu(problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
    """Small random batches, indexed out of tensors on the GPU."""
    while True:
        rows = torch.randint(COUNT, (BATCH,), device=DEVICE)
        yield problem.records.x[rows], problem.records.y[rows]


def test_woodbury(benchmark: Any, problem: Problem, report: Report) -> None:
    """The empirical Fisher of as many gradients as may be held."""
    solver = Solver(method="woodbury", curvature="fisher", rank=FITTING, damping=DAMPING)

    def solve() -> Any:
        start = problem.victim.copies(1)
        return inverse_curvature(solver, start, problem.records, problem.deleted, 0.0, problem.slope)

    taken, solution = seconds(solve)
    residual = float(solution.residual)
    rows = {"seconds": f"{taken:.2f}", "memory": f"{peak_gigabytes(solve):.2f} GB", "residual": f"{residual:.0e}"}
    report(f"Woodbury with {FITTING} gradients of a ResNet-18", rows)
    benchmark.pedantic(lambda: None)
    assert residual <= solver.tolerance
