"""Copies of the SQLite file, also of one that is being served; dated ones, the last N.

A copy bears the time, UTC, at which it was begun: it has all that was acknowledged
before. Its name is all that tells how old it is, for times of files get lost when they
are moved. So where the clock went back, the copies from before are taken for the newer
ones; the one that was just written is never removed.
"""

import logging
import os
import re
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import NamedTuple

from storage.engine import StartupError
from storage.sqlite_connection import driver
from storage.sqlite_file import startup_errors
from storage.sqlite_identity import is_described, open_unchanged
from storage.sqlite_verify import (
    Contents,
    check_meaning,
    check_pages,
    plural,
    read_contents,
    stoppable,
)
from storage.temporary_file import (
    LAST_BACKUP,
    SUFFIXES,
    publish,
    remove_abandoned,
    temporary_file,
)

LOG = logging.getLogger("server")
TIME = "%Y-%m-%dT%H-%M-%SZ"
TIME_SHAPE = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z"


def backup(
    path: Path, destination: Path, replace: bool = False, keep: int | None = None
) -> str:
    """Write a consistent copy of a database, and return a line on it. StartupError.

    The copy is complete or absent, and only its owner may read it; with `replace` it
    takes the place of another one. With `keep` the destination is a folder, where the
    copy gets a dated name, and then that many are left of those of this database.
    StartupError also on SIGTERM and SIGINT, and where the copy is there but something
    wants to be looked at: a schema or rows that this server does not make, after which
    no older copy is removed; or an older copy that cannot be.
    """
    with startup_errors(path), open_unchanged(path) as connection:
        if is_described(path, connection):
            raise StartupError(f"{path}: start the server on it once, to take it over")
    with startup_errors(destination):
        if keep is not None and not destination.is_dir():
            raise StartupError(f"{destination}: not a folder, for --keep to fill")
        if keep is None:
            destination = _find_place(path, destination, replace)
    with startup_errors(f"{path} to {destination}"):
        if keep is None:
            contents, fault = _write(path, destination, replace)
        else:
            folder = destination
            destination, contents, fault = _write_dated(path, folder)
    _leave_time(path)
    if fault:
        kept = "; no older copy is removed" if keep else ""
        raise StartupError(f"{fault}; the copy is there all the same{kept}")
    line = f"{destination}: whole, {contents}"
    return line if keep is None else line + _remove_older(path, destination, keep)


def _find_place(path: Path, destination: Path, replace: bool) -> Path:
    """Return where a copy may be put. StartupError."""
    if not destination.parent.is_dir():
        raise StartupError(f"{destination}: there is no folder {destination.parent}")
    if destination.is_dir():
        raise StartupError(
            f"{destination}: a folder: name a file in it, or let --keep N name one"
        )
    there = os.path.lexists(destination)
    if there and not replace:
        raise StartupError(f"{destination}: already there (--replace replaces it)")
    place = destination.resolve() if destination.is_symlink() else destination
    own = [Path(f"{path.resolve()}{suffix}") for suffix in (*SUFFIXES, LAST_BACKUP)]
    if place.resolve() in own or (place.exists() and place.samefile(path)):
        raise StartupError(f"{destination}: it belongs to the database itself")
    if there and place.exists() and not place.is_file():
        raise StartupError(f"{destination}: not a file")
    for left in (Path(f"{place}{suffix}") for suffix in SUFFIXES[1:]):
        # SQLite would take it for the copy's.
        if left.exists():
            raise StartupError(f"{left}: in use, or left by another database")
    return place


class Written(NamedTuple):
    """What a copy holds, None where its tables are not ours, and what is strange."""

    contents: Contents | None
    fault: str


def _write(path: Path, destination: Path, replace: bool = False) -> Written:
    """Write a copy, look at it, and give it its name. StartupError, OSError."""
    remove_abandoned(destination)
    with temporary_file(destination) as temporary:
        with stoppable() as stop:
            _write_copy(path, temporary, stop)
            written = _look_at(temporary, destination, stop)
        publish(temporary, destination, replace)
    return written


def _write_copy(path: Path, temporary: Path, stop: Event) -> None:
    # VACUUM INTO reads one snapshot (sqlite.org/lang_vacuum.html), and a read-only
    # connection does not checkpoint.
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(driver.connect(uri, uri=True)) as connection:
        connection.set_progress_handler(stop.is_set, 10_000)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("VACUUM INTO ?", (str(temporary.absolute()),))


def _look_at(temporary: Path, destination: Path, stop: Event) -> Written:
    """Return what a copy holds that has no name yet. StartupError for a damaged one."""
    with open_unchanged(temporary) as connection:
        connection.set_progress_handler(stop.is_set, 10_000)
        check_pages(destination, connection)
        try:
            lost = check_meaning(destination, connection)
        except StartupError as exc:
            return Written(None, str(exc))
        return Written(read_contents(destination, connection, lost), "")


def _write_dated(path: Path, folder: Path) -> tuple[Path, Contents | None, str]:
    """Write a copy under the name of the second in which it is begun."""
    while True:
        now = time.time()
        stamp = datetime.fromtimestamp(now, UTC).strftime(TIME)
        place = folder / f"{path.stem}-{stamp}{path.suffix}"
        if os.path.lexists(place):
            time.sleep(1 - now % 1)
            continue
        # Another process may have begun in the same second, and been quicker.
        with suppress(FileExistsError):
            return place, *_write(path, _find_place(path, place, replace=True))


def _leave_time(path: Path) -> None:
    """Leave the time of a backup where /metrics looks for it."""
    marker = Path(f"{path.resolve()}{LAST_BACKUP}")
    try:  # a new file, for what is there may be another user's
        with temporary_file(marker) as temporary:
            publish(temporary, marker, replace=True)
    except OSError as exc:
        LOG.warning("the time of this backup is not recorded: %s", exc)


def _remove_older(path: Path, written: Path, keep: int) -> str:
    """Remove the oldest copies of a database but some; return what to say of it.

    StartupError for one that cannot be removed.
    """
    faults = []
    with startup_errors(f"{written} is there, but those beside it are not seen"):
        others = _other_copies(path, written)
    old = others[: max(0, len(others) - keep + 1)]
    for copy in old:
        try:
            copy.unlink(missing_ok=True)
        except OSError as exc:
            faults.append(f"{copy.name} ({exc.strerror})")
    if faults:
        more = f" and {len(faults) - 1} more" if faults[1:] else ""
        raise StartupError(
            f"{written} is there, but an older copy is not removed: {faults[0]}{more}"
        )
    line = f"; {plural(len(old), 'older copy', 'older copies')} removed"
    later = sum(copy.name > written.name for copy in others[len(old) :])
    return f"{line}; {later:,} with a later date: see to the clock" if later else line


def _other_copies(path: Path, written: Path) -> list[Path]:
    """Return the other dated copies of a database in a folder, the oldest first.

    One that is served, and has a WAL or a journal beside it, is no copy any more.
    """
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    shape = re.compile(f"{stem}-{TIME_SHAPE}{suffix}")
    return sorted(
        copy
        for copy in written.parent.iterdir()
        if shape.fullmatch(copy.name)
        and copy.name != written.name
        and copy.is_file()
        and not copy.is_symlink()
        and copy.resolve() != path.resolve()
        and not any(Path(f"{copy}{suffix}").exists() for suffix in SUFFIXES[1:])
    )
