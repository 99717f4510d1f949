"""Filters of games: `attack=uncertainty`, `data!=digits`, `seed<3`."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import ge, gt, le, lt
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from experiments.cli.script import printable

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)

FILTER = re.compile(r"(?P<column>[\w.\-]+)\s*(?P<sign>!=|<=|>=|=|<|>)\s*(?P<value>.*)", re.DOTALL)
MOST = 12  # values that a sentence names
ORDER: dict[str, Callable[[Any, Any], Any]] = {"<": lt, "<=": le, ">": gt, ">=": ge}


def select(table: pandas.DataFrame, filters: Sequence[str]) -> pandas.DataFrame:
    """The rows that pass every filter: `column=value[,value]`, `column!=value`, or `column<number` (`<=`, `>`, `>=`).

    Raises UserError for a filter that cannot be read, a column that does not exist, a value that no game of the whole
    table has, and a bound on what is no number. A bound that no game keeps is logged, and so is a value to leave out
    that none has.
    """
    import pandas

    kept = pandas.Series(True, index=table.index)
    for text in filters:
        match = FILTER.fullmatch(text.strip())
        if match is None:
            raise UserError(f"The filter {text!r} cannot be read; write column=value, column!=value or column<number.")
        if match["column"] not in table.columns:
            raise UserError(no_column(table, match["column"], "to filter by"))
        kept &= _passes(table[match["column"]], match["sign"], match["value"].strip(), text)
    return table[kept]


def _passes(values: pandas.Series[Any], sign: str, value: str, text: str) -> pandas.Series[bool]:
    """Which values of a column pass a filter."""
    import pandas

    if sign in ORDER:
        try:
            bound = float(value)
        except ValueError as error:
            raise UserError(f"The filter {text!r} compares with {value!r}, which is no number.") from error
        hits = ORDER[sign](pandas.to_numeric(values, errors="coerce"), bound)
        absent = [] if hits.any() else [text.strip()]
        mistake = not any(isinstance(each, int | float) for each in values.dropna())
    else:
        typed, parts = values.map(plain), [part.strip() for part in value.split(",")]
        hits, there = typed.isin([plain(part) for part in parts]), set(typed)
        absent = [f"{values.name}={part}" for part in parts if plain(part) not in there]
        mistake = sign == "="
    for each in absent if len(values) else ():
        said = f"No game has {each}; {values.name} {_values(values)}."
        if mistake:
            raise UserError(said)
        log.warning(said)  # a question that has an answer: none, or all
    return ~hits if sign == "!=" else hits


def _values(values: pandas.Series[Any]) -> str:
    """What a column holds, in words."""
    import pandas

    numbers = pandas.to_numeric(values, errors="coerce").dropna()
    found = sorted(set(values.map(plain)))
    if len(found) > MOST and len(numbers) > len(values) / 2:
        return f"is from {numbers.min():g} to {numbers.max():g} here"
    more = f", or one of {len(found) - MOST} others," if len(found) > MOST else ""
    return f"is {' or '.join(printable(each) for each in found[:MOST])}{more} here"


def no_column(table: pandas.DataFrame, column: str, purpose: str) -> str:
    """The sentence for a column that the table does not have."""
    near = difflib.get_close_matches(column, [str(name) for name in table.columns], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`--columns` lists them."
    return f"There is no column {column!r} {purpose}; {hint}"


def plain(value: Any) -> str:
    """A value as it is typed: `true`, `null`, and 1 for 1.0."""
    if value is None or value != value:
        return "null"
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError):
            short = f"{float(value):g}"
            return short if float(short) == float(value) else repr(float(value))  # no two values are written alike
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
