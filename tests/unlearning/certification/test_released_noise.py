from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest, norm

from unlearning.certification.released_noise import gaussian_noise, hides_nothing


def test_secret_draws_are_new_every_time_and_the_seed_has_no_say() -> None:
    torch.manual_seed(0)
    first = gaussian_noise("secret", 1.0, 2, 50, 0, "name")
    torch.manual_seed(0)
    second = gaussian_noise("secret", 1.0, 2, 50, 0, "name")
    values = torch.cat([first, second])
    assert len(values.unique()) == 200
    assert gaussian_noise("secret", 1.0, 3, 0, 0, "name").shape == (3, 0)


def test_secret_draws_use_no_generator_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """All entropy is the system's: where that gives zeros, every number is the lowest quantile, and finite."""
    monkeypatch.setattr("os.urandom", bytes)
    lowest = gaussian_noise("secret", 1.0, 2, 3, 0, "name")
    assert torch.isfinite(lowest).all()
    assert lowest.unique().tolist() == pytest.approx([norm.ppf(0.5 / 2**53)])


def test_derived_draws_come_from_the_seed_and_the_names_and_are_shared() -> None:
    noise = gaussian_noise("derived", 1.0, 3, 50, 0, "name", 1)
    assert torch.equal(noise, gaussian_noise("derived", 1.0, 3, 50, 0, "name", 1))
    assert torch.equal(noise[0], noise[2])
    for seed, name, count in ((1, "name", 1), (0, "other", 1), (0, "name", 2)):
        assert not torch.isclose(noise, gaussian_noise("derived", 1.0, 3, 50, seed, name, count)).any()


@pytest.mark.parametrize("kind", ["secret", "derived"])
def test_the_distribution_is_normal_with_the_deviation_asked_for(kind: str) -> None:
    """Kolmogorov-Smirnov on 20,000 draws; a false alarm once in a million runs."""
    noise = gaussian_noise(kind, 3.0, 1, 20_000, 0, "x")[0]  # type: ignore[arg-type]
    assert noise.dtype == torch.float64
    assert kstest(noise.numpy() / 3.0, "norm").pvalue > 1e-6


def test_no_noise_is_zero() -> None:
    assert (gaussian_noise("secret", 0.0, 2, 5, 0, "x") == 0).all()


def test_what_hides_nothing_says_so() -> None:
    assert hides_nothing("secret", 1.0) is None
    assert "noise=derived" in str(hides_nothing("derived", 1.0))
    assert "sigma=0" in str(hides_nothing("secret", 0.0))
