from __future__ import annotations

import pytest

from unlearning.certification.newton_bound import lissa_bound, newton_bound


@pytest.mark.parametrize(
    ("convexification", "expected"), [(0.01, 3.1e5), (1.0, 3102), (100.0, 73), (1000.0, 45.6), (1e6, 42.5)]
)
def test_the_published_bound_has_its_values(convexification: float, expected: float) -> None:
    """C = 20, M = L = 1, 26,000 parameters, rho = 0.1, smallest eigenvalue 0, to three digits."""
    found = lissa_bound(20.0, 1.0, convexification, 0.0, 1.0, 26_000, 0.1)
    assert found == pytest.approx(expected, rel=0.02 if expected == 3.1e5 else 0.005)
    assert found >= 40.0  # no better than the ball's diameter


@pytest.mark.parametrize("eigenvalue", [0.0, 19.9, 20.1, 100.0])
def test_the_bound_beats_the_diameter_only_beyond_an_eigenvalue_of_mc(eigenvalue: float) -> None:
    for convexification in (0.01, 1.0, 1000.0):
        assert (newton_bound(20.0, 1.0, convexification, eigenvalue) < 40.0) is (eigenvalue > 20.0)


def test_every_error_is_divided_by_the_smallest_convexified_eigenvalue() -> None:
    """(2C (MC + lambda) + G + e)/(lambda + lambda_min) = (2*3*(2*3 + 0.5) + 0.7 + 0.3)/(0.5 + 1.5) = 20."""
    assert newton_bound(3.0, 2.0, 0.5, 1.5, gradient=0.7, solver=0.3) == pytest.approx(20.0, rel=1e-14)


def test_a_curvature_that_is_not_positive_has_no_bound() -> None:
    with pytest.raises(ValueError, match="positive definite"):
        newton_bound(20.0, 1.0, 0.1, -0.25)
