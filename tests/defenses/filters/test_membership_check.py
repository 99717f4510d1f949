"""Who is told from stored records, what re-encoding costs honest owners, and what replacing a copy leaves of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from data.examples import Examples
from data.randomness import generator
from defenses.defense import Calibration, Context, reviewed
from defenses.filters.membership_check import MembershipCheck, nearest, re_encoded
from experiments.play.play import cached
from experiments.play.setup import prepare
from models.last_layer import features
from tests.attacks.checks import bed
from tests.attacks.requester.test_burn import ASCENT, accuracy, after, blobs, burnt
from tests.defenses.filters.batches import ALPHA, rows
from tests.experiments.games import config
from tests.testbed import TRAINING
from unlearning.procedure import Request, forget

EXACT, NEAREST, LOSS = MembershipCheck(), MembershipCheck(test="nearest"), MembershipCheck(test="loss")


def seen(seed: int, calibration: int = 0) -> tuple[Context, Tensor]:
    """A context whose calibration are so many records, and the positions of all others, in random order."""
    of, order = bed(seed), torch.randperm(TRAINING, generator=generator(seed, "apart"))
    batches = [Calibration(order[:calibration], of.victim)] if calibration else []
    return Context(of.task, of.victim, of.victim, of.trusted, batches), order[calibration:]


def sent(context: Context, batch: Tensor, noise: float = 0.0, levels: int | None = None) -> Context:
    """The records of a batch as owners send them who have stored them otherwise."""
    records = context.task.records
    copies = re_encoded(records[batch], records.x, noise, levels, generator(7, "owners"))
    return replace(context, submitted=copies)


def test_only_stored_records_have_a_known_hash() -> None:
    """Not one that differs in its last bit or in its label, nor one that is gone; the position does not count."""
    context, batch = seen(0)[0], torch.arange(6)
    stored = context.task.records[batch + 10]
    x, y = stored.x.clone(), stored.y.clone()
    x[1, 3] = torch.nextafter(x[1, 3], x.new_tensor(9.0))
    y[2] = (y[2] + 1) % 3
    gone = replace(context.task, forgotten=rows([torch.tensor([13])])[0])
    verdict = reviewed(EXACT, replace(context, submitted=Examples(x, y), task=gone), batch)
    assert verdict.scores.tolist() == [0, 1, 1, 1, 0, 0]
    assert verdict.accepted.tolist() == [True, False, False, False, True, True]
    assert verdict.instead is None
    assert verdict.threshold == 0.0


@pytest.mark.parametrize("space", ["pixels", "features"])
def test_the_nearest_record_is_that_of_all_distances(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts, without what is gone, and with the label that was sent where that is asked for."""
    monkeypatch.setattr("defenses.filters.membership_check.ROWS", 41)
    task, _, victim, _ = blobs()
    gone = torch.zeros(len(task.records), dtype=torch.float64)
    gone[:50] = 1
    context = Context(replace(task, forgotten=gone), victim, victim, task.records)
    copies = Examples(task.records.x[:90] + 0.3, task.records.y[:90])
    points, known = copies.x, task.records.x
    if space == "features":
        points, known = features(victim, points), features(victim, known)
    distances = (points[:, None] - known).norm(dim=2).masked_fill(gone.bool(), torch.inf)
    distance, position = nearest(context, copies, space, same_label=False)  # type: ignore[arg-type]
    assert torch.equal(position, distances.argmin(1))
    assert (distance - distances.amin(1)).abs().max() < 1e-12
    others = distances.masked_fill(copies.y[:, None] != task.records.y, torch.inf)
    check = MembershipCheck(test="nearest", space=space)  # type: ignore[arg-type]
    assert (check.scores(context, copies) - others.amin(1)).abs().max() < 1e-12


def test_where_no_record_of_a_label_is_left_the_distance_is_finite_and_large() -> None:
    context = seen(0)[0]
    y = context.task.records.y
    gone = replace(context, task=replace(context.task, forgotten=(y == 2).double()))
    batch = (y == 2).nonzero()[:3, 0]
    scores = NEAREST.scores(gone, context.task.records[batch])
    assert bool((scores > 1e300).all())
    assert bool(scores.isfinite().all())


def test_records_that_are_sent_as_they_are_stored_pass() -> None:
    context, batch = seen(0, calibration=100)
    for check in (EXACT, NEAREST, LOSS, MembershipCheck(action="replace")):
        verdict = reviewed(check, context, batch)
        assert bool(verdict.accepted.all())
        assert float(verdict.scores.abs().max()) == 0
    for check in (EXACT, NEAREST):
        assert bool(check.review(sent(context, batch), batch).accepted.all())


def test_thresholds_are_order_statistics_of_benign_records_as_they_are_sent() -> None:
    context, _ = seen(0, calibration=100)
    known, of = context.calibration[0].indices.unique(), bed(0)
    records = of.task.records
    copies = re_encoded(records[known], records.x, 0.1, 16, generator(0, "re-encoding"))
    for test in ("nearest", "loss"):
        check = MembershipCheck(test=test, noise=0.1, levels=16, rate=0.1)  # type: ignore[arg-type]
        assert check.threshold(context) == float(check.scores(context, copies).sort().values[90])  # the 91st of 100
        again = replace(context, calibration=[*context.calibration, *context.calibration])
        assert check.threshold(again) == check.threshold(context)  # a record counts once
    with pytest.raises(UserError, match=r"defense\.rate=0\.05 cannot be calibrated with 10 benign scores"):
        NEAREST.threshold(replace(context, calibration=[Calibration(torch.arange(10), of.victim)]))
    with pytest.raises(UserError, match="cannot be calibrated with 0"):
        LOSS.check_calibration(0)
    EXACT.check_calibration(0)


def test_what_benign_re_encoding_costs_honest_owners() -> None:
    """Rejection of valid requests by check and re-encoding, over eight draws of 200 owners each.

    A hash rejects whoever sends other bits. What is calibrated for a re-encoding rejects 5% under it, with the standard
    errors of calibration and live records; calibrated for less, it rejects nearly all.
    """
    changes = {"none": (0.0, None), "noise 0.05": (0.05, None), "16 levels": (0.0, 16), "both": (0.05, 16)}
    checks = {
        "exact": EXACT, "nearest": NEAREST, "nearest, calibrated": None, "loss": LOSS,
    }  # fmt: skip
    found: dict[str, dict[str, float]] = {name: {} for name in checks}
    for name, check in checks.items():
        for change, (noise, levels) in changes.items():
            rejected = []
            for seed in range(8):
                context, batch = seen(seed, calibration=100)
                used = check or MembershipCheck(test="nearest", noise=noise, levels=levels)
                verdict = used.review(sent(context, batch, noise, levels), batch)
                rejected.append((~verdict.accepted).double().mean())
            found[name][change] = float(torch.stack(rejected).mean())
    for name, row in found.items():
        print(f"{name:20s}", "  ".join(f"{change}: {value:.3f}" for change, value in row.items()))
    error = (ALPHA * (1 - ALPHA) * (1 / 800 + 1 / 1600)) ** 0.5
    assert found["exact"] == {"none": 0.0, "noise 0.05": 1.0, "16 levels": 1.0, "both": 1.0}
    assert found["nearest"] == found["exact"]
    assert found["nearest, calibrated"]["none"] == 0
    for change in ("noise 0.05", "16 levels", "both"):
        assert abs(found["nearest, calibrated"][change] - ALPHA) <= 3 * error
        assert abs(found["loss"][change] - ALPHA) <= 3 * error


def test_re_encoding_rounds_within_the_range_of_the_records() -> None:
    """By channel of images, by feature of tables; noise has the standard deviation that was asked for."""
    x = (
        torch.randn(200, 3, 4, 4, generator=generator(0, "x"), dtype=torch.float64)
        * torch.tensor([1.0, 5, 9])[:, None, None]
    )
    images = Examples(x, torch.zeros(200, dtype=torch.long))
    few = re_encoded(images, x, 0.0, 5, generator(1, "x")).x
    for channel in range(3):
        own = x[:, channel]
        values = torch.linspace(float(own.min()), float(own.max()), 5, dtype=torch.float64)
        assert (few[:, channel].unique() - values).abs().max() < 1e-12
        assert (few[:, channel] - own).abs().max() <= (values[1] - values[0]) / 2 + 1e-12
    noisy = re_encoded(images, x, 0.3, None, generator(1, "x")).x - x
    assert abs(float(noisy.std()) - 0.3) < 0.3 * 3 / (2 * noisy.numel()) ** 0.5
    assert torch.equal(re_encoded(images, x, 0.0, None, generator(1, "x")).x, x)


def test_burnt_copies_are_told_from_re_encoded_records() -> None:
    """Copies at a distance of 3 in 20 dimensions; owners whose copies lie at 0.45 on average pass at 95%."""
    task, _, victim, _ = blobs()
    found = burnt("white_box")[0].request
    batch = torch.tensor(found.indices)
    free = torch.ones(600, dtype=torch.bool)
    free[batch] = False
    context = Context(task, victim, victim, task.records, [Calibration(free.nonzero()[:200, 0], victim)])
    context = replace(context, submitted=found.examples)
    caught = {}
    for test, space in (("exact", "pixels"), ("nearest", "pixels"), ("nearest", "features"), ("loss", "pixels")):
        check = MembershipCheck(test=test, space=space, noise=0.1)  # type: ignore[arg-type]
        caught[test, space] = float((~check.review(context, batch).accepted).double().mean())
    print("caught", caught)
    assert caught["exact", "pixels"] == caught["nearest", "pixels"] == 1
    assert caught["nearest", "features"] == 1


def test_retrieving_and_replacing_undoes_burnt_copies_exactly() -> None:
    """What is deleted in place of a copy is the record that it was made of: the model is that of a benign request."""
    task, _, victim, _ = blobs()
    found = burnt("white_box")[0].request
    batch = torch.tensor(found.indices)
    context = Context(task, victim, victim, task.records, submitted=found.examples)
    verdict = reviewed(MembershipCheck(action="replace"), context, batch)
    assert bool(verdict.accepted.all())
    assert verdict.instead is not None
    replaced = Request(tuple(verdict.instead.tolist()))
    honest = forget(ASCENT, task, victim, Request(found.indices), 0)
    print(f"clean {accuracy(victim):.3f}, burnt {after(found):.3f}, replaced {after(replaced):.3f}", end=", ")
    print(f"honest {accuracy(honest):.3f}, the record itself {(verdict.instead == batch).double().mean():.0%}")
    assert after(found) < accuracy(victim) - 0.2
    assert torch.equal(verdict.instead, batch)
    assert torch.equal(forget(ASCENT, task, victim, replaced, 0).flat(), honest.flat())


def test_of_equally_near_records_that_which_is_named_is_deleted() -> None:
    """Where two records are equal, a copy lies as near to both; what is stored as sent is left to be carried out."""
    context = seen(0)[0]
    records = context.task.records
    twice = Examples(torch.cat([records.x, records.x[:1]]), torch.cat([records.y, records.y[:1]]))
    context = replace(context, task=replace(context.task, records=twice))
    batch = torch.tensor([TRAINING, 5, 7])
    copies = Examples(twice.x[batch] + torch.tensor([0.01, 0.01, 0.0])[:, None], twice.y[batch])
    verdict = MembershipCheck(action="replace").review(replace(context, submitted=copies), batch)
    assert verdict.instead is not None
    assert verdict.instead.tolist() == [TRAINING, 5, -1]
    own = replace(context, submitted=copies, record="own")  # the server deletes what is named: nothing to replace
    assert MembershipCheck(action="replace").review(own, batch).instead.tolist() == [-1] * 3  # type: ignore[union-attr]
    assert EXACT.review(own, batch).accepted.tolist() == [False, False, True]


BURN = (
    "attack=burn", "unlearning=gradient_ascent", "unlearning.loss_cap=1e6", "game.targets.mode=set",
    "attack.copies.steps=3", "game.targets.direction=under", "judge=quick",
)  # fmt: skip


def test_a_game_in_which_copies_are_replaced_is_that_of_the_records(tmp_path: Path) -> None:
    """After the filter the model is the one that deleting the records gives; quarantining leaves the benign part."""

    def play(*overrides: str) -> dict[str, object]:
        return cached(prepare(config(tmp_path, *BURN, *overrides)), 0)[0]

    replacing = play("defense=membership_check", "defense.action=replace")
    stored = {"_target_": "tests.games.request.test_copies.Stored", "ahead": 0}  # deletes the named records
    records = cached(prepare({**config(tmp_path, *BURN), "defense": stored}), 0)[0]
    state, honest = (each["victim_seed"]["defended"] for each in (replacing, records))
    assert state == honest
    assert replacing["victim_seed"]["stream"] != replacing["victim_seed"]["defended"]
    assert replacing["detection"]["quarantined"] == [[]]
    held = play("defense=membership_check")
    assert sorted(held["detection"]["quarantined"][0]) == sorted(held["requests"][0]["indices"])
    assert held["detection"]["under"]["caught"]["value"] == 1
    assert held["detection"]["benign_rejected"] == {"uniform": [0.0], "outlier": [0.0]}
