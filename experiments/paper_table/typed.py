"""Overrides of games on the command line of a table, which Hydra would take for its own."""

import re
from collections.abc import Sequence

QUOTES = "'\""


def gathered(arguments: Sequence[str]) -> list[str]:
    """The arguments with all `run.KEY=VALUE` and the items of all `run=[KEY=VALUE,...]` in one list, quoted."""
    further, rest = [], []
    for each in arguments:
        if each.startswith("run."):
            further.append(each.removeprefix("run."))
        elif each.startswith("run=[") and each.endswith("]"):
            further += split_outside(each[len("run=[") : -1])
        else:
            rest.append(each)
    if not further:
        return list(arguments)
    return [*rest, f"run=[{','.join(each if each[0] in QUOTES else quoted(each) for each in further)}]"]


def split_outside(text: str) -> list[str]:
    """The parts of `text` between commas that stand outside brackets and quotes; empty ones are left out."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if character in QUOTES and quote in ("", character):
            quote = "" if quote else character
        depth += 0 if quote else (character in "[{(") - (character in ")}]")
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def quoted(text: str) -> str:
    """A value for Hydra's command line, whatever characters it has: backslashes escape before a quote only."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + (m[2] and "\\'"), text) + "'"
