"""A finished table as LaTeX: a fragment for `\\input`, with booktabs.

What makes it long is to fit a page: headings in lines, wide tables turned or in several, sections by part. The writers
of pandas know none of that, nor a minus of LaTeX's for the sign of a number, so they would only add the rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import wrap

from experiments.paper_table.content import FINDING_HEADINGS, Content, finding_cells

LONG = 45  # lines that one page holds; a longer table is a longtable
SHORT = 26  # lines that a page holds sideways
HEADING = 12  # characters of a line of a heading
# What a line holds in characters: of \scriptsize, and upright or sideways where the table is made smaller, by a quarter
# at most (a longtable by the next size, \tiny). More columns go into a table of their own.
FULL, UPRIGHT, SIDEWAYS = 84, 112, 184
CLAIMS = r"p{0.3\linewidth}lp{0.26\linewidth}rp{0.13\linewidth}"
SPECIAL = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\ge$",
    "≤": r"$\le$", "<": r"$<$", ">": r"$>$", "—": "---", "–": "--", "“": "``", "”": "''", "’": "'", "→": r"$\to$",
    "θ": r"$\theta$", "α": r"$\alpha$", "Δ": r"$\Delta$", "−": "$-$", "≈": r"$\approx$", "≠": r"$\ne$", "…": r"\dots{}",
})  # fmt: skip


def latex(content: Content, name: str) -> str:
    """The table and its claims as floats that fit a page, for `\\usepackage{booktabs,longtable,graphicx}`.

    Long ones are longtables; wide ones stand sideways, and what is wider goes into several, each with all rows. Numbers
    such as `-0.1 ± 0.2` are set in math mode, so that their sign is a minus; all other text is escaped.
    """
    table, headings, sections = content.specification, content.headings, list(content.lines())
    rows = [row for _, lines in sections for row in lines]
    widths = [max(map(len, [*_in_lines(text), *(row[i] for row in rows)])) for i, text in enumerate(headings)]
    limit = SIDEWAYS if len(rows) + len(sections) <= SHORT else UPRIGHT
    parts = [f"% {content.command}\n% needs \\usepackage{{booktabs,longtable,graphicx}}\n"]
    for number, columns in enumerate(_groups(widths, len(table.axes) + 1, limit), start=1):
        said = f"{table.title}. {' '.join(content.footer())}" if number == 1 else f"{table.title} (continued)."
        label = f"tab:{name}" + (f"-{number}" if number > 1 else "")
        spec = "l" * len(table.axes) + "r" * (len(columns) - len(table.axes))
        heads, body = [headings[i] for i in columns], _body(sections, columns)
        parts.append(_tabular(spec, heads, body, (table.title, said, label), _width(widths, columns)))
    if content.findings:
        body = [_row(finding_cells(finding)) for finding in content.findings]
        title = f"Claims of the table on {table.title[:1].lower()}{table.title[1:]}"
        said = f"{title}; p-values after Holm's correction."
        parts.append(_tabular(CLAIMS, FINDING_HEADINGS, body, (title, said, f"tab:{name}-claims")))
    return parts[0] + "\n".join(parts[1:])


def _groups(widths: Sequence[int], first: int, limit: int) -> list[list[int]]:
    """The columns of every part: the `first` in each, and as many others as its lines hold, at least one."""
    groups = [list(range(first))]
    for column in range(first, len(widths)):
        if len(groups[-1]) > first and _width(widths, [*groups[-1], column]) > limit:
            groups.append(list(range(first)))
        groups[-1].append(column)
    return groups


def _width(widths: Sequence[int], columns: Sequence[int]) -> int:
    """Characters of the longest line that these columns need, with the gaps between them."""
    return sum(widths[i] + 1 for i in columns) - 1


def _body(sections: Sequence[tuple[str, list[list[str]]]], columns: Sequence[int]) -> list[str]:
    body: list[str] = []
    for heading, rows in sections:
        body += [r"\midrule"] if body else []
        body.append(rf"\multicolumn{{{len(columns)}}}{{@{{}}l}}{{\textit{{{escape(heading)}}}}} \\")
        body += [_row([row[i] for i in columns]) for row in rows]
    return body


def _tabular(spec: str, heads: Sequence[str], body: list[str], said: tuple[str, str, str], width: int = FULL) -> str:
    """One float, or a longtable; `said` is its short title, its caption and its label."""
    long = len(body) > LONG
    begin, small = rf"{{@{{}}{spec}@{{}}}}", r"\tiny" if long and width > FULL else r"\scriptsize"
    small += r"\setlength{\tabcolsep}{2pt}"
    top = [r"\toprule", " & ".join(map(_heading, heads)) + r" \\", r"\midrule"]
    caption = rf"\caption[{{{escape(said[0])}}}]{{\footnotesize {escape(said[1])}}}\label{{{said[2]}}}"
    if long:
        lines = [caption + r" \\", *top, r"\endfirsthead", *top, r"\endhead", r"\bottomrule", r"\endlastfoot", *body]
        lines = ["{" + small, r"\begin{longtable}" + begin, *lines, r"\end{longtable}", "}"]
        return "\n".join(lines) + "\n"
    fitted = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"
    inner = [caption, small, fitted + r"\begin{tabular}" + begin, *top, *body, r"\bottomrule", r"\end{tabular}}"]
    if width > UPRIGHT:
        inner = [r"\rotatebox{90}{\begin{minipage}{\textheight}", r"\centering", *inner, r"\end{minipage}}"]
    return "\n".join([r"\begin{table}", r"\centering", *inner, r"\end{table}"]) + "\n"


def _heading(text: str) -> str:
    lines = [escape(line) for line in _in_lines(text)]
    return r"\shortstack{" + r" \\ ".join(lines) + "}" if len(lines) > 1 else escape(text)


def _in_lines(heading: str) -> list[str]:
    return wrap(heading, HEADING, break_long_words=False) or [""]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(text: str) -> str:
    if found := re.fullmatch(r"([-+]?\d[\d.]*(?: ± [\d.]+| \[[^]]*\])?)( \(n=\d+\))?", text):
        return f"${found[1].replace('±', chr(92) + 'pm')}${found[2] or ''}"
    return escape(text)


def escape(text: str) -> str:
    """Text that LaTeX sets as it is; line breaks become spaces."""
    return " ".join(text.split()).translate(SPECIAL)
