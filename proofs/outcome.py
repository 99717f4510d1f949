"""What a terminal shows of a proof that was verified: what it is of, what was checked, and what was found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from textwrap import wrap
from typing import Any

from data.memory import gigabytes
from proofs.checking import SAFETY, Checked, errors_of
from proofs.reader import Proof

WIDTH, INDENT = 80, 16
RULE = "-" * WIDTH


@dataclass(frozen=True, eq=False)
class Outcome:
    """A proof about `data` that leaves out `deleted` records; whether the verifier knew which, and not from the proof.

    The rest is known once it is verified: `found`, the `names` of what was checked, why something was `skipped`,
    whether the tolerance was `given`, and the `seconds` that it took.
    """

    proof: Proof
    data: str
    deleted: int
    knew: bool
    found: Checked | None = None
    names: Sequence[str] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    given: bool = False
    seconds: float = 0.0

    def ended(
        self, found: Checked, names: Sequence[str], skipped: Mapping[str, str], given: bool, seconds: float
    ) -> Outcome:
        """The same with what was found."""
        return replace(self, found=found, names=names, skipped=skipped, given=given, seconds=seconds)

    @property
    def verifies(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.found is not None and not self.found.problems

    @property
    def heading(self) -> str:
        """What the proof says that it is."""
        header, recipe = self.proof.header, self.proof.header.recipe
        said = header.records
        options = ", ".join(f"{name}={value}" for name, value in header.architecture.options.items())
        name = header.architecture.name or "an architecture of the verifier's"
        momentum = f", momentum {recipe.momentum:g}" if recipe.optimizer == "sgd" else ""
        left = f"{self.deleted:,} left out{'' if self.knew else ', as the proof itself says'}"
        steps = f"{self.proof.steps:,} of {header.steps:,}" if self.proof.steps < header.steps else f"{header.steps:,}"
        weights = sum(map(math.prod, header.weights.shapes))
        begins = f"a draw from the seed {header.seed}" if header.begins == "seed" else "the model before deletion"
        rows = {
            "proof": str(self.proof.folder),
            "data": f"{self.data}, {said.n:,} records of shape {said.shape}; {left}",
            "model": f"{name}{f' ({options})' if options else ''}, {weights:,} weights",
            "recipe": f"{recipe.optimizer}, {recipe.epochs:,} epochs, batches of {recipe.batch_size:,}, learning rate "
            f"{recipe.lr:g} ({recipe.schedule}){momentum}, weight decay {recipe.weight_decay:g}",
            "begins with": begins,
            "steps": f"{steps}, a checkpoint at every {f'{header.every:,}th' if header.every > 1 else 'one'}",
            "size": _size(self.proof.size),
        }  # fmt: skip
        return "\n".join(line for label, text in rows.items() for line in _row(label, text))

    @property
    def result(self) -> str:
        """What was checked and found, and the verdict in one sentence."""
        assert self.found is not None
        lines = ["", f"{'check':22}result", RULE]
        for name, state in self.states.items():
            if state == "passed":
                lines.append(f"{name:22}passed")
            elif state == "failed":
                lines += [f"{name:22}FAILED{self._where(name)}", *_indented(self._of(name)[0].text)]
        lines += [RULE, *self._not_checked(), *self._errors()]
        lines += _row("cost", f"{self.seconds:,.1f} s, {self.found.gradients:,} gradient evaluations")
        if self.verifies:
            return "\n".join([*lines, "", "The proof verifies."])
        first = min(self.found.problems, key=lambda each: math.inf if each.step is None else each.step)
        return "\n".join([*lines, "", *wrap(f"The proof does not verify. {first.text}", WIDTH)])

    @property
    def states(self) -> dict[str, str]:
        """For every check whether it passed, failed, or was skipped."""
        assert self.found is not None
        failed = [each.check for each in self.found.problems]
        found = {name: "failed" if name in failed else "passed" for name in (*self.names, "replay")}
        if not self.found.replay.steps and "replay" not in failed:
            found["replay"] = "skipped"
        return found | dict.fromkeys(self.skipped, "skipped") | dict.fromkeys(failed, "failed")

    def content(self) -> dict[str, Any]:
        """The result for a file of JSON; a number that is not finite is null."""
        found = self.found
        assert found is not None
        return {
            "verifies": self.verifies, "proof": str(self.proof.folder), "data": self.data, "deleted": self.deleted,
            "steps": self.proof.steps, "bytes": self.proof.size, "checks": self.states, "skipped": dict(self.skipped),
            "problems": [asdict(each) for each in found.problems], "intervals": len(found.replay.steps),
            "largest_error": _finite(found.replay.largest), "tolerance": found.tolerance, "floor": found.floor,
            "exact": found.exact, "gradients": found.gradients, "seconds": self.seconds,
            "numbers": {name: _finite(value) for name, value in found.numbers.items()},
        }  # fmt: skip

    def _of(self, name: str) -> list[Any]:
        return [each for each in self.found.problems if each.check == name] if self.found else []

    def _where(self, name: str) -> str:
        first, *others = self._of(name)
        where = [f"step {first.step:,}"] if first.step is not None else []
        where += [first.field] if first.field else []
        more = f" (and {len(others):,} more)" if others else ""
        return f" at {', '.join(where)}{more}" if where else more

    def _not_checked(self) -> Iterator[str]:
        reasons: dict[str, list[str]] = {}
        for name in (name for name, state in self.states.items() if state == "skipped"):
            reasons.setdefault(self.skipped.get(name, "there is no step that could be"), []).append(name)
        for label, (reason, names) in zip(["not checked", *[""] * len(reasons)], reasons.items(), strict=False):
            yield from _row(label, f"{', '.join(names)}: {reason}")

    def _errors(self) -> Iterator[str]:
        found = self.found
        assert found is not None
        there, done = max(0, len(self.proof.checkpoints()) - 1), len(found.replay.steps)
        if not done:
            return
        step, kind, error = max(errors_of(found.replay), key=lambda each: each[2])
        yield from _row("replayed", f"{done:,} of {there:,} intervals between checkpoints")
        yield from _row("largest error", f"{error:.3g}" + (f" ({kind} of step {step:,})" if error else ""))
        if self.given:
            why = "as it was asked"
        elif found.exact:
            why = "replays are exact on this machine, which is like that of the proof"
        else:
            why = f"{SAFETY:g} times the floor of {found.floor or 0:.3g} that honest replays differ by here"
        yield from _row("tolerance", f"{found.tolerance:.3g} ({why})")


def _indented(text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=" " * 22, subsequent_indent=" " * 22)


def _row(label: str, text: str) -> list[str]:
    lines = wrap(text, WIDTH - INDENT, break_on_hyphens=False) or [""]
    return [f"{head:{INDENT}}{line}" for head, line in zip([label, *[""] * (len(lines) - 1)], lines, strict=True)]


def _size(count: int) -> str:
    return gigabytes(count) if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
