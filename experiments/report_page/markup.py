"""Text that is safe inside HTML, and the assets of the page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NUMERIC = re.compile(r"[+\-\N{MINUS SIGN}–]?\d|–$")


def escape(value: object) -> str:
    """`value` as text of an element or a quoted attribute."""
    return html.escape(str(value), quote=True)


def script_json(value: Any) -> str:
    """`value` as JSON that can stand inside a script element: ASCII, without `<`, `>` or `&`.

    Raises:
        ValueError: for a number that is not finite.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def asset(name: str) -> str:
    """The text of one file of this package, without the comment that would ask for a source map."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if "# sourceMappingURL=" not in line)


def inline_hash(script: str) -> str:
    """The source expression of a content security policy that admits exactly this inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def number(value: object, digits: int = 3, signed: bool = False) -> str:
    """A number with a true minus sign; a dash where there is none."""
    x = as_float(value)
    if x is None:
        return "–"
    text = f"{x:.{digits}f}"
    if float(text) == 0:
        return text.removeprefix("-")
    return f"{'+' if signed and x > 0 else ''}{text}".replace("-", "\N{MINUS SIGN}")


def as_float(value: object) -> float | None:
    """A finite number, also from the strings that records use; None for everything else."""
    try:
        x = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return x if math.isfinite(x) else None


def count(n: int, noun: str, plural: str | None = None) -> str:
    """`1 game`, `12,000 games`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table of HTML cells, in a box that scrolls sideways; columns that begin with a number align right."""
    classes = [" class=number" if NUMERIC.match(cell) else "" for cell in (rows[0] if rows else ())]
    classes += [""] * (len(heads) - len(classes))
    head = "".join(f"<th scope=col{kind}>{cell}</th>" for cell, kind in zip(heads, classes, strict=False))
    body = "".join(f"<tr>{_row(row, classes)}</tr>" for row in rows)
    return f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _row(cells: Sequence[str], classes: Sequence[str]) -> str:
    return "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(cells, classes, strict=False))
