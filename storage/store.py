"""The store: a content-addressed cache of trained victims and finished games.

An artifact of some kind lies under `KIND/AA/DIGEST`, where DIGEST is the SHA-256 of everything that determines it (its
key, as canonical JSON). Tensors are safetensors with a JSON description beside them, records are one JSON file; both
carry the SHA-256 of the content and the key in readable form. Files are written whole or not at all, computed by one
process at a time, and checked whenever they are read. `python experiments/store.py list` and `prune` look after it.
"""

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from data.errors import UserError
from data.machine import toolkit_version
from storage.artifact import Damaged, digest, lock, read_content, sidecar
from storage.forms import RECORD, TENSORS, plain, read, write
from storage.records import canonical_json, jsonable, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

ROOM = bytes(1 << 17)  # as large as the record of a game


class LockedElsewhere(Exception):
    """Another process computes the artifact at this moment, and this store was told not to wait for it."""


def default_folder() -> Path:
    """`outputs/store` of the working folder, or the folder that the environment variable UNLEARNING_STORE names."""
    return Path(os.environ.get("UNLEARNING_STORE") or "outputs/store")


@dataclass(frozen=True)
class Store:
    """A cache of artifacts in `folder`; with `enabled=False` everything is computed and nothing is kept.

    `notify` receives one sentence whenever something is damaged, cannot be kept, or is awaited from another process.
    For sweeps: artifacts of the kinds in `non_blocking` are not awaited, but LockedElsewhere is raised, so that another
    cell can be played; and with `keeps` a result that cannot be kept is a UserError, since it would be lost.
    """

    folder: Path
    enabled: bool = True
    notify: Callable[[str], None] = logging.getLogger(__name__).warning
    non_blocking: frozenset[str] = frozenset()
    keeps: bool = False

    def check(self) -> None:
        """Make sure, before any work, that artifacts can be written and locked here.

        Raises:
            UserError: when the folder cannot be created, written or locked.
        """
        if not self.enabled:
            return
        probe = self.folder / f"check-{os.getpid()}"
        try:
            write_atomic(probe, ROOM)  # an empty file can be made on a full disk
            with FileLock(probe):
                pass
            probe.unlink(missing_ok=True)
        except (OSError, NotImplementedError) as error:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            advice = "make room and start the same command again, what is in it is kept; or " if full else ""
            raise UserError(
                f"The store cannot be written in {self.folder} ({_reason(error)}); "
                f"{advice}set store.dir=FOLDER or store.enabled=false."
            ) from error

    def tensors(
        self, kind: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, "Tensor"]]
    ) -> tuple[dict[str, "Tensor"], bool]:
        """The tensors of `key`, and whether they were in the store; otherwise `make()` computes them.

        Either way they come back in the order of `make()`, detached, contiguous and on the CPU, so that a hit and a
        miss cannot differ.
        """
        return self._get(TENSORS, kind, key, lambda: plain(make()))

    def record(
        self, kind: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        """The record of `key` as `jsonable` gives it, and whether it was in the store; otherwise `make()` makes it."""
        return self._get(RECORD, kind, key, lambda: jsonable(make()))

    def find_tensors(self, kind: str, key: Mapping[str, Any]) -> tuple[Path, dict[str, "Tensor"]] | None:
        """The file and the tensors of `key` where they are kept, undamaged; None otherwise. Nothing is locked."""
        if not self.enabled:
            return None
        path, key_text = self._place(TENSORS, kind, key)
        value = self._read_or_discard(path, key_text)
        return None if value is None else (path, value)

    def keep_tensors(self, kind: str, key: Mapping[str, Any], value: Mapping[str, "Tensor"]) -> Path | None:
        """Keep the tensors of `key`, which the caller alone computes; the file, or None where it cannot be written."""
        if not self.enabled:
            return None
        path, key_text = self._place(TENSORS, kind, key)
        return path if self._write(path, _description(kind, key_text), plain(value)) else None

    def discard(self, path: Path) -> None:
        """Remove an artifact by its main file; one that is gone, or cannot be removed, is left at that."""
        with suppress(OSError):
            sidecar(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def record_path(self, kind: str, key: Mapping[str, Any]) -> Path:
        """The file of the record of `key`, whether it exists or not."""
        return self._place(RECORD, kind, key)[0]

    def find_record(self, path: Path) -> dict[str, Any] | None:
        """The record in the file `path`, verified; None where it is absent or damaged (`record` mends that)."""
        try:
            content = read_content(path) if self.enabled else None
        except (Damaged, OSError):
            return None
        return content if isinstance(content, dict) else None

    def is_locked(self, path: Path) -> bool:
        """Whether another process computes the artifact with the main file `path` at this moment."""
        guard = lock(path)
        if not self.enabled or not Path(guard.lock_file).exists():
            return False
        try:
            guard.acquire(timeout=0)
        except Timeout:
            return True
        except (OSError, NotImplementedError):
            return False
        guard.release()
        return False

    def _place(self, suffix: str, kind: str, key: Mapping[str, Any]) -> tuple[Path, str]:
        """The main file of an artifact, and its canonical key."""
        key_text = canonical_json(key)
        name = digest(kind, key_text)
        return self.folder / kind / name[:2] / f"{name}{suffix}", key_text

    def _write(self, path: Path, description: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
        try:
            write(path, description, value)
        except OSError as error:
            if self.keeps:
                raise UserError(f"The store {self.folder} cannot keep the result ({_reason(error)}).") from error
            self.notify(f"Store: {path} cannot be written ({_reason(error)}); the result is used but not kept.")
            return False
        return True

    def _get(
        self, suffix: str, kind: str, key: Mapping[str, Any], make: Callable[[], dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        if not self.enabled:
            return make(), False
        path, key_text = self._place(suffix, kind, key)
        with suppress(Damaged, OSError):  # without the lock at first; what is wrong is looked at again under it
            value = read(path, key_text)
            if value is not None:
                return value, True
        with self._alone(path):
            value = self._read_or_discard(path, key_text)
            if value is not None:
                return value, True
            value = make()
            self._write(path, _description(kind, key_text), value)
            return value, False

    def _read_or_discard(self, path: Path, key_text: str) -> dict[str, Any] | None:
        try:
            return read(path, key_text)
        except Damaged as damage:
            self.notify(f"Store: {path} is damaged ({damage}); computing it again.")
            self.discard(path)
        except OSError as error:
            self.notify(f"Store: {path} cannot be read ({_reason(error)}); computing it again.")
        return None

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Hold the artifact's lock, so that no two processes compute it; a process that dies gives it back."""
        guard = lock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                guard.acquire(timeout=0)
            except Timeout:
                if path.parent.parent.name in self.non_blocking:
                    raise LockedElsewhere(str(path)) from None
                self.notify(f"Store: another process computes {path.parent.parent.name} {path.name[:12]}; waiting.")
                guard.acquire()
        except (OSError, NotImplementedError) as error:
            self.notify(f"Store: {path} cannot be locked ({_reason(error)}); computing it here.")
        try:
            yield
        finally:
            guard.release()


def _description(kind: str, key_text: str) -> dict[str, Any]:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {"kind": kind, "key": json.loads(key_text), "created": created, "toolkit": toolkit_version()}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
