"""Files and folders that cannot be used end a game with exit code 2 and one sentence; see also test_mistakes.py."""

from __future__ import annotations

from pathlib import Path

from tests.experiments.games import run


def test_output_folder_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(f"hydra.run.dir={tmp_path}/file/out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_corrupt_data_file(tmp_path: Path, data_root: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for source in (data_root / "mnist").iterdir():
        (folder / source.name).write_bytes(source.read_bytes()[: 1000 if "train-images" in source.name else None])
    done = run("data=mnist", f"data.root={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert "train-images" in done.stderr
    assert "Traceback" not in done.stderr


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(f"store.dir={tmp_path}/file/store", cwd=tmp_path)
    assert done.returncode == 2
    assert "store.dir" in done.stderr
