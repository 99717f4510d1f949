"""The table at the end of a sweep: one line per combination and direction, means with 95% intervals over its games."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.row import Row, rows
from metrics.intervals import mean_interval

if TYPE_CHECKING:
    from experiments.store import Store
    from experiments.sweep import Located

SEED = ("seed", "repetitions")
COLUMNS = (
    ("effect", "effect", 3), ("effect_defended", "effect,\ndefended", 3), ("success_after", "success", 2),
    ("kept_after", "labels\nkept", 2), ("accuracy_before", "accuracy\nbefore", 3),
    ("accuracy_after", "accuracy\nafter", 3), ("relative_distance_after", "distance to\nretraining", 3),
    ("prediction_distance_after", "predictions\napart", 3), ("auroc", "AUROC of\nthe filter", 3),
    ("seconds_forget_one", "seconds of\none request", 3), ("seconds", "seconds\nof a game", 0),
)  # fmt: skip

WIDE = ("kept_after", "accuracy_before", "prediction_distance_after", "seconds_forget_one")  # left out where it is not


def show(cells: Sequence[Located], store: Store) -> None:
    """Print the table of the finished `cells` to standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

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
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=240)
    columns = [column for column in COLUMNS if console.width >= 200 or column[0] not in WIDE]
    table = Table(box=box.SIMPLE_HEAVY, title_justify="left", title_style="bold", title="Mean ± 95% over games (seeds)")
    for heading in ("cell", "direction", "n", *(heading for _, heading, _ in columns)):
        table.add_column(heading, justify="left" if heading in ("cell", "direction") else "right", overflow="fold")
    for (name, direction), found in groups.items():
        shown = " ".join(text for text in name.split(" ") if text not in common)
        table.add_row(shown, direction, str(len(found)), *(cell(found, key, digits) for key, _, digits in columns))
    console.print(table)
    console.print(
        "effect: change of the targets' confidence against a random request of the same size; "
        "defended: only accepted requests were processed. distance to retraining: of parameters, relative to doing "
        "nothing; predictions apart: total variation on the test set.", soft_wrap=True,
    )  # fmt: skip


def cell(found: Sequence[Mapping[str, Any]], key: str, digits: int) -> str:
    """A mean over games with the half-width of its Student-t interval; empty where it is not defined."""
    import torch

    values = [row[key] for row in found if row.get(key) is not None]
    if not values:
        return ""
    interval = mean_interval(torch.tensor(values, dtype=torch.float64))
    if len(values) == 1 or interval.high == interval.low:
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} ± {(interval.high - interval.low) / 2:.{digits}f}"
