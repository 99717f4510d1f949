"""The table at the end of a game, for a terminal or a pipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

ROWS = (
    ("confidence", "confidence", 3), ("entropy", "entropy (nats)", 3),
    ("kept", "labels kept (%)", 0), ("success", "success (%)", 0), ("accuracy", "test accuracy (%)", 1),
    ("ece", "test ECE, 15 bins", 3), ("conformal_set_size", "conformal set size", 2),
    ("accuracy_deleted", "accuracy on the deleted (%)", 1), ("relative_distance", "distance to retraining**", 3),
    ("prediction_distance", "predictions apart**", 3),
)  # fmt: skip
OWN = ("before", "after", "stream", "defended", "random", "benign")
FRESH = ("nothing", "after", None, "defended", "random", None)
HEADINGS = ("before", "after attack", "in its stream", "after + defense", "random control", "benign control")
PERCENT = ("kept", "success", "accuracy", "accuracy_deleted")
NAMES = {"over": "Over-confidence", "under": "Under-confidence"}


def show(result: Mapping[str, Any]) -> None:
    """Print the tables of a result to standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=148)
    config, games = result["config"], result["games"]
    console.print(f"\n{result['title']}", markup=False)
    for direction, part in result["summary"].items():
        console.print(_table(direction, part, config, wide=console.width >= 140))
        for line in _lines(part, [game["detection"] for game in games], games[0].get("left_out", ())):
            console.print(line, markup=False, soft_wrap=True)
    if games[0]["certificate"] is not None:
        console.print(f"\nCertificate after a random request: {games[0]['certificate']['line']}", soft_wrap=True)
    asked = sum(game["queries"] for game in games)
    runs = sum(game["operator_calls"] for game in games)
    console.print(f"\nThe attack ran the unlearning procedure {runs} times ({asked} black-box queries).")


def _table(direction: str, part: Mapping[str, Any], config: Mapping[str, Any], wide: bool) -> Table:
    low, high = config["targets"][direction]
    size = part["requested"]
    title = (
        f"{NAMES[direction]}: {part['targets']} targets with confidence {low}-{high}; "
        f"{plus_minus(size, 1)} deletions a request; mean ± 95%"
    )
    table = Table(title=title, box=box.SIMPLE_HEAVY, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    shown = [i for i, state in enumerate(OWN) if wide or state != "stream"]  # else the others would be cut
    for heading in (HEADINGS[i] for i in shown):
        table.add_column(heading, justify="right", no_wrap=True)
    _section(table, "victim's own seed", part["victim_seed"], [OWN[i] for i in shown])
    if part["fresh_seeds"] is not None:
        table.add_section()
        _section(table, "fresh seeds*", part["fresh_seeds"], [FRESH[i] for i in shown])
    return table


def _section(table: Table, name: str, values: Mapping[str, Any], states: Sequence[str | None]) -> None:
    table.add_row(name, style="italic")
    for key, label, digits in ROWS:
        cells = [_cell(values[state].get(key), key, digits) if state else "" for state in states]
        if any(cells):
            table.add_row(f"  {label}", *cells)


def _cell(interval: Mapping[str, Any] | None, key: str, digits: int) -> str:
    if interval is None or math.isnan(float(interval["mean"])):
        return ""
    return rate(interval, digits) if key in PERCENT else plus_minus(interval, digits)


def plus_minus(interval: Mapping[str, Any], digits: int) -> str:
    """A mean with the half-width of its symmetric interval."""
    mean, low, high = (float(interval[k]) for k in ("mean", "low", "high"))
    return (
        f"{mean:.{digits}f}" if math.isnan(low) or low == high else f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"
    )


def rate(interval: Mapping[str, Any], digits: int) -> str:
    """A rate in percent with its interval, which ends at 0 and 100."""
    mean, low, high = (100 * float(interval[k]) for k in ("mean", "low", "high"))
    if math.isnan(low) or low == high:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{max(low, 0):.{digits}f}, {min(high, 100):.{digits}f}]"


def signed(interval: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    mean, low, high = (float(interval[k]) for k in ("mean", "low", "high"))
    return f"{mean:+.3f}" if math.isnan(low) else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _lines(part: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], left_out: Sequence[str] = ()) -> list[str]:
    lines = []
    for judged, name in (("victim_seed", "victim's seed"), ("fresh_seeds", "fresh seeds")):
        if judged in part["effect"]:
            effect, left = part["effect"][judged], part["effect_defended"][judged]
            lines.append(
                f"Effect against random requests, {name}: {signed(effect)}, n = {effect['n']}; "
                f"with the defense {signed(left)}."
            )
    if left_out:
        lines.append(f"Left out with judge=quick: {', '.join(left_out)}.")
    elif part["fresh_seeds"] is None:
        lines.append("The procedure draws nothing, so fresh seeds would give the same models.")
    if part["fresh_seeds"] is not None:
        floor = part["noise_floor"]
        lines.append(
            f"* before: nothing deleted. Noise floor of fresh seeds: with nothing deleted "
            f"confidence moves by {plus_minus(floor['confidence'], 3)}, "
            f"labels kept {rate(floor['kept'], 0)} %."
        )
    if not left_out:
        lines.append(
            "** from retraining: parameters, relative to doing nothing; total variation of the predictions on the test "
            "set."
        )
    found = [each for each in part["detection"] if each is not None]
    if found and detections[0]["defense"] != "none":
        lines.append(_detection(found, detections))
    return lines


def _detection(found: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]]) -> str:
    def mean(path: Sequence[str]) -> float:
        values = []
        for each in found:
            value: Any = each
            for key in path:
                value = value[key]
            values.append(float(value["value"]))
        return sum(values) / len(values)

    counts = found[0]["decision"]["auroc"]["settings"]
    alone = [rate for each in detections for rate in each["benign_only_rejected"]]
    return (
        f"Filter: AUROC {mean(['decision', 'auroc']):.3f} (S1 {mean(['S1', 'auroc']):.3f}, "
        f"S8 {mean(['S8', 'auroc']):.3f}); "
        f"TPR {mean(['decision', 'tpr_at_1']):.2f} at 1% and {mean(['decision', 'tpr_at_5']):.2f} at 5% FPR "
        f"({counts['malicious']} malicious, {counts['benign']} benign); caught {mean(['caught']):.2f}, "
        f"benign rejected {mean(['benign_rejected']):.3f} in mixed, {sum(alone) / len(alone):.3f} in benign streams."
    )
