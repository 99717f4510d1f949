"""The table of a game that brings none of its own: a metric a row, a part a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.console import Console

from games.game import Game, Metric
from games.plain_table import plain_table


class Toy(Game):
    name: ClassVar[str] = "toy"
    headline: ClassVar[str] = "height"

    def metrics(self) -> Sequence[Metric]:
        return [_metric("height", frozenset({"game"})), _metric("absent", frozenset({"game"})),
                _metric("unshown", frozenset({"sweep"}))]  # fmt: skip


def _metric(name: str, shown: frozenset[Any]) -> Metric:
    def values(part: Any) -> dict[str, float]:
        return {"all": part.record[name]} if name in part.record else {}

    return Metric(name=name, label=name, help=f"how much {name} there is.", values=values, shown=shown, digits=1)


def printed(records: Sequence[dict[str, Any]]) -> str:
    console = Console(width=80, no_color=True)
    with console.capture() as captured:
        console.print(plain_table(Toy(), records))
    return captured.get()


def test_a_metric_is_a_mean_over_records() -> None:
    text = printed([{"height": 1.0, "unshown": 5.0}, {"height": 2.0, "unshown": 5.0}])
    assert "height" in text
    assert "1.5" in text
    assert "absent" not in text
    assert "unshown" not in text


def test_a_number_that_fewer_records_have_says_so() -> None:
    assert "(n=" not in printed([{"height": 1.0}, {"height": 2.0}])
    assert "(n=2)" in printed([{"height": 1.0}, {"height": 2.0}, {}])
