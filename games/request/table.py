"""The table at the end of a game, for a terminal or a pipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from games.request.protocol import protocol
from games.request.quantities import BESIDE, QUANTITIES, Quantity
from games.request.words import SPLIT, UNAWARE, heading
from metrics.wording import bracketed, count, plus_minus, rate, signed

SHOWN = (
    "confidence", "functional", "entropy", "kept", "success", "accuracy", "ece", "conformal_set_size",
    "conformal_coverage", "conformal_empty", "accuracy_deleted", "relative_distance", "prediction_distance",
)  # fmt: skip
ROWS = [QUANTITIES[name] for name in SHOWN]
PERCENT = ("kept", "success")  # shown with both ends of the interval
SILENT = ("relative_distance", "prediction_distance")  # not shown where they are 0 by definition
State = tuple[str | None, str | None, str]  # with the victim's own seed, with fresh seeds, heading
ALONE: tuple[State, ...] = (
    ("before", "nothing", "before"), ("after", "after", "after attack"), ("random", "random", "random control"),
    ("nearest", None, "nearest control"),
)  # fmt: skip
STREAM: tuple[State, ...] = (
    ("stream", None, "in its stream"), ("defended", "defended", "after + defense"),
    ("defended_random", "defended_random", "control, likewise"), ("benign", None, "benign control"),
)  # fmt: skip
UNFILTERED: tuple[State, ...] = (
    ("stream", "defended", "in its stream"), ("stream_random", "defended_random", "control, likewise"),
    ("benign", None, "benign control"),
)  # fmt: skip


@dataclass(frozen=True)
class StateTable:
    """The states of a direction side by side: one table where the console is wide enough, else several."""

    part: Mapping[str, Any]
    defense: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """As many tables below each other as it takes to cut nothing."""
        yield from _tables(console, self.part, self.defense)


def tables(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What a terminal shows of the records of one game, by direction."""
    first = records[0]
    for direction, part in summary.items():
        yield ""
        yield Text(_title(direction, part, first), style="bold")
        yield StateTable(part, first["detection"]["defense"])
        yield from map(Text, _lines(part, first))
    if (line := _adaptive(records)) is not None:
        yield Text(f"\n{line}")
    if first["certificate"] is not None:
        yield Text(f"\nCertificate after a random request: {first['certificate']['line']}")
    asked = sum(record["queries"] for record in records)
    runs = sum(record["operator_calls"] for record in records)
    yield Text(f"\nThe attack ran the unlearning procedure {count(runs, 'time')} ({asked:,} black-box queries).")
    yield Text(protocol(records))
    yield Text("How to read this table: docs/reading.md")


def _adaptive(records: Sequence[Mapping[str, Any]]) -> str | None:
    """The strategy of an adaptive attacker; where it chose among several, how each did in its own trials."""
    found = [record["adaptive"] for record in records if "adaptive" in record]
    if not found or found[0]["asked"] == "none":
        filtered = records[0]["detection"]["defense"] != "none"
        unaware = SPLIT if records[0]["detection"].get("split") else UNAWARE
        return unaware if found and filtered and "adaptive" in records[0]["config"]["attack"] else None
    played = [each["played"] for each in found]
    line = f"Adaptive attacker: {', '.join(dict.fromkeys(played))}"
    if not found[0]["tried"]:
        return f"{line}."
    if len(set(played)) > 1:
        line = f"Adaptive attacker: {', '.join(f'{name} ({played.count(name)})' for name in dict.fromkeys(played))}"
    names = dict.fromkeys(name for each in found for name in each["tried"])
    means = {name: [each["tried"][name] for each in found if name in each["tried"]] for name in names}
    shown = ", ".join(f"{name} {sum(values) / len(values):+.2f}" for name, values in means.items())
    return f"{line}; attained after the filter in trials of its own: {shown}."


def _title(direction: str, part: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    low, high = record["config"]["game"]["targets"][direction]
    what, size = heading(direction, record["criterion"]), plus_minus(part["requested"], 1)
    over = f"95% intervals over {part['seeds']} seeds" if part["seeds"] > 1 else "95% intervals over its requests"
    if part["seeds"] == 1 and part["requests"] == 1:
        over = "one request, so no interval of what it did"
    far = _far(record, direction)
    return (
        f"{what}: {count(part['targets'], 'target')} with confidence {low}-{high}{far}; "
        f"{count(part['requests'], 'request')} of {size} deletions; {over}"
    )


def _far(record: Mapping[str, Any], direction: str) -> str:
    """How far targets lie from trusted examples, where they were chosen by that."""
    targets = record["targets"]
    if "far" not in targets:
        return ""
    mine = [d for d, own in zip(targets["far"], targets["direction"], strict=True) if own == direction]
    return f", {sum(mine) / len(mine):.2f} from the nearest trusted example (test examples: {targets['usual']:.2f})"


def _tables(console: Console, part: Mapping[str, Any], defense: str) -> list[Table]:
    """One table where the console is wide enough, else as many below each other as it takes to cut nothing."""
    unlimited = console.options.update(width=10_000)
    groups: list[list[State]] = [[]]
    for state in (*ALONE, *(UNFILTERED if defense == "none" else STREAM)):
        longer = _table(part, [*groups[-1], state])
        if groups[-1] and console.measure(longer, options=unlimited).maximum > console.width:
            groups.append([])
        groups[-1].append(state)
    return [_table(part, group) for group in groups]


def _table(part: Mapping[str, Any], states: Sequence[State]) -> Table:
    table = Table(box=box.SIMPLE_HEAVY, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for _, _, name in states:
        table.add_column(name, justify="right", no_wrap=True)
    _section(table, "victim's own seed", part["victim_seed"], [own for own, _, _ in states])
    if part["fresh_seeds"] is not None:
        table.add_section()
        _section(table, "fresh seeds*", part["fresh_seeds"], [fresh for _, fresh, _ in states])
    return table


def _section(table: Table, name: str, values: Mapping[str, Any], states: Sequence[str | None]) -> None:
    table.add_row(name, style="italic")
    for each in ROWS:
        intervals = [values[state].get(each.name) if state else None for state in states]
        if each.name in SILENT and all(i is None or float(i["mean"]) == 0 for i in intervals):
            continue
        cells = [_cell(interval, each) for interval in intervals]
        if any(cells):
            table.add_row(f" {each.label}", *cells)


def _cell(interval: Mapping[str, Any] | None, quantity: Quantity) -> str:
    if interval is None or math.isnan(float(interval["mean"])):
        return ""
    if quantity.name in PERCENT:
        return rate(interval, quantity.digits)
    return plus_minus(interval, quantity.digits, 100 if quantity.scale == "share" else 1)


def _lines(part: Mapping[str, Any], game: Mapping[str, Any]) -> list[str]:
    criterion, defense = game["criterion"], game["detection"]["defense"]
    lines = [f"Success: {criterion['goal']}."]
    for judged, name in (("victim_seed", "victim's seed"), ("fresh_seeds", "fresh seeds")):
        if judged in part["effect"]:
            effect, left = part["effect"][judged], part["effect_defended"][judged]
            where = "in a stream" if defense == "none" else "in a stream, with the defense"
            lines.append(f"Effect against random requests, {name}: {signed(effect)}; {where} {signed(left)}.")
    lines.append(f"  Effect: {criterion['measure']}; over what the control attains. Positive is as wanted.")
    if "functional" in part["victim_seed"]["before"]:
        lines.append(f"Attacked objective: {game['functional']}; larger is less certain.")
    if part["nothing_requested"]:
        lines.append(
            f"Nothing was requested for {part['nothing_requested']} of {part['targets']} targets; their effect is 0."
        )
    before = part["victim_seed"]["before"]["accuracy"]
    if "test examples" in before.get("over", ""):
        lines.append(f"Test accuracy before is of one model, its interval over {before['over']}.")
    lines += _footnotes(part, game["left_out"])
    if part["filter"] is not None:
        lines += _filter(part["filter"])
        lines += [] if part["split"] is None else [_split(part["split"])]
    elif part["scores"]:
        scores = ", ".join(f"{name} {bracketed(each)}" for name, each in part["scores"].items())
        over = next(iter(part["scores"].values()))["over"]
        lines.append(f"No filter decides; how well scores would tell these requests: AUROC {scores} over {over}.")
    return lines


def _footnotes(part: Mapping[str, Any], left_out: Sequence[str]) -> list[str]:
    lines = []
    if left_out:
        lines.append(f"Left out with judge=quick: {', '.join(left_out)}.")
    elif part["fresh_seeds"] is None:
        lines.append("The procedure draws nothing, so fresh seeds would give the same models.")
    if part["fresh_seeds"] is not None:
        floor = part["noise_floor"]
        lines.append(
            "* before: nothing deleted. Noise floor: with nothing deleted fresh seeds move confidence by "
            f"{plus_minus(floor['confidence'], 3)}, labels kept {rate(floor['kept'], 0)} %."
        )
    distances = [part["victim_seed"]["after"].get(key) for key in SILENT]
    if any(each and float(each["mean"]) > 0 for each in distances):
        lines.append(
            "Distance to retraining: of parameters, relative to doing nothing; total variation: of predictions on the "
            "test set, from retraining."
        )
    return lines


def _filter(found: Mapping[str, Any]) -> list[str]:
    """What the filter did, in three lines at most."""
    lines = []
    if "auroc" in found:
        counts = found["counts"]
        beside = ", ".join(f"{s} {bracketed(found[f'auroc_{s}'])}" for s in BESIDE if f"auroc_{s}" in found)
        auroc = f"{bracketed(found['auroc'])}{f' ({beside})' if beside else ''}"
        lines.append(
            f"Filter: AUROC {auroc} over {found['auroc']['over']}: "
            f"{counts['malicious']} malicious requests ({counts['malicious_distinct']} distinct records), "
            f"{counts['benign']} benign ({counts['benign_distinct']})."
        )
        lines.append(
            f"  TPR {bracketed(found['tpr_at_1'])} at 1% and {bracketed(found['tpr_at_5'])} at 5% FPR; caught "
            f"{bracketed(found['caught'])} (random control {bracketed(found['caught_random'])}); benign rejected "
            f"{bracketed(found['benign_rejected'], 3)} in these streams."
        )
    alone = "; ".join(
        f"{kind} {bracketed(each, 3)}" for kind, each in found["benign_rejected_alone"].items()
    )  # fmt: skip
    over = next(iter(found["benign_rejected_alone"].values()))["over"]
    lines.append(f"  Benign rejected in benign streams, by who asks: {alone} (over {over}).")
    if (told := found.get("sequences")) is not None:
        benign = "; ".join(f"{kind} {bracketed(each)}" for kind, each in told["benign"].items())
        lines.append(
            f"  Of {told['count']} sequences of {told['parts']} streams, each judged at what became of those before, "
            f"an alarm in {bracketed(told['caught'])} (random control {bracketed(told['caught_random'])}); AUROC of "
            f"sequences {bracketed(told['auroc'])}; benign sequences, by who asks: {benign}."
        )
    return lines


def _split(found: Mapping[str, Any]) -> str:
    """What the filter left of the same requests where they are spread over several streams."""
    told = f"; AUROC {bracketed(found['auroc'])}, caught {bracketed(found['caught'])}" if "auroc" in found else ""
    return (
        f"Split over {' or '.join(map(str, found['parts']))} streams each, through the filter: success "
        f"{rate(found['success'], 0)} % (control, likewise {rate(found['success_random'], 0)} %), labels kept "
        f"{rate(found['kept'], 0)} %, effect {signed(found['effect'])}{told}."
    )
