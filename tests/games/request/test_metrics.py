"""What is measured in the record of a game: per target, per model, per game."""

from __future__ import annotations

import pytest

from games.game import WHOLE, Record, Values, metric_of
from games.request.game import RequestGame
from games.request.metrics import METRICS
from tests.experiments.paper_table.synthetic import record


def measure(game: Record, direction: str, name: str) -> Values:
    [part] = [each for each in RequestGame().parts(game) if each.name == direction]
    return metric_of(RequestGame(), name).values(part)


def test_every_metric_can_be_measured() -> None:
    for mode in ("single", "set"):
        game = record([0.6, 0.8], mode=mode)
        for name in (metric.name for metric in METRICS):
            found = measure(game, "over", name)
            assert found or name.startswith("auroc_S8"), name
            assert all(isinstance(value, float) for value in found.values()), name


def test_targets_are_known_by_their_test_position() -> None:
    assert measure(record([0.6, 0.9]), "over", "confidence_after") == {"10": 0.6, "11": 0.9}
    assert measure(record([0.6, 0.9]), "over", "entropy_change_after") == pytest.approx({"10": -0.1, "11": -0.4})


@pytest.mark.parametrize(("direction", "sign"), [("over", 1), ("under", -1)])
def test_gains_are_what_the_attacker_wanted(direction: str, sign: int) -> None:
    game = record([0.8, 0.4], before=0.6, direction=direction, random=[0.5, 0.6], kept=[1.0, 0.0])
    assert measure(game, direction, "gain_after") == pytest.approx({"10": sign * 0.2, "11": sign * -0.2})
    # by the attack's own goal: confidence that was gained with the label lost attains nothing
    lost = min(sign * -0.2, 0.0)
    assert measure(game, direction, "effect") == pytest.approx({"10": sign * 0.3, "11": lost})
    assert measure(game, direction, "gain") == pytest.approx({"10": sign * 0.3, "11": sign * -0.2})
    assert measure(game, direction, "gain_kept") == pytest.approx({"10": sign * 0.3})
    assert measure(game, direction, "gain_counted") == pytest.approx({"10": sign * 0.3, "11": lost})


def test_success_is_that_of_the_attacks_own_goal() -> None:
    moved = {"after": [0.9, 0.9, 0.6], "kept": [1.0, 0.0, 1.0]}
    ours = record(**moved)
    assert list(measure(ours, "over", "success_after").values()) == [1, 0, 0]
    assert list(measure(ours, "over", "moved_after").values()) == [1, 0, 0]
    flip = record(**moved, attack="misclassification")
    assert list(measure(flip, "over", "success_after").values()) == [0, 1, 0]
    assert list(measure(flip, "over", "moved_after").values()) == [1, 0, 0]
    assert list(measure(flip, "over", "effect").values()) == [0, 1, 0]
    assert list(measure(flip, "over", "flipped_after").values()) == [0, 1, 0]


def test_a_target_has_the_metrics_of_its_own_model() -> None:
    game = record([0.5, 0.5, 0.5], models={"before": [0.1], "after": [0.2, 0.3, 0.4], "benign": [0.0, 0.3, 0.6]})
    assert measure(game, "over", "ece_after") == {"10": 0.2, "11": 0.3, "12": 0.4}
    assert measure(game, "over", "ece_change_after") == pytest.approx({"10": 0.1, "11": 0.2, "12": 0.3})
    assert measure(game, "over", "ece_before") == {"10": 0.1, "11": 0.1, "12": 0.1}
    # three benign models and three requests: still the mean over the models, not one for each target
    assert measure(game, "over", "ece_benign") == pytest.approx({"10": 0.3, "11": 0.3, "12": 0.3})


def test_targets_of_one_request_share_a_model() -> None:
    game = record([0.5] * 4, mode="set", models={"before": [0.1], "after": [0.25]})
    assert measure(game, "over", "ece_after") == {WHOLE: 0.25}
    assert measure(game, "over", "ece_change_after") == pytest.approx({WHOLE: 0.15})


def test_fresh_seeds_are_averaged_and_may_be_absent() -> None:
    assert measure(record([0.7], before=0.5), "over", "fresh_gain") == pytest.approx({"10": 0.2})
    assert measure(record([0.7], fresh=False), "over", "fresh_gain") == {}


def test_what_is_not_defined_is_left_out() -> None:
    assert measure(record([0.7]), "over", "auroc") == {WHOLE: 0.9}
    assert measure(record([0.7]), "over", "auroc_S1") == {WHOLE: 0.8}
    assert measure(record([0.7]), "over", "auroc_S8") == {}  # stored as "nan"
    assert measure(record([0.7], defense="none"), "over", "auroc") == {}
    assert measure(record([0.7], defense="none"), "over", "benign_only_rejected") == {}
    assert measure(record([0.7], models={"after": ["nan"]}), "over", "ece_after") == {}  # type: ignore[list-item]


def test_costs() -> None:
    game = record([0.6, 0.7, 0.8])
    assert measure(game, "over", "queries_per_request") == {WHOLE: 10.0}
    assert measure(game, "over", "requested") == {WHOLE: 3.0}
    assert measure(game, "over", "seconds") == {WHOLE: 6.0}
    assert measure(game, "over", "benign_only_rejected") == pytest.approx({WHOLE: 0.05})
    assert measure(game, "over", "harder_only_rejected") == pytest.approx({WHOLE: 0.3})
