"""The SQLite engine: one lane that writes, two that read, one that takes care."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from threading import get_native_id
from time import monotonic
from typing import Any

import db
from sqlite_lane import (
    BUSY_SECONDS,
    CORRUPT,
    GATHER_TURNS,
    TROUBLES,
    UNCERTAIN,
    WAL_PAGES,
    WAL_RESET_FIXED,
    Health,
    Job,
    Lane,
    ReadingLane,
    code_of,
    driver,
)

LOG = logging.getLogger("server")

COMMIT_TURNS = 16
"""Turns of the loop that a commit waits for further units, where others have come."""
STILL_BUSY_SECONDS = 0.1
"""How long the next unit waits for a process that held it while one waited in vain."""
RECHECK_SECONDS = 5.0
"""How long after a failed check of the database the next may follow."""
CARE_SECONDS, CHECKPOINT_UNITS = 0.25, 1000
"""How often to look whether so many units were written since the last checkpoint."""
NICENESS = 10
"""The priority of such work, which is not urgent (setpriority(2))."""
LITTLE_SECONDS, LITTLE_TURNS = 0.004, 4
"""What a checkpoint takes that left little to copy, and how many are tried for that."""

CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
"""Waits for nobody; returns, second, the pages in the WAL (sqlite.org/pragma.html)."""
GONE = "the database file was deleted or replaced"


class WritingLane(Lane):
    """The one lane that writes: a batch is one commit, and acknowledged after it."""

    begin = "BEGIN IMMEDIATE"
    hanging = f"{Lane.hanging}: {db.UNKNOWN}"

    def __init__(self, path: Path, health: Health) -> None:
        super().__init__(path, health)
        # A symbolic link has them where it points to.
        self.wal, self.shm = (f"{path.resolve()}-{name}" for name in ("wal", "shm"))
        self.commits = 0
        self.units = 0
        self.busy_seconds = BUSY_SECONDS
        self.stale = False
        """Whether the connection is older than the last check of the database."""
        self.rewinding = False
        """Whether there is little to copy before the WAL can begin anew."""

    def open(self, path: Path) -> Any:
        """Return a connection in WAL mode. OSError where its files are not there."""
        connection = super().open(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")  # makes the WAL file
        connection.execute("ROLLBACK")
        self.busy_seconds = BUSY_SECONDS
        if not hasattr(self, "files"):
            self.files = self.files_now()
        return connection

    def wait_for_lock(self, seconds: float) -> None:
        """Set how long the next BEGIN waits for another process."""
        if seconds != self.busy_seconds:
            self._conn.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
            self.busy_seconds = seconds

    def files_now(self) -> tuple[tuple[int, int], ...]:
        """Return device and inode of the database, its WAL and its index. OSError."""
        names = (self.path, self.wal, self.shm)
        status = [os.stat(name) for name in names]  # noqa: PTH116 - quicker
        return tuple((file.st_dev, file.st_ino) for file in status)

    def verify_files(self, otherwise: str) -> None:
        """Raise UnavailableError where a commit goes to a file nobody can find."""
        try:
            same = self.files_now() == self.files
        except OSError:
            same = False
        if not same:
            raise db.UnavailableError(otherwise)

    def transact(self, jobs: list[Job]) -> list[Any]:
        """Run a batch and commit it, unless the database has to be checked first."""
        if self.health.trouble is not None:
            raise db.UnavailableError(self.health.trouble)
        if self.stale:
            self.reopen()
        self.wait_for_lock(STILL_BUSY_SECONDS if self.health.locked else BUSY_SECONDS)
        self.gather_turns = COMMIT_TURNS if len(jobs) > 1 else GATHER_TURNS
        before = self._conn.total_changes
        outcomes = super().transact(jobs)
        self.health.locked = False
        done = sum(not isinstance(outcome, Exception) for outcome in outcomes)
        if done and self._conn.total_changes != before:
            self.commits += 1
            self.units += done
        if self.rewinding:
            self.rewinding = False
            try:
                self._conn.execute(CHECKPOINT)
            except driver.Error as exc:  # the batch is committed all the same
                self.health.translated(exc)
        return outcomes

    def commit_batch(self) -> None:
        """Commit in files that are in their places, before and after."""
        self.verify_files(GONE)
        try:
            super().commit_batch()
        except driver.Error as exc:
            if code_of(exc) not in UNCERTAIN:
                raise
            raise db.UnavailableError(
                f"{self.health.translated(exc)}: {db.UNKNOWN}"
            ) from exc
        self.verify_files(f"{GONE}: {db.UNKNOWN}")

    def reopen(self) -> None:
        """Open the same database anew, after it was checked."""
        self.verify_files(GONE)
        with suppress(driver.Error):
            self._conn.close()
        self._connection = self.open(self.path)
        self.verify_files(GONE)
        self.stale = False


class Caretaker(Lane):
    """Does what the database needs now and then, beside the commits.

    It copies the WAL into the database, so that no commit has to wait for that. Only
    what is written meanwhile is left to a commit now and then, for the WAL can begin
    anew when all of it was copied. An SQLite without the fix must not do this beside a
    writer (sqlite.org/wal.html#walresetbug): there, commits copy.

    After an error that left the database unknown it checks it. Until then nothing is
    written.
    """

    due = 0.0
    """When the next check may be, on the monotonic clock."""

    file: int | None = None
    """The database file, to sync it: open until no lane is, since to close a
    descriptor of it lets go of all locks that this process has on it
    (sqlite.org/howtocorrupt.html, section 2.2)."""

    def open(self, path: Path) -> Any:
        """Return a connection, on a thread that lets requests go first."""
        if sys.platform == "linux":  # where each thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, get_native_id(), NICENESS)
        return super().open(path)

    async def run_beside(self, writer: WritingLane) -> None:
        """Look again and again whether there is something to do."""
        copied = 0
        while True:
            await asyncio.sleep(CARE_SECONDS)
            task: Callable[[], None] | None = None
            if self.health.trouble is not None:
                task = partial(self.check, writer)
            elif WAL_RESET_FIXED and writer.units - copied >= CHECKPOINT_UNITS:
                copied, task = writer.units, partial(self.checkpoint, writer)
            if task is not None:
                try:
                    # aiosqlite's hop to its thread has no types
                    await self._execute(task)  # type: ignore[no-untyped-call]
                except db.UnavailableError as exc:
                    self.health.trouble = str(exc)
                except Exception as exc:
                    if self.health.translated(exc) is exc:
                        LOG.exception("the database was not taken care of")

    def checkpoint(self, writer: WritingLane) -> None:
        """Copy the WAL; where it is long, until little is left for a commit to copy."""
        for _ in range(LITTLE_TURNS):
            began = monotonic()
            pages: int = self._conn.execute(CHECKPOINT).fetchone()[1]
            if self.file is not None:
                os.fsync(self.file)
            if pages < WAL_PAGES:
                return
            if monotonic() - began < LITTLE_SECONDS:
                break
        writer.rewinding = True

    def check(self, writer: WritingLane) -> None:
        """Check the database with a new connection, and let writing go on.

        UnavailableError where another file is in its place: to open that beside the
        WAL of this one would damage it (sqlite.org/howtocorrupt.html).
        """
        if monotonic() < self.due:
            return
        try:
            writer.verify_files(GONE)
            with closing(self.open(self.path)) as connection:
                found = connection.execute("PRAGMA quick_check(1)").fetchall()
            if found == [("ok",)]:
                writer.stale = True
                self.health.trouble = None
                LOG.info("the database was checked: writing goes on")
            else:
                self.health.trouble = TROUBLES[CORRUPT]
        finally:
            self.due = monotonic() + RECHECK_SECONDS


class Engine:
    """A SQLite database: units of work on a writing lane and two reading lanes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        health = Health()
        self.writer = WritingLane(path, health)
        self.reader = ReadingLane(path, health)
        # long lists do not hold up short reads
        self.scanner = ReadingLane(path, health)
        self.caretaker = Caretaker(path, health)
        self.lanes = (self.writer, self.reader, self.scanner, self.caretaker)
        self.read = self.reader.submit
        self.scan = self.scanner.submit
        self.write = self.writer.submit
        self.name = f"SQLite {driver.sqlite_version} ({driver.__name__.split('.')[0]})"
        self._caring: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the lanes, the writer first, for it makes the WAL. RefusedError."""
        try:
            for lane in self.lanes:
                await lane
            self.caretaker.file = os.open(self.path, os.O_RDONLY)
        except (driver.Error, OSError) as exc:
            await self.close()
            # Its thread has still to tell the loop that it ends.
            await asyncio.to_thread(lane._thread.join)
            reason = TROUBLES.get(code_of(exc), str(exc))
            raise db.RefusedError(f"{self.path}: {reason}") from exc
        self._caring = asyncio.create_task(self.caretaker.run_beside(self.writer))

    def measures(self) -> db.Measures:
        """Return what the metrics show."""
        lanes = {"write": self.writer, "read": self.reader, "scan": self.scanner}
        waiting = {name: len(lane.waiting) for name, lane in lanes.items()}
        size = 0
        for name in (self.path, self.writer.wal):
            with suppress(OSError):
                size += os.stat(name).st_size  # noqa: PTH116 - as in files_now
        return db.Measures(self.writer.units, self.writer.commits, waiting, size)

    async def check(self) -> None:
        """Try to read and to begin writing. UnavailableError says what is wrong."""
        await self.write(db.read_anything)
        await self.read(db.read_anything)

    async def close(self) -> None:
        """Close the lanes; the writer last, for the last one out checkpoints."""
        if self._caring is not None:
            self._caring.cancel()
        for lane in reversed(self.lanes):
            await lane.close()
        if self.caretaker.file is not None:
            os.close(self.caretaker.file)


async def connect(path: Path) -> Engine:
    """Open the lanes on a database that was made or found well. RefusedError."""
    engine = Engine(path)
    await engine.open()
    return engine


def path_of(url: str) -> Path:
    """Return the file that `sqlite:///relative` or `sqlite:////absolute` names."""
    name = url.removeprefix("sqlite:///")
    if name == url or not name or name == ":memory:":
        shown = db.without_password(url)
        raise db.RefusedError(f"{shown} names no database: sqlite:///NAME does")
    return Path(name)
