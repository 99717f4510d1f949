"""Audits of what a proof says of itself and of its states: each finds its own lie, and honest proofs pass all."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from models.mlp import MLP
from models.small_cnn import SmallCNN
from models.training import initialise
from models.victim import Victim, unflatten
from proofs import reader
from proofs.audits import CHECKS, audit
from proofs.commitment import NOTHING, digests
from proofs.problems import Problem
from proofs.reader import Proof, Step
from tests.proofs.altered import altered, at, expected_of, moved, swapped
from tests.proofs.small import IMAGES, RECIPE, TABLE, Small, small

ADAM = replace(RECIPE, optimizer="adam", lr=0.01)
PLAIN = replace(RECIPE, momentum=0.0)


def one(problems: list[Problem]) -> tuple[str, int | None, str | None]:
    [problem] = problems
    return problem.check, problem.step, problem.field


def fields(problems: list[Problem]) -> list[tuple[int | None, str | None]]:
    return [(each.step, each.field) for each in problems]


@pytest.mark.parametrize("training", [RECIPE, PLAIN, ADAM], ids=["momentum", "sgd", "adam"])
@pytest.mark.parametrize("architecture", [TABLE, IMAGES], ids=["table", "images"])
@pytest.mark.parametrize("every", [1, 3, 100])
def test_honest_proofs_pass_every_audit(training: Any, architecture: Any, every: int, tmp_path: Path) -> None:
    if every == 100:
        training = replace(training, epochs=26)  # 104 steps
    made = small(tmp_path / "proof", training, architecture=architecture, every=every, order=5)
    found = audit(made.proof, expected_of(made, order=5, before=away(made)), CHECKS)
    assert found.problems == ()


def away(made: Small) -> Victim:
    """Some other model, as far away as a draw."""
    return Victim(*initialise(made.build, 123, made.records.x))


def test_a_proof_that_begins_with_the_model_before_is_held_against_it(tmp_path: Path) -> None:
    before = small(tmp_path / "before", deleted=()).final
    made = small(tmp_path / "proof", start=before)
    expected = expected_of(made, before=before, begins=None)
    assert audit(made.proof, expected, CHECKS).problems == ()
    assert one(CHECKS["initialisation"](made.proof, expected_of(made))[1:]) == ("initialisation", 0, "begins")
    retrained = CHECKS["initialisation"](made.proof, expected_of(made, before=before))
    assert one(retrained) == ("initialisation", 0, "begins")  # the declared procedure draws afresh
    assert "The proof begins with the model before deletion" in retrained[0].text
    other = expected_of(made, before=away(made), begins="model")
    assert one(CHECKS["initialisation"](made.proof, other)) == ("initialisation", 0, "weights")


def test_an_incomplete_proof_says_how_far_it_goes(tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    short = altered(made.proof, tmp_path / "short", lambda step: step if step.number < 9 else None)
    assert one(CHECKS["complete"](short, expected_of(made))) == ("complete", 8, "steps")
    assert one(CHECKS["final"](short, expected_of(made))) == ("final", 8, "weights")
    lines = (made.folder / "index.jsonl").read_bytes().splitlines(keepends=True)
    (made.folder / "index.jsonl").write_bytes(b"".join(lines[:-1]))
    assert one(CHECKS["complete"](made.proof, expected_of(made))) == ("complete", 12, "end")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.05),
        ("momentum", 0.5),
        ("weight_decay", 0.0),
        ("epochs", 4),
        ("batch_size", 4),
        ("schedule", "constant"),
    ],
)
def test_another_recipe_than_the_declared_one_is_named_by_its_field(field: str, value: object, tmp_path: Path) -> None:
    made = small(tmp_path / "proof", replace(RECIPE, **{field: value}))  # type: ignore[arg-type]
    assert CHECKS["recipe"](made.proof, expected_of(made)) == []
    found = CHECKS["recipe"](made.proof, expected_of(made, training=RECIPE))
    assert (None, f"recipe.{field}") in fields(found)
    alone = {"lr": {"lr"}, "schedule": {"lr"}, "epochs": {"steps", "lr"}, "batch_size": {"steps", "batch", "lr"}}
    rest = {name for _, name in fields(found)} - {f"recipe.{field}"}
    assert rest == alone.get(field, set())


def test_a_header_that_lies_about_what_was_done_is_found_by_what_was_done(tmp_path: Path) -> None:
    """The header has the declared recipe, the steps another one: learning rates, sizes and numbers of steps."""
    made = small(tmp_path / "proof")
    declared = expected_of(made)
    slow = altered(made.proof, tmp_path / "slow", at(6, lr=lambda lr: lr * (1 + 1e-9)))
    assert one(CHECKS["recipe"](slow, declared)) == ("recipe", 6, "lr")
    vanishing = altered(made.proof, tmp_path / "vanishing", lambda step: replace(step, lr=step.lr * 1e-9))
    assert one(CHECKS["recipe"](vanishing, declared)) == ("recipe", 1, "lr")
    thin = altered(made.proof, tmp_path / "thin", at(4, batch=lambda batch: batch[:3]))
    assert one(CHECKS["recipe"](thin, declared)) == ("recipe", 4, "batch")
    fewer = altered(made.proof, tmp_path / "few", lambda s: s if s.number < 9 else None, steps=8)
    assert fields(CHECKS["recipe"](fewer, declared)) == [(None, "steps")]
    rare = small(tmp_path / "rare", every=13)
    assert fields(CHECKS["recipe"](rare.proof, expected_of(rare))) == [(None, "every")]


def test_without_a_declared_recipe_a_proof_must_follow_its_own(tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    own = expected_of(made, training=None)
    assert CHECKS["recipe"](made.proof, own) == []
    slow = altered(made.proof, tmp_path / "slow", at(6, lr=0.05))
    assert one(CHECKS["recipe"](slow, own)) == ("recipe", 6, "lr")


def test_inputs_of_its_own_are_no_records(tmp_path: Path) -> None:
    made = small(tmp_path / "proof", inputs=True)
    assert one(CHECKS["recipe"](made.proof, expected_of(made))) == ("recipe", None, "inputs")


def test_checkpoints_are_as_far_apart_as_was_agreed_on(tmp_path: Path) -> None:
    made = small(tmp_path / "proof", every=3)
    agreed = replace(expected_of(made), every=3)
    assert CHECKS["recipe"](made.proof, agreed) == []
    assert one(CHECKS["recipe"](made.proof, replace(agreed, every=1))) == ("recipe", None, "every")


@pytest.mark.parametrize("kind", ["weights", "buffers", "moments"])
def test_another_beginning_is_named_by_what_differs(kind: str, tmp_path: Path) -> None:
    made = small(tmp_path / "proof", architecture=IMAGES)
    name = {"buffers": "blocks.1.running_mean", "moments": "velocity"}.get(kind)
    other = altered(made.proof, tmp_path / "other", at(0, state=moved(1e-7, kind, name)))
    found = CHECKS["initialisation"](other, expected_of(made))
    assert one(found) == ("initialisation", 0, kind)
    assert {"weights": "blocks.0.weight", "buffers": str(name), "moments": "velocity is not zero"}[kind] in found[
        0
    ].text
    seed = altered(made.proof, tmp_path / "seed", seed=8)
    assert one(CHECKS["initialisation"](seed, expected_of(made))) == ("initialisation", 0, "weights")


def test_records_of_others_are_named_by_the_first(tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    x = made.records.x.clone()
    x[9, 2] = torch.nextafter(x[9, 2], torch.tensor(9.0))  # one bit of one number
    other = CHECKS["commitment"](made.proof, expected_of(made, records=Examples(x, made.records.y)))
    assert one(other) == ("commitment", None, "records")
    assert other[0].text == "The hash of record 9 is that of another record (1 hashes differ)."
    y = made.records.y.clone()
    y[4:6] = 1 - y[4:6].clamp(0, 1)
    assert (
        "record 4" in CHECKS["commitment"](made.proof, expected_of(made, records=Examples(made.records.x, y)))[0].text
    )
    fewer = made.records[torch.arange(21)]
    found = CHECKS["commitment"](made.proof, expected_of(made, records=fewer, deleted=torch.tensor([3, 17])))
    assert one(found) == ("commitment", None, "records.n")


def test_the_hash_of_a_deleted_record_must_not_be_there(tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    hashes = digests(made.records)
    from proofs.commitment import root

    said = replace(made.proof.header.records, root=root(hashes))
    kept = altered(made.proof, tmp_path / "kept", hashes=hashes, records=said)
    found = CHECKS["commitment"](kept, expected_of(made))
    assert one(found) == ("commitment", None, "records")
    assert "The hash of record 3 is there, and it was to be forgotten (2 hashes differ)" in found[0].text
    assert hashes[96:128] != NOTHING == made.proof.hashes()[96:128]


@pytest.mark.parametrize("damage", ["missing", "other"])
def test_hashes_that_the_header_does_not_name_are_a_problem(damage: str, tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    path = made.folder / "records.sha256"
    path.unlink() if damage == "missing" else path.write_bytes(bytes(22 * 32))
    assert one(CHECKS["commitment"](made.proof, expected_of(made))) == ("commitment", None, "records.root")


def test_a_flipped_pixel_and_swapped_indices_change_what_is_committed_to(tmp_path: Path) -> None:
    """A central pixel of an image, and the order of two indices in one batch: no hash leaves either out."""
    made = small(tmp_path / "proof", architecture=IMAGES)
    x = made.records.x.clone()
    x[2, 0, 2, 2] += 1e-6
    flipped = small(tmp_path / "flipped", architecture=IMAGES, records=Examples(x, made.records.y))
    assert flipped.proof.header.records.root != made.proof.header.records.root
    exchanged = altered(made.proof, tmp_path / "exchanged", at(5, batch=swapped))
    for step in range(13):
        assert (exchanged.index.digest(step) == made.proof.index.digest(step)) == (step < 5)


@pytest.mark.parametrize("kind", ["weights", "buffers"])
def test_the_last_state_must_be_what_was_released(kind: str, tmp_path: Path) -> None:
    made = small(tmp_path / "proof", architecture=IMAGES)
    parts = {"weights": made.final.parameters, "buffers": made.final.buffers}
    name = {"weights": "head.bias", "buffers": "blocks.1.running_var"}[kind]
    changed = {n: v.clone() for n, v in parts[kind].items()}
    changed[name].view(-1)[1] += 1e-6
    other = Victim(made.final.module, **{"parameters": made.final.moving, "buffers": made.final.buffers} | (
        {"parameters": changed} if kind == "weights" else {"buffers": changed}
    ))  # fmt: skip
    found = CHECKS["final"](made.proof, expected_of(made, released=other))
    assert one(found) == ("final", 12, kind)
    assert name in found[0].text


class Frozen(MLP):
    """An MLP whose first layer is not trained."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.hidden[0].weight.requires_grad_(False)


def test_what_training_leaves_alone_must_be_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.proofs import small as making

    monkeypatch.setitem(making.KINDS, TABLE.name, Frozen)
    made = small(tmp_path / "proof")
    assert CHECKS["final"](made.proof, expected_of(made)) == []
    buffers = {name: value.clone() for name, value in made.final.buffers.items()}
    buffers["hidden.0.weight"][0, 0] += 1e-3
    other = Victim(made.final.module, made.final.moving, buffers)
    assert one(CHECKS["final"](made.proof, expected_of(made, released=other))) == ("final", 12, "buffers")


def test_a_proof_that_ends_beside_the_model_before_is_told_from_one_that_wanders(tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    states = [state.weights for state in made.kept.states]
    moves = [float((b - a).norm()) for a, b in pairwise(states)]
    walk, step = sum(move**2 for move in moves) ** 0.5, median(moves)
    found = audit(made.proof, expected_of(made, before=away(made)), ["distance"])
    assert found.problems == ()
    gap = float((states[-1] - away(made).flat()).norm())
    assert found.numbers["distance_ratio"] == pytest.approx(gap / walk, rel=1e-5)
    assert found.numbers["distance_steps"] == pytest.approx(gap / step, rel=1e-5)

    def passes(gap: float, farther: float) -> bool:
        one = torch.zeros(len(states[0]))
        one[3] = gap
        beside = Victim(made.final.module, unflatten(states[-1] + one, made.final.moving), {})
        problems = CHECKS["distance"](made.proof, expected_of(made, before=beside, farther=farther))
        assert {(each.check, each.step, each.field) for each in problems} <= {("distance", 12, "weights")}
        return not problems

    assert [passes(x * step, 0.0) for x in (0.0, 0.49, 0.51)] == [False, False, True]
    assert [passes(x * walk, 0.3) for x in (0.29, 0.31)] == [False, True]
    assert not passes(float("nan"), 0.0)


def test_a_distance_needs_no_more_of_fewer_checkpoints(tmp_path: Path) -> None:
    ratios, steps = [], []
    for every in (1, 3, 12):
        made = small(tmp_path / str(every), every=every)
        found = audit(made.proof, expected_of(made, before=away(made)), ["distance"])
        ratios.append(found.numbers["distance_ratio"])
        steps.append(found.numbers["distance_steps"])
    assert ratios == sorted(ratios)  # the root of k times the sum of squared moves is never less
    assert steps == sorted(steps)


def test_a_damaged_step_is_a_problem_with_its_step_and_no_crash(tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    shard = made.folder / "shard-00000.bin"
    data = bytearray(shard.read_bytes())
    data[made.proof.index.offsets[7] + 3] ^= 16
    shard.write_bytes(bytes(data))
    for check in ("removability", "coverage", "initialisation", "final", "distance"):
        [problem] = CHECKS[check](made.proof, expected_of(made, before=away(made)))
        assert (problem.check, problem.step) == ("damage", 7)
    found = audit(made.proof, expected_of(made), CHECKS)
    assert [(each.check, each.step) for each in found.problems] == [("damage", 7)]  # once, of all of them


def test_states_of_another_architecture_are_said_to_be_and_left_alone(tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    wide = partial(MLP, shape=(4,), classes=3, widths=[7])
    found = CHECKS["architecture"](made.proof, expected_of(made, build=wide))
    assert fields(found) == [(None, "weights"), (None, "moments")]
    for check in ("initialisation", "final", "distance", "initial_distribution"):
        problems = CHECKS[check](made.proof, expected_of(made, build=wide, before=away(made)))
        assert {each.check for each in problems} == {"architecture"}
    deep = partial(SmallCNN, shape=(1, 4, 4), classes=3, widths=[2], norm="group")
    images = small(tmp_path / "images", architecture=IMAGES)
    assert fields(CHECKS["architecture"](images.proof, expected_of(images, build=deep))) == [(None, "buffers")]
    doubled = Examples(made.records.x.double(), made.records.y)
    found = CHECKS["architecture"](made.proof, expected_of(made, records=doubled))
    assert fields(found) == [(None, "weights"), (None, "moments")]


def test_audits_share_one_pass_and_keep_no_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small(tmp_path / "proof", replace(RECIPE, epochs=10))
    kept: list[weakref.ref[Tensor]] = []
    most, passes = 0, 0
    read = reader.Proof.read

    def watched(self: Proof, first: int = 0, last: int | None = None) -> Iterator[Step]:
        nonlocal most, passes
        passes += 1
        for step in read(self, first, last):
            assert step.state is not None
            kept.append(weakref.ref(step.state.weights))
            yield step
            del step
            most = max(most, sum(each() is not None for each in kept))

    monkeypatch.setattr(reader.Proof, "read", watched)
    assert audit(made.proof, expected_of(made, before=away(made)), CHECKS).problems == ()
    assert (passes, len(kept)) == (1, 41)
    assert most <= 2


def test_a_check_that_there_is_not_is_refused(tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    with pytest.raises(UserError, match="There is no check 'colour' of proofs; the checks are architecture, complete"):
        audit(made.proof, expected_of(made), ["complete", "colour"])
