"""How much memory a game will take, estimated before it starts, and how much there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from attacks.crafting.access import opens
from attacks.crafting.selection import prefix_lengths
from data import memory
from data.errors import UserError
from models.curvature import HELD, LARGEST
from models.passes import activations, models_at_once, room
from models.solver import Solver
from models.training import initialise
from models.victim import Victim

if TYPE_CHECKING:
    from games.request.targets import RequestSetup

# How many numbers are held for one of a kind, measured in games of several models and procedures:
WORK = 7  # for a parameter of a model of a batch: sums in float64, what is added up to them, steps, the models after
TRAINED = 6  # for a parameter of a model in training: it, its gradient, the optimiser's state, and its copies
PASSED = 2  # for a number that layers put out in a pass that is differentiated
PREDICTED = 3  # for a predicted probability: parts, the whole, and what is computed from it
LIBRARIES = 80 * 2**20  # bytes of what libraries load when they are first used
DENSE = 4  # for an entry of a dense curvature: in two precisions, and its factor


@dataclass(frozen=True)
class Need:
    """Bytes that a game will take beside what its process holds already, by what takes them."""

    kept: int
    models: int
    passes: int
    predictions: int
    records: int
    libraries: int = LIBRARIES

    @property
    def total(self) -> int:
        """All of them: what is done with models, and what goes through them, takes its turns."""
        return self.kept + max(self.models, self.passes) + self.predictions + self.records + self.libraries


def need(setup: RequestSetup) -> Need:
    """What the game of `setup` will take, most of it for a moment only; nothing is trained to know it."""
    task, game, data = setup.task, setup.game, setup.data
    records, width = task.records.x, task.records.x.element_size()
    victim = Victim(*initialise(setup.procedure.architecture(task), 0, records))
    size, each, space = victim.flat().numel(), activations(victim, records), room(records.device)
    members = getattr(getattr(setup.attack, "functional", None), "members", 1)
    samples = getattr(getattr(setup.attack, "functional", None), "samples", 1)

    per_aim = game.targets.count if game.targets.mode == "single" else 1
    requests = per_aim * len(game.targets.directions)
    tried = requests * max(1, len(prefix_lengths(setup.attack.budget, getattr(setup.attack, "prefixes", 0))))
    judged = 3 * requests + game.stream.benign_batches
    batch = min(models_at_once(victim), max(judged, tried))

    seen = min(task.training.batch_size, len(records))
    trains = setup.judge == "full" or setup.procedure.stochastic
    stack = max(1, min(task.training.together, batch, space // max(1, seen * each))) if trains else 1
    training = stack * (TRAINED * size + PASSED * seen * each)
    most = max(len(records), len(data.test), len(data.auxiliary))
    passes = PASSED * min(space, batch * most * each) + _solving(setup, size, each, batch)
    trained = members * (2 if setup.attack.access == "transfer" else 1)  # a surrogate for each
    kept = trained * (size + _recorded(setup, size)) + game.stream.calibration_batches * size
    answers = judged * (len(data.test) + len(data.conformal_trusted)) * (2 if members > 1 else 1)
    looks = tried * (len(data.auxiliary) + game.targets.count) * members * samples
    return Need(
        kept=width * kept,
        models=width * members * WORK * batch * size,
        passes=width * max(training, passes),
        predictions=width * len(data.classes) * PREDICTED * max(answers, looks),
        records=2 * width * (batch + tried) * len(records),
    )


def _recorded(setup: RequestSetup, size: int) -> int:
    """Numbers that the procedure records while a model of `size` parameters learns."""
    return setup.procedure.recorded(setup.task, size)


def _solving(setup: RequestSetup, size: int, each: int, batch: int) -> int:
    """Numbers that are held to solve with the inverse curvature: of an exact procedure, for its gradient only."""
    solver, exact = getattr(setup.procedure, "solver", None), setup.procedure.exact
    if not isinstance(solver, Solver) or (exact and not opens(setup.attack.access)):
        return 0
    with_matrix = solver.method in ("dense", "exact") or (solver.method == "auto" and size <= LARGEST)
    vectors = solver.rank if solver.method == "woodbury" or solver.preconditioner == "nystroem" else 0
    space, graphs = room(setup.device), 3 * len(setup.task.records) * each * (batch if exact else 1)
    return min(HELD * space, graphs) + (DENSE * size**2 if with_matrix else 0) + 3 * vectors * size


def check_memory(setup: RequestSetup) -> None:
    """Raise UserError, with what would make it smaller, where the game of `setup` cannot fit."""
    free, asked = available(setup.device), need(setup)
    if free is None or asked.total <= free:
        return
    parts = {name: getattr(asked, name) / 2**30 for name in ("kept", "models", "passes", "predictions", "records")}
    where = "this machine" if setup.device.type == "cpu" else "the GPU"
    listed = ", ".join(f"{name} {size:.1f}" for name, size in parts.items())
    raise UserError(
        f"This game needs about {asked.total / 2**30:.1f} GB of memory ({listed}), and {free / 2**30:.1f} GB are free "
        f"on {where}; choose a smaller model, data.subset, data.test or game.targets.count, or a larger machine."
    )


def available(device: torch.device) -> int | None:
    """Bytes that this process may still take on `device`, its control groups' limits included; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    return memory.available()
