"""Play a configured game: cached per seed, summarised over seeds, written as JSON, table and figures."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.machine import peak_memory_mb, versions
from data.paths import reason
from experiments.cli.choices import KEY, named, option
from experiments.cli.folders import keep_other_game
from experiments.cli.output import lasting
from experiments.play.access import resolve_access
from experiments.play.setup import Setup, prepare
from experiments.play.surroundings import check_surroundings
from experiments.play.tracking import track
from experiments.storage.records import jsonable, significant, with_nulls, write_json_atomic
from games.request.figures import draw
from games.request.memory import check_memory
from games.request.play import play_one
from games.request.row import AUTOMATIC, NOT_RECORDED
from games.request.summary import score, summarise
from games.request.table import show

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from data.examples import Data

log = logging.getLogger(__name__)
SCHEMA = 4


def play(cfg: DictConfig) -> dict[str, Any]:
    """Play the game of a composed Hydra configuration in Hydra's run folder, and show its table."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    hydra = HydraConfig.get()
    plain = named({str(k): v for k, v in config.items()}, hydra.runtime.choices, list(hydra.overrides.task))
    folder, unsaid = Path(hydra.runtime.output_dir), []

    def present(result: Mapping[str, Any]) -> None:
        with lasting() as failures:
            show(result)
        unsaid.extend(failures)

    result = play_config(plain, folder, present=present)
    with lasting() as failures:
        print(f"Result and figures: {folder}")
    for error in (*unsaid, *failures)[:1]:
        if isinstance(error, BrokenPipeError):  # the reader has left, as `head` does
            raise error
        print(f"The table could not be printed ({error.strerror}); it is all in {folder}/result.json.", file=sys.stderr)
    return result


def play_config(
    config: Mapping[str, Any], folder: Path, data: Data | None = None, non_blocking: frozenset[str] = frozenset(),
    present: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Play a resolved configuration and write `result.json` and figures into `folder`; returns the result.

    `data` and `non_blocking` are those of `prepare`. `present` is called with the result before anything is written.
    Figures that cannot be drawn are a warning, and what `folder` holds of another game is kept beside the new result.

    The result holds `config`, `versions`, `games` (one record per seed), `summary`, `score` and `meta`; everything that
    may differ between two identical runs (times, memory, paths, dates) is in `meta` and the games' `seconds` and
    `memory_mb`. Raises UserError before any training starts.
    """
    began = perf_counter()
    config = resolve_access({key: value for key, value in config.items() if key != "hydra"})
    check_surroundings(config)
    tracking = config["wandb"]
    with track(tracking["mode"], tracking["project"], tracking["group"], config, folder) as tracker:
        setup = prepare(config, data, non_blocking)
        seeds = [setup.settings.seed + i for i in range(setup.settings.repetitions)]
        games, served = zip(*(cached(setup, seed) for seed in seeds), strict=True)
        summary = summarise(games, setup.settings.targets.directions)
        meta = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"), "folder": str(folder), "served": list(served),
            "seconds": perf_counter() - began, "memory_mb": peak_memory_mb(),
        }  # fmt: skip
        result = {
            "schema": SCHEMA, "title": title(config, seeds), "config": config, "seeds": seeds, "versions": versions(),
            "threads": setup.threads, "device": str(setup.device), "games": list(games), "summary": summary,
            "score": score(summary), "meta": meta,
        }  # fmt: skip
        if present is not None:
            present(result)
        try:
            keep_other_game(folder, config)
            write_json_atomic(folder / "result.json", with_nulls(jsonable(result)))
        except OSError as error:
            raise UserError(
                f"The result cannot be written in {folder} ({error.strerror}); what is in the store is kept: "
                "make room, or choose another folder, and start the same command again."
            ) from error
        figures = drawn(result, setup.data, folder) if config["figures"] else {}
        tracker.log({"score": result["score"], "summary": summary}, figures)
    return result


def drawn(result: Mapping[str, Any], data: Data, folder: Path) -> Mapping[str, Path]:
    """The figures of a result, drawn into `folder`; none, and a warning, where that fails: the game was played."""
    try:
        return draw(result, data, folder / "figures")
    except Exception as error:
        named = f"{type(error).__name__}: {reason(error)}"
        log.warning("The figures could not be drawn (%s); the result is complete, and needs none.", named)
        log.debug("", exc_info=True)
        return {}


def cached(setup: Setup, seed: int) -> tuple[dict[str, Any], bool]:
    """The record of one seed, from the store where it is there."""
    record, hit = setup.store.record("game", {**setup.game_key(), "seed": seed}, lambda: record_of(setup, seed))
    if hit:
        log.info("Game of seed %d: finished before, served from the store (store.enabled=false plays it again).", seed)
    if KEY in setup.config:  # it may have been played under another name
        record = {**record, "config": {**record["config"], KEY: setup.config[KEY]}}
    return record, hit


def record_of(setup: Setup, seed: int) -> dict[str, Any]:
    """Play one seed; the record says what a table needs to know: settings, versions, and what was measured."""
    settings = {key: value for key, value in setup.config.items() if key not in NOT_RECORDED}
    check_memory(setup)
    return {
        "schema": SCHEMA, "config": {**settings, "seed": seed, "repetitions": 1},
        AUTOMATIC: setup.config.get(AUTOMATIC, []), "versions": versions(),
        "device": str(setup.device), "threads": setup.threads, **significant(play_one(setup, seed)),
    }  # fmt: skip


def title(config: Mapping[str, Any], seeds: list[int]) -> str:
    """One line that names the game."""
    attack = config["attack"]
    named = {part: option(config, part) for part in ("data", "model", "unlearning", "defense")}
    access = str(attack.get("access", "")).replace("_", "-")
    who = " ".join(word for word in (access, option(config, "attack")) if word)
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"
    budget = f"at most {attack['budget']} deletions, " if "budget" in attack else ""  # an own attack may have none
    return (
        f"{who} attack against {named['unlearning']} with defense {named['defense']}: {named['model']} on "
        f"{named['data']}, "
        f"{budget}{which}"
    )
