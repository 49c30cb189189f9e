"""Connections to SQLite, each on a thread of its own, that run batches of units.

aiosqlite brings the thread, but runs only its own methods there: of its private names
this module uses `_execute` and `_thread`, as they are in AIOSQLITE_VERSION.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import aiosqlite

from storage.engine import (
    CACHE_MIB,
    UNKNOWN_OUTCOME,
    DiskFullError,
    T,
    UnavailableError,
)

try:
    from pysqlite3 import dbapi2

    driver: ModuleType = dbapi2
except ImportError:  # no wheel for this platform: Python's own SQLite serves
    driver = sqlite3

LOG = logging.getLogger("server")
AIOSQLITE_VERSION = "0.22.1"

VERSION: tuple[int, int, int] = driver.sqlite_version_info


def has_wal_reset_fix(version: tuple[int, int, int]) -> bool:
    """Return whether a version of SQLite has the fix, at best in a later patch."""
    if version >= (3, 51, 3):
        return True
    return (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


WAL_RESET_FIXED = has_wal_reset_fix(VERSION)
"""False where two writing connections can corrupt (sqlite.org/wal.html#walresetbug)."""

BUSY_SECONDS = 2.0
"""How long a transaction waits for another process that holds the database."""
STILL_BUSY_SECONDS = 0.1
"""How long it waits where the one before it waited in vain."""
BATCH_SECONDS = 10.0
"""How long a batch may run before it is interrupted."""
WAL_PAGES = 8192
"""How long the WAL becomes before a commit begins it anew, where no reader needs it."""

MOST_CHANGES = 262_144 if WAL_RESET_FIXED else 6000
"""Rows that are written before a commit copies the WAL, if nobody did beside it. SQLite
itself would (`wal_autocheckpoint`), but tells nobody when the disk failed."""

PRAGMAS = f"""
PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)};
PRAGMA foreign_keys = ON;
PRAGMA synchronous = FULL;
PRAGMA trusted_schema = OFF;
PRAGMA secure_delete = ON;
PRAGMA cell_size_check = ON;
PRAGMA journal_size_limit = 67108864;
PRAGMA wal_autocheckpoint = 0;
"""
CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
"""Waits for nobody; returns, second, the pages in the WAL (sqlite.org/pragma.html)."""

# sqlite.org/rescode.html: primary codes, the low byte of the extended ones
BUSY, LOCKED, READONLY, INTERRUPT, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB = (
    *(5, 6, 8, 9, 10, 11, 13, 14, 26),
)
ERROR_MESSAGES = {
    BUSY: "the database is locked by another process",
    LOCKED: "the database is locked by another process",
    READONLY: "the database is read-only",
    INTERRUPT: f"it took longer than {BATCH_SECONDS:.0f} seconds",
    IOERR: "the disk failed to read or write",
    CORRUPT: "the database is damaged",
    FULL: "the disk is full",
    CANTOPEN: "the database file cannot be opened",
    NOTADB: "the database is damaged",
}
UNCERTAIN = {IOERR, CORRUPT, CANTOPEN, NOTADB}
"""After these the state of the database is unknown, until it was checked."""
FILE_GONE = "the database file was deleted or replaced"


def code_of(exc: BaseException) -> int:
    """Return the primary result code of an error of the driver, 0 of any other."""
    code: int = getattr(exc, "sqlite_errorcode", 0)
    return code & 0xFF


class Health:
    """The state that the threads of one engine share, all of it.

    Each attribute is replaced as a whole by one assignment, which needs no lock.
    """

    def __init__(self) -> None:
        self.committing = Lock()
        """Held by the writer while it commits, and perhaps checkpoints."""

    error: str | None = None
    """Why nothing may be written until the database was checked. Set by every
    connection, cleared by maintenance."""
    locked = False
    """Whether another process held the database; cleared by the next write."""
    stale = False
    """Whether the writer must reopen the database: set by maintenance after a check."""
    nearly_copied = False
    """Whether the WAL can begin anew after one more checkpoint: set by maintenance."""
    copied = False
    """Whether the WAL was copied beside the commits: set by maintenance."""
    commits = 0
    units = 0
    rows = 0
    """How many were committed, by the writer; the rows with those of the history."""

    def translate(self, exc: Exception) -> Exception:
        """Return the error that the caller sees; remember one that stops writing."""
        code = IOERR if isinstance(exc, OSError) else code_of(exc)
        if code in UNCERTAIN:
            if self.error is None:
                LOG.error("no more writes until a check: %s", ERROR_MESSAGES[code])
            self.error = ERROR_MESSAGES[code]
        self.locked = self.locked or code in (BUSY, LOCKED)
        if code == FULL:
            return DiskFullError(ERROR_MESSAGES[FULL])
        message = ERROR_MESSAGES.get(code)
        return UnavailableError(message) if message else exc


class SqliteConnection:
    """A connection on a thread of its own; opened by `open`, closed by `close`."""

    hang_message = "the disk does not answer"

    def __init__(self, path: Path, health: Health, cache_mib: int = CACHE_MIB) -> None:
        self.path = path
        self.health = health
        self.cache_mib = cache_mib
        self.raw: Any = None
        """The connection of the driver, used on the thread alone but to interrupt."""
        self._thread: aiosqlite.Connection | None = None

    async def open(self) -> None:
        """Start the thread and connect on it. Errors of the driver, OSError."""
        thread = aiosqlite.Connection(self._connect, iter_chunk_size=64)
        try:
            self._thread = await thread
        except BaseException:
            # The thread has still to tell the loop that it ends.
            await asyncio.to_thread(thread._thread.join)
            raise

    def _connect(self) -> Any:
        self.raw = self.connect()
        return self.raw

    def connect(self) -> Any:
        """Return a connection of the driver, set up; never create the file."""
        connection = driver.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_SECONDS,
        )
        connection.executescript(PRAGMAS)
        connection.execute(f"PRAGMA cache_size = {-1024 * self.cache_mib}")
        return connection

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function on the thread and return its result."""
        assert self._thread is not None  # noqa: S101 - for mypy
        result: T = await self._thread._execute(function, *args)  # type: ignore[no-untyped-call]
        return result

    def begin(self) -> None:
        """Begin a transaction. Errors of the driver, UnavailableError."""
        self.raw.execute("BEGIN")

    def commit(self, units: int) -> None:
        """Commit the transaction of some units that succeeded."""
        self.raw.execute("COMMIT")

    def roll_back(self) -> None:
        """End the transaction, if there still is one, and change nothing."""
        with suppress(driver.Error):
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")

    def interrupt(self) -> None:
        """End the statement that runs now (sqlite.org/c3ref/interrupt.html)."""
        with suppress(driver.Error):  # a connection that is just being reopened
            self.raw.interrupt()

    async def close(self) -> None:
        """Close the connection, if it is open, and end the thread."""
        if self._thread is not None:
            # aiosqlite closes the first connection, perhaps not the one of now.
            await self.call(self.raw.close)
            await self._thread.close()
            self._thread = None


class ReadConnection(SqliteConnection):
    """A connection that can change nothing."""

    def connect(self) -> Any:
        """Return a connection that SQLite keeps from writing."""
        connection = super().connect()
        connection.execute("PRAGMA query_only = ON")
        return connection


class WriteConnection(SqliteConnection):
    """The one connection that writes: each batch is one commit."""

    hang_message = f"{SqliteConnection.hang_message}: {UNKNOWN_OUTCOME}"

    def __init__(self, path: Path, health: Health, cache_mib: int = CACHE_MIB) -> None:
        super().__init__(path, health, cache_mib)
        # A symbolic link has them where it points to.
        self.wal, self.shm = (f"{path.resolve()}-{name}" for name in ("wal", "shm"))
        self._busy_seconds = BUSY_SECONDS
        self._changes = 0
        self._copied = 0
        """The changes of this connection when it last copied the WAL."""
        self._files: tuple[tuple[int, int], ...] = ()

    def connect(self) -> Any:
        """Return a connection in WAL mode. OSError where its files are not there."""
        connection = super().connect()
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA temp_store = MEMORY")  # what an import stages
        connection.execute("BEGIN IMMEDIATE")  # makes the WAL file
        connection.execute("ROLLBACK")
        self._busy_seconds, self._copied = BUSY_SECONDS, 0
        self._files = self._files or self._identify_files()
        return connection

    def begin(self) -> None:
        """Begin a transaction that writes. UnavailableError while none may."""
        health = self.health
        if health.error is not None:
            raise UnavailableError(health.error)
        if health.stale:
            self._reopen()
        self._wait_for_lock(STILL_BUSY_SECONDS if health.locked else BUSY_SECONDS)
        self.raw.execute("BEGIN IMMEDIATE")
        self._changes = self.raw.total_changes

    def commit(self, units: int) -> None:
        """Commit, if the files are in their places; check that they still are then."""
        self.verify_files(FILE_GONE)
        try:
            with self.health.committing:
                self.raw.execute("COMMIT")
        except driver.Error as exc:
            if code_of(exc) not in UNCERTAIN:
                raise
            error = self.health.translate(exc)
            raise UnavailableError(f"{error}: {UNKNOWN_OUTCOME}") from exc
        self.verify_files(f"{FILE_GONE}: {UNKNOWN_OUTCOME}")
        self.health.locked = False
        rows = self.raw.total_changes - self._changes
        if units and rows:
            self.health.commits += 1
            self.health.units += units
            self.health.rows += rows
        if self.health.copied:
            self.health.copied, self._copied = False, self.raw.total_changes
        written = self.raw.total_changes - self._copied
        if self.health.nearly_copied or written > MOST_CHANGES:
            self._checkpoint()

    def _checkpoint(self) -> None:
        self.health.nearly_copied = False
        self._copied = self.raw.total_changes
        try:
            with self.health.committing:
                self.raw.execute(CHECKPOINT)
        except driver.Error as exc:  # the batch is committed all the same
            self.health.translate(exc)

    def _wait_for_lock(self, seconds: float) -> None:
        """Set how long the next BEGIN waits for another process."""
        if seconds != self._busy_seconds:
            self.raw.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
            self._busy_seconds = seconds

    def _identify_files(self) -> tuple[tuple[int, int], ...]:
        """Return device and inode of the database, its WAL and its index. OSError."""
        names = (self.path, self.wal, self.shm)
        status = [os.stat(name) for name in names]  # noqa: PTH116 - quicker
        return tuple((file.st_dev, file.st_ino) for file in status)

    def verify_files(self, message: str) -> None:
        """Raise UnavailableError where a commit goes to a file nobody can find."""
        try:
            same = self._identify_files() == self._files
        except OSError:
            same = False
        if not same:
            raise UnavailableError(message)

    def _reopen(self) -> None:
        """Open the same database anew, after it was checked."""
        self.verify_files(FILE_GONE)
        with suppress(driver.Error):
            self.raw.close()
        self.raw = self.connect()
        self.verify_files(FILE_GONE)
        self.health.stale = False
