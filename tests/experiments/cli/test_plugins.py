"""Options that an installed package brings: played by name, found without importing it, and harmless."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.cli.options import CONF, option_files
from experiments.cli.plugins import GROUP, plugins
from experiments.cli.roles import known_games
from tests import warm
from tests.experiments.small_sweeps import TINY

ATTACK = """

from attacks.requester.random import Random


class Quiet(Random):
    '''Random requests under another name.'''

    name = "quiet"
"""
YAML = """
defaults:
  - _self_
  - override /game@_global_.game: request

_target_: quiet_attacks.quiet.Quiet
budget: 3
owned: 1.0
pool: null
"""


def package(site: Path, name: str, points: str, files: Sequence[tuple[str, str]] = ()) -> Path:
    """What an installer leaves of a package: its files, and metadata with entry points."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}\n")
    for path, text in files:
        file = site / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return site


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages with one plug-in, which says when it is imported."""
    package(
        tmp_path / "site", "quiet_attacks", "quiet = quiet_attacks.conf",
        [("__init__.py", "print('the plug-in is imported')\n"), ("quiet.py", ATTACK),
         ("conf/attack/quiet.yaml", YAML), ("conf/attack/random.yaml", "_target_: nowhere.Random\n")],
    )  # fmt: skip
    return tmp_path / "site"


def wheel(folder: Path, site: Path) -> Path:
    """The packages of a folder as one wheel, as a builder makes it: a zip archive with a list of its files."""
    made = folder / "quiet_attacks-1.0-py3-none-any.whl"
    info = site / "quiet_attacks-1.0.dist-info"
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    names = [str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*names, f"{info.name}/RECORD"]))
    with zipfile.ZipFile(made, "w") as archive:
        for name in [*names, f"{info.name}/RECORD"]:
            archive.write(site / name, name)
    return made


@pytest.fixture
def installed(site: Path, tmp_path: Path) -> Path:
    """The same plug-in, built and installed with pip, with no network."""
    folder = tmp_path / "installed"
    options = ("--no-index", "--no-deps", "--no-compile", "--quiet", "--disable-pip-version-check", "--target")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(folder), str(wheel(tmp_path, site))], check=True
    )
    return folder


def run(site: Path, *words: str, script: str = "run.py") -> subprocess.CompletedProcess[str]:
    """A script in a process that finds the packages of `site`."""
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""))))
    return warm.run(script, *words, cwd=site.parent, timeout=120, env={"PYTHONPATH": path})


def small(site: Path) -> tuple[str, ...]:
    return (*TINY, "attack.budget=3", f"store.dir={site.parent / 'store'}", "figures=false", "defense=none")


def test_an_attack_of_an_installed_package_plays_by_name_in_every_command(installed: Path) -> None:
    site = installed
    done = run(site, "attack=quiet", *small(site))
    assert done.returncode == 0, done.stderr
    assert "quiet attack against first_order" in done.stdout
    assert done.stderr == ""
    swept = run(site, "-m", "attack=quiet", "seed=0,1", *small(site))
    assert swept.returncode == 0, swept.stderr
    assert len(list((site.parent / "store").glob("game/*/*.json"))) == 2
    listed = run(site, "--store", "store", "attack=quiet", script="results.py")
    assert listed.returncode == 0, listed.stderr
    assert "quiet" in listed.stdout
    assert "imported" not in listed.stdout
    reported = run(site, "--store", "store", "attack=quiet", "--output", "page.html", script="report.py")
    assert reported.returncode == 0, reported.stderr
    assert "page.html: 2 games" in reported.stdout
    assert "imported" not in reported.stdout


def test_help_lists_it_and_imports_nothing_of_it(site: Path) -> None:
    done = run(site, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert any(line.startswith("attack: ") and ", quiet, random," in line for line in done.stdout.splitlines())
    assert "imported" not in done.stdout


def test_of_equal_names_ours_counts_and_that_is_said(site: Path) -> None:
    done = run(site, "attack=random", *small(site))
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert said.count("random.yaml of the plug-in quiet-attacks is not used, since ") == 1
    assert "quiet" not in run(site, "attack=nearest", "dry_run=true", *small(site)).stderr


BROKEN = {
    "gone": ("lost = lost_attacks.conf", "its 'lost_attacks.conf' names no folder with options"),
    "empty": ("lost = lost_attacks", "its 'lost_attacks' names no folder with options"),
    "no name": ("= =", "plug-in lost-attacks is left out"),
    "no path": ("lost = ../../etc", "its '../../etc' names no folder with options"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_one_warning_and_everything_else_plays(case: str, site: Path) -> None:
    points, said = BROKEN[case]
    package(site, "lost_attacks", points, [("__init__.py", "raise SystemExit(3)\n")] if case == "empty" else ())
    done = run(site, "--help")
    assert done.returncode == 0, done.stderr
    assert ", quiet, random," in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("The plug-in lost-attacks is left out: ")
    assert said in done.stderr


@pytest.fixture
def here(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plug-in in this process."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    plugins.cache_clear()
    yield site
    plugins.cache_clear()


def test_its_folder_comes_last_and_its_games_are_known(here: Path, tmp_path: Path) -> None:
    own = tmp_path / "own" / "attack" / "quiet.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert option_files("attack", [tmp_path / "own"])["quiet"] == own
    assert option_files("attack")["quiet"] == here / "quiet_attacks" / "conf" / "attack" / "quiet.yaml"
    assert option_files("attack")["random"].is_relative_to(CONF)
    (here / "quiet_attacks" / "conf" / "game").mkdir()
    (here / "quiet_attacks" / "conf" / "game" / "broken.yaml").write_text("a: [1")
    said: list[str] = []
    assert set(known_games((), said.append)) >= {"request"}
    assert len(said) == 1
    assert "broken.yaml is left out" in said[0]


def test_an_editable_installation_is_found_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metadata is in one folder, and a `.pth` file names another."""
    package(tmp_path / "site", "distant_attacks", "distant = distant_attacks")
    source = tmp_path / "source" / "distant_attacks" / "defense"
    source.mkdir(parents=True)
    (source / "mine.yaml").write_text("_target_: nowhere.Mine\n")
    (source.parent / "__init__.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site"), str(tmp_path / "source")])
    plugins.cache_clear()
    assert plugins()[source.parent.resolve()] == "distant-attacks"
    plugins.cache_clear()
