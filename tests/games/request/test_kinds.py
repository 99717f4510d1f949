"""Which interval a metric gets, by its name."""

import pytest

from games.request.kinds import bounds, interval, is_share, values_of_game


def test_names_say_between_what_a_mean_lies() -> None:
    assert bounds("confidence_after") == bounds("fresh_confidence_random") == (0.0, 1.0)
    assert bounds("effect") == bounds("confidence_effect") == bounds("fresh_effect_defended") == (-1.0, 1.0)
    assert bounds("entropy_after") == bounds("seconds_attack") == (0.0, float("inf"))
    assert bounds("entropy_change_after") is None
    assert is_share("kept_after")
    assert is_share("fresh_kept_after")
    assert is_share("auroc_S1")
    assert not is_share("accuracy_change_after")
    assert interval([[-0.3], [-0.2], [-0.25]], "confidence_effect").high < 0


@pytest.mark.parametrize(("requests", "expected"), [(4, [1.0, 1.0, 1.0, 0.0]), (1, [0.75])])
def test_a_game_contributes_the_answer_of_every_target_that_has_a_request_of_its_own(
    requests: int, expected: list[float]
) -> None:
    row = {"success_after": 0.75, "targets": 4, "requests": requests, "accuracy_after": 0.9}
    assert values_of_game(row, "success_after") == expected
    assert values_of_game(row, "accuracy_after") == [0.9]
