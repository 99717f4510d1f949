"""The little Markdown that tables are written in, as HTML: headings, pipe tables, lists and paragraphs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from experiments.report_page.markup import escape, table

BAR = re.compile(r"(?<!\\)\|")  # a bar that divides cells, unlike the escaped one of a text


def html_of(text: str) -> str:
    """`text` as HTML; blocks are divided by empty lines, and everything else but `code` and **bold** is plain text."""
    blocks = (re.split(r"\n\s*\n", text.strip())) if text.strip() else []
    return "".join(_block([line.strip() for line in block.splitlines()]) for block in blocks)


def _block(lines: Sequence[str]) -> str:
    if len(lines) > 1 and all(line.startswith("|") for line in lines):
        rows = [[_inline(cell) for cell in _cells(line)] for line in lines]
        return table(rows[0], rows[2:])
    if all(line.startswith("- ") for line in lines):
        return f"<ul>{''.join(f'<li>{_inline(line[2:])}</li>' for line in lines)}</ul>"
    if len(lines) == 1 and (heading := re.fullmatch(r"#+ (.*)", lines[0])):
        return f"<h4>{_inline(heading[1])}</h4>"
    return f"<p>{_inline(' '.join(lines))}</p>"


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in BAR.split(line)[1 : -1 if BAR.search(line[-1]) else None]]


def _inline(text: str) -> str:
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", safe)
