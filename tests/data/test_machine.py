import subprocess
import sys

import pytest
import torch

from data import machine
from data.errors import UserError


@pytest.fixture(autouse=True)
def _restore():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill


def test_threads_are_set_and_returned():
    assert machine.use_threads(2) == 2 == torch.get_num_threads()
    assert machine.use_threads("auto") == 1 == torch.get_num_threads()


@pytest.mark.parametrize("threads", [0, -1, "many", 1.5, True, None])
def test_impossible_numbers_of_threads_are_refused(threads):
    with pytest.raises(UserError, match="use threads=auto"):
        machine.use_threads(threads)


def test_a_fresh_process_runs_one_operation_at_a_time():
    code = "import torch; from data.machine import use_threads as u; u(); print(torch.get_num_interop_threads())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_the_device_is_the_best_one_here_or_the_one_named(monkeypatch):
    assert machine.use_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.use_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert machine.use_device("auto") == torch.device("cuda")
    assert machine.use_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="GPUs 0 to 1 are visible"):
        machine.use_device("cuda:2")


def test_a_missing_or_unknown_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^device=cuda needs a CUDA GPU, and none is visible; use device=cpu or"):
        machine.use_device("cuda")
    with pytest.raises(UserError, match="Apple GPU"):
        machine.use_device("mps")
    for name in ("gpu", "cuda:x", 0, None):
        with pytest.raises(UserError, match="is not known"):
            machine.use_device(name)


def test_determinism_is_strict_on_the_cpu():
    machine.be_deterministic(torch.device("cpu"))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_peak_memory_grows_with_what_is_held():
    before = machine.peak_memory_mb()
    assert 50 < before < 100_000
    block = torch.ones(int(before) + 200, 2**18)  # 1 MiB a row, all of it touched
    assert machine.peak_memory_mb() >= block.numel() * 4 / 2**20
    assert machine.peak_gpu_memory_mb(torch.device("cpu")) is None


def test_versions_are_read_without_importing():
    found = machine.versions()
    assert set(found) == {"toolkit", "python", "torch", "numpy", "scipy", "nevergrad"}
    assert found["torch"] == torch.__version__
    code = "import sys; from data.machine import versions; versions(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_version_is_known_without_installation(monkeypatch):
    def missing(_):
        raise machine.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(machine.importlib.metadata, "version", missing)
    assert machine.toolkit_version.__wrapped__().count(".") == 2
