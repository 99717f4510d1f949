"""The claims of the tables, with their verdicts, effects and intervals, and the tables themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
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
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            warnings.append(f"The table {path} was left out: it cannot be read ({why}).")
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
    shown = [_claim(each) for each in claims]
    bounds = [(each["unit"], abs(each[end] or 0.0)) for each in shown for end in ("effect", "low", "high")]
    text = str(content.get("markdown") or "").partition("\n## Claims\n")[0]  # they are shown in the page's own way
    return {
        "title": str(content.get("title") or content.get("name") or "Table"), "facts": ", ".join(facts),
        "claims": shown, "reach": dict(sorted(bounds)),  # per unit the largest: its intervals are drawn to one scale
        "tests": list(dict.fromkeys(str(each["test"]) for each in claims if each.get("test"))),
        "source": str(content.get("source") or ""), "command": str(content.get("command") or ""),
        "html": html_of(re.sub(r"\A# .*", "", text)),
    }  # fmt: skip


def _claim(claim: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of a claim."""
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
        "detail": str(claim.get("detail") or ""),
    }  # fmt: skip
