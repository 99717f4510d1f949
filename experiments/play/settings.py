"""The settings that every game has, whatever it is, and those that no result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, Strict, StrictBool, ValidationError
from pydantic.dataclasses import dataclass

from data.bounds import at_most, exact
from data.errors import UserError
from data.machine import MOST_THREADS
from experiments.cli.explain import validation

Threads = Annotated[int, Strict(), Field(ge=1), at_most(MOST_THREADS, "no machine has more cores")]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings:
    """The settings of every game that conf/run.yaml has without a group."""

    seed: Annotated[int, Field(ge=0), AfterValidator(exact)] = 0
    repetitions: Annotated[int, Field(ge=1), at_most(10_000, "each is a game of its own")] = 1
    judge: Literal["full", "quick"] = "full"
    device: str = "auto"
    threads: Literal["auto"] | Threads = "auto"
    figures: Literal["auto"] | StrictBool = "auto"
    dry_run: StrictBool = False


def settings_from(config: Mapping[str, Any]) -> Settings:
    """The validated settings; raises UserError that names the key, `store.dir` among them."""
    folder = config.get("store", {}).get("dir")
    if folder is not None and (not isinstance(folder, str) or not folder.strip()):
        raise UserError(f"store.dir must be a folder or null, got {folder!r:.60}.")
    try:
        return Settings(**{each.name: config[each.name] for each in fields(Settings) if each.name in config})
    except ValidationError as error:
        raise UserError(validation(error, "")) from error
