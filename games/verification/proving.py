"""Where proofs are written while a game is played, and what they say that they are about."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import BaseFileLock
from torch import Tensor

from data.errors import UserError
from data.naming import option
from data.paths import expanded, reason
from models.plan import Plan, follow
from models.stepwise import Opening, Stepwise
from models.victim import Victim
from proofs.commitment import digests, root
from proofs.header import Architecture, Records
from proofs.terms import Terms
from proofs.writer import ProofWriter, Subject
from storage.artifact import PROOFS, STAYS, lock
from storage.records import canonical_json, sha256
from unlearning.procedure import Task
from unlearning.provable import drawn

if TYPE_CHECKING:
    from games.game import Setup
    from games.verification.game import VerificationGame

OURS = "models."
LOG = "log"  # the folder of the log of the original, in that of a game's proofs


@contextmanager
def workplace(setup: Setup[VerificationGame], seed: int) -> Iterator[Path]:
    """A folder for the proofs of one game, which is removed afterwards, unless they are to be kept.

    What a killed game left in it is removed first. Another process that plays the same game is waited for; without a
    store every process has a folder of its own. Raises UserError where it cannot be made.
    """
    settings = setup.game.proof
    guard: AbstractContextManager[Any] = nullcontext()
    name = sha256(canonical_json({**setup.keys.game(), "seed": seed}))[:16]
    name = f"{option(setup.config, 'attack')}-{option(setup.config, 'defense')}-{seed}-{name}"
    try:
        if settings.folder is None and not setup.store.enabled:
            folder = Path(tempfile.mkdtemp(prefix="unlearning-games-")) / name
        else:
            base = expanded(Path(settings.folder)) if settings.folder else setup.store.folder / PROOFS
            folder = base.resolve() / name
            folder.parent.mkdir(parents=True, exist_ok=True)
            guard = lock(folder)
    except OSError as error:
        raise UserError(f"Proofs cannot be written ({reason(error)}); set game.proof.folder to another one.") from error
    with guard:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder / LOG if settings.keep else folder, ignore_errors=True)
            if settings.keep and folder.exists():
                (folder / STAYS).touch()
            elif isinstance(guard, BaseFileLock):
                Path(guard.lock_file).unlink(missing_ok=True)
            else:
                shutil.rmtree(folder.parent, ignore_errors=True)


def writer(
    setup: Setup[VerificationGame], task: Task, victim: Victim, folder: Path, deleted: Tensor, terms: Terms,
    inputs: bool = False,
) -> ProofWriter:  # fmt: skip
    """What takes down a proof about `task` without the records `deleted`."""
    hashes = digests(task.records, deleted)
    subject = Subject(
        architecture=architecture(setup.config),
        shapes={name: tuple(value.shape) for name, value in victim.moving.items()},
        records=Records(name=setup.data.name, n=len(task.records), shape=setup.data.shape, root=root(hashes)),
        hashes=hashes,
        deleted=tuple(sorted(deleted.tolist())),
        order=terms.order,
    )
    settings = setup.game.proof
    return ProofWriter(folder, subject, settings.every, settings.key, inputs)


def architecture(config: dict[str, Any]) -> Architecture:
    """One of ours by its name and options; of a user's own only that it is one."""
    node = config["model"]
    if not str(node["_target_"]).startswith(OURS):
        return Architecture(name=None, options={})
    options = {key: value for key, value in node.items() if not key.startswith("_")}
    return Architecture(name=str(node["_target_"]).removeprefix(OURS), options=options)


def logged_original(setup: Setup[VerificationGame], task: Task, seed: int, folder: Path) -> Victim:
    """The model before deletion, trained with every step taken down in a log; bit by bit that of plain learning.

    (But for models with dropout layers of ours: here every step draws its own masks, so that it can be replayed alone.)
    """
    start, n = drawn(task, seed), len(task.records)
    plan = Plan(task.training, n, ragged=True)
    nobody = torch.empty(0, dtype=torch.long)
    recorder = writer(setup, task, start, folder, nobody, Terms())
    learner = Stepwise(start, task.training, task.records.x, seed)
    opening = Opening(training=task.training, steps=plan.steps, seed=seed)
    batches = plan.batches(torch.arange(n), seed)
    return follow(learner, task.records, plan, batches, opening, recorder, label="training the victim, with a log")
