import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import pytest
from omegaconf import OmegaConf
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from data.errors import UserError
from experiments.cli.build import build
from experiments.cli.command import run
from experiments.cli.options import check_keys, known_keys

ROOT = Path(__file__).resolve().parents[3]
STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AttackGoal:
    k: int = 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Attack:
    budget: Annotated[int, Field(ge=1)] = 5
    aim: Any = None
    extra: Any = None

    def __post_init__(self):
        if self.budget == 13:
            raise UserError("The budget is larger than the pool; lower attack.budget.")
        if self.budget == 14:
            raise RuntimeError("a defect")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Needy:
    size: int


class Plain:
    def __init__(self, size, rate=0.1):
        self.size, self.rate = size, rate


HERE = __name__
FILES = {
    "run.yaml": """
        defaults:
          - attack: attack
          - override hydra/job_logging: none
          - override hydra/hydra_logging: none
          - _self_
        seed: 0
        rate: 0.5
        store: {enabled: true, folder: x}
        free: {}
        hydra:
          run: {dir: "${oc.env:RUN_FOLDER}"}
          sweep: {dir: "${oc.env:RUN_FOLDER}"}
        """,
    "attack/attack.yaml": f"""
        _target_: {HERE}.Attack
        budget: 5
        aim: {{_target_: {HERE}.AttackGoal, k: 1}}
        """,
    "attack/needy.yaml": f"_target_: {HERE}.Needy",
    "attack/plain.yaml": f"_target_: {HERE}.Plain",
    "attack/lost.yaml": "_target_: nowhere.Attack",
    "attack/lost_too.yaml": f"_target_: {HERE}.Nowhere",
}


@pytest.fixture
def conf(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.setenv("RUN_FOLDER", str(tmp_path / "out"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "conf"


@pytest.fixture
def play(conf, monkeypatch, capsys):
    """Run a script in this process with the arguments given; returns the exit code, stdout and stderr."""

    def play(*arguments: str, entry=None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["script.py", *arguments])

        def built(cfg):
            print("built", build(cfg.attack, "attack"))
            return 1.0

        try:
            run(entry or built, "run", conf)
            code = 0
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return play


def test_a_good_command_runs_and_composes_overrides(play):
    code, out, err = play("attack.budget=7", "seed=3")
    assert (code, err) == (0, "")
    assert out == "built Attack(budget=7, aim=AttackGoal(k=1), extra=None)\n"
    assert "HYDRA_FULL_ERROR" not in os.environ


MISTAKES = {
    "attack=atack": "There is no attack=atack; did you mean attack=attack? Available: attack, lost,",
    "attck=attack": "There is no option 'attck'; did you mean 'attack'?",
    "attack.budgt=1": "There is no option 'attack.budgt'; did you mean 'attack.budget'?",
    "attack.zzz=1": "There is no option 'attack.zzz'; known are aim, budget.",
    "+unknown.key=1": "There is no option 'unknown'; known are attack, free, rate, seed, store.",
    "+store.key=1": "There is no option 'store.key'; known are enabled, folder.",
    "+attack.new=1": "attack has no option 'new'; its options are budget, aim, extra.",
    "+attack.aim.new=1": "attack.aim has no option 'new'; its options are k.",
    "+hydra/launcher=none": "There is no hydra/launcher=none; Available: basic",
    "attack=null": "A group needs the name of one of its options",
    "attack=lost": "attack: cannot load 'nowhere.Attack', since Python finds no module 'nowhere': put nowhere.py in",
    "attack=lost_too": f"attack: cannot load '{HERE}.Nowhere'",
    "attack=needy": "attack.size: a value is needed.",
    "attack=plain": "attack: a value is needed for 'size'.",
    "attack.budget=-3": "attack.budget: Input should be greater than or equal to 1, got -3.",
    "attack.budget=abc": "attack.budget: Input should be a valid integer, unable to parse string as an integer, got",
    "attack.budget=13": "attack: The budget is larger than the pool; lower attack.budget.",
    "attack.aim.k=x": "attack.aim.k: Input should be a valid integer",
    "seed=abc": "seed must be a whole number, got 'abc'.",
    "seed=1.5": "seed must be a whole number, got 1.5.",
    "rate=fast": "rate must be a number, got 'fast'.",
    "store.enabled=3": "store.enabled must be true or false, got 3.",
    "store=3": "store has the options enabled, folder; set one of them",
    "~seed": "seed was removed",
    "~nothing": "Could not delete from config. 'nothing' does not exist.",
    "seed=0,1": "seed has several values: add -m to sweep over 0,1, or write seed=[0,1] for one list.",
    "seed=[1": "The override 'seed=[1' cannot be read",
    "seed": "The override 'seed' cannot be read (missing EQUAL at '<EOF>'); write KEY=VALUE",
    "attack.budget=${oc.env:NOT_SET}": 'attack.budget: KeyError raised while resolving interpolation: "Environment',
    "attack.budget=${not.there}": "attack.budget: Interpolation key 'not.there' not found.",
    "attack.budget=${attack.budget}": "attack.budget: Recursive interpolation detected.",
    "attack.budget=???": "attack.budget has no value; give one with attack.budget=VALUE.",
    "hydra.run.dir=file/run": "The run's folder cannot be made (Not a directory: file/run); set hydra.run.dir=FOLDER.",
    "hydra.run.dir=file": "The run's folder cannot be made (File exists: file); set hydra.run.dir=FOLDER.",
    "--config-dir=nowhere": "--config-dir=nowhere is not a folder",
    "--config-name=nothing": "Cannot find primary config 'nothing'",
    "--resolve": "The --resolve flag can only be used",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_code_2(play, mistake):
    code, out, err = play(mistake)
    assert code == 2
    assert out == ""
    assert err.startswith(f"Error: {MISTAKES[mistake]}")
    assert err.endswith((".\n", "?\n"))
    assert err.count("\n") == 1


def test_a_config_of_the_users_that_is_no_yaml(play, tmp_path):
    (tmp_path / "mine" / "attack").mkdir(parents=True)
    (tmp_path / "mine" / "attack" / "mine.yaml").write_text("a: [1")
    code, _, err = play("--config-dir=mine", "attack=mine")
    assert code == 2
    assert "mine.yaml" in err
    assert err.count("\n") == 1


def test_a_user_error_in_the_game(play):
    def entry(cfg):
        raise UserError("The folder has no data; set data.root.")

    assert play(entry=entry) == (2, "", "Error: The folder has no data; set data.root.\n")


def test_a_defect_shows_its_traceback_and_code_1(play):
    def entry(cfg):
        raise OSError("a defect")

    code, _, err = play(entry=entry)
    assert code == 1
    assert "Traceback" in err
    assert "in entry" in err
    assert play("attack.budget=14")[0] == 1


def test_who_asks_for_tracebacks_gets_them(play, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    code, _, err = play("attack=nothing")
    assert code == 1
    assert "Traceback" in err
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


def test_an_interrupt_says_what_is_kept(play):
    def entry(cfg):
        raise KeyboardInterrupt

    assert play(entry=entry) == (130, "", "Interrupted; what was finished is kept in the store.\n")


def test_a_sweep_plays_on_after_a_mistake_and_ends_with_code_2(play):
    played = []

    def entry(cfg):
        played.append(cfg.seed)
        if cfg.seed == 1:
            raise UserError("Seed 1 is not possible; use another.")
        return 0.0

    code, _, err = play("-m", "seed=1,2", entry=entry)
    assert (code, played) == (2, [1, 2])
    assert err.splitlines()[-1] == "Error: Seed 1 is not possible; use another."


def test_a_reader_that_leaves_is_no_error(conf):
    script = conf / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom experiments.cli.command import run\n"
        "def main(cfg):\n    for _ in range(100_000):\n        print('x')\n"
        f"run(main, 'run', Path({str(conf)!r}))\n"
    )
    command = f"'{sys.executable}' '{script}' | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("x\n", "")


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_version_and_help_answer_without_torch(tmp_path, argument):
    command = [sys.executable, "-X", "importtime", ROOT / "experiments" / "run.py", argument]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = "unlearning-games " if argument == "--version" else "attack: "
    assert any(line.startswith(expected) for line in done.stdout.splitlines())
    assert "$" not in done.stdout.replace("${", "")  # no place of the template is left empty
    assert not [line for line in done.stderr.splitlines() if line.endswith(("| torch", "| numpy", "| pydantic"))]
    assert not list(tmp_path.iterdir())


def test_help_shows_groups_and_the_config_as_overridden(play, tmp_path):
    (tmp_path / "mine" / "attack").mkdir(parents=True)
    (tmp_path / "mine" / "attack" / "own.yaml").write_text("size: 3\n")
    code, out, err = play("--help", "--config-dir", "mine", "attack=own", "seed=7")
    assert (code, err) == (0, "")
    assert "attack: attack, lost, lost_too, needy, own, plain\n" in out
    assert "attack:\n  size: 3\nseed: 7\n" in out
    assert play("--help", "attack=nothing")[0] == 2
    assert play("--help", "--config-dir=nowhere")[2].startswith("Error: --config-dir=nowhere is not a folder")


def test_build_of_a_partial_leaves_the_call_to_the_caller():
    node = OmegaConf.create({"_target_": f"{HERE}.Plain", "_partial_": True, "rate": 0.5})
    plain = build(node, "model")(size=3)
    assert (plain.size, plain.rate) == (3, 0.5)


def test_build_converts_lists_and_refuses_what_is_no_component():
    node = OmegaConf.create({"_target_": f"{HERE}.Attack", "extra": {"sizes": [1, 2]}})
    assert type(build(node, "attack").extra["sizes"]) is list
    with pytest.raises(UserError, match=r"^attack must be a component with a _target_"):
        build(3, "attack")


def test_known_keys_are_the_files_own_and_its_groups(tmp_path):
    (tmp_path / "base.yaml").write_text("threads: auto\n")
    (tmp_path / "run.yaml").write_text(
        textwrap.dedent("""
        defaults:
          - base
          - data: digits
          - optional model/net: mlp
          - wandb@tracking: off
          - override hydra/job_logging: none
          - _self_
        seed: 0
        store: {dir: x}
        hydra: {}
        """)
    )
    expected = {"threads": "auto", "data": None, "model": None, "tracking": None, "seed": 0, "store": {"dir": "x"}}
    assert known_keys(tmp_path, "run") == expected


def test_values_without_a_type_in_the_schema_are_free():
    schema = {"a": None, "b": "auto", "c": {"_target_": "x"}, "d": {}, "e": [1]}
    check_keys({"a": {"x": 1}, "b": 3, "c": {"_target_": "y", "z": 1}, "d": {"k": 1}, "e": None}, schema)
    with pytest.raises(UserError, match=r"^flag must be true or false, got 1\.$"):
        check_keys({"flag": 1}, {"flag": True})
    with pytest.raises(UserError, match=r"^n must be a whole number, got True\.$"):
        check_keys({"n": True}, {"n": 1})
