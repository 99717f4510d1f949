"""Preconditioners for conjugate gradients on Gauss-Newton + shift I, made from a few examples that carry its weight.

All are made for one model with nothing deleted, and the same in every run. They change how many products a solution
takes, never what is solved. On MNIST with an MLP an inner solve on the subsample is the fastest for one system; the
low-rank one costs more to make and little to apply, which pays where many systems share a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from models.curvature import Product, gauss_newton
from models.fisher import diagonal_fisher
from models.victim import Victim

Factor = Callable[[Tensor], Tensor]  # (m, p) -> (m, p): an approximate inverse, applied to every row
HELD = 2**28  # numbers that may be held for one preconditioner
SHARE, LARGEST_SAMPLE = 0.1, 2500  # of the examples: the size of a subsample
DIAGONAL_SAMPLE = 500  # every one of these takes a backward pass per class
INNER_RESIDUAL, INNER_STEPS = 0.2, 25


def make_preconditioner(kind: str, victim: Victim, examples: Examples, shift: float, rank: int) -> Factor:
    """The preconditioner called `kind`: diagonal, nystroem (of `rank`) or subsample.

    Raises UserError where weight decay plus damping is zero, and where `rank` vectors would not fit into memory.
    """
    if not shift > 0:
        raise UserError(f"solver.preconditioner={kind} needs damping or weight decay above zero; raise solver.damping.")
    if kind == "diagonal":
        return diagonal(victim, examples, shift)
    if kind == "nystroem":
        return nystroem(victim, examples, shift, rank)
    return inner_solve(victim, examples, shift)


def check_rank(rank: int, size: int) -> None:
    """Raise UserError unless rank x size numbers are at most 2**28."""
    if rank * size > HELD and rank > 1:
        raise UserError(
            f"solver.rank={rank} vectors of {size:,} parameters do not fit into memory; "
            f"lower solver.rank to at most {max(1, HELD // size)}."
        )


def weighty(victim: Victim, examples: Examples, size: int) -> tuple[Examples, Tensor]:
    """About `size` examples with weights c_i, such that the expectation of sum_i c_i H_i is (1/n) sum over all.

    Example i is drawn with probability q_i = min(1, t (1 - ||p_i||^2 + floor)), systematically, and c_i = 1 / (n q_i):
    the trace of Lambda_i is 1 - ||p_i||^2, so nearly all curvature comes from what the model is not sure about. The
    floor is a twentieth of the mean and bounds the weights of the others.
    """
    trace = 1 - victim.probabilities(examples.x).double().square().sum(1)
    trace = trace.clamp_min(1e-12) + 0.05 * trace.mean().clamp_min(0)
    chance = trace * min(1.0, size / len(examples)) / trace.mean()
    for _ in range(20):  # what is cut off at one goes to the others, until nothing is
        over = chance > 1
        left = size - int((chance >= 1).sum())
        if left <= 0 or not bool(over.any()):
            break
        free = chance < 1
        chance = torch.where(free, chance * (left / chance[free].sum()), 1.0)
    chance = chance.clamp_max(1)
    offset = float(torch.rand((), generator=generator(0, "preconditioner")))
    counts = (chance.cumsum(0) + offset).floor()
    drawn = (counts.diff(prepend=counts.new_zeros(1)) > 0).nonzero()[:, 0]
    return examples[drawn], (1 / (len(examples) * chance[drawn])).to(examples.x)


@dataclass(frozen=True, eq=False)
class Subsample:
    """The curvature of a few weighted examples of one model."""

    victim: Victim
    examples: Examples
    weights: Tensor

    def product(self, shift: float) -> Product:
        """v -> [sum_S c_i J_i' Lambda_i J_i + shift I] v for any number of rows."""
        forget_weights = (1 - self.weights * len(self.examples))[None]  # the product weights by (1 - w) / n
        return gauss_newton(self.victim.copies(1), self.examples, forget_weights, shift, hold=True)


def subsample(victim: Victim, examples: Examples) -> Subsample:
    """A tenth of the examples, and at most 2,500."""
    return Subsample(victim, *weighty(victim, examples, max(1, min(int(SHARE * len(examples)), LARGEST_SAMPLE))))


def inner_solve(victim: Victim, examples: Examples, shift: float) -> Factor:
    """Conjugate gradients on the subsample, to a relative residual of 0.2 or 25 steps.

    That is not a linear map: conjugate gradients around it must be flexible.
    """
    part = subsample(Victim(victim.module, victim.moving, victim.buffers), examples)  # the victim itself may die
    return partial(_rough_solution, part.product(shift))


def _rough_solution(product: Product, b: Tensor) -> Tensor:
    x, residual, direction = torch.zeros_like(b), b, b
    square = residual.square().sum(1, keepdim=True)
    enough = INNER_RESIDUAL**2 * square
    for _ in range(INNER_STEPS):
        active = square > enough
        if not bool(active.any()):
            break
        curved = product(direction)
        step = torch.where(active, square / (direction * curved).sum(1, keepdim=True), 0.0)
        x, residual = x + step * direction, residual - step * curved
        following = residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(active, following / square, 0.0) * direction
        square = following
    return x


def diagonal(victim: Victim, examples: Examples, shift: float) -> Factor:
    """The inverse of the diagonal of Gauss-Newton + shift I (Jacobi), from at most 500 examples."""
    part, weights = weighty(victim, examples, min(DIAGONAL_SAMPLE, len(examples)))
    entries = diagonal_fisher(victim, part, weights[None])[0] + shift
    return lambda vectors: vectors / entries


@torch.no_grad()
def nystroem(victim: Victim, examples: Examples, shift: float, rank: int) -> Factor:
    """From U diag(l) U', the randomised Nystroem approximation of rank `rank` of the curvature of the subsample.

    P^{-1} = U diag((l_rank + shift) / (l + shift)) U' + (I - U U').
    Source: Frangella, Tropp and Udell, SIAM J. Matrix Anal. Appl. 44, 2023, algorithms 2.1 and 5.1.
    """
    size, like = victim.flat().numel(), victim.flat()
    rank = min(rank, size)
    check_rank(3 * rank, size)
    normal = torch.randn(size, rank, generator=generator(0, "nystroem"), dtype=torch.float64)
    probes = torch.linalg.qr(normal.to(like))[0].T.contiguous()
    images = subsample(victim, examples).product(0.0)(probes)
    noise = torch.finfo(like.dtype).eps * (images.norm() + shift)  # keeps the small matrix positive
    images = images + noise * probes
    core = torch.linalg.cholesky(probes.double() @ images.double().T)
    factor = torch.linalg.solve_triangular(core, images.double(), upper=False)  # l = squares of its singular values
    squares, rotation = torch.linalg.eigh(factor @ factor.T)
    basis = (rotation.T @ factor / squares.clamp_min(torch.finfo(torch.float64).tiny).sqrt()[:, None]).to(like)
    values = (squares - noise).clamp_min(0)
    gain = ((values[0] + shift) / (values + shift) - 1).to(like)
    return lambda vectors: vectors + ((vectors @ basis.T) * gain) @ basis
