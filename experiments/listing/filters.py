"""Filters of games: `attack=uncertainty`, `data!=digits`, `seed<3`."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Sequence
from operator import ge, gt, le, lt
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from experiments.cli.script import printable

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)

FILTER = re.compile(r"(?P<column>[\w.\-]+)\s*(?P<sign>!=|<=|>=|=|<|>)\s*(?P<value>.*)", re.DOTALL)
MOST = 12  # values that a sentence names
ORDER: dict[str, Callable[[Any, Any], Any]] = dict(zip(("<", "<=", ">", ">="), (lt, le, gt, ge), strict=True))


def select(table: pandas.DataFrame, filters: Sequence[str]) -> pandas.DataFrame:
    """The rows that pass every filter: `column=value[,value]`, `column!=value`, or `column<number` (`<=`, `>`, `>=`).

    Raises UserError for a filter that cannot be read, a column that does not exist, a value that no game of the whole
    table has, and a bound on what is no number. A bound that no game keeps is logged, and so is a value to leave out
    that none has.
    """
    every = table
    for text in filters:
        match = FILTER.fullmatch(text.strip())
        if match is None:
            raise UserError(f"The filter {text!r} cannot be read; write column=value, column!=value or column<number.")
        column, sign, value = match["column"], match["sign"], match["value"].strip()
        _check(every, column, sign, value, text)
        table = table[_passes(table, column, sign, value, text)]
    return table


def _check(table: pandas.DataFrame, column: str, sign: str, value: str, text: str) -> None:
    """Raise UserError where a filter alone leaves nothing of the whole table, or names a value that nothing has."""
    if not len(table):
        return
    if sign in ORDER:
        if not _passes(table, column, sign, value, text).any():
            said = f"No game has {text.strip()}; {column} {_values(table[column])}."
            if not any(isinstance(each, int | float) for each in table[column].dropna()):
                raise UserError(said)
            log.warning(said)  # a question that has an answer: none
        return
    _passes(table.head(0), column, sign, value, text)  # whether the column exists
    there = set(table[column].map(plain))
    for part in value.split(","):
        if plain(part.strip()) not in there:
            said = f"No game has {column}={part.strip()}; {column} {_values(table[column])}."
            if sign == "=":
                raise UserError(said)
            log.warning(said)  # what is not there is left out all the same


def _values(values: pandas.Series[Any]) -> str:
    """What a column holds, in words."""
    import pandas

    numbers = pandas.to_numeric(values, errors="coerce").dropna()
    found = sorted(set(values.map(plain)))
    if len(found) > MOST and len(numbers) > len(values) / 2:
        return f"is from {numbers.min():g} to {numbers.max():g} here"
    more = f", or one of {len(found) - MOST} others," if len(found) > MOST else ""
    return f"is {' or '.join(printable(each) for each in found[:MOST])}{more} here"


def _passes(table: pandas.DataFrame, column: str, sign: str, value: str, text: str) -> Any:
    import pandas

    if column not in table.columns:
        raise UserError(no_column(table, column, "to filter by"))
    values = table[column]
    if sign in ORDER:
        try:
            bound = float(value)
        except ValueError as error:
            raise UserError(f"The filter {text!r} compares with {value!r}, which is no number.") from error
        return ORDER[sign](pandas.to_numeric(values, errors="coerce"), bound)
    wanted = {plain(part.strip()) for part in value.split(",")}
    hit = values.map(plain).isin(wanted)
    return ~hit if sign == "!=" else hit


def no_column(table: pandas.DataFrame, column: str, purpose: str) -> str:
    """The sentence for a column that the table does not have."""
    near = difflib.get_close_matches(column, [str(name) for name in table.columns], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`--columns` lists them."
    return f"There is no column {column!r} {purpose}; {hint}"


def plain(value: Any) -> str:
    """A value as it is typed: `true`, `null`, and 1 for 1.0."""
    if value is None or value != value:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return "null" if value == "None" else str(value).lower() if value in ("True", "False") else str(value)
