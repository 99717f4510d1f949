"""The figures of the first games as pictures inside the page, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from data.figure_style import our_style
from experiments.report_page.markup import count
from games.game import Drawing, Game

if TYPE_CHECKING:
    from pandas import DataFrame

WIDE = 1.2  # width over height from which a figure takes the room of two


def gallery(
    every: DataFrame, games: Mapping[str, Game], records: Callable[[str], dict[str, Any]], most: int, budget: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """The figures of the first `most` games, while they take at most `budget` bytes; and what was left out, in words.

    The first game of every cell comes before the second of any. A game's figures are shown together or not at all. A
    record that cannot be drawn is named.
    """
    single = every.drop_duplicates("digest")
    in_turn = single.assign(turn=single.groupby("cell").cumcount()).sort_values(["turn", "cell"], kind="stable")
    shown: list[dict[str, Any]] = []
    left_out: list[str] = []
    used = 0
    for row in in_turn.head(most).to_dict("records"):
        try:
            drawn = _drawn(games[row["played"]], row, records(str(row["path"])))
        except Exception as error:  # whatever a game's own drawing stumbles over in a record from elsewhere
            why = f"{type(error).__name__}: {error}"
            left_out.append(f"The figures of {row['path']} cannot be drawn from its record ({why}).")
            continue
        used += sum(len(each["uri"]) for each in drawn["pictures"])
        if used > budget:
            left_out.append(
                f"Figures of {count(len(shown), 'game')} instead of {most} are shown: more would take over "
                f"{budget / 1e6:g} MB (--figure-megabytes)."
            )
            break
        shown += [drawn] if drawn["pictures"] else []
    return shown, left_out


def _drawn(game: Game, row: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures of one game, who played, and where."""
    with our_style():
        pictures = [_picture(each) for each in game.figures([record], None)]
    name = f"{row['attack']} against {row['unlearning']}, defense {row['defense']}"
    where = f"{row['game']}, {row['data']}, {row['model']}, seed {row['seed']}"
    return {"name": name, "where": where, "pictures": pictures}


def _picture(drawing: Drawing) -> dict[str, Any]:
    """A figure as an SVG data URI, sharp on paper and smaller than pixels, with its words and whether it is wide."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "report"}):  # the same figure has the same bytes
        drawing.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    uri = f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    width, height = drawing.figure.get_size_inches()
    return {"uri": uri, "caption": drawing.caption, "alt": drawing.alt, "wide": width > WIDE * height}
