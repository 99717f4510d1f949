"""Which interval a metric gets, and what a game contributes to a pooled one."""

import pytest

from experiments.listing.row import contributed
from games.game import metric_of
from games.request.game import RequestGame
from games.request.metrics import METRICS

GAME = RequestGame()


def test_metrics_say_between_what_a_mean_lies() -> None:
    bounds = {metric.name: metric.bounds for metric in METRICS}
    assert bounds["confidence_after"] == bounds["fresh_confidence_random"] == (0.0, 1.0)
    assert bounds["effect"] == bounds["confidence_effect"] == bounds["fresh_effect_defended"] == (-1.0, 1.0)
    assert bounds["entropy_after"] == bounds["seconds_attack"] == (0.0, float("inf"))
    assert bounds["entropy_change_after"] is None
    shares = {metric.name for metric in METRICS if metric.share}
    assert {"kept_after", "fresh_kept_after", "auroc_S1"} <= shares
    assert "accuracy_change_after" not in shares
    assert metric_of(GAME, "confidence_effect").interval([[-0.3], [-0.2], [-0.25]]).high < 0


def test_every_metric_has_one_name_and_says_what_it_is() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert all(metric.help.endswith(".") and metric.label for metric in METRICS)
    assert GAME.headline in {metric.name for metric in METRICS}


@pytest.mark.parametrize(("trials", "expected"), [(4, [1.0, 1.0, 1.0, 0.0]), (0, [0.75])])
def test_a_game_contributes_the_answer_of_every_target_that_has_a_request_of_its_own(
    trials: int, expected: list[float]
) -> None:
    row = {"success_after": 0.75, "success_after:trials": trials, "accuracy_after": 0.9}
    assert contributed(row, metric_of(GAME, "success_after")) == expected
    assert contributed(row, metric_of(GAME, "accuracy_after")) == [0.9]
