"""A page made of synthetic games, and what a parser of HTML finds in a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.report_page.page import Options, Page, build
from games.request.game import RequestGame
from tests.experiments.report_page import synthetic

GAMES = {"request": RequestGame()}
HOSTILE = "</script><img src=x onerror=alert(1)>\u2028'\"&"


def overrides(path: str) -> list[str]:
    """What a record of ours would say about itself."""
    return ["attack=uncertainty", "game.targets.over=[0.4,0.6]"]


def make(
    frame: pd.DataFrame | None = None, tables: Sequence[Mapping[str, Any]] = (), options: Options | None = None
) -> Page:
    """A page without figures, unless the options ask for them."""
    games = synthetic.frame(seeds=3) if frame is None else frame
    return build(games, GAMES, lambda path: synthetic.record(), tables, overrides, options or Options(figures=0))


@dataclass
class Found(HTMLParser):
    """Every tag with its attributes, the texts of scripts and styles, and the visible text."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    inside: dict[str, list[str]] = field(default_factory=lambda: {"script": [], "style": []})
    text: str = ""
    data: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.now = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.now = tag
        self.tags.append((tag, dict(attrs)))
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self.now = ""

    def handle_data(self, data: str) -> None:
        if self.now in self.inside:
            self.inside[self.now][-1] += data
        else:
            self.text += data

    @property
    def scripts(self) -> list[str]:
        """The scripts that a browser runs; the other one is the data."""
        kinds = [attributes.get("type") for tag, attributes in self.tags if tag == "script"]
        return [text for kind, text in zip(kinds, self.inside["script"], strict=True) if kind is None]

    @property
    def json(self) -> dict[str, Any]:
        [text] = [text for text in self.inside["script"] if text not in self.scripts]
        content = json.loads(text)
        assert isinstance(content, dict)
        return content


def parse(html: str) -> Found:
    found = Found()
    found.feed(html)
    found.close()
    return found


def words(column: dict[str, Any] | list[Any]) -> list[Any]:
    """A column of the page's data as plain values."""
    return [column["levels"][code] for code in column["codes"]] if isinstance(column, dict) else column


def write(page: Page, path: Path) -> str:
    """The page as a file; its address."""
    path.write_text(page.html, encoding="utf-8")
    return path.as_uri()
