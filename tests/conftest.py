"""Where the real data sets are, for the tests that read them."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # a slow moment of the machine is no failure
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the data sets: `UNLEARNING_DATA`, or `../shared/data` beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("UNLEARNING_DATA", beside))
    if not root.is_dir():
        pytest.skip(f"no data sets in {root}; set UNLEARNING_DATA to the folder that holds mnist/, cifar10/, ...")
    return root
