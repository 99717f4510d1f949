"""A table from the content of its YAML, with one sentence where that is wrong, before anything is played."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pydantic import TypeAdapter, ValidationError

from data.errors import UserError
from experiments.paper_table.specification import Specification
from games.game import Game


def specification(name: str, content: Mapping[str, Any]) -> Specification:
    """The table `name` from the content of its YAML, checked.

    Raises UserError for an unknown key or row, a value out of its range, or a name that is used twice.
    """
    try:
        table: Specification = TypeAdapter(Specification).validate_python(content)
    except ValidationError as error:
        raise UserError(_first_mistake(name, error)) from error
    named = {f"the options of {axis.label!r}": [option.name for option in axis.options] for axis in table.axes}
    for what, names in {**named, "the claims": [claim.id for claim in table.claims]}.items():
        if twice := sorted({each for each in names if names.count(each) > 1}):
            raise UserError(f"The table {name}: {what} use the name {twice[0]!r} twice; give each its own.")
    for option in (option for axis in table.axes for option in axis.options):
        _check_names(name, f"option {option.name}", "size", [*option.at, *(option.sizes or ())], table.sizes)
    every, rows = table.combinations, table.row_names
    unused = [pattern for pattern in table.without if not any(fnmatchcase(row, pattern) for row in every)]
    _check_names(name, "without", "row", unused, every)
    _check_names(name, "overrides", "row", table.overrides, rows)
    for claim in table.claims:
        _check_names(name, f"claim {claim.id}", "row", [row for row, _, _ in claim.sides], rows)
    _check_names(name, "beside", "row", [number.row for number in table.beside], rows)
    return table


def check_metrics(name: str, table: Specification, game: Game) -> None:
    """Make sure that the game of a table measures what columns, claims and numbers from elsewhere name.

    Raises UserError for a metric that it does not have.
    """
    known = [metric.name for metric in game.metrics()]
    _check_names(name, "columns", "metric", [column.metric for column in table.columns], known)
    for claim in table.claims:
        _check_names(name, f"claim {claim.id}", "metric", [metric for _, metric, _ in claim.sides], known)
    _check_names(name, "beside", "metric", [number.metric for number in table.beside], known)


def _check_names(table: str, where: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Make sure that the `names` of rows, sizes or metrics (`what`) that stand somewhere in a table are `known`."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(list(known)[:12])}."
            raise UserError(f"The table {table}, {where}: there is no {what} {name!r}{hint}")


def _first_mistake(name: str, error: ValidationError) -> str:
    item = error.errors(include_url=False)[0]
    unknown = item["type"] == "unexpected_keyword_argument"
    text = "there is no such key" if unknown else item["msg"].removeprefix("Value error, ").removesuffix(".")
    got = "" if unknown or item["type"] in ("value_error", "missing") else f", got {item['input']!r:.60}"
    return f"The table {name}: {'.'.join(map(str, item['loc']))}: {text}{got}."
