"""A finished table as LaTeX: a fragment for `\\input`, with booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import wrap

from experiments.paper_table.content import VERDICT_HEADINGS, Content, verdict_cells

LONG = 45  # lines that one page holds; a longer table is a longtable
HEADING = 12  # characters of a line of a heading
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\ge$",
    "≤": r"$\le$", "<": r"$<$", ">": r"$>$", "—": "---", "–": "--", "“": "``", "”": "''", "’": "'", "→": r"$\to$",
    "θ": r"$\theta$", "α": r"$\alpha$", "Δ": r"$\Delta$", "−": "$-$", "≈": r"$\approx$", "≠": r"$\ne$", "…": r"\dots{}",
}  # fmt: skip


def latex(content: Content, name: str) -> str:
    """The table and its claims as two floats (longtables where they are long), for `\\usepackage{booktabs,longtable}`.

    Numbers such as `-0.1 ± 0.2` are set in math mode, so that their sign is a minus; all other text is escaped.
    """
    table, body = content.specification, []
    width = len(content.headings)
    for i, (direction, lines) in enumerate(content.sections.items()):
        body += [r"\midrule"] * (i > 0)
        body.append(rf"\multicolumn{{{width}}}{{@{{}}l}}{{\textit{{{escape(content.heading(direction))}}}}} \\")
        body += [_row(content.cells(line)) for line in lines]
    spec = "l" * len(table.axes) + "r" * (width - len(table.axes))
    head = f"% {content.command}\n% needs \\usepackage{{booktabs,longtable}}\n"
    caption = f"{table.title}. {' '.join(content.footer())}"
    parts = [head + _tabular(spec, content.headings, body, caption, f"tab:{name}")]
    if content.verdicts:
        rows = [_row(verdict_cells(verdict)) for verdict in content.verdicts]
        said = f"Claims of the table on {table.title[:1].lower()}{table.title[1:]}; p-values after Holm's correction."
        spec = r"p{0.4\linewidth}lrrr"
        parts.append(_tabular(spec, VERDICT_HEADINGS, rows, said, f"tab:{name}-claims"))
    return "\n".join(parts)


def _tabular(spec: str, headings: Sequence[str], body: Sequence[str], caption: str, label: str) -> str:
    begin, small = rf"{{@{{}}{spec}@{{}}}}", r"\scriptsize\setlength{\tabcolsep}{2pt}"
    top = [r"\toprule", " & ".join(map(_heading, headings)) + r" \\", r"\midrule"]
    said = rf"\caption{{{escape(caption)}}}\label{{{label}}}"
    if len(body) > LONG:
        heads = [said + r" \\", *top, r"\endfirsthead", *top, r"\endhead", r"\bottomrule", r"\endlastfoot"]
        lines = ["{" + small, r"\begin{longtable}" + begin, *heads, *body, r"\end{longtable}", "}"]
    else:
        inner = [r"\begin{tabular}" + begin, *top, *body, r"\bottomrule", r"\end{tabular}"]
        lines = [r"\begin{table}", r"\centering" + small, said, *inner, r"\end{table}"]
    return "\n".join(lines) + "\n"


def _heading(text: str) -> str:
    lines = [escape(line) for line in wrap(text, HEADING, break_long_words=False)]
    return r"\shortstack{" + r" \\ ".join(lines) + "}" if len(lines) > 1 else escape(text)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(text: str) -> str:
    if re.fullmatch(r"[-+]?\d[\d.]*( ± [\d.]+| \[[^]]*\])?", text):
        return f"${text.replace('±', chr(92) + 'pm')}$"
    return escape(text)


def escape(text: str) -> str:
    """Text that LaTeX sets as it is; line breaks become spaces."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
