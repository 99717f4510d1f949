"""The smallest and the largest eigenvalue of a symmetric matrix that is known by its products, for many at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import UserError
from data.randomness import generator

BASIS = 40  # vectors that are held for every matrix, at most
LEAST = 20  # products, unless there are fewer dimensions


@dataclass(frozen=True)
class Spectrum:
    """Estimates (m,) of the `lowest` and `highest` eigenvalue of m matrices, from inside, and the products they took.

    `error` (m,) is the residual of the lowest Ritz pair: an eigenvalue lies within this distance of `lowest`.
    """

    lowest: Tensor
    highest: Tensor
    error: Tensor
    products: int


@torch.no_grad()
def extreme_eigenvalues(
    product: Callable[[Tensor], Tensor], like: Tensor, steps: int = BASIS, tolerance: float = 1e-3
) -> Spectrum:
    """Lanczos with full reorthogonalisation from one random start; `product` maps rows of the shape of `like` (m, p).

    Stops when the residual of the lowest pair is at most `tolerance` times the spread of the Ritz values and 20
    products were made (a random start hardly sees the ends of the spectrum, and settles first on its bulk); after
    `steps` products; or after p, where the result is exact. Holds steps x m x p numbers. Ritz values lie inside the
    spectrum: the true lowest eigenvalue is at most `lowest`, the true highest at least `highest`. Raises UserError
    where products are not finite.
    """
    m, size = like.shape
    steps = min(steps, size)
    rng, basis = generator(0, "lanczos"), like.new_zeros(m, steps, size)
    projected = torch.zeros(m, steps, steps, dtype=torch.float64, device=like.device)  # tridiagonal

    def draw(used: int) -> Tensor:
        return _orthogonal(torch.randn(m, size, generator=rng).to(like), basis[:, :used])

    vector = draw(0)
    for k in range(steps):
        basis[:, k] = vector / vector.norm(dim=1, keepdim=True)
        image = product(basis[:, k])
        if not bool(image.isfinite().all()):
            raise UserError("The curvature has values that are not finite: the model has diverged; lower training.lr.")
        projected[:, k, k] = (basis[:, k] * image).sum(1).double()
        rest = _orthogonal(image, basis[:, : k + 1])
        length = rest.norm(dim=1).double()
        values, vectors = torch.linalg.eigh(projected[:, : k + 1, : k + 1])
        error = length * vectors[:, -1, 0].abs()
        settled = error <= tolerance * (values[:, -1] - values[:, 0])
        if k + 1 == steps or (k + 1 >= LEAST and bool(settled.all())):
            break
        # Where nothing is left the space is invariant: go on from a new direction, with nothing between the two parts.
        ended = length <= 100 * torch.finfo(like.dtype).eps * values.abs().amax(1)
        vector = torch.where(ended[:, None], draw(k + 1), rest) if bool(ended.any()) else rest
        projected[:, k, k + 1] = projected[:, k + 1, k] = torch.where(ended, 0.0, length)
    return Spectrum(values[:, 0].to(like), values[:, -1].to(like), error.to(like), k + 1)


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    """What of every row is orthogonal to its basis (m, k, p); one round of projection loses digits, two do not."""
    for _ in range(2):
        vector = vector - torch.einsum("mk,mkp->mp", torch.einsum("mkp,mp->mk", basis, vector), basis)
    return vector
