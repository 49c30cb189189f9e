"""The SQLite engine: one connection writes, two read, two report, one maintains."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, lockf
from functools import partial
from pathlib import Path
from threading import get_native_id
from time import monotonic
from typing import Any

from storage.batch_queue import BatchQueue
from storage.engine import (
    CACHE_MIB,
    EngineStats,
    StartupError,
    T,
    Ts,
    UnavailableError,
    Unit,
    read_anything,
)
from storage.sqlite_connection import (
    CHECKPOINT,
    CORRUPT,
    ERROR_MESSAGES,
    FILE_GONE,
    WAL_PAGES,
    WAL_RESET_FIXED,
    Health,
    ReadConnection,
    SqliteConnection,
    WriteConnection,
    code_of,
    driver,
)
from storage.temporary_file import LAST_BACKUP, sync

LOG = logging.getLogger("server")

COMMIT_TICKS = 16
"""Ticks of the loop that a commit waits for further units, where others have come."""
RECHECK_SECONDS = 5.0
"""How long after a failed check of the database the next may follow."""
MAINTENANCE_INTERVAL, CHECKPOINT_UNITS, CHECKPOINT_ROWS = 0.25, 1000, 10_000
"""How often to look whether so many units were written since the last checkpoint, or
rows: a unit may write many."""
NICENESS = 10
"""The priority of maintenance and reports, which can wait (setpriority(2))."""
REPORTERS = 2
"""How many reports run at a time."""
LOCK_SECONDS = 1.0
"""How long the check of the database waits for a commit that is under way."""
COPIED_FRAMES, CHECKPOINT_LOCK = 96, 121
"""Where the index of the WAL tells how many of its frames were copied, and its byte
that is locked by who copies (sqlite.org/walformat.html)."""
QUICK_SECONDS, QUICK_ATTEMPTS = 0.004, 4
"""How long a checkpoint takes that left little to copy, and how many are tried."""


class ReportConnection(ReadConnection):
    """Reads for long what is not urgent."""

    def connect(self) -> Any:
        """Return a connection, on a thread of low priority."""
        _lower_priority()
        return super().connect()


def _lower_priority() -> None:
    if sys.platform == "linux":  # where each thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, get_native_id(), NICENESS)


class MaintenanceConnection(SqliteConnection):
    """Checkpoints and checks the database, beside the commits.

    It copies the WAL into the database, so that no commit has to wait for that. Only
    the pages written meanwhile are left to a commit now and then, for the WAL can begin
    anew when all of it was copied. An SQLite without the fix must not do this beside a
    writer (sqlite.org/wal.html#walresetbug): there, commits copy.

    After an error that left the state of the database unknown, it checks the database;
    until then nothing is written.
    """

    due = 0.0
    """When the next check may be, on the monotonic clock."""

    files: tuple[int, ...] = ()
    """The database file, to sync it, and the index of its WAL. They stay open as long
    as any connection, since closing a descriptor drops all locks that the process holds
    on the file (sqlite.org/howtocorrupt.html, section 2.2)."""

    def connect(self) -> Any:
        """Return a connection, on a thread of low priority."""
        _lower_priority()
        return super().connect()

    async def run_beside(self, writer: WriteConnection) -> None:
        """Checkpoint and check the database whenever that is due."""
        units = rows = 0
        while True:
            await asyncio.sleep(MAINTENANCE_INTERVAL)
            task: Callable[[], None] | None = None
            health = self.health
            is_long = (
                health.units - units >= CHECKPOINT_UNITS
                or health.rows - rows >= CHECKPOINT_ROWS
            )
            if health.error is not None:
                task = partial(self.check, writer)
            elif WAL_RESET_FIXED and is_long:
                units, rows, task = health.units, health.rows, self.checkpoint
            if task is not None:
                try:
                    await self.call(task)
                except UnavailableError as exc:
                    self.health.error = str(exc)
                except Exception as exc:
                    if self.health.translate(exc) is exc:
                        LOG.exception("the maintenance of the database failed")

    def hold_files(self, writer: WriteConnection) -> None:
        """Open the files, and hand to the disk what others left in the system's cache.

        A copy that was just put in place, or the last commit of a killed process, would
        otherwise be lost in a power cut, and with it what is acknowledged on top. From
        now on none can be added to that: no index of the WAL is made anew as long as
        this process has it open. OSError.
        """
        for name, access in ((self.path, os.O_RDONLY), (writer.shm, os.O_RDWR)):
            self.files += (os.open(name, access),)
        self.sync(Path(writer.wal))

    def sync(self, wal: Path) -> None:
        """Sync the database, its WAL and their names. OSError."""
        os.fsync(self.files[0])
        for file in {wal, wal.parent, self.path.parent.resolve()}:
            sync(file)

    def release_files(self) -> None:
        """Close the files; when all connections are."""
        for file in self.files:
            os.close(file)
        self.files = ()

    def copy_anew(self) -> None:
        """Let the next checkpoint copy the whole WAL, what was copied before, too.

        After an fsync of the database that failed, nobody knows which pages are on
        disk, and the next fsync does not tell (fsync(2)). The WAL still has them all:
        it only begins anew after a checkpoint whose fsync succeeded. OSError,
        UnavailableError while somebody checkpoints.
        """
        if not self.files:
            return
        index = self.files[1]
        if not self.health.committing.acquire(timeout=LOCK_SECONDS):
            raise UnavailableError(self.hang_message)
        try:  # other processes keep out by the byte, the writer of this one by the lock
            lockf(index, LOCK_EX | LOCK_NB, 1, CHECKPOINT_LOCK)
            try:
                os.pwrite(index, bytes(4), COPIED_FRAMES)
            finally:
                lockf(index, LOCK_UN, 1, CHECKPOINT_LOCK)
        finally:
            self.health.committing.release()

    def checkpoint(self) -> None:
        """Copy the WAL; where it is long, until little is left for a commit to copy."""
        for _ in range(QUICK_ATTEMPTS):
            began = monotonic()
            pages: int = self.raw.execute(CHECKPOINT).fetchone()[1]
            os.fsync(self.files[0])
            self.health.copied = True
            if pages < WAL_PAGES:
                return
            if monotonic() - began < QUICK_SECONDS:
                break
        self.health.nearly_copied = True

    def check(self, writer: WriteConnection) -> None:
        """Check the database with a new connection, and let writing go on.

        UnavailableError where another file is in its place: to open that beside the
        WAL of this one would damage it (sqlite.org/howtocorrupt.html).
        """
        if monotonic() < self.due:
            return
        try:
            writer.verify_files(FILE_GONE)
            self.copy_anew()
            with closing(self.connect()) as connection:
                found = connection.execute("PRAGMA quick_check(1)").fetchall()
            if found == [("ok",)]:
                self.health.stale = True
                self.health.error = None
                LOG.info("the database was checked: writing goes on")
            else:
                self.health.error = ERROR_MESSAGES[CORRUPT]
        finally:
            self.due = monotonic() + RECHECK_SECONDS


class SqliteEngine:
    """A SQLite database: queues of units, each on a connection."""

    def __init__(self, path: Path, cache_mib: int = CACHE_MIB) -> None:
        self.path = path
        self.last_backup = f"{path.resolve()}{LAST_BACKUP}"
        self.health = Health()
        self.write_connection = WriteConnection(path, self.health, cache_mib)
        self.maintenance = MaintenanceConnection(path, self.health)
        self.writer = BatchQueue(self.write_connection, COMMIT_TICKS)
        self.reader = BatchQueue(ReadConnection(path, self.health, cache_mib))
        # long lists do not hold up short reads
        self.scanner = BatchQueue(ReadConnection(path, self.health, cache_mib))
        self.queues = {"write": self.writer, "read": self.reader, "scan": self.scanner}
        self.reporters = [
            BatchQueue(ReportConnection(path, self.health), stoppable=True)
            for _ in range(REPORTERS)
        ]
        self.read = self.reader.submit
        self.scan = self.scanner.submit
        self.write = self.writer.submit
        self.write_alone = self.writer.submit_alone
        self.name = f"SQLite {driver.sqlite_version} ({driver.__name__.split('.')[0]})"
        self._maintaining: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: Path, cache_mib: int = CACHE_MIB) -> "SqliteEngine":
        """Open a database that `create_or_migrate` has accepted. StartupError."""
        engine = cls(path, cache_mib)
        try:
            # The writer first: it makes the WAL.
            for queue in (*engine.queues.values(), *engine.reporters):
                await queue.connection.open()
            await engine.maintenance.open()
            hold_files = engine.maintenance.hold_files
            await engine.maintenance.call(hold_files, engine.write_connection)
        except (driver.Error, OSError) as exc:
            await engine.close()
            reason = ERROR_MESSAGES.get(code_of(exc), str(exc))
            raise StartupError(f"{path}: {reason}") from exc
        maintaining = engine.maintenance.run_beside(engine.write_connection)
        engine._maintaining = asyncio.create_task(maintaining)
        return engine

    def report(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> asyncio.Future[T]:
        """Run a report on the connection that has the least to do. OverloadedError."""
        least = min(
            self.reporters, key=lambda queue: (not queue.is_idle, len(queue.waiting))
        )
        return least.submit(query, *args)

    def stats(self) -> EngineStats:
        """Return the figures for the metrics."""
        waiting = {name: len(queue.waiting) for name, queue in self.queues.items()}
        waiting["report"] = sum(len(queue.waiting) for queue in self.reporters)
        size = 0
        for name in (self.path, self.write_connection.wal):
            with suppress(OSError):
                size += os.stat(name).st_size  # noqa: PTH116 - quicker
        last_backup = None
        with suppress(OSError):
            last_backup = os.stat(self.last_backup).st_mtime  # noqa: PTH116 - as above
        units, commits = self.health.units, self.health.commits
        return EngineStats(units, commits, waiting, size, last_backup)

    async def check(self) -> None:
        """Try to read and to begin a write. UnavailableError."""
        await self.write(read_anything)
        await self.read(read_anything)

    async def close(self) -> None:
        """Close the queues; the writer last, since the last connection checkpoints."""
        if self._maintaining is not None:
            self._maintaining.cancel()
        if self.health.error is not None or self.health.stale:
            with suppress(UnavailableError, OSError):
                await self.maintenance.call(self.maintenance.copy_anew)
        await self.maintenance.close()
        for queue in (*self.reporters, *reversed(self.queues.values())):
            await queue.close()
        self.maintenance.release_files()
