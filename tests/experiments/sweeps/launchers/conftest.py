"""The SLURM of the tests: one per test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.experiments.sweeps.launchers.cluster import cluster, why_not


@pytest.fixture(scope="session")
def slurm_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a process needs in its environment to use the cluster; skips where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    with cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def slurm(slurm_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The cluster, with this process as its user."""
    for name, value in slurm_environment.items():
        monkeypatch.setenv(name, value)
    return slurm_environment
