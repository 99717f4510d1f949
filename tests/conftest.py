"""Where the real data sets are, for the tests that read them."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # a slow moment of the machine is no failure
settings.load_profile("shared machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--claims", action="store_true", help="also test claims that need many models (make claims)")


LONGEST = ("test_docs.py", "test_readme.py")  # begin with these, so that no worker is left with one in the end


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if not config.getoption("--claims"):
        skip = pytest.mark.skip(reason="a claim that takes long to test: make claims")
        for item in items:
            if item.get_closest_marker("claims"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the data sets: `UNLEARNING_DATA`, or `../shared/data` beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("UNLEARNING_DATA", beside))
    if not root.is_dir():
        pytest.skip(f"no data sets in {root}; set UNLEARNING_DATA to the folder that holds mnist/, cifar10/, ...")
    return root
