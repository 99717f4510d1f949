"""The table at the end of a sweep: one line per combination and direction, means with 95% intervals over its games."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from experiments.cli.fitted import Head, console
from experiments.cli.fitted import show as fitted
from games.request.kinds import interval, values_of_game
from games.request.row import Row, rows
from metrics.wording import plus_minus

if TYPE_CHECKING:
    from experiments.storage.store import Store
    from experiments.sweeps.sweep import CellStatus

SEED = ("seed", "repetitions")
COLUMNS = (
    ("requested", "deletions", 1), ("effect", "effect", 3), ("effect_defended", "effect,\ndefended", 3),
    ("success_after", "success", 2), ("kept_after", "labels\nkept", 2), ("accuracy_before", "accuracy\nbefore", 3),
    ("accuracy_after", "accuracy\nafter", 3), ("relative_distance_after", "distance to\nretraining", 3),
    ("prediction_distance_after", "predictions\napart", 3), ("auroc", "AUROC of\nthe filter", 3),
    ("seconds_forget_one", "seconds of\none request", 3), ("seconds", "seconds\nof a game", 0),
)  # fmt: skip


def show(cells: Sequence[CellStatus], store: Store) -> None:
    """Print the table of the finished `cells` to standard output."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for each in cells:
        texts = [text for text in each.cell.overrides if text.partition("=")[0] not in SEED]
        for file in each.files:
            record = store.find_record(file)
            if record is None:
                store.notify(f"The record {file} was finished, and cannot be read now; it is not in the table.")
                continue
            for row in rows(record):
                groups.setdefault((" ".join(texts), row["direction"]), []).append(row)
    if not groups:
        return
    common = set.intersection(*(set(name.split(" ")) for name, _ in groups))
    lines, names = [], []
    for (name, direction), found in groups.items():
        shown = " ".join(text for text in name.split(" ") if text not in common)
        names.append((shown, direction, str(len(found))))
        lines.append([cell(found, key, digits) for key, _, digits in COLUMNS])
    there = [i for i in range(len(COLUMNS)) if any(line[i] for line in lines)]
    heads = [Head("cell", False), Head("direction", False), Head("n"), *(Head(COLUMNS[i][1]) for i in there)]
    table = [[*name, *(line[i] for i in there)] for name, line in zip(names, lines, strict=True)]
    terminal = console()
    fitted(terminal, heads, table, keys=3, title="Mean and 95% interval over games (seeds)")
    terminal.print(
        "effect: what the attack attained of its own goal, over a random request of the same size; positive is as "
        "wanted, and a request of nothing has 0. defended: both in a stream, of which only what was accepted was "
        "processed. distance to retraining: of parameters, relative to doing nothing; predictions apart: total "
        "variation on the test set. n: games (seeds); intervals are over them, so that one game has none.",
        soft_wrap=True,
    )  # fmt: skip


def cell(found: Sequence[Mapping[str, Any]], key: str, digits: int) -> str:
    """A mean over games with its 95% interval over seeds; empty where it is not defined."""
    values = [values_of_game(row, key) for row in found if row.get(key) is not None]
    if not values:
        return ""
    made = asdict(interval(values, key))
    if len(values) == 1 or made["high"] == made["low"]:
        return f"{made['mean']:.{digits}f}"
    return plus_minus(made, digits)
