"""The claims of the tables, with their verdicts, effects and intervals, and the tables themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.report_page.markup import as_float, count, html_of, number, rendered
from storage.records import is_unchanged

VERDICTS = {"holds": ("✓", "yes"), "does not hold": ("✕", "no"), "not decided": ("?", "open")}  # sign, style
UNDECIDED = "not decided"


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
    return rendered("claims.html", tables=[_table(each) for each in tables])


def _table(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of a table; plain text but for `html`, which is safe."""
    facts = [str(content[key]).partition("T")[0] for key in ("size", "date") if content.get(key)]
    claims = [each for each in content.get("claims") or [] if isinstance(each, Mapping)]
    verdicts = [str(each.get("verdict", UNDECIDED)) for each in claims]
    facts += [f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)]
    reach = _reach(claims)
    text = str(content.get("markdown") or "")
    return {
        "title": str(content.get("title") or content.get("name") or "Table"), "facts": ", ".join(facts),
        "claims": [_claim(each, reach[str(each.get("unit"))]) for each in claims],
        "tests": list(dict.fromkeys(str(each["test"]) for each in claims if each.get("test"))),
        "source": str(content.get("source") or ""), "command": str(content.get("command") or ""),
        "html": html_of(_without_claims(text)),
    }  # fmt: skip


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


def _claim(claim: Mapping[str, Any], reach: float) -> dict[str, Any]:
    """What the template shows of a claim, and where its whisker is drawn: 80 is zero, 72 the reach."""
    verdict = str(claim.get("verdict", UNDECIDED))
    sign, style = VERDICTS.get(verdict, ("·", "open"))
    low, effect, high = (as_float(claim.get(key)) for key in ("low", "effect", "high"))
    facts = []
    measured, baseline = as_float(claim.get("measured")), as_float(claim.get("baseline"))
    if measured is not None and baseline is not None:
        facts.append(f"{number(measured)} against {number(baseline)}")
    if claim.get("n") is not None:
        seeds = f" in {count(claim['n_seeds'], 'seed')}" if isinstance(claim.get("n_seeds"), int) else ""
        facts.append(f"n = {claim['n']}{seeds}")
    adjusted = as_float(claim.get("p_adjusted"))
    if adjusted is not None:
        facts.append(f"p\u00a0= {adjusted:.2g} (Holm)" if adjusted >= 0.001 else "p\u00a0< 0.001 (Holm)")
    return {
        "sign": sign, "style": style, "verdict": verdict, "text": str(claim.get("text") or claim.get("id") or "Claim"),
        "low": low, "effect": effect, "high": high, "unit": str(claim.get("unit") or ""), "facts": facts,
        "detail": str(claim.get("detail") or ""), "reach": reach,
    }  # fmt: skip
