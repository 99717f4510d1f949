"""The figures of the first games as pictures inside the page, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.play.figures import our_style
from experiments.report_page.markup import count
from experiments.report_page.pool import Pooled
from games.game import Game

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE = 1.2  # width over height from which a figure takes the room of two


@dataclass(frozen=True)
class Picture:
    """One figure as a data URI, with its caption, words for who cannot see it, and whether it is a wide one."""

    uri: str
    caption: str
    alt: str
    wide: bool


@dataclass(frozen=True)
class Shown:
    """The figures of one game: who played, where, and the pictures."""

    name: str
    where: str
    pictures: tuple[Picture, ...]


def gallery(
    played: Sequence[Pooled], records: Callable[[str], dict[str, Any]], most: int, budget: int
) -> tuple[list[Shown], list[str]]:
    """The figures of the first `most` games, while they take at most `budget` bytes; and what was left out, in words.

    The first game of every cell comes before the second of any. A game's figures are shown together or not at all. A
    record that cannot be drawn is named.
    """
    import pandas as pd

    every = pd.concat([each.games for each in played]).drop_duplicates("digest")
    every = every.assign(turn=every.groupby("cell").cumcount()).sort_values(["turn", "cell"], kind="stable")
    games = {each.game.name: each.game for each in played}
    shown: list[Shown] = []
    left_out: list[str] = []
    used = 0
    for row in every.head(most).to_dict("records"):
        try:
            drawn = _drawn(games[row["played"]], row, records(str(row["path"])))
        except Exception as error:  # whatever a game's own drawing stumbles over in a record from elsewhere
            left_out.append(
                f"The figures of {row['path']} cannot be drawn from its record ({type(error).__name__}: {error})."
            )
            continue
        used += sum(len(each.uri) for each in drawn.pictures)
        if used > budget:
            left_out.append(
                f"Figures of {count(len(shown), 'game')} instead of {most} are shown: more would take over "
                f"{budget / 1e6:g} MB (--figure-megabytes)."
            )
            break
        shown += [drawn] if drawn.pictures else []
    return shown, left_out


def _drawn(game: Game, row: Mapping[str, Any], record: Mapping[str, Any]) -> Shown:
    with our_style():
        pictures = tuple(
            Picture(_uri(each.figure), each.caption, each.alt, _is_wide(each.figure))
            for each in game.figures([record], None)
        )
    name = f"{row['attack']} against {row['unlearning']}, defense {row['defense']}"
    return Shown(name, f"{row['game']}, {row['data']}, {row['model']}, seed {row['seed']}", pictures)


def _is_wide(figure: Figure) -> bool:
    width, height = figure.get_size_inches()
    return bool(width > WIDE * height)


def _uri(figure: Figure) -> str:
    """The figure as an SVG data URI; SVG stays sharp on paper and takes less room than a picture of pixels."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "report"}):  # the same figure has the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
