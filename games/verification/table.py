"""What a terminal shows of a verification game: the verdict in words, the models side by side, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from data.paths import is_folder
from games.game import metric_of
from games.metric import number
from metrics.wording import of_fewer, plus_minus

if TYPE_CHECKING:
    from rich.console import RenderableType

    from games.game import Game, Record

ROWS = {
    "accuracy_test": "test accuracy (%)",
    "accuracy_deleted": "acc., deleted (%)",
    "accuracy_retained": "acc., retained (%)",
    "membership": "membership AUC",
}
COLUMNS = {"": "released", "_original": "before deletion", "_naive": "naive retraining"}
LINES = (
    "retained_information", "retained_information_original", "test_gain", "distance_to_original", "hit_rate_original",
    "hit_rate", "users_rejecting", "exact", "error_p50", "error_p100", "error_relative_p50", "overlap",
    "relative_gradients", "relative_seconds", "relative_verification_gradients", "verification_seconds",
    "proof_megabytes",
)  # fmt: skip


def tables(game: Game, records: Sequence[Record]) -> Iterator[RenderableType]:
    """The verdict of every record, what was measured, and where a proof was kept."""
    yield ""
    for record in records:
        yield Text(_verdict(record), style="bold" if len(records) == 1 else "")
    if len(records) > 1:
        passed = metric_of(game, "passes")
        yield Text(f"Believed: {_cell(game, records, passed.name)} % of {len(records)} games.", style="bold")
    yield _models(game, records)
    yield _numbers(game, records)
    yield Text(_notes(records))
    for record in records:
        if record["proof"] is not None and record["proof"]["folder"] is not None:
            gone = "" if is_folder(Path(record["proof"]["folder"])) else " (removed since)"
            yield Text(f"Proof of seed {record['seed']}: {record['proof']['folder']}{gone}")
    yield Text("How to read this table: docs/verification.md")


def _verdict(record: Record) -> str:
    verdict, who = record["verdict"], "honest provider" if record["honest"] else "provider"
    return f"Seed {record['seed']}: the {who} is {'believed' if verdict['passed'] else 'accused'}. {verdict['reason']}"


def _models(game: Game, records: Sequence[Record]) -> Table:
    table = Table(box=box.SIMPLE_HEAVY, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in COLUMNS.values():
        table.add_column(name, justify="right", no_wrap=True)
    for name, label in ROWS.items():
        digits = 2 if name == "membership" else 1
        table.add_row(label, *(_cell(game, records, f"{name}{end}", digits) for end in COLUMNS))
    return table


def _numbers(game: Game, records: Sequence[Record]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for name in LINES:
        cell = _cell(game, records, name)
        if cell:
            table.add_row(metric_of(game, name).label, cell)
    return table


def _cell(game: Game, records: Sequence[Record], name: str, digits: int | None = None) -> str:
    metric = metric_of(game, name)
    groups = [list(metric.values(part).values()) for record in records for part in game.parts(record)]
    if not any(groups):
        return ""
    interval, fewer = asdict(metric.interval(groups)), of_fewer(sum(map(bool, groups)), len(groups))
    if name.startswith("error"):  # over many orders of magnitude
        return f"{interval['mean']:.2g}{fewer}"
    return plus_minus(interval, metric.digits if digits is None else digits, metric.factor) + fewer


def _notes(records: Sequence[Record]) -> str:
    first = records[0]
    rates = [
        f"{words} {100 * sum(found) / len(found):.3g}%"
        for words, name in (("honest providers at", "level"), ("providers that keep the model at", "power"))
        if (found := [rate for record in records if (rate := number(record["verdict"][name])) is not None])
    ]
    over = f"; ± and brackets are 95% intervals over {len(records)} seeds" if len(records) > 1 else ""
    said = f" Of itself the verification says that it accuses {', '.join(rates)}." if rates else ""
    held = f", {first['held_back']:,} held back" if first["held_back"] else ""
    return (
        f"\n{first['users']} users, {first['deleted']:,} deleted records{held}{over}. Kept: accuracy on deleted "
        f"records over naive retraining with as many updates as went into the model.{said}"
    )
