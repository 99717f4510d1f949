"""Checking proofs: honest ones replay exactly, and what was not computed as logged is found at its step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.digits import Digits
from data.errors import UserError
from data.examples import Examples
from data.mnist import Mnist
from models.mlp import MLP
from models.training import Training
from proofs.audits import CHECKS
from proofs.checking import Checked, check_proof, top
from proofs.floor import DISTANCES, exact_here, floor
from proofs.header import Architecture
from proofs.problems import Expected
from proofs.reader import Proof
from proofs.replay import replay
from proofs.states import Moves
from tests.proofs import small as making
from tests.proofs.altered import altered, at, expected_of, moved, recorded, swapped
from tests.proofs.providers import epochs_of, forged
from tests.proofs.small import IMAGES, RECIPE, Small, rows, small

ALL = tuple(name for name in CHECKS if name not in ("order", "distance"))
ADAM = replace(RECIPE, optimizer="adam", lr=0.01)
PLAIN = replace(RECIPE, momentum=0.0)
FORGING = Training(epochs=2, batch_size=50, lr=0.005, momentum=0.0, weight_decay=0.0, schedule="constant")
DROPPED = Architecture(name="mlp.MLP", options={"widths": [6], "activation": "tanh", "dropout": 0.4})
ELSEWHERE = {"torch": "0.1", "device": "cpu", "threads": 1, "processor": "none", "system": "none"}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checked(made: Small, proof: Proof | None = None, **options: Any) -> Checked:
    return check_proof(proof or made.proof, expected_of(made), options.pop("checks", ALL), **options)


def places(found: Checked) -> list[tuple[str, int | None, str | None]]:
    return [(each.check, each.step, each.field) for each in found.problems]


@pytest.mark.parametrize("training", [RECIPE, PLAIN, ADAM], ids=["momentum", "sgd", "adam"])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("model", ["table", "images", "dropout"])
def test_an_honest_proof_replays_with_no_error_at_all(
    training: Training, every: int, model: str, tmp_path: Path
) -> None:
    """With key frames of the moments on the way: 12 steps with a key frame at every second checkpoint."""
    architecture = {"table": making.TABLE, "images": IMAGES, "dropout": DROPPED}[model]
    records = rows(shape=(4,)) if model != "images" else None
    made = small(tmp_path / "proof", training, records=records, architecture=architecture, every=every, key=2)
    found = checked(made)
    assert (found.problems, found.largest, found.tolerance, found.exact, found.floor) == ((), 0.0, 0.0, True, None)
    assert found.replay.steps == list(range(every, 13, every))
    assert found.gradients == 60
    if training is not PLAIN:
        assert len(found.replay.keys) > 1


@pytest.mark.parametrize("training", [RECIPE, ADAM], ids=["momentum", "adam"])
def test_moments_that_were_not_carried_are_found_at_their_key_frame(training: Training, tmp_path: Path) -> None:
    """Key frames at 0, 4, 8 and 12; the tampered moments of step 4 are not what steps 1 to 4 give."""
    made = small(tmp_path / "proof", training, key=4)
    names = list(made.kept.states[0].moments)
    for name in names:
        other = altered(made.proof, tmp_path / name, at(4, state=moved(1e-3 if name != "step" else 1, "moments", name)))
        found = places(checked(made, other))
        assert found[0] == ("replay", 4, "moments"), name
        assert ("replay", 5, "weights") in found  # and the next step does not follow from them


def test_a_state_that_was_not_computed_is_found_at_its_interval(tmp_path: Path) -> None:
    for every, step, near in ((1, 7, [7, 8]), (3, 6, [6, 9])):
        made = small(tmp_path / str(every), PLAIN, every=every)
        other = altered(made.proof, tmp_path / f"other {every}", at(step, state=moved(1e-4)))
        found = checked(made, other)
        assert places(found) == [("replay", each, "weights") for each in near]
        assert found.largest == pytest.approx(1e-4, rel=1e-2)
        assert f"Replayed, the weights of step {step} are 0.0001 from those of the proof" in found.problems[0].text
        assert checked(made, other, tolerance=1e-3).problems == ()


def test_swapped_indices_and_other_metadata_are_found(tmp_path: Path) -> None:
    """Two indices of one batch, of two batches, another rate, and weight decay and momentum that were not used."""
    made = small(tmp_path / "proof", PLAIN)
    batches = {step.number: step.batch for step in made.proof.read(1)}

    def exchanged(batch: Tensor, other: Tensor) -> Tensor:
        return torch.cat([other[:1], batch[1:]])

    first = altered(made.proof, tmp_path / "a", at(5, batch=exchanged(batches[5], batches[6])))
    first = altered(first, tmp_path / "b", at(6, batch=exchanged(batches[6], batches[5])))
    assert places(checked(made, first)) == [("replay", 5, "weights"), ("replay", 6, "weights")]
    inside = altered(made.proof, tmp_path / "c", at(5, batch=swapped))
    assert checked(made, inside, tolerance=1e-6).problems == ()  # the same batch, which rounding alone tells apart
    slow = altered(made.proof, tmp_path / "d", at(5, lr=lambda lr: lr / 2))
    assert places(checked(made, slow)) == [("recipe", 5, "lr"), ("replay", 5, "weights")]
    for field, value in (("weight_decay", 0.5), ("lr", 0.3), ("schedule", "constant")):
        recipe = replace(made.proof.header.recipe, **{field: value})
        found = places(checked(made, altered(made.proof, tmp_path / field, recipe=recipe)))
        assert ("recipe", None, f"recipe.{field}") in found
    rare = altered(made.proof, tmp_path / "rare", every=2)  # the states between are left out: a proof in its own right
    assert checked(made, rare).problems == ()
    header = (made.folder / "index.jsonl").read_bytes().replace(b'"every":1', b'"every":2')
    (made.folder / "index.jsonl").write_bytes(header)
    assert places(checked(made))[0] == ("damage", 0, None)  # what was written with another interval


def test_running_statistics_are_part_of_a_state(tmp_path: Path) -> None:
    """Two steps of a network with batch-norm: its statistics take no part in training, and all parameters match."""
    training = replace(PLAIN, epochs=1, batch_size=10)
    made = small(tmp_path / "proof", training, architecture=IMAGES)
    assert checked(made).problems == ()
    for name in ("running_mean", "running_var"):
        change = moved(1e-3, "buffers", f"blocks.1.{name}")
        other = altered(made.proof, tmp_path / name, at(1, state=change))
        found = checked(made, other)
        assert places(found) == [("replay", 1, "buffers"), ("replay", 2, "buffers")]
        assert found.replay.weights == [0.0, 0.0]
    last = altered(made.proof, tmp_path / "last", at(2, state=change))
    assert places(checked(made, last)) == [("final", 2, "buffers"), ("replay", 2, "buffers")]


def found_in(found: Checked) -> Any:
    """Everything, with key frames in their order."""
    keys = sorted(zip(found.replay.keys, found.replay.moments, strict=True))
    return replace(found, replay=replace(found.replay, keys=[], moments=[])), keys


def test_workers_find_the_same_numbers(tmp_path: Path) -> None:
    made = small(tmp_path / "proof", replace(RECIPE, epochs=5), key=4)
    other = altered(made.proof, tmp_path / "other", at(7, state=moved(1e-4)))
    for proof in (made.proof, other):
        alone, together = (checked(made, proof, workers=count) for count in (1, 2))
        assert found_in(alone) == found_in(together)


def test_epochs_have_their_own_largest_moves(tmp_path: Path) -> None:
    made = small(tmp_path / "proof", PLAIN)
    moves = Moves(made.proof, expected_of(made))
    moves.moves = [(1, 0.5), (2, 0.7), (3, float("nan")), (4, 0.1), (5, 0.2), (6, 0.2), (7, 0.1), (8, 0.3)]
    assert top(moves, 1, 4) == [3, 8]  # what is no number comes first
    assert top(moves, 2, 4) == [2, 3, 5, 8]
    assert top(moves, 9, 4) == list(range(1, 9))


def test_the_largest_moves_alone_miss_what_is_wrong_in_small_ones(tmp_path: Path) -> None:
    """A spoof where the weights move least: the queried intervals are honest, and the whole replay finds it."""
    made = small(tmp_path / "proof", PLAIN)
    honest = checked(made, queries=2)
    assert honest.problems == ()
    assert len(honest.replay.steps) == 6
    moves = {
        step: float((made.kept.states[step].weights - made.kept.states[step - 1].weights).norm())
        for step in range(1, 13)
    }
    for first in (1, 5, 9):
        epoch = sorted(range(first, first + 4), key=moves.__getitem__)
        assert [step for step in honest.replay.steps if first <= step < first + 4] == sorted(epoch[-2:])
    least = min((step for step in range(1, 12) if {step, step + 1}.isdisjoint(honest.replay.steps)), default=None)
    assert least is not None
    spoofed = altered(made.proof, tmp_path / "spoofed", at(least, state=moved(1e-3)))
    assert checked(made, spoofed, queries=2).problems == ()
    assert places(checked(made, spoofed)) == [("replay", least, "weights"), ("replay", least + 1, "weights")]


def test_errors_are_measured_in_the_distance_that_is_asked_for(tmp_path: Path) -> None:
    made = small(tmp_path / "proof", PLAIN)
    other = altered(made.proof, tmp_path / "other", at(12, state=moved(3e-3)))
    weights, logged = made.kept.states[12].weights.double(), other.at(12).state.weights.double()
    for name, distance in DISTANCES.items():
        due = distance(weights, logged)
        found = checked(made, other, checks=(), distance=name, tolerance=due * 0.9)
        assert places(found) == [("replay", 12, "weights")], name
        assert found.largest == pytest.approx(due, rel=0.05)
        assert checked(made, other, checks=(), distance=name, tolerance=due * 1.1).problems == ()
        assert checked(made, distance=name).largest == 0.0


def test_states_that_are_no_numbers_are_beyond_every_tolerance(tmp_path: Path) -> None:
    made = small(tmp_path / "proof", architecture=IMAGES)
    for kind, name in (("weights", None), ("buffers", "blocks.1.running_mean"), ("moments", "velocity")):
        other = altered(made.proof, tmp_path / kind, at(4, state=moved(float("nan"), kind, name)))
        for distance in ("l2", "l_inf", "cosine"):
            found = checked(made, other, checks=(), tolerance=1e30, distance=distance)
            assert ("replay", 4, kind) in places(found)


def test_elsewhere_the_tolerance_is_ten_times_the_measured_floor(tmp_path: Path) -> None:
    for name, training in (("momentum", RECIPE), ("adam", ADAM)):
        made = small(tmp_path / name, training)
        proof = altered(made.proof, tmp_path / f"{name} elsewhere", machine=ELSEWHERE)
        assert exact_here(made.proof, made.records.x, 1)
        assert not exact_here(proof, made.records.x, 1)
        found = checked(made, proof)
        assert found.problems == ()
        assert found.floor is not None
        assert 1e-9 < found.floor < 1e-6
        assert found.tolerance == 10 * found.floor
        assert checked(made, proof, safety=2).tolerance == 2 * found.floor
        assert found.gradients == 60 + 2 * 60  # the replay, and two for the floor
        assert checked(made, proof, tolerance=1e-4).floor is None
        wrong = altered(proof, tmp_path / f"{name} wrong", at(7, state=moved(1e-4)))
        assert ("replay", 7, "weights") in places(checked(made, wrong))


def test_the_floor_is_that_of_honest_replays_whatever_the_proof_says(tmp_path: Path) -> None:
    """A proof with an error at every step, as large as a step, has the floor of an honest one: 1e-7, and not 1e-2."""
    made = small(tmp_path / "proof", PLAIN)
    wrong = altered(made.proof, tmp_path / "wrong", lambda step: replace(step, state=moved(0.01)(step.state)))
    for proof in (made.proof, wrong):
        assert 1e-9 < floor(proof, made.records, made.start).weights < 1e-6
    noise = max(replay(wrong, made.records, made.start, permuted=1).weights)
    assert noise > 1e-4


def test_a_floor_of_draws_moves_inputs_and_not_positions(tmp_path: Path) -> None:
    """Masks of dropout go by position, so that an order within a batch is another step: 1e-2 beside a floor of 1e-7."""
    made = small(tmp_path / "proof", PLAIN, records=rows(shape=(4,)), architecture=DROPPED)
    assert max(replay(made.proof, made.records, made.start, permuted=1).weights) > 1e-3
    assert 1e-9 < floor(made.proof, made.records, made.start).weights < 1e-6
    alone = small(tmp_path / "alone", replace(PLAIN, batch_size=1))
    assert 1e-9 < floor(alone.proof, alone.records, alone.start).weights < 1e-6


def test_a_replay_on_other_threads_is_not_said_to_be_exact(tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    torch.set_num_threads(2)
    assert not exact_here(made.proof, made.records.x, 1)
    assert exact_here(made.proof, made.records.x, 2)  # every worker has one thread
    both = altered(made.proof, tmp_path / "both", machine={**made.proof.header.machine, "threads": 2})
    assert exact_here(both, made.records.x, 1)
    assert not exact_here(both, made.records.x, 2)


def test_damage_and_strange_states_are_problems_and_no_crash(tmp_path: Path) -> None:
    made = small(tmp_path / "proof")
    outside = altered(made.proof, tmp_path / "outside", at(6, batch=lambda b: torch.cat([b[:4], torch.tensor([22])])))
    assert places(checked(made, outside, checks=("removability",)))[0] == ("removability", 6, "batch")
    assert places(checked(made, outside, checks=())) == [("damage", 6, None)]
    wide = replace(expected_of(made), build=partial(MLP, shape=(4,), classes=3, widths=[7]))
    found = check_proof(made.proof, wide, ())
    assert {each.check for each in found.problems} == {"architecture"}
    assert (found.replay.steps, found.largest) == ([], float("inf"))
    shard = made.folder / "shard-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    found = checked(made)
    assert places(found) == [("damage", 12, None)]
    assert found.largest == float("inf")
    with pytest.raises(UserError, match="There is no check 'all'"):
        checked(made, checks=("all",))


def digits(n: int = 1000) -> tuple[Examples, Callable[[], nn.Module]]:
    data = Digits(train=n).load()
    return data.train, partial(MLP, shape=data.shape, classes=10, widths=[16])


def failing(proof: Proof, records: Examples, build: Callable[[], nn.Module], gone: Tensor, tolerance: float) -> float:
    """The share of steps whose error is beyond the tolerance."""
    found = check_proof(proof, Expected(records, gone, build), ("removability",), tolerance=tolerance)
    assert {each.check for each in found.problems} <= {"replay"}
    return sum(each.field == "weights" for each in found.problems) / len(found.replay.steps)


def test_forged_steps_fail_where_the_step_before_had_deleted_records(tmp_path: Path) -> None:
    """1,000 digits, 10 deleted, batches of 50. Without a perturbation the errors are exactly at those steps."""
    records, build = digits()
    gone = torch.randperm(1000, generator=torch.Generator().manual_seed(1))[:10].sort().values
    batches = list(epochs_of(1000, 50, 2, 0))
    honest, _ = recorded(tmp_path / "honest", records, build, FORGING, gone, [(b, None) for b in batches])
    assert check_proof(honest, Expected(records, gone, build), (), tolerance=1e-6).problems == ()
    steps, overlaps = forged(records, build, FORGING, gone, batches, p=0.0, seed=0)
    proof, _ = recorded(tmp_path / "still", records, build, FORGING, gone, steps)
    found = check_proof(proof, Expected(records, gone, build), ("removability",), tolerance=1e-6)
    assert 0.2 < sum(overlaps) / 40 < 0.6
    assert [each.step for each in found.problems] == [i + 2 for i, over in enumerate(overlaps[:-1]) if over]
    steps, _ = forged(records, build, FORGING, gone, batches, p=1e-3, seed=0)
    proof, _ = recorded(tmp_path / "moved", records, build, FORGING, gone, steps)
    assert failing(proof, records, build, gone, 1e-6) >= 39 / 40  # the first step begins where the log does


@pytest.mark.claims
def test_honest_and_forged_steps_on_mnist(data_root: Path, tmp_path: Path) -> None:
    """60,000 records, 1,000 deleted, batches of 128, MLP 784-32-32-10, plain SGD at 0.005, one epoch, one thread."""
    records = Mnist(root=data_root).load().train
    records = records[torch.arange(60_000)]
    build = partial(MLP, shape=(1, 28, 28), classes=10, widths=[32, 32], activation="relu")
    training = replace(FORGING, epochs=1, batch_size=128)
    gone = torch.randperm(60_000, generator=torch.Generator().manual_seed(9))[:1000].sort().values
    batches = list(epochs_of(60_000, 128, 1, 0))
    honest, victim = recorded(tmp_path / "honest", records, build, training, gone, [(b, None) for b in batches])
    exact = replay(honest, records, victim)
    permuted = replay(honest, records, victim, permuted=1)
    print("honest", max(exact.weights), "permuted", max(permuted.weights), floor(honest, records, victim))
    assert max(exact.weights) == 0.0
    assert 1e-9 < max(permuted.weights) < 1e-6
    assert max(permuted.weights) < 10 * floor(honest, records, victim).weights < 1e-6
    shares = {}
    for p in (0.0, 1e-6, 1e-3):
        steps, overlaps = forged(records, build, training, gone, batches, p=p, seed=0)
        proof, _ = recorded(tmp_path / str(p), records, build, training, gone, steps)
        shares[p] = failing(proof, records, build, gone, 1e-6)
    print(shares, sum(overlaps[:-1]) / len(batches))
    assert abs(shares[0.0] - sum(overlaps[:-1]) / len(batches)) <= 0.03
    assert shares[1e-3] >= 0.99
    assert shares[1e-6] >= 0.95
