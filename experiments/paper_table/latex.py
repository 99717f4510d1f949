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
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\ge$",
    "≤": r"$\le$", "<": r"$<$", ">": r"$>$", "—": "---", "–": "--", "“": "``", "”": "''", "’": "'", "→": r"$\to$",
    "θ": r"$\theta$", "α": r"$\alpha$", "Δ": r"$\Delta$", "−": "$-$", "≈": r"$\approx$", "≠": r"$\ne$", "…": r"\dots{}",
}  # fmt: skip


def latex(content: Content, name: str) -> str:
    """The table and its claims as floats that fit a page, for `\\usepackage{booktabs,longtable,graphicx}`.

    Long ones are longtables; wide ones stand sideways, and what is wider goes into several, each with all rows. Numbers
    such as `-0.1 ± 0.2` are set in math mode, so that their sign is a minus; all other text is escaped.
    """
    table = content.specification
    count = sum(map(len, content.sections.values())) + len(content.sections)
    limit = SIDEWAYS if count <= SHORT else UPRIGHT
    parts = [f"% {content.command}\n% needs \\usepackage{{booktabs,longtable,graphicx}}\n"]
    for number, columns in enumerate(_groups(content, limit), start=1):
        said = f"{table.title}. {' '.join(content.footer())}" if number == 1 else f"{table.title} (continued)."
        label = f"tab:{name}" + (f"-{number}" if number > 1 else "")
        spec = "l" * len(table.axes) + "r" * (len(columns) - len(table.axes))
        body = _body(content, columns)
        headings = [content.headings[i] for i in columns]
        parts.append(_tabular(spec, headings, body, (table.title, said, label), _width(content, columns)))
    if content.findings:
        rows = [_row(finding_cells(finding)) for finding in content.findings]
        title = f"Claims of the table on {table.title[:1].lower()}{table.title[1:]}"
        said = f"{title}; p-values after Holm's correction."
        parts.append(_tabular(CLAIMS, FINDING_HEADINGS, rows, (title, said, f"tab:{name}-claims")))
    return parts[0] + "\n".join(parts[1:])


def _groups(content: Content, limit: int) -> list[list[int]]:
    """The columns of every part: the axes and n in each, and as many others as its lines hold, at least one."""
    first = list(range(len(content.specification.axes) + 1))
    groups = [list(first)]
    for column in range(len(first), len(content.headings)):
        if len(groups[-1]) > len(first) and _width(content, [*groups[-1], column]) > limit:
            groups.append(list(first))
        groups[-1].append(column)
    return groups


def _width(content: Content, columns: Sequence[int]) -> int:
    """Characters of the longest line that these columns need, with the gaps between them."""
    cells = [content.cells(line) for lines in content.sections.values() for line in lines]
    heads = [max(map(len, wrap(text, HEADING, break_long_words=False)), default=0) for text in content.headings]
    return sum(max([heads[i], *(len(row[i]) for row in cells)]) + 1 for i in columns) - 1


def _body(content: Content, columns: Sequence[int]) -> list[str]:
    body = []
    for i, (part, lines) in enumerate(content.sections.items()):
        body += [r"\midrule"] * (i > 0)
        body.append(rf"\multicolumn{{{len(columns)}}}{{@{{}}l}}{{\textit{{{escape(content.heading(part))}}}}} \\")
        cells = map(content.cells, lines)
        body += [_row([row[i] for i in columns]) for row in cells]
    return body


def _tabular(
    spec: str, headings: Sequence[str], body: Sequence[str], said: tuple[str, str, str], width: int = FULL
) -> str:
    """One float, or a longtable; `said` is its short title, its caption and its label."""
    long = len(body) > LONG
    begin, small = rf"{{@{{}}{spec}@{{}}}}", r"\tiny" if long and width > FULL else r"\scriptsize"
    small += r"\setlength{\tabcolsep}{2pt}"
    top = [r"\toprule", " & ".join(map(_heading, headings)) + r" \\", r"\midrule"]
    caption = rf"\caption[{{{escape(said[0])}}}]{{\footnotesize {escape(said[1])}}}\label{{{said[2]}}}"
    if long:
        heads = [caption + r" \\", *top, r"\endfirsthead", *top, r"\endhead", r"\bottomrule", r"\endlastfoot"]
        lines = ["{" + small, r"\begin{longtable}" + begin, *heads, *body, r"\end{longtable}", "}"]
        return "\n".join(lines) + "\n"
    fitted = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"
    inner = [caption, small, fitted + r"\begin{tabular}" + begin, *top, *body, r"\bottomrule", r"\end{tabular}}"]
    if width > UPRIGHT:
        inner = [r"\rotatebox{90}{\begin{minipage}{\textheight}", r"\centering", *inner, r"\end{minipage}}"]
    return "\n".join([r"\begin{table}", r"\centering", *inner, r"\end{table}"]) + "\n"


def _heading(text: str) -> str:
    lines = [escape(line) for line in wrap(text, HEADING, break_long_words=False)]
    return r"\shortstack{" + r" \\ ".join(lines) + "}" if len(lines) > 1 else escape(text)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(text: str) -> str:
    if found := re.fullmatch(r"([-+]?\d[\d.]*(?: ± [\d.]+| \[[^]]*\])?)( \(n=\d+\))?", text):
        return f"${found[1].replace('±', chr(92) + 'pm')}${found[2] or ''}"
    return escape(text)


def escape(text: str) -> str:
    """Text that LaTeX sets as it is; line breaks become spaces."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
