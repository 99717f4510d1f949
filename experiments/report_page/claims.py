"""The claims of the tables, with their verdicts, effects and intervals, and the tables themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.report_page.markdown import html_of
from experiments.report_page.markup import as_float, count, escape, number
from experiments.storage.records import is_unchanged

VERDICTS = {"holds": ("✓", "yes"), "does not hold": ("✕", "no"), "not decided": ("?", "open")}  # sign, style
UNDECIDED = "not decided"
ABSENT = (
    "<p>No table has been made yet. <code>python experiments/tables.py table=uncertainty</code> makes one and checks "
    "its claims.</p>"
)


def read_tables(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Every `*/table.json` of `folder` by name, and one sentence for each that cannot be used."""
    found, warnings = [], []
    for path in sorted(folder.glob("*/table.json")):
        try:
            content = json.loads(path.read_bytes())
            if not isinstance(content, dict):
                raise ValueError("it is not a JSON object")
            if not is_unchanged(content):
                raise ValueError("it has changed, or an older version made it; make it again")
            _table(content)  # whatever its check sum says, it need not be a table
            found.append(content)
        except OSError as error:
            warnings.append(f"The table {path} was left out: it cannot be read ({error.strerror}).")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            warnings.append(f"The table {path} was left out: it cannot be read ({error}).")
    return found, warnings


def claims_section(tables: Sequence[Mapping[str, Any]]) -> str:
    """The claims of all tables as HTML; where there is no table, the command that makes one."""
    return "".join(map(_table, tables)) or ABSENT


def _table(content: Mapping[str, Any]) -> str:
    name = escape(content.get("title") or content.get("name") or "Table")
    facts = [escape(str(content[key]).partition("T")[0]) for key in ("size", "date") if content.get(key)]
    claims = [each for each in content.get("claims") or [] if isinstance(each, Mapping)]
    verdicts = [str(each.get("verdict", UNDECIDED)) for each in claims]
    facts += [f"{verdicts.count(verdict)} {escape(verdict)}" for verdict in dict.fromkeys(verdicts)]
    aside = f" <small>{', '.join(facts)}</small>" if facts else ""
    reach = _reach(claims)
    listed = "".join(_claim(each, reach[str(each.get("unit"))]) for each in claims)
    tests = dict.fromkeys(str(each["test"]) for each in claims if each.get("test"))
    parts = [f"<article class=claims><h3>{name}{aside}</h3>"]
    parts.append(f"<ol class=claim-list>{listed}</ol>" if claims else "<p>This table has no claims.</p>")
    parts += [f"<p class=made-by>Test: {escape(test)}.</p>" for test in tests]
    if source := content.get("source"):
        parts.append(f"<p class=made-by>Source of the claims: {escape(source)}</p>")
    if text := content.get("markdown"):
        parts.append(f"<details><summary>The table</summary>{html_of(_without_claims(str(text)))}</details>")
    if command := content.get("command"):
        parts.append(f"<p class=made-by>Made by <code>{escape(command)}</code></p>")
    return "".join([*parts, "</article>"])


def _without_claims(text: str) -> str:
    """The Markdown of a table up to its claims, which the page shows in its own way, and without its title."""
    lines = text.partition("\n## Claims\n")[0].splitlines()
    return "\n".join(lines[1:] if lines and lines[0].startswith("# ") else lines)


def _reach(claims: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Per unit the largest absolute bound, so that the intervals of one unit are drawn to one scale."""
    reach: dict[str, float] = {}
    for claim in claims:
        bounds = [abs(as_float(claim.get(key)) or 0.0) for key in ("effect", "low", "high")]
        unit = str(claim.get("unit"))
        reach[unit] = max(reach.get(unit, 0.0), *bounds)
    return reach


def _claim(claim: Mapping[str, Any], reach: float) -> str:
    verdict = str(claim.get("verdict", UNDECIDED))
    sign, style = VERDICTS.get(verdict, ("·", "open"))
    low, effect, high = (as_float(claim.get(key)) for key in ("low", "effect", "high"))
    facts = []
    if effect is not None:
        unit = f" {escape(claim['unit'])}" if claim.get("unit") else ""
        interval = "" if low is None or high is None else f" [{number(low, signed=True)}, {number(high, signed=True)}]"
        facts.append(f"<b>{number(effect, signed=True)}</b>{interval}{unit}")
    measured, baseline = as_float(claim.get("measured")), as_float(claim.get("baseline"))
    if measured is not None and baseline is not None:
        facts.append(f"{number(measured)} against {number(baseline)}")
    if claim.get("n") is not None:
        seeds = f" in {count(claim['n_seeds'], 'seed')}" if isinstance(claim.get("n_seeds"), int) else ""
        facts.append(f"n = {escape(claim['n'])}{seeds}")
    adjusted = as_float(claim.get("p_adjusted"))
    if adjusted is not None:
        facts.append(f"p&nbsp;= {adjusted:.2g} (Holm)" if adjusted >= 0.001 else "p&nbsp;&lt; 0.001 (Holm)")
    detail = f"<small>{escape(claim['detail'])}</small>" if claim.get("detail") else ""
    return (
        f"<li class=claim><span class='badge {style}'><span aria-hidden=true>{sign}</span> {escape(verdict)}</span>"
        f"<div><p class=claim-text>{escape(claim.get('text') or claim.get('id') or 'Claim')}</p>"
        f"<p class=facts>{' · '.join(facts)}{detail}</p></div>{_whisker(low, effect, high, reach)}</li>"
    )


def _whisker(low: float | None, effect: float | None, high: float | None, reach: float) -> str:
    """The effect with its interval beside zero, as a small drawing; the numbers stand next to it."""
    if effect is None or reach <= 0:
        return ""

    def x(value: float) -> str:
        return f"{80 + 72 * value / reach:.1f}"

    bar = "" if low is None or high is None else f"<path class=bar d='M{x(low)} 12H{x(high)}'/>"
    return (
        "<svg class=whisker viewBox='0 0 160 24' aria-hidden=true><path class=axis d='M4 12H156'/>"
        f"{bar}<path class=zero d='M80 3V21'/><circle cx={x(effect)} cy=12 r=3.2 /></svg>"
    )
