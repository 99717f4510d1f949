"""What a game takes is estimated before it starts: against what it took, and against what there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import games.request.memory
from data.errors import UserError
from data.memory import free
from experiments.play.play import record_of
from experiments.play.setup import prepare
from games.request.memory import Need, available, check_memory, need
from tests.experiments.games import ROOT, config

WIDE = (
    "judge=quick",
    "defense=none",
    "game.targets.over=[0.05,0.97]",
    "game.targets.under=[0.06,0.98]",
    "training.epochs=1",
)
GAMES = {
    "many parameters": ("model.widths=[1024,1024]", "attack=random", "unlearning=first_order", *WIDE),
    "many activations": ("model=small_cnn", "attack=one_shot_influence", "unlearning=first_order", *WIDE),
    "retraining": ("model.widths=[512,512]", "attack=random", "unlearning=retrain", *WIDE),
}
PLAYED = """
import sys
from pathlib import Path
from games.request.memory import need
from games.request.play import play_one
from experiments.play.setup import prepare
from tests.experiments.games import config

def megabytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

setup = prepare(config(Path(sys.argv[1]), "store.enabled=false", *sys.argv[2:]))
Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
expected = megabytes("VmRSS") + need(setup).total / 2**20
play_one(setup, 0)
print(expected, megabytes("VmHWM"))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux")
@pytest.mark.parametrize("game", GAMES)
def test_the_estimate_is_the_peak_within_half_of_it(game: str, tmp_path: Path) -> None:
    line = [sys.executable, "-c", PLAYED, str(tmp_path), *GAMES[game]]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    expected, peak = map(float, done.stdout.split())
    assert peak / 1.25 < expected < 1.5 * peak


def test_the_estimate_grows_with_what_it_is_made_of(tmp_path: Path) -> None:
    small = need(prepare(config(tmp_path)))
    assert need(prepare(config(tmp_path, "model.widths=[1024,1024]"))).models > 100 * small.models
    assert need(prepare(config(tmp_path, "model=small_cnn"))).passes > 3 * small.passes
    assert need(prepare(config(tmp_path, "game.targets.count=50"))).predictions > 5 * small.predictions
    assert need(prepare(config(tmp_path, "game.targets.count=50"))).records > 5 * small.records


@pytest.mark.parametrize("procedure", ["amnesiac", "sisa"])
def test_what_a_procedure_records_is_counted(procedure: str, tmp_path: Path) -> None:
    setup = prepare(config(tmp_path, f"unlearning={procedure}", "attack=random"))
    victim = setup.procedure.learn(setup.task, 0)
    size = victim.flat().numel()
    numbers = sum(value.numel() for value in victim.history.values() if value.is_floating_point())
    assert setup.procedure.recorded(setup.task, size) == numbers  # type: ignore[attr-defined]


def test_a_game_that_cannot_fit_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = prepare(config(tmp_path))
    monkeypatch.setattr(games.request.memory, "available", lambda device: need(setup).total)
    check_memory(setup)
    monkeypatch.setattr(games.request.memory, "available", lambda device: need(setup).total - 1)
    monkeypatch.setattr("games.request.play.play_one", None)
    with pytest.raises(UserError, match=r"needs about .* GB of memory .* choose a smaller model"):
        record_of(setup, 0)
    monkeypatch.setattr(games.request.memory, "available", lambda device: None)
    check_memory(setup)


def test_the_limit_of_every_control_group_counts(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 100 kB\nMemAvailable: 90 kB\n",
        "proc/self/cgroup": "0::/slice/job\n",
        "sys/fs/cgroup/slice/job/memory.max": "max\n", "sys/fs/cgroup/slice/job/memory.current": "5\n",
        "sys/fs/cgroup/slice/memory.max": "5000\n", "sys/fs/cgroup/slice/memory.current": "1500\n",
        "sys/fs/cgroup/slice/memory.stat": "anon 900\ninactive_file 500\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(free(tmp_path)) == [90 * 1024, 5000 - 1500 + 500]
    (tmp_path / "proc/self/cgroup").write_text("3:cpu:/x\n2:memory:/job\n")
    old = tmp_path / "sys/fs/cgroup/memory/job"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("700\n")
    (old / "memory.usage_in_bytes").write_text("100\n")
    assert list(free(tmp_path)) == [90 * 1024, 600]
    assert list(free(tmp_path / "nowhere")) == []


def test_this_machine_has_some() -> None:
    found = available(torch.device("cpu"))
    assert found is None or found > 2**20
    assert Need(1, 2, 3, 4, 5, 6).total == 1 + 3 + 4 + 5 + 6
