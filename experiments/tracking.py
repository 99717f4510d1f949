"""Weights & Biases, when it is asked for; the record of a game is always its own `result.json`."""

import netrc
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlparse

from data.errors import UserError
from experiments.records import jsonable

PATIENCE = 5.0  # seconds to wait for the tracking server's first answer
MODES = ("disabled", "offline", "online")


@dataclass(frozen=True)
class Tracker:
    """What a game logs to; `run` is the open wandb run, or None when tracking is disabled."""

    run: Any = None

    def log(self, record: Mapping[str, Any], figures: Mapping[str, Path] | None = None) -> None:
        """Log the numbers of a nested `record` (named `outer/inner`) and the PNG files `figures` by name."""
        if self.run is None:
            return
        import wandb

        numbers = dict(_numbers(jsonable(record)))
        images = {f"figures/{name}": wandb.Image(str(path)) for name, path in (figures or {}).items()}
        self.run.log({**numbers, **images})
        self.run.summary.update(numbers)


@contextmanager
def track(mode: str, project: str, group: str | None, config: Mapping[str, Any], folder: Path) -> Iterator[Tracker]:
    """A `Tracker` for the duration of a game; the run is closed as failed when the game raises.

    Args:
        mode: `disabled` (wandb is not even imported), `offline` (files under `folder/wandb`, for `wandb sync`) or
            `online`.
        project: the name of the project.
        group: the name under which runs are grouped, or None.
        config: the resolved configuration, recorded from the start.
        folder: the run's folder.

    Raises:
        UserError: for another mode, and at once for `online` without an API key.
    """
    check_tracking(mode)
    if mode == "disabled":
        yield Tracker()
        return
    import wandb

    folder.mkdir(parents=True, exist_ok=True)  # wandb would otherwise write to a temporary folder elsewhere
    settings = wandb.Settings(console="off", silent=True)
    run = wandb.init(
        mode=cast(Literal["offline", "online"], mode),
        project=project,
        group=group,
        config=jsonable(config),
        dir=str(folder),
        settings=settings,
    )
    with run:
        yield Tracker(run)


def check_tracking(mode: str) -> None:
    """Make sure, before any work, that runs can be tracked in this mode.

    Raises:
        UserError: for a mode that does not exist, and for `online` without an API key or without a network, where
            wandb itself would try for minutes.
    """
    if mode not in MODES:
        raise UserError(f"wandb.mode={mode} is not known; use wandb.mode=disabled, offline or online.")
    if mode != "online":
        return
    if not _has_key():
        raise UserError("wandb.mode=online needs an API key: run `wandb login`, or use wandb.mode=offline.")
    address = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=PATIENCE).close()
    except OSError as error:
        raise UserError(
            f"wandb.mode=online cannot reach {address.hostname} ({error}); "
            "use wandb.mode=offline, and `wandb sync` later."
        ) from error


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    files = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for file in files:
        try:
            if netrc.netrc(os.path.expanduser(file)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _numbers(record: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(record, dict):
        for key, value in record.items():
            yield from _numbers(value, f"{prefix}/{key}" if prefix else key)
    elif isinstance(record, int | float):
        yield prefix, record
