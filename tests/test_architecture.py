"""The rules of the house that a program can check: import arrows, light imports, one method = file = YAML = test."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CORE = {"data", "models", "unlearning"}
MAY_IMPORT = {  # data -> models -> unlearning -> attacks | defenses -> games -> experiments; metrics and storage aside
    "data": {"data"},
    "metrics": {"metrics"},
    "storage": {"data", "storage"},
    "models": {"data", "models", "metrics"},
    "unlearning": {*CORE, "metrics"},
    "proofs": {"data", "models", "proofs"},
    "attacks": {*CORE, "metrics", "proofs", "attacks"},
    "defenses": {*CORE, "metrics", "proofs", "defenses"},
    "games": {*CORE, "metrics", "storage", "proofs", "attacks", "defenses", "games"},
    "experiments": {*CORE, "metrics", "storage", "proofs", "games", "experiments"},
}
LINES = {
    "a file": 250,
    "a script": 60,
    "a folder of experiments": 1_700,
    "experiments": 6_400,
}  # the last may only shrink
SLOW = ("wandb", "matplotlib", "sklearn", "nevergrad", "torchvision", "scipy.stats", "scipy.optimize")
GROUPS_OF_METHODS = ("attack", "defense", "unlearning")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def file_of(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    return imported(path.read_text(encoding="utf-8"), package)


def imported(source: str, package: str) -> set[str]:
    """The dotted names that a source imports anywhere in it; of `from a import b` both `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def imports_at_run_time(path: Path) -> set[str]:
    """The same without what only a type checker imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        for name in ("body", "orelse"):
            kept = (
                [each for each in getattr(node, name, []) if not _for_type_checkers(each)]
                if isinstance(getattr(node, name, None), list)
                else None
            )
            if kept is not None:
                setattr(node, name, kept)
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    return imported(ast.unparse(tree), package)


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that can reach each other."""

    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for other in arrows[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        return seen

    reach = {name: reached(name) for name in arrows}
    found = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in arrows}
    return [list(group) for group in found if len(group) > 1]


def targets(node) -> set[str]:
    """Every `_target_` in a configuration, also in nested components."""
    if isinstance(node, dict):
        own = {node["_target_"]} if isinstance(node.get("_target_"), str) else set()
        return own.union(*map(targets, node.values()))
    return set().union(*map(targets, node)) if isinstance(node, list) else set()


def methods() -> list[Path]:
    """The YAML files of the methods: the options of the groups attack, defense and unlearning."""
    return sorted(path for group in GROUPS_OF_METHODS for path in (ROOT / "conf" / group).glob("*.yaml"))


def test_there_is_something_to_check():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(MAY_IMPORT)
    assert methods()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_follow_the_arrows(path):
    package = path.relative_to(ROOT).parts[0]
    ours = {name.partition(".")[0] for name in imports(path)} & MAY_IMPORT.keys()
    assert ours <= MAY_IMPORT[package], f"{name_of(path)} may not import {sorted(ours - MAY_IMPORT[package])}"
    assert not {name.partition(".")[0] for name in imports(path)} & {"tests", "conf"}


def test_an_engine_knows_of_games_their_role_alone():
    for path in (ROOT / "experiments").rglob("*.py"):
        games = {name for name in imports(path) if name.partition(".")[0] == "games"}
        assert all(name in ("games", "games.game") or name.startswith("games.game.") for name in games), name_of(path)


def test_no_import_circle():
    names = {name_of(path) for path in FILES}
    arrows = {name_of(path): imports_at_run_time(path) & names - {name_of(path)} for path in FILES}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles(arrows) == []


def test_rooms_are_small():
    def lines(paths):
        return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)

    folder = ROOT / "experiments"
    sizes = {each.name: lines(each.rglob("*.py")) for each in folder.iterdir() if each.is_dir()}
    assert {name_of(path) for path in FILES if lines([path]) > LINES["a file"]} == set()
    assert {path.name for path in folder.glob("*.py") if lines([path]) > LINES["a script"]} == set()
    assert {name for name, size in sizes.items() if size > LINES["a folder of experiments"]} == set()
    assert lines(folder.rglob("*.py")) <= LINES["experiments"]


def test_imports_of_every_form_are_seen():
    source = "import a.b\nfrom c import d as e\ndef f():\n  from .g import h\n  from .. import i\n  from ..j import k\n"
    found = imported(source, "attacks.requester")
    assert found >= {"a.b", "c", "c.d", "attacks.requester.g", "attacks.requester.g.h", "attacks.i", "attacks.j.k"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_says_what_it_is(path):
    assert (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").strip()


def test_importing_our_modules_imports_nothing_slow():
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for name in {[name_of(path) for path in FILES]!r}:\n"
        "    importlib.import_module(name)\n"
        f"    new = [slow for slow in {SLOW!r} if slow in sys.modules and slow not in sum(found.values(), [])]\n"
        "    if new: found[name] = new\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


def test_setting_up_a_game_imports_nothing_slow():
    """A user's mistake, which the set-up finds, is answered at once: no compiler of torch, and no scikit-learn."""
    words = [sys.executable, "-X", "importtime", "experiments/run.py", "attack.budget=2000"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    names = {line.rpartition("|")[2].strip() for line in lines}
    assert "torch" in names
    assert names & {*SLOW, "torch._inductor"} == set()


@pytest.mark.parametrize("config", methods(), ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_methods_yaml_has_its_file_and_its_test(config):
    target = yaml.safe_load(config.read_text(encoding="utf-8"))["_target_"]
    path = file_of(target.rpartition(".")[0])
    assert path.is_file(), f"{config.name} points to {target}"
    assert path.stem == config.stem, f"{config.name} is described by {path.name}: one method, one name"
    test = ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")
    assert test.is_file(), f"{path.relative_to(ROOT)} needs {test.relative_to(ROOT)}"


def test_a_method_without_a_yaml_is_seen():
    """Every file among the methods is some YAML's component, or a part that another file of ours imports."""
    components = set()
    for path in (ROOT / "conf").rglob("*.yaml"):
        named = targets(yaml.safe_load(path.read_text(encoding="utf-8")))
        components |= {target.rpartition(".")[0] for target in named}
    used = set().union(*(imports(path) for path in FILES))
    folders = [d for p in ("attacks", "defenses") for d in (ROOT / p).iterdir() if d.is_dir() and d.name != "crafting"]
    homes = [ROOT / "unlearning", *folders]
    modules = {name_of(path) for home in homes for path in home.glob("*.py") if path.name != "__init__.py"}
    assert modules - components - used == set()


def test_sources_are_what_a_reader_can_find():
    """Papers, our own formulations and tests, and no notes that are not part of the toolkit."""
    words = (r"\bsheets?\b", r"testbed T\b", r"operator O\d", r"\(O\d", r"\b(US|CR)-\d+\b", r"\bclaims?[ _]\d")
    ours = re.compile("|".join(words), re.IGNORECASE)
    places = (
        "attacks",
        "conf",
        "data",
        "defenses",
        "docs",
        "experiments",
        "games",
        "metrics",
        "models",
        "proofs",
        "storage",
        "tests",
        "unlearning",
    )
    files = [*ROOT.glob("*.md"), *(path for place in places for path in (ROOT / place).rglob("*"))]
    texts = [path for path in files if path.suffix in (".py", ".yaml", ".md", ".txt") and path != Path(__file__)]
    assert len(texts) > 300
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if ours.search(line)
    ]
    assert found == []
