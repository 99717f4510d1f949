"""The settings that every game has, whatever it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

from data.bounds import at_most, exact
from data.errors import UserError
from data.machine import MOST_THREADS
from experiments.cli.explain import validation

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
NAMED = ("seed", "repetitions", "judge", "device", "threads")  # settings without a group
Threads = Annotated[int, Strict(), Field(ge=1), at_most(MOST_THREADS, "no machine has more cores")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """The settings of every game; see conf/run.yaml."""

    seed: Annotated[int, Field(ge=0), AfterValidator(exact)] = 0
    repetitions: Annotated[int, Field(ge=1), at_most(10_000, "each is a game of its own")] = 1
    judge: Literal["full", "quick"] = "full"
    device: str = "auto"
    threads: Literal["auto"] | Threads = "auto"


def settings_from(config: Mapping[str, Any]) -> Settings:
    """The validated settings; raises UserError that names the key."""
    from pydantic import ValidationError

    try:
        return Settings(**{name: config[name] for name in NAMED if name in config})
    except ValidationError as error:
        raise UserError(validation(error, "") or str(error)) from error
