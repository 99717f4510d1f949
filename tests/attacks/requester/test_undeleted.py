"""Reconstruction from exact releases, against brute force: medians, ridge regression, and what stands in the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.requester.undeleted import (
    Moments,
    Release,
    Undeleted,
    reconstruct,
    ridge_system,
    solved,
    staircase,
    untouched,
)
from data.randomness import generator
from defenses.disclosure.limited_release import Discloses, LimitedRelease
from defenses.none import NoDefense
from games.undeleted.server import OTHER, OWN, Statistic, median, releases, ridge

EXACT, DECAY, SEEDS = NoDefense(), 1.0, range(5)
Table = tuple[Tensor, Tensor]


def published(statistic: Statistic, order: list[str], policy: Discloses = EXACT, seed: int = 0) -> list[Release]:
    return releases(statistic, order, policy, generator(seed, "noise"))


def numbers(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=generator(seed, "numbers"), dtype=torch.float64)


def people(n: int, d: int, rare: int, seed: int) -> tuple[Table, Tensor, Table]:
    """Records (n, d) whose first features one user each has, those users, and as many own records as features."""
    rng = generator(seed, "people", n, d)
    x = torch.randn(n, d, generator=rng, dtype=torch.float64)
    users = torch.randperm(n, generator=rng)[:rare]
    x[:, :rare] = 0
    x[users, torch.arange(rare)] = 1
    y = x @ torch.randn(d, generator=rng, dtype=torch.float64)
    y += torch.randn(n, generator=rng, dtype=torch.float64) / 2
    return (x, y), users, Undeleted().records(d, rng)


def moments(others: Table) -> Tensor:
    x = others[0]
    return x.T @ x + DECAY * torch.eye(x.shape[1], dtype=torch.float64)


def read(n: int, d: int, rare: int, seed: int, deletions: int, policy: Discloses = EXACT) -> tuple[Moments, float, int]:
    """What an attacker learns after `deletions` of its own: moments, their relative error, rare users' records."""
    others, users, own = people(n, d, rare, seed)
    found = Undeleted().moments(*own, published(ridge(own, others, DECAY), [OWN] * deletions, policy, seed))
    error = float((found.a - moments(others)).norm() / moments(others).norm())
    features, x, y = reconstruct(found, DECAY, ((others[0] == 0) | (others[0] == 1)).all(0))
    right = 0
    for feature, row, label in zip(features.tolist(), x, y, strict=True):
        if feature < rare:
            truth = torch.cat([others[0][users[feature]], others[1][users[feature], None]])
            right += int((torch.cat([row, label[None]]) - truth).norm() <= 0.01 * truth.norm())
    return found, error, right


def test_a_median_publishes_consecutive_values() -> None:
    """501 numbers and 100 sentinels above them: 51 values, of ranks 250 to 300, exactly; one without a deletion."""
    honest, attack = numbers(501), Undeleted(above=100)
    own = attack.numbers(float(honest.min()), float(honest.max()))
    found = attack.values(published(median(own, honest), [OWN] * 100))
    assert found.ranks.tolist() == list(range(250, 301))
    assert torch.equal(found.values, honest.sort().values[found.ranks])
    assert len(attack.values(published(median(own, honest), [])).ranks) == 1


def test_medians_give_everything() -> None:
    """n - 1 sentinels on either side, in two surveys: 501 of 501 between them, and exactly. In one survey a walk over
    all ranks takes as many on one side and twice as many on the other, since those that are deleted first are gone
    when the walk is to turn: with n - 1 on both it comes to 251.
    """
    honest, n = numbers(501), 501
    truth = honest.sort().values

    def walked(above: int, below: int) -> set[int]:
        attack = Undeleted(above=above, below=below)
        own = attack.numbers(float(honest.min()), float(honest.max()))
        found = attack.values(published(median(own, honest), [OWN] * len(own)))
        assert torch.equal(found.values, truth[found.ranks])
        return set(found.ranks.tolist())

    assert walked(n - 1, 0) | walked(0, n - 1) == set(range(n))
    assert walked(2 * (n - 1), n - 1) == set(range(n))
    assert len(walked(n - 1, n - 1)) == 251


def test_ties_and_even_numbers_of_people_are_no_obstacle() -> None:
    honest = torch.tensor([1, 2, 2, 2, 3, 3, 5, 8], dtype=torch.float64)
    own = Undeleted(above=8).numbers(1, 8)
    found = staircase(published(median(own, honest), [OWN] * 8), 8, 0)
    assert found.ranks.tolist() == [3, 4, 5, 6, 7]
    assert torch.equal(found.values, honest.sort().values[3:])


def dense(w: Tensor, c: Tensor) -> tuple[int, Tensor]:
    """The rank of the whole system of r d equations in the d (d + 3) / 2 unknowns, and its least squares for A."""
    d, r = w.shape
    place = torch.zeros(d, d, dtype=torch.long)
    i, j = torch.triu_indices(d, d)
    place[i, j] = place[j, i] = torch.arange(len(i))
    system = torch.zeros(r * d, len(i) + d, dtype=torch.float64)
    for k in range(r):
        for row in range(d):
            system[k * d + row].index_add_(0, place[row], w[:, k])
            system[k * d + row, len(i) + row] = -1
    rank = int(torch.linalg.matrix_rank(system, rtol=1e-13))
    found = np.linalg.lstsq(system.numpy(), c.T.flatten().numpy(), rcond=None)[0]
    return rank, torch.from_numpy(found[: len(i)])[place]


@pytest.mark.parametrize(("n", "d", "rare", "few"), [(500, 10, 2, 5), (5000, 10, 2, 5), (500, 40, 8, 20)])
def test_ridge_regression_gives_the_moments_of_everybody_else(n: int, d: int, rare: int, few: int) -> None:
    """Rank d (d + 3) / 2 at d + 1 releases, 65 of 65 and 860 of 860, and the error that of float64; all rare users'
    records. With 6 (21) releases rank 50 (650), and nothing is claimed of anybody.
    """
    found, error, right = read(n, d, rare, 0, d)
    print(f"n {n}, d {d}: rank {found.rank} of {found.unknowns}, error {error:.1e}, users {right} of {rare}")
    assert found.rank == found.unknowns == d * (d + 3) // 2
    assert error < 1e-10
    assert right == rare
    others, _, own = people(n, d, rare, 0)
    less, _, nobody = read(n, d, rare, 0, few)
    w, c = ridge_system(*own, published(ridge(own, others, DECAY), [OWN] * few))
    rank, _ = dense(w, c)
    print(f"{few + 1} releases: rank {less.rank} of {less.unknowns}")
    assert less.rank == rank == (few + 1) * d - few * (few - 1) // 2
    assert not less.solvable
    assert nobody == 0


@pytest.mark.parametrize("r", [1, 2, 4, 7, 8, 11])
def test_the_closed_form_is_least_squares_of_the_whole_system(r: int) -> None:
    """For any number of equations, right or wrong; with too few the rank is that of the system."""
    rng = generator(r, "system")
    w, c = (torch.randn(7, r, generator=rng, dtype=torch.float64) for _ in range(2))
    found = solved(w, c)
    rank, expected = dense(w, c)
    assert found.rank == rank
    if found.solvable:
        torch.testing.assert_close(found.a, expected, rtol=1e-9, atol=1e-9)
        assert bool(found.known.all())
    else:
        assert not bool(found.known.any())


def test_a_row_can_be_determined_alone() -> None:
    """Where all differences of w lie along some features, their rows are known, and the others are not."""
    rng = generator(0, "rows")
    half = torch.randn(6, 6, generator=rng, dtype=torch.float64)
    a, b = half @ half.T, torch.randn(6, generator=rng, dtype=torch.float64)
    w = torch.ones(6, 3, dtype=torch.float64)
    w[0, 1], w[3, 2] = 2.0, -1.0
    found = solved(w, a @ w - b[:, None])
    assert found.known.tolist() == [True, False, False, True, False, False]
    torch.testing.assert_close(found.a[found.known], a[found.known], rtol=1e-10, atol=1e-10)


ROUNDED = [(8, (1e-7, 1e-4), (10, 10)), (6, (1e-5, 1e-2), (5, 10)), (4, (1e-3, 1e0), (0, 2))]


@pytest.mark.parametrize(("decimals", "error", "users"), ROUNDED, ids=["8", "6", "4"])
def test_coarse_rounding_is_a_defence(decimals: int, error: tuple[float, float], users: tuple[int, int]) -> None:
    """Over 5 draws with 2 rare users each: 8 decimals hide nobody, 4 nearly everybody. Two decimals less make the error
    about 100 times as large.
    """
    policy = LimitedRelease(batch=1, decimals=decimals)
    found = [read(500, 10, 2, seed, 10, policy) for seed in SEEDS]
    errors, right = sorted(each for _, each, _ in found), sum(count for *_, count in found)
    print(f"{decimals} decimals: errors {[f'{each:.1e}' for each in errors]}; users {right} of 10")
    assert error[0] < errors[2] < error[1]
    assert users[0] <= right <= users[1]


def test_noise_and_batches_are_defences() -> None:
    """Noise of 1e-3 on every weight leaves no rare record; with two deletions a release 6 releases determine 50."""
    noisy = [read(500, 10, 2, seed, 10, LimitedRelease(batch=1, noise=1e-3)) for seed in SEEDS]
    print("noise 1e-3: errors", [f"{error:.1e}" for _, error, _ in noisy])
    assert sum(right for *_, right in noisy) == 0
    batched, _, right = read(500, 10, 2, 0, 10, LimitedRelease(batch=2))
    assert (batched.rank, batched.unknowns, right) == (50, 65, 0)


def test_other_peoples_deletions_give_no_equations() -> None:
    """Neither alone nor in between: after them A is another. Who counts them all the same is wrong by a factor."""
    others, users, own = people(500, 10, 2, 0)
    alone = published(ridge(own, others, DECAY), [OTHER] * 10)
    found = Undeleted().moments(*own, alone)
    assert (found.rank, found.unknowns, bool(found.known.any())) == (10, 65, False)
    between = published(ridge(own, others, DECAY), [OWN, OTHER] * 10)
    assert Undeleted().moments(*own, between).rank == 20
    counted = [Release(510 - each.deleted, each.deleted, each.value) for each in between]
    wrong = solved(*ridge_system(*own, counted))
    error = float((wrong.a - moments(others)).norm() / moments(others).norm())
    print("counted all the same: error", error)
    assert error > 0.1
    assert len(users) == 2


def test_rare_records_stand_in_other_peoples_deletions_too() -> None:
    """Rows of A of features that those who delete do not have stay what they are: an onlooker with no record at all
    reads the rare users' records in d + 1 releases, if it knows which features are rare. With 4 of them it cannot.
    """
    nothing = torch.zeros(0, 10, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    for seed in SEEDS:
        others, users, own = people(500, 10, 2, seed)
        assert int(users.min()) > 10  # they are not among those who delete
        for mine in (nothing, own):
            order = published(ridge(mine, others, DECAY), [OTHER] * 10)
            x, y = untouched(*mine, order, DECAY, torch.arange(2))
            torch.testing.assert_close(x, others[0][users], rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(y, others[1][users], rtol=1e-8, atol=1e-8)
            assert len(untouched(*mine, order[:4], DECAY, torch.arange(2))[0]) == 0


def test_a_median_of_fewer_people_is_of_unknown_rank() -> None:
    honest, attack = numbers(501), Undeleted(above=100)
    own = attack.numbers(float(honest.min()), float(honest.max()))
    assert len(attack.values(published(median(own, honest), [OTHER] * 100)).ranks) == 1


def test_other_seeds_are_as_exact() -> None:
    """What float64 loses depends on how far the own records move w: the error over draws."""
    errors = [read(500, 10, 2, seed, 10)[1] for seed in range(20)]
    print("errors", f"{min(errors):.1e} to {max(errors):.1e}")
    assert max(errors) < 1e-8
