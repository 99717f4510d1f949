"""Text that is safe inside HTML: templates that escape, Markdown without HTML, data in a script; and the assets."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

FOLDER = Path(__file__).parent
NUMERIC = re.compile(r"[+\-\N{MINUS SIGN}–]?\d|–$")


def rendered(template: str, **values: Any) -> str:
    """A template of this package; it escapes every value that it does not call safe."""
    reader = FileSystemLoader(FOLDER)
    made = Environment(loader=reader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"number": number, "count": count, "asset": asset, "inline_hash": inline_hash}
    return made.get_template(template).render(values)


def html_of(text: str) -> str:
    """The Markdown that tables are written in (headings, pipe tables, lists, `code`, emphasis); all else is plain text.

    Columns with numbers align right, and tables scroll sideways.
    """
    reader = MarkdownIt("zero").enable(["table", "list", "heading", "backticks", "emphasis", "escape"])
    tokens = reader.parse(text)
    heads: list[Any] = []
    column = 0
    for token in tokens:
        token.tag = "h4" if token.type.startswith("heading_") else token.tag
    for token, inside in pairwise(tokens):
        if token.type == "table_open":
            heads = []
        elif token.type == "tr_open":
            column = 0
        elif token.type == "th_open":
            heads.append(token)
        elif token.type == "td_open":
            if NUMERIC.match(inside.content):
                token.attrs["class"] = heads[column].attrs["class"] = "number"
            column += 1
    html = str(reader.renderer.render(tokens, reader.options, {}))
    return html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")


def script_json(value: Any) -> str:
    """`value` as JSON that can stand inside a script element: ASCII, without `<`, `>` or `&`.

    Raises ValueError for a number that is not finite.
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


def count(n: int, noun: str) -> str:
    """`1 game`, `12,000 games`."""
    return f"{n:,} {noun if n == 1 else noun + 's'}"
