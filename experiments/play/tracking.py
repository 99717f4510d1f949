"""Weights & Biases, when it is asked for; the record of a game is always its own `result.json`."""

import logging
import netrc
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlparse

from data.errors import UserError
from data.paths import reason
from storage.records import jsonable

PATIENCE = 5.0  # seconds to wait for the tracking server's first answer
Mode = Literal["disabled", "offline", "online"]
FORBIDDEN = "/\\#?%:"  # in the name of a project
LONGEST = 128  # characters of a name
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracker:
    """What a game logs to; `run` is the open wandb run, or None when tracking is disabled."""

    run: Any = None

    def log(self, record: Mapping[str, Any], figures: Mapping[str, Path] | None = None) -> None:
        """Log the numbers of a nested `record` (named `outer/inner`) and the PNG files `figures` by name, if it can."""
        if self.run is None:
            return
        import wandb

        with _warning():
            numbers = dict(_numbers(jsonable(record)))
            images = {f"figures/{name}": wandb.Image(str(path)) for name, path in (figures or {}).items()}
            self.run.log({**numbers, **images})
            self.run.summary.update(numbers)


@contextmanager
def track(mode: Mode, project: str, group: str | None, config: Mapping[str, Any], folder: Path) -> Iterator[Tracker]:
    """A `Tracker` for the duration of a game; the run is closed as failed when the game raises.

    In the mode `disabled` wandb is not even imported; `offline` writes files under `folder/wandb`, for `wandb sync`,
    and asks nothing of any network. The resolved `config` is recorded from the start. Once the game has begun, an error
    of wandb is a warning: the record is the game's own. Before that, and as `check_tracking` does, raises UserError.
    """
    check_tracking(mode, project, group)
    if mode == "disabled":
        yield Tracker()
        return
    with _silence() if mode == "offline" else nullcontext():
        try:
            import wandb

            folder.mkdir(parents=True, exist_ok=True)  # wandb would otherwise write to a temporary folder elsewhere
            settings = wandb.Settings(console="off", silent=True)
            run = wandb.init(
                mode=mode, project=project, group=group, config=jsonable(config), dir=str(folder), settings=settings
            )
        except Exception as error:  # its own errors, those of its service, and of what its environment variables say
            raise UserError(
                f"Weights & Biases cannot begin a run ({reason(error)}); mend that, or use wandb.mode=disabled."
            ) from error
        code = 1
        try:
            yield Tracker(run)
            code = 0
        finally:
            with _warning():
                run.finish(exit_code=code)


@contextmanager
def _warning() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        failed = "Weights & Biases has failed (%s: %s); the result is complete."
        log.warning(failed, type(error).__name__, reason(error))


@contextmanager
def _silence() -> Iterator[None]:
    """Tell wandb in its environment, too, that it is offline: what it says about itself is not sent either."""
    said = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    before = {name: os.environ[name] for name in said if name in os.environ}
    os.environ.update(said)
    try:
        yield
    finally:
        for name in said:
            del os.environ[name]
        os.environ.update(before)


def check_tracking(mode: Mode, project: str, group: str | None) -> None:
    """Make sure, before any work, that runs can be tracked in this mode under these names.

    Raises UserError for a mode that does not exist, a name that wandb does not take, and for `online` without an API
    key or without a network, where wandb itself would try for minutes.
    """
    if mode not in get_args(Mode):
        raise UserError(f"wandb.mode={mode} is not known; use wandb.mode=disabled, offline or online.")
    _check_name("project", project, FORBIDDEN)
    if group is not None:
        _check_name("group", group, "")
    if mode != "online":
        return
    address = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    if not _has_key(address.hostname or ""):
        raise UserError("wandb.mode=online needs an API key: run `wandb login`, or use wandb.mode=offline.")
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=PATIENCE).close()
    except OSError as error:
        raise UserError(
            f"wandb.mode=online cannot reach {address.hostname} ({error}); "
            "use wandb.mode=offline, and `wandb sync` later."
        ) from error


def _check_name(key: str, name: str, forbidden: str) -> None:
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"wandb.{key} must be a name, got {name!r:.60}.")
    if len(name) > LONGEST:
        raise UserError(f"wandb.{key} has {len(name)} characters, and Weights & Biases takes {LONGEST}; shorten it.")
    found = sorted({each for each in name if each in forbidden or not each.isprintable()})
    if found:
        raise UserError(
            f"wandb.{key}={name!r} has {' and '.join(map(repr, found))}, which Weights & Biases does not take in it; "
            "choose another name."
        )


def _has_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    files = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for file in files:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(os.path.expanduser(file)).authenticators(host):
                return True
    return False


def _numbers(record: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(record, dict):
        for key, value in record.items():
            yield from _numbers(value, f"{prefix}/{key}" if prefix else key)
    elif isinstance(record, int | float):
        yield prefix, record
