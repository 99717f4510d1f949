"""No attack opens what it does not claim, and none is content with less."""

from __future__ import annotations

import pytest

from attacks.crafting.access import require_black_box, require_gradient, require_white_box, resolved_access
from data.errors import UserError
from tests.attacks.checks import bed, closed, opened
from unlearning.fine_tune import FineTune
from unlearning.first_order import FirstOrder


def test_accesses_are_what_they_claim() -> None:
    black, white = closed(bed(0), FirstOrder(), 1)[0], opened(bed(0))
    assert require_black_box(black) is black
    assert require_white_box([white], "any") is white
    for less in ([black], []):
        with pytest.raises(UserError, match=r"attack=any .* needs an opened service"):
            require_white_box(less, "any")
    with pytest.raises(UserError, match="takes a Service"):
        require_black_box(white)


def test_automatic_access_is_what_is_given() -> None:
    black, white = closed(bed(0), FirstOrder(), 1)[0], opened(bed(0))
    assert resolved_access("auto", [white]) == "white_box"
    assert resolved_access("auto", [black]) == "black_box"
    assert resolved_access("white_box", [black]) == "white_box"
    assert resolved_access("black_box", [white]) == "black_box"


def test_a_gradient_is_asked_of_the_procedure() -> None:
    require_gradient(FirstOrder(), "any")
    with pytest.raises(UserError, match=r"white-box any attack .* FineTune has none; use attack.access=black_box"):
        require_gradient(FineTune(), "any")
