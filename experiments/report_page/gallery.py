"""The figures of the first games as pictures inside the page, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from experiments.report_page.columns import DIRECTIONS
from experiments.report_page.markup import count, escape
from games.request.summary import summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

CAPTIONS = {
    "targets": "Confidence and entropy of every target before the attack, after it, under random and nearest deletions "
    "of the same size, and after the defense; the thick line is the mean with its 95% interval over requests.",
    "reliability": "Accuracy against confidence on the test set, before and after the attack.",
    "roc": "Malicious against benign requests that the defense would flag, over all thresholds.",
}


@dataclass(frozen=True)
class Gallery:
    """The figures as HTML, the number of games shown, and sentences about what was left out."""

    html: str
    shown: int
    left_out: tuple[str, ...]


def gallery(games: DataFrame, records: Callable[[str], dict[str, Any]], most: int, budget: int) -> Gallery:
    """Draw the figures of the first `most` games, while they take at most `budget` bytes of the page.

    The first game of every cell comes before the second of any. A game's figures are shown together or not at all. A
    record that cannot be drawn is named in `left_out`.
    """
    every = games.drop_duplicates("digest")
    first = every.assign(turn=every.groupby("cell").cumcount()).sort_values(["turn", "cell"], kind="stable").head(most)
    parts: list[str] = []
    left_out: list[str] = []
    used, fits = 0, True
    for game in first.to_dict("records"):
        path = str(game["path"])
        try:
            part = _game(game, records(path))
        except (UserError, KeyError, IndexError, TypeError, ValueError, OSError) as error:
            left_out.append(f"The figures of {path} cannot be drawn from its record ({type(error).__name__}: {error}).")
            continue
        fits = used + len(part) <= budget
        if not fits:
            break
        parts.append(part)
        used += len(part)
    if not fits:
        left_out.append(
            f"Figures of {count(len(parts), 'game')} instead of {most} are shown: more would take over "
            f"{budget / 1e6:g} MB (--figure-megabytes)."
        )
    return Gallery("".join(parts), len(parts), tuple(left_out))


def _game(game: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    from games.request.figures import figures

    directions = [d for d in DIRECTIONS if d in record["targets"]["direction"]]
    summary = summarise([record], directions)
    name = escape(f"{game['who']} against {game['procedure']}, defense {game['defense_name']}")
    where = escape(f"{game['data']}, {game['model']}, {game['mode']} targets, seed {game['seed']}")
    shown = []
    with figures({"games": [record], "summary": summary}) as drawn:
        for kind, figure in drawn:
            alt = _alt(summary) if kind == "targets" else CAPTIONS[kind]
            shown.append(
                f"<figure class={kind}><img src='{_uri(figure)}' alt='{name}: {escape(alt)}'>"
                f"<figcaption>{CAPTIONS[kind]}</figcaption></figure>"
            )
    return (
        f"<article class=game><h3>{name} <small>{where}</small></h3><div class=figures>{''.join(shown)}</div></article>"
    )


def _uri(figure: Figure) -> str:
    """The figure as an SVG data URI; SVG stays sharp on paper and takes less room than a picture of pixels."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "report"}):  # the same figure has the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _alt(summary: Mapping[str, Any]) -> str:
    sentences = []
    for direction, part in summary.items():
        means = {state: part["victim_seed"][state]["confidence"]["mean"] for state in part["victim_seed"]}
        sentences.append(
            f"{DIRECTIONS[direction]}, {part['targets']} targets: mean confidence {means['before']:.2f} before, "
            f"{means['after']:.2f} after the attack, {means['defended']:.2f} with the defense, "
            f"{means['random']:.2f} after random deletions."
        )
    return " ".join(sentences)


def nothing_shown(games: int, asked: int) -> str:
    """What the section says without any figure."""
    reason = "They were turned off with --figures 0." if asked == 0 else "None could be drawn."
    return f"<p>No figures are shown of {count(games, 'game')}. {reason}</p>"
