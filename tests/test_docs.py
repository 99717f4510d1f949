"""The pages under docs: their commands run, one after the other, in one folder, on small games."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

from tests import warm

ROOT = Path(__file__).resolve().parents[1]
PAGE, PROCEDURES, ATTACKS, READING, TRUST, GAMES, VERIFICATION = (
    (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("sweeps", "procedures", "attacks", "reading", "trust", "games", "verification")
)
SMALL = (
    "game.targets.count=1", "training.epochs=10", "attack.budget=6", "game.stream.calibration_batches=2",
    "data.train=300", "data.test=1197", "game.stream.benign_batches=1", "game.targets.over=[0.3,0.65]",
    "game.targets.under=[0.7,0.97]", "judge=quick", "figures=false",
)  # fmt: skip


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("python ")]


def small(line: str) -> list[str]:
    """The command as printed, with fewer seeds and smaller games, but nothing else changed."""
    words = [re.sub(r"^seed=range\(\d+\)$", "seed=range(1)", word) for word in shlex.split(line)[1:]]
    words = [re.sub(r"^size=quick$", "size=smallest", word) for word in words]
    script = Path(words[0])
    assert script.parent == Path("experiments")
    further = {
        "run.py": SMALL,
        "tables.py": ("dry_run=true", "seeds=1"),
    }  # both tables are played in tests/experiments/paper_table
    return [script.name, *words[1:], *further.get(script.name, ())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


def run(words: list[str], folder: Path) -> str:
    done = warm.run(*words, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_every_command_of_the_page(folder: Path) -> None:
    """In the order of the page, since the later ones look at what the earlier ones played."""
    printed = {line: run(small(line), folder) for line in commands(PAGE)}
    assert len(printed) == 8
    sweep, matrix, *_ = printed.values()
    assert "Mean and 95% interval" in sweep
    assert "matrix_over.png" in matrix
    assert len(list(folder.glob("outputs/store/game/??/*.json"))) == 8 + 12  # the last sweep is part of the first
    assert (folder / "strong.csv").is_file()
    assert (folder / "report.html").stat().st_size > 1_000_000
    assert sum("cells: 0 done" in text for text in printed.values()) == 2  # the tables, which are other games
    [example] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, check=True)
    assert "second_order" in done.stdout


def plays(path: Path) -> str:
    """The game that an option belongs to; `any` where it fits every game."""
    target = yaml.safe_load(path.read_text(encoding="utf-8")).get("_target_", "")
    return str(getattr(get_object(target), "game", "request" if target.startswith("attacks") else "any"))


def options(group: str, *games: str) -> set[str]:
    paths = (ROOT / "conf" / group).glob("*.yaml")
    return {path.stem for path in paths if not games or plays(path) in games}


@pytest.mark.parametrize(
    ("page", "named"),
    [
        (PROCEDURES, options("unlearning")),
        (ATTACKS, options("attack", "request", "any")),
        (GAMES, options("game") | options("experiment") | options("defense", "request", "undeleted", "any")),
        (VERIFICATION, options("attack", "verification", "any") | options("defense", "verification", "any")),
    ],
    ids=["procedures", "attacks", "games", "verification"],
)
def test_a_page_names_every_option_and_none_that_is_not_there(page: str, named: set[str]) -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == named


def test_the_page_of_procedures_has_tables_that_compose(folder: Path) -> None:
    assert all("0 cannot be played" in run(small(line), folder) for line in commands(PROCEDURES))


def test_the_page_of_attacks_has_a_sweep_that_is_played(folder: Path) -> None:
    attacks = options("attack", "request")
    *single, line = commands(ATTACKS)
    printed = run([*small(line), "unlearning=first_order"], folder)  # as printed it takes minutes
    alone = {word.removeprefix("attack=") for line in single for word in line.split() if word.startswith("attack=")}
    assert all(f"attack={name}" in printed for name in attacks - alone)


def test_the_page_of_attacks_has_games_that_are_played(folder: Path) -> None:
    fewer = {"camouflage": "attack.poisons=6", "backdoor": "attack.poisons=6", "usability": "attack.iterations=20"}
    lines = [small(line) + [less for name, less in fewer.items() if name in line] for line in commands(ATTACKS)[:-1]]
    lines = [[w for w in line if "newton" not in str(line) or not w.startswith("training.epochs")] for line in lines]
    played = [run(line, folder) for line in lines]
    (hidden, triggered, slow, condensed, moved, stages, jointly, over, burn, flexible, robust, blind, labels,
     adaptive, asked) = played  # fmt: skip
    assert "backdoor attack against retrain" in triggered
    assert "slow_down attack against certified_removal" in slow
    assert "usability attack against retrain" in condensed
    assert "preconditioned attack against retrain" in moved
    assert "camouflage attack against retrain" in hidden
    assert "white-box sequential attack against first_order" in stages
    assert "over_unlearning attack against first_order" in over
    assert "white-box misclassification attack against first_order" in jointly
    assert "white-box burn attack against gradient_ascent" in burn
    assert "flexible attack against second_order" in flexible
    assert "adversarial_robustness attack against second_order" in robust
    assert "transfer misclassification attack against second_order" in blind
    assert "black-box misclassification attack against second_order" in labels
    assert "attained after the filter in trials of its own" in " ".join(adaptive.split())
    assert "black-box uncertainty attack against second_order" in asked


def test_the_page_of_attacks_names_every_strategy() -> None:
    rows = re.findall(r"^\| ([a-z -]+) \|", ATTACKS.partition("## Adaptive attackers")[2], flags=re.MULTILINE)
    names = {path.stem for path in (ROOT / "conf/attack/adaptive").glob("*.yaml")}
    assert names <= {row.replace(" ", "_").replace("-", "_") for row in rows}


def test_the_boundaries_of_trust_are_named_and_the_commands_run(folder: Path) -> None:
    """What is true of them is tested in tests/experiments/test_stored_data.py."""
    for boundary in ("`_target_`", "`--config-dir`", "`.slurm/*.pkl`", "`PYTHONPATH`", "Commands on the page"):
        assert boundary in TRUST
    assert len(commands(TRUST)) == 2
    for line in commands(TRUST):
        run(small(line), folder)


def test_the_page_of_games_says_what_the_commands_play(folder: Path) -> None:
    whole, control, sweep = (run(small(line), folder) for line in commands(GAMES))
    assert "attack against retrain with defense influence" in whole  # the attack alone brings game and defense
    assert "none attack against retrain with defense influence" in control
    assert "4 cells: " in sweep


def test_the_page_of_verification_says_what_the_commands_play(folder: Path) -> None:
    """And the proof that one of them keeps is verified as the page says."""
    less = ("data.train=300", "data.test=1197", "training.epochs=5", "game.users=2", "game.records=10", "figures=false")
    printed = [run(["run.py", *shlex.split(line)[2:], *less], folder) for line in commands(VERIFICATION)]
    lazy, honest, sweep, kept = printed
    assert "against verification reproducing" in lazy
    assert "the provider is accused" in lazy
    assert "the honest provider is believed" in honest
    assert "Mean and 95% interval over games" in sweep
    assert sweep.count("attack=forging") == sweep.count("attack=retrain_random") > 0
    [proof] = re.findall(r"Proof of seed 0: (\S+)", kept)
    said = run(["verify.py", proof, "data=digits", "data.train=300", "data.test=1197"], folder)
    assert "verifies" in said


def test_the_page_of_games_has_the_numbers_of_the_code() -> None:
    """Its criteria, controls and settings are those that the code has."""
    from attacks.crafting.criterion import ConfidenceMoved, LabelFlipped, LabelLostNearby
    from attacks.crafting.perturbation import Perturbation
    from games.request.game import RequestGame
    from games.undeleted.game import UndeletedGame

    for criterion in (ConfidenceMoved(), LabelFlipped(), LabelLostNearby(Perturbation())):
        assert f"| {criterion.name} |" in GAMES
    assert f"g >= {ConfidenceMoved().least:g}" in GAMES
    settings = set(re.findall(r"`game\.([a-z_.]+)", GAMES))
    known = set(RequestGame.__dataclass_fields__) | set(UndeletedGame.__dataclass_fields__)
    known |= {f"{name}.{key}" for name in ("targets", "stream") for key in vars(getattr(RequestGame(), name))}
    assert settings <= known


def test_the_cluster_commands_can_be_read() -> None:
    """They need a cluster, so only their words are checked here; the launcher's own tests play on a real one."""
    lines = [line for line in PAGE.splitlines() if "hydra/launcher=slurm" in line and line.startswith("python ")]
    assert len(lines) == 2
    from hydra import compose, initialize_config_dir

    words = [word for word in shlex.split(lines[0])[2:] if word.startswith("hydra")]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        node = compose("run", words, return_hydra_config=True).hydra.launcher
    assert (node.partition, node.gpus, node.time_min) == ("gpu", 1, 120)


def test_the_page_on_reading_explains_every_column_and_row(folder: Path) -> None:
    """And its commands run."""
    from games.request.table import ALONE, ROWS, STREAM

    for _, _, heading in (*ALONE, *STREAM):
        assert f"| {heading} |" in READING, heading
    for word in ("Confidence", "Success", "Effect", "Attacked objective", "90% sets", "Distance to retraining"):
        assert f"**{word}**" in READING
    assert {quantity.name for quantity in ROWS} >= {"confidence", "success", "functional", "relative_distance"}
    line = commands(READING)[1]
    out = run([word for word in small(line) if word != "data.test=1197"], folder)
    assert "Left out with judge=quick" in out
    assert "docs/reading.md" in out
