"""What a set of deletions did: predictions of the unlearned models, and the measurements taken on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attacks.crafting.perturbation import Nearby
from data.examples import Data, Examples
from games.request.turns import Parts, in_turn
from metrics.stacked import stacked
from metrics.uncertainty import confidence, entropy, reliability
from models.passes import models_at_once
from models.progress import progress
from models.victim import ModelStack, Victim, concatenate
from unlearning.procedure import Procedure, Request, Task, submitted_copies, unlearned
from unlearning.service import OpenService

if TYPE_CHECKING:
    from games.request.repairing import Repairing

ALPHA = 0.1  # miscoverage of the conformal sets that are reported
# the models of every victim after some requests of a group, which these are, and what they predict together
Look = Callable[[Sequence[ModelStack], slice, Tensor], None]


@dataclass(frozen=True, eq=False)
class Probe:
    """Targets `x` (T, *shape) with the `labels` (T,) that were predicted at first, and what may come near them."""

    nearby: Nearby
    x: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Judge:
    """Runs the deployed procedure on rounded requests and measures; independent of what an attack claims.

    What is `shown` (T, *shape) is predicted after the test and conformal examples, and with a `probe` every model
    predicts the worst inputs near the targets, after all others. With `repairs` models are repaired before they are
    looked at.
    """

    task: Task
    procedure: Procedure
    data: Data
    shown: Tensor | None = None
    probe: Probe | None = None
    repairs: Repairing | None = None

    def after(
        self, victims: Sequence[Victim], seeds: Sequence[int], groups: Mapping[str, Sequence[Tensor]],
        looks: Mapping[str, Look] | None = None, label: str = "judging", empty_too: bool = False,
        unseen: Collection[str] = (), brought: Mapping[str, Sequence[Request | None]] | None = None,
        turns: Mapping[str, Sequence[Parts]] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Mean probabilities (m, n_test + n_conformal, K) after each of the m requests of every group, by its name.

        With a probe those at its T targets follow, (m, n_test + n_conformal + T, K).
        A request is the positions of its records. All are carried out in their order, in batches of `models_at_once`,
        so that memory does not grow with their number; nothing of a batch is held on to. What is to be measured on the
        models themselves, the `looks` of a group measure; what they keep should be numbers. A request of nothing leaves
        the victim as it is, unless `empty_too`: with another seed than the victim's a procedure that draws changes it.
        Of `unseen` groups only the models are of interest: they get no predictions. `brought` has by group, for each of
        its requests, the one whose copies are submitted with it, if any; copies of records that are not deleted (since
        a filter rejected them) play no part. `turns` has by group the batches in which its requests come, one after
        the other; repairs take place after the last.
        """
        requests = [(name, i) for name, group in groups.items() for i in range(len(group))]
        found: dict[str, list[Tensor]] = {name: [] for name in groups}
        nothing = self.data.test.x.new_zeros(0, self.first_probed + self.probed, len(self.data.classes))
        with progress(label, len(requests)) as tick:
            for batch in _batches(requests, models_at_once(victims[0])):
                asked = [groups[name][i] for name, i in batch]
                given = [(brought or {}).get(name, ())[i : i + 1] for name, i in batch]
                copies = [each[0] if each else None for each in given]
                if self.repairs is None:
                    models = self.unlearn(victims, seeds, self.rows(asked), empty_too, copies)
                    parts = [turns[name][i] if turns and name in turns else () for name, i in batch]
                    models = in_turn(self.provider(victims, seeds), models, parts)
                else:
                    models = self.repairs.models(self, victims, seeds, asked, empty_too, copies)
                for name in dict.fromkeys(name for name, _ in batch):
                    mine = [k for k, (owner, _) in enumerate(batch) if owner == name]
                    here, its = slice(mine[0], mine[-1] + 1), slice(batch[mine[0]][1], batch[mine[-1]][1] + 1)
                    own = [each.select(here) for each in models]
                    predictions = nothing if name in unseen else self.predict(own)
                    found[name].append(predictions)
                    if looks is not None and name in looks:
                        looks[name](own, its, predictions)
                del models, own  # before the next batch is made
                tick(len(batch))
        return {name: torch.cat([nothing, *parts]) for name, parts in found.items()}

    def provider(self, victims: Sequence[Victim], seeds: Sequence[int]) -> OpenService:
        """Who carries requests out one after the other."""
        return OpenService(self.task, self.procedure, tuple(victims), tuple(seeds))

    @property
    def clean(self) -> int:
        """How many test and conformal calibration examples are predicted."""
        return len(self.data.test) + len(self.data.conformal_trusted)

    @property
    def first_probed(self) -> int:
        """Where predictions have the worst inputs near targets."""
        return self.clean + (0 if self.shown is None else len(self.shown))

    @property
    def probed(self) -> int:
        """How many targets are predicted in their worst form."""
        return 0 if self.probe is None else len(self.probe.labels)

    def rows(self, requests: Sequence[Tensor]) -> Tensor:
        """Positions as rows of 0/1 deletion weights (m, n)."""
        rows = self.task.records.x.new_zeros(len(requests), len(self.task.records))
        for row, request in zip(rows, requests, strict=True):
            row[request.to(row.device)] = 1
        return rows

    def unlearn(
        self,
        victims: Sequence[Victim],
        seeds: Sequence[int],
        deleted: Tensor,
        empty_too: bool = False,
        brought: Sequence[Request | None] = (),
    ) -> list[ModelStack]:
        """The models after every row of `deleted` (m, n), one stack per victim; rows of zeros leave the victim.

        With `empty_too` the procedure carries out these too. A row with copies is carried out on its own.
        """
        plain = torch.ones_like(deleted[:, 0], dtype=torch.bool) if empty_too else deleted.any(dim=1)
        copies = {row: each for row, each in enumerate(brought) if each is not None and bool(plain[row])}
        plain[list(copies)] = False
        results = []
        for victim, seed in zip(victims, seeds, strict=True):
            parts: list[tuple[Tensor, ModelStack]] = []
            if plain.any():
                models = unlearned(self.procedure, self.task, victim, deleted[plain], seed)
                parts.append((plain.nonzero()[:, 0], models))
            for row, request in copies.items():
                records = submitted(request, deleted[row], self.task.records)
                models = unlearned(self.procedure, self.task, victim, deleted[row : row + 1], seed, records)
                parts.append((torch.tensor([row], device=deleted.device), models))
            left = torch.ones_like(plain)
            for rows, _ in parts:
                left[rows] = False
            if left.any():
                parts.append((left.nonzero()[:, 0], victim.copies(int(left.sum()))))
            results.append(_in_order(parts))
        return results

    def predict(self, models: Sequence[ModelStack]) -> Tensor:
        """Mean probabilities (m, n_test + n_conformal, K) on the test and conformal calibration examples.

        What is `shown` besides follows after them, then the worst inputs near targets.
        """
        inputs = [self.data.test.x, self.data.conformal_trusted.x, *([] if self.shown is None else [self.shown])]
        total: Tensor | float = 0.0
        for each in models:
            total = total + torch.cat([each.probabilities(x) for x in inputs], dim=1)
        clean = torch.as_tensor(total) / len(models)
        if self.probe is None:
            return clean
        return torch.cat([clean, self.probe.nearby.probabilities(models, self.probe.x, self.probe.labels)], dim=1)

    def model_levels(self, probabilities: Tensor) -> dict[str, list[float]]:
        """The metrics of models (m, n_test + n_conformal + T, K) on the test set: for each metric its m values."""
        if not len(probabilities):
            return {}
        test, trusted = self.data.test, self.data.conformal_trusted
        p, calibration = probabilities[:, : self.clean].split([len(test), len(trusted)], dim=1)
        return stacked(p, test.y, calibration, trusted.y, ALPHA) | {
            "mean_confidence": [float(confidence(each).mean()) for each in p],
            "mean_entropy": [float(entropy(each).mean()) for each in p],
        }

    def reliability(self, probabilities: Sequence[Tensor]) -> dict[str, Any]:
        """The reliability diagram of one or more models on the test set, their predictions taken together."""
        n = len(self.data.test)
        together = torch.cat([p[:n] for p in probabilities])
        found = reliability(together, self.data.test.y.repeat(len(probabilities)))
        return {name: getattr(found, name).tolist() for name in ("edges", "accuracy", "confidence", "count")}


def submitted(request: Request, deleted: Tensor, records: Examples) -> Examples | None:
    """The records with the copies that a request brings in their place, of those that are `deleted` (n,)."""
    assert request.examples is not None
    kept = [k for k, position in enumerate(request.indices) if bool(deleted[position] > 0)]
    left = Request(tuple(request.indices[k] for k in kept), request.examples[torch.tensor(kept, dtype=torch.long)])
    return submitted_copies(left, records) if kept else None


def sent(request: Request, batch: Tensor, records: Examples) -> Examples:
    """The records at positions `batch` (m,) as they were sent: those of the request as its copies."""
    assert request.examples is not None
    found, row = records[batch], {position: k for k, position in enumerate(request.indices)}
    x, y = found.x.clone(), found.y.clone()
    for place, position in enumerate(batch.tolist()):
        if position in row:
            x[place], y[place] = request.examples.x[row[position]], request.examples.y[row[position]]
    return Examples(x, y)


def _in_order(parts: Sequence[tuple[Tensor, ModelStack]]) -> ModelStack:
    if len(parts) == 1:
        return parts[0][1]
    return concatenate([models for _, models in parts]).select(torch.cat([rows for rows, _ in parts]).argsort())


def _batches(requests: Sequence[tuple[str, int]], size: int) -> Iterator[Sequence[tuple[str, int]]]:
    for first in range(0, len(requests), size):
        yield requests[first : first + size]


def on_targets(probabilities: Tensor, positions: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Of each target t, under its own model t: probability of its label, entropy in nats, label kept; p (T, n, K)."""
    rows = torch.arange(len(positions), device=probabilities.device)
    p = probabilities[rows, positions]
    return {
        "confidence": p[rows, labels].tolist(),
        "entropy": entropy(p).tolist(),
        "kept": (p.argmax(-1) == labels).double().tolist(),
    }
