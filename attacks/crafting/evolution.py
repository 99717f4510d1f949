"""Black-box search for the best b of n candidates with an evolutionary optimiser from nevergrad.

The optimiser moves a score per candidate in [-3, 3]; the b highest scores are the request. Shortlist candidates first
(by influence on a surrogate): with n above about 100 the search needs very many queries.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.crafting.zeroth_order import decode_top, evaluate
from data.errors import UserError

DEFAULT = "DoubleFastGADiscreteOnePlusOne"
_GOOD = (DEFAULT, "FastGADiscreteOnePlusOne", "DiscreteOnePlusOne", "CMA", "DE", "TBPSA (noisy objectives)")
_BOUND = 3.0


@dataclass(frozen=True)
class Trace:
    """A finished search: the best request `mask` bool (n,) and its `value`, then per query, in order, each (budget,)
    float64: the `values` seen and the `best_so_far`.
    """

    mask: Tensor
    value: float
    values: Tensor
    best_so_far: Tensor


def check_optimiser(optimiser: str) -> None:
    """Raise UserError for an optimiser that nevergrad does not have."""
    import nevergrad as ng

    if optimiser not in ng.optimizers.registry:
        raise UserError(f"nevergrad has no optimiser {optimiser!r}: choose for example one of {', '.join(_GOOD)}.")


def search(
    objective: Callable[[Tensor], Tensor],
    n: int,
    b: int,
    budget: int,
    generator: torch.Generator,
    optimiser: str = DEFAULT,
    workers: int = 1,
    initial: Tensor | None = None,
) -> Trace:
    """Minimise `objective`, masks bool (m, n) -> values (m,), over the sets of exactly `b` of `n` candidates.

    Exactly `budget` masks are evaluated, `workers` at a time (the last generation is cut); a set that comes up twice
    counts twice. `initial` (n,): scores to try first, say influences, clipped to [-3, 3]. The run is determined by
    `generator`, and numpy's global state is neither read nor changed.

    Raises UserError for an optimiser that nevergrad does not have, a budget or a number of workers under 1, b outside
    1..n, or a value that is not finite (nevergrad would accept it in silence).
    """
    import nevergrad as ng
    import numpy as np

    if budget < 1 or workers < 1:
        raise UserError(f"Set budget and workers to at least 1, not {budget} and {workers}.")
    check_optimiser(optimiser)
    if initial is not None and (initial.shape != (n,) or not torch.isfinite(initial).all()):
        raise UserError(f"Give {n} finite initial scores, one per candidate.")
    # Seeded before it is bounded: an unseeded Array draws its seed from numpy's global state when it gets bounds.
    array = ng.p.Array(init=np.zeros(n))
    array.random_state = np.random.RandomState(int(torch.randint(2**31, (), generator=generator)))
    array.set_bounds(-_BOUND, _BOUND)  # the step is 1, a sixth of the range
    engine = ng.optimizers.registry[optimiser](parametrization=array, budget=budget, num_workers=workers)
    if initial is not None:
        engine.suggest(initial.detach().cpu().double().clamp(-_BOUND, _BOUND).numpy())
    masks, values = [], []
    for begin in range(0, budget, workers):
        candidates = [engine.ask() for _ in range(min(workers, budget - begin))]
        generation = decode_top(torch.from_numpy(np.stack([c.value for c in candidates])), b)
        seen = evaluate(objective, generation).to("cpu", torch.float64)
        for candidate, value in zip(candidates, seen.tolist(), strict=True):
            engine.tell(candidate, value)
        masks.append(generation)
        values.append(seen)
    seen_values = torch.cat(values)
    best = int(seen_values.argmin())
    return Trace(torch.cat(masks)[best], float(seen_values[best]), seen_values, seen_values.cummin(0).values)
