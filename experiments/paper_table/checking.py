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

    Raises:
        UserError: for an unknown key or row, a value out of its range, or a name that is used twice.
    """
    try:
        table: Specification = TypeAdapter(Specification).validate_python(content)
    except ValidationError as error:
        raise UserError(_first_mistake(name, error)) from error
    where = f"The table {name}"
    rows, claims = table.row_names, [claim.id for claim in table.claims]
    for axis in table.axes:
        _unique(f"{where}: the options of {axis.label!r}", [option.name for option in axis.options])
        for option in axis.options:
            for size in (*option.at, *(option.sizes or ())):
                _check(size, table.sizes, f"{where}, option {option.name}", "size")
    _unique(f"{where}: the claims", claims)
    for pattern in table.without:
        if not any(fnmatchcase(row, pattern) for row in table.combinations):
            _check(pattern, table.combinations, f"{where}, without", "row")
    for row in table.overrides:
        _check(row, rows, f"{where}, overrides", "row")
    for claim in table.claims:
        for row, _, _ in claim.sides:
            _check(row, rows, f"{where}, claim {claim.id}", "row")
    for number in table.beside:
        _check(number.row, rows, f"{where}, beside", "row")
    return table


def check_metrics(name: str, table: Specification, game: Game) -> None:
    """Make sure that the game of a table measures what columns, claims and numbers from elsewhere name.

    Raises:
        UserError: for a metric that it does not have.
    """
    known, where = [metric.name for metric in game.metrics()], f"The table {name}"
    for column in table.columns:
        _check(column.metric, known, f"{where}, columns", "metric")
    for claim in table.claims:
        for _, metric, _ in claim.sides:
            _check(metric, known, f"{where}, claim {claim.id}", "metric")
    for number in table.beside:
        _check(number.metric, known, f"{where}, beside", "metric")


def _check(name: str, among: Iterable[str], where: str, what: str) -> None:
    among = list(among)
    if name in among:
        return
    near = difflib.get_close_matches(name, among, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(among[:12])}."
    raise UserError(f"{where}: there is no {what} {name!r}{hint}")


def _unique(where: str, names: list[str]) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"{where} use the name {sorted(twice)[0]!r} twice; give each its own.")


def _first_mistake(name: str, error: ValidationError) -> str:
    item = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in item["loc"])
    text = str(item["msg"]).removeprefix("Value error, ").removesuffix(".")
    if item["type"] == "unexpected_keyword_argument":
        text = "there is no such key"
    silent = item["type"] in ("value_error", "missing", "unexpected_keyword_argument")
    got = "" if silent else f", got {item['input']!r:.60}"
    return f"The table {name}: {place}: {text}{got}."
