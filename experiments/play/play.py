"""Play a configured game: cached per seed, shown, and written as JSON, table and figures."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.fitted import console
from data.machine import peak_memory_mb, versions
from data.naming import AUTOMATIC, KEY, named
from data.output import lasting
from experiments.cli.folders import keep_other_game
from experiments.listing.row import NOT_RECORDED
from experiments.play.figures import draw
from experiments.play.settings import settings_from
from experiments.play.setup import prepare, resolved
from experiments.play.tracking import track
from games.game import Game, Setup
from storage.records import jsonable, significant, with_nulls, write_json_atomic

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from data.examples import Data

log = logging.getLogger(__name__)
SCHEMA = 5


def play(cfg: DictConfig) -> dict[str, Any]:
    """Play the game of a composed Hydra configuration in Hydra's run folder, and show its table."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    if config["dry_run"]:
        raise UserError(
            "dry_run=true is served where it is typed as an override, with -m or without, and no other flag."
        )
    hydra = HydraConfig.get()
    folder, unsaid = Path(hydra.runtime.output_dir), []

    def present(game: Game, result: Mapping[str, Any]) -> None:
        with lasting() as failures:
            show(game, result)
        unsaid.extend(failures)

    result = play_config(named(config, hydra.runtime.choices, hydra.overrides.task), folder, present=present)
    with lasting() as failures:
        print(f"Result and figures: {folder}")
    for error in (*unsaid, *failures)[:1]:
        if isinstance(error, BrokenPipeError):  # the reader has left, as `head` does
            raise error
        print(f"The table could not be printed ({error.strerror}); it is all in {folder}/result.json.", file=sys.stderr)
    return result


def show(game: Game, result: Mapping[str, Any]) -> None:
    """Print the tables of a result to standard output."""
    from rich.text import Text

    terminal = console()
    terminal.print(Text(f"\n{result['title']}"), soft_wrap=True)
    for each in game.tables(result["games"]):
        terminal.print(each, soft_wrap=isinstance(each, str | Text))  # what is no table is a line


def play_config(
    config: Mapping[str, Any], folder: Path, data: Data | None = None, non_blocking: frozenset[str] = frozenset(),
    present: Callable[[Game, Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Play a resolved configuration and write `result.json` and figures into `folder`; returns the result.

    `data` and `non_blocking` are those of `prepare`. `present` is called with the result before anything is written.
    Figures that cannot be drawn are a warning, and what `folder` holds of another game is kept beside the new result.

    The result holds `config`, `versions`, `games` (one record per seed), `summary`, `score` and `meta`; everything that
    may differ between two identical runs (times, memory, paths, dates) is in `meta` and the games' `seconds` and
    `memory_mb`. Raises UserError before any training starts.
    """
    began = perf_counter()
    game, config = resolved({key: value for key, value in config.items() if key != "hydra"})
    settings_from(config)
    tracking = config["wandb"]
    with track(tracking["mode"], tracking["project"], tracking["group"], config, folder) as tracker:
        setup = prepare(config, data, non_blocking)
        seeds = [config["seed"] + i for i in range(config["repetitions"])]
        said = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"
        games, served = zip(*(cached(setup, seed) for seed in seeds), strict=True)
        meta = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"), "folder": str(folder), "served": list(served),
            "seconds": perf_counter() - began, "memory_mb": peak_memory_mb(),
        }  # fmt: skip
        result = {
            "schema": SCHEMA, "title": f"{game.title(config)}, {said}", "config": config, "seeds": seeds,
            "versions": versions(), "threads": setup.threads, "device": str(setup.device), "games": list(games),
            "summary": game.summary(games), "score": game.score(games), "meta": meta,
        }  # fmt: skip
        if present is not None:
            present(game, result)
        try:
            keep_other_game(folder, config)
            write_json_atomic(folder / "result.json", with_nulls(jsonable(result)))
        except OSError as error:
            raise UserError(
                f"The result cannot be written in {folder} ({error.strerror}); what is in the store is kept: "
                "make room, or choose another folder, and start the same command again."
            ) from error
        figures = draw(game.figures(games, setup.data), folder / "figures") if config["figures"] else {}
        tracker.log({"score": result["score"], "summary": result["summary"]}, figures)
    return result


def cached(setup: Setup[Any], seed: int) -> tuple[dict[str, Any], bool]:
    """The record of one seed, from the store where it is there."""
    record, hit = setup.store.record("game", {**setup.keys.game(), "seed": seed}, lambda: record_of(setup, seed))
    if hit:
        log.info("Game of seed %d: finished before, served from the store (store.enabled=false plays it again).", seed)
    if KEY in setup.config:  # it may have been played under another name
        record = {**record, "config": {**record["config"], KEY: setup.config[KEY]}}
    return record, hit


def record_of(setup: Setup[Any], seed: int) -> dict[str, Any]:
    """Play one seed; the record says what a table needs to know: settings, versions, and what was measured."""
    settings = {key: value for key, value in setup.config.items() if key not in NOT_RECORDED}
    return {
        "schema": SCHEMA, "game": setup.game.name, "config": {**settings, "seed": seed, "repetitions": 1},
        AUTOMATIC: setup.config.get(AUTOMATIC, []), "versions": versions(), "device": str(setup.device),
        "threads": setup.threads, "seed": seed, **significant(setup.game.play(setup, seed)),
    }  # fmt: skip
