"""A table from the content of its YAML, with one sentence where that is wrong, before anything is played."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from data.errors import UserError
from experiments.paper_table.specification import Specification
from games.game import Game


class Mention(NamedTuple):
    """A name that a table mentions somewhere: the name of a row, a size or a metric, and which ones there are."""

    where: str
    what: str
    name: str
    known: Iterable[str]


def specification(name: str, content: Mapping[str, Any]) -> Specification:
    """The table `name` from the content of its YAML, checked.

    Raises:
        UserError: for an unknown key or row, a value out of its range, or a name that is used twice.
    """
    try:
        table: Specification = TypeAdapter(Specification).validate_python(content)
    except ValidationError as error:
        raise UserError(_first_mistake(name, error)) from error
    named = {f"the options of {axis.label!r}": [option.name for option in axis.options] for axis in table.axes}
    for what, names in {**named, "the claims": [claim.id for claim in table.claims]}.items():
        if twice := sorted({each for each in names if names.count(each) > 1}):
            raise UserError(f"The table {name}: {what} use the name {twice[0]!r} twice; give each its own.")
    _check(name, _rows_and_sizes(table))
    return table


def check_metrics(name: str, table: Specification, game: Game) -> None:
    """Make sure that the game of a table measures what columns, claims and numbers from elsewhere name.

    Raises:
        UserError: for a metric that it does not have.
    """
    known = [metric.name for metric in game.metrics()]
    claimed = [(f"claim {claim.id}", metric) for claim in table.claims for _, metric, _ in claim.sides]
    named = [("columns", column.metric) for column in table.columns] + claimed
    named += [("beside", number.metric) for number in table.beside]
    _check(name, (Mention(where, "metric", metric, known) for where, metric in named))


def _rows_and_sizes(table: Specification) -> Iterator[Mention]:
    rows = table.row_names
    for option in (option for axis in table.axes for option in axis.options):
        for size in (*option.at, *(option.sizes or ())):
            yield Mention(f"option {option.name}", "size", size, table.sizes)
    for pattern in table.without:
        if not any(fnmatchcase(row, pattern) for row in table.combinations):
            yield Mention("without", "row", pattern, table.combinations)
    for row in table.overrides:
        yield Mention("overrides", "row", row, rows)
    for claim in table.claims:
        for row, _, _ in claim.sides:
            yield Mention(f"claim {claim.id}", "row", row, rows)
    for number in table.beside:
        yield Mention("beside", "row", number.row, rows)


def _check(table: str, mentions: Iterable[Mention]) -> None:
    for where, what, name, known in mentions:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(list(known)[:12])}."
            raise UserError(f"The table {table}, {where}: there is no {what} {name!r}{hint}")


def _first_mistake(name: str, error: ValidationError) -> str:
    item = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in item["loc"])
    text = str(item["msg"]).removeprefix("Value error, ").removesuffix(".")
    if item["type"] == "unexpected_keyword_argument":
        text = "there is no such key"
    silent = item["type"] in ("value_error", "missing", "unexpected_keyword_argument")
    got = "" if silent else f", got {item['input']!r:.60}"
    return f"The table {name}: {place}: {text}{got}."
