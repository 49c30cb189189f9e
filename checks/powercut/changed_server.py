"""Runs the server with changes: `python -m checks.powercut.changed_server CHANGES …`.

Small thresholds make it checkpoint often. The rest takes away what keeps a promise
through a power cut, one thing at a time: the check must find each of them.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import server
from storage import (
    sqlite_backup,
    sqlite_connection,
    sqlite_engine,
    sqlite_file,
    sqlite_identity,
    temporary_file,
)
from storage.engine import StartupError

WAL_PAGES, CHECKPOINT_UNITS = 16, 6


def _set(owner: object, name: str, value: object) -> None:
    if not hasattr(owner, name):
        raise RuntimeError(f"{owner} has no {name} any more")
    setattr(owner, name, value)


def _pragmas(old: str, new: str) -> None:
    if old not in sqlite_connection.PRAGMAS:
        raise RuntimeError(f"no {old!r} among the pragmas")
    sqlite_connection.PRAGMAS = sqlite_connection.PRAGMAS.replace(old, new)


def small() -> None:
    """Checkpoint after a few writes, and begin the WAL anew after a few pages."""
    _set(sqlite_engine, "WAL_PAGES", WAL_PAGES)
    _set(sqlite_engine, "CHECKPOINT_UNITS", CHECKPOINT_UNITS)
    _set(sqlite_engine, "MAINTENANCE_INTERVAL", 0.02)


def often() -> None:
    """Checkpoint at a commit, too, after a few rows."""
    _set(sqlite_connection, "MOST_CHANGES", CHECKPOINT_UNITS * 2)


def never() -> None:
    """Never checkpoint, so that every fsync of the WAL is that of a commit."""
    _set(sqlite_engine, "CHECKPOINT_UNITS", sys.maxsize)
    _set(sqlite_connection, "MOST_CHANGES", sys.maxsize)


def eager() -> None:
    """Check the database again at once after an error."""
    _set(sqlite_engine, "RECHECK_SECONDS", 0.02)


def normal() -> None:
    """Commit without an fsync, as synchronous=NORMAL does."""
    _pragmas("synchronous = FULL", "synchronous = NORMAL")


def _nothing(*_: Any) -> None:
    pass


def no_sync_at_start() -> None:
    """Trust that what is there at a start is on disk."""
    _set(sqlite_engine.MaintenanceConnection, "sync", _nothing)


def copy_once() -> None:
    """Do not copy again what a failed fsync was to bring to the disk."""
    _set(sqlite_engine.MaintenanceConnection, "copy_anew", _nothing)


def header_first() -> None:
    """Refuse a torn header though a WAL can mend it, as 1.0.0 did."""
    _set(sqlite_file, "open_unchanged", _header_first(sqlite_identity.open_unchanged))


def _header_first(before: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def open_unchanged(path: Path) -> Any:
        if path.is_file() and path.read_bytes()[:16] != sqlite_identity.MAGIC:
            raise StartupError(f"{path}: not a SQLite database")
        return before(path)

    return open_unchanged


def reserve_name() -> None:
    """Without hard links, reserve the name with an empty file, as 1.0.0 did."""

    def rename(temporary: Path, path: Path) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        temporary.rename(path)

    _set(temporary_file, "_rename", rename)


def publish_unsynced() -> None:
    """Give a copy its name before its content is on disk."""

    def publish(temporary: Path, path: Path, replace: bool = False) -> None:
        if os.path.lexists(path) and not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        temporary.rename(path)

    _set(sqlite_backup, "publish", publish)


def keep_drafts() -> None:
    """Leave alone what killed processes were writing."""
    for module in (sqlite_file, sqlite_backup):
        _set(module, "remove_abandoned", _nothing)


def lying_disk() -> None:
    """Change nothing of the server: the disk of the judge has no fsync."""


CHANGES: dict[str, Callable[[], None]] = {
    "small": small,
    "often": often,
    "never": never,
    "eager": eager,
    "normal": normal,
    "no_sync_at_start": no_sync_at_start,
    "copy_once": copy_once,
    "header_first": header_first,
    "reserve_name": reserve_name,
    "lying_disk": lying_disk,
    "publish_unsynced": publish_unsynced,
    "keep_drafts": keep_drafts,
}


def change(names: Iterable[str]) -> None:
    """Make the changes of some names to this process."""
    for name in names:
        CHANGES[name]()


if __name__ == "__main__":
    change(sys.argv.pop(1).split(","))
    server.main()
