"""The SQLite engine: one lane that writes, two that read, over aiosqlite."""

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import cache, partial
from math import ceil
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any, TypeVarTuple

import aiosqlite

import db
from db import Row, T, Unit

try:
    from pysqlite3 import dbapi2

    driver: ModuleType = dbapi2
except ImportError:  # no wheel for this platform: Python's own SQLite serves
    driver = sqlite3

Ts = TypeVarTuple("Ts")

VERSION: tuple[int, int, int] = driver.sqlite_version_info
WAL_RESET_FIXED = (
    VERSION >= (3, 51, 3)
    or (3, 50, 7) <= VERSION < (3, 51)
    or (3, 44, 6) <= VERSION < (3, 45)
)
"""False where two writing connections can corrupt (sqlite.org/wal.html#walresetbug)."""

BUSY_SECONDS = 2.0
"""How long a unit waits for another process that holds the database."""
QUEUE_SECONDS = 1.0
"""The estimated wait past which a lane takes no more units."""
TURN_SECONDS = 5.0
"""How long a unit waits for its turn before it is dropped."""
STILL_BUSY_SECONDS = 0.1
"""How long the next unit waits for a process that held it while one waited in vain."""
BATCH_SECONDS = 15.0
"""How long a batch may run before it is interrupted."""
RECHECK_SECONDS = 5.0
"""How long after a failed check of the database the next may follow."""
BATCH_UNITS = 256
"""The most units in one transaction, so that the first is not held up by the last."""
GATHER_TURNS = 2
"""Turns of the loop without a new unit, after which a batch begins."""
CHECKPOINT_SECONDS, CHECKPOINT_UNITS = 0.25, 2000
"""How often to look whether so many units were written since the last checkpoint."""

PRAGMAS = f"""
PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)};
PRAGMA foreign_keys = ON;
PRAGMA synchronous = FULL;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
PRAGMA journal_size_limit = 67108864;
PRAGMA wal_autocheckpoint = 16384;
PRAGMA cache_size = -16384;
"""

# sqlite.org/rescode.html: primary codes, the low byte of the extended ones
BUSY, LOCKED, READONLY, INTERRUPT, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB = (
    *(5, 6, 8, 9, 10, 11, 13, 14, 26),
)
TROUBLES = {
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
"""After these nothing is known of the database until it was opened and checked anew."""


def code_of(exc: BaseException) -> int:
    """Return the primary result code of an error of the driver, 0 of any other."""
    code: int = getattr(exc, "sqlite_errorcode", 0)
    return code & 0xFF


class Health:
    """What the lanes of one engine know of their database."""

    trouble: str | None = None
    checked = -RECHECK_SECONDS
    locked = False

    def translated(self, exc: Exception) -> Exception:
        """Return what an error of the driver means to the caller, and note trouble."""
        code = code_of(exc)
        if code in UNCERTAIN:
            self.trouble = TROUBLES[code]
        self.locked = self.locked or code in (BUSY, LOCKED)
        if code == FULL:
            return db.DiskFullError(TROUBLES[FULL])
        return db.UnavailableError(TROUBLES[code]) if code in TROUBLES else exc


Job = tuple[Callable[..., Unit[Any]], tuple[Any, ...], asyncio.Future[Any], float]
"""A unit of work that waits for its turn, until a time on the loop's clock."""


class Lane(aiosqlite.Connection):
    """A connection that runs units of work in batches, one hop to its thread each."""

    begin = "BEGIN"

    def __init__(self, path: Path, health: Health) -> None:
        super().__init__(partial(self.open, path), iter_chunk_size=64)
        self.path = path
        self.health = health
        self.waiting: deque[Job] = deque()
        self.batch_seconds = 0.0
        self.loop = asyncio.get_running_loop()
        self._turn: asyncio.Task[None] | None = None

    def open(self, path: Path) -> Any:
        """Return a connection of the driver, set up for this lane."""
        connection = driver.connect(
            path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
        )
        connection.executescript(PRAGMAS)
        return connection

    def submit(
        self, question: Callable[[*Ts], Unit[T]], *args: *Ts
    ) -> asyncio.Future[T]:
        """Put a unit in the queue. OverloadedError when it would wait too long."""
        if self.waiting:
            wait = self.batch_seconds * (1 + len(self.waiting) // BATCH_UNITS)
            if wait > QUEUE_SECONDS:
                raise db.OverloadedError("too many requests are waiting", ceil(wait))
        future: asyncio.Future[T] = self.loop.create_future()
        self.waiting.append((question, args, future, self.loop.time() + TURN_SECONDS))
        if self._turn is None:
            self._turn = self.loop.create_task(self._take_turns())
        return future

    async def _take_turns(self) -> None:
        loop = self.loop
        while self.waiting:
            await self._gather()
            jobs = self._next_batch(loop.time())
            if not jobs:
                continue
            began = loop.time()
            watchdog = loop.call_later(BATCH_SECONDS, self._conn.interrupt)
            try:
                # aiosqlite's hop to its thread has no types
                outcomes = await self._execute(self.run, jobs)  # type: ignore[no-untyped-call]
            except Exception as exc:
                outcomes = [exc for _ in jobs]
            finally:
                watchdog.cancel()
            self.batch_seconds = (self.batch_seconds + loop.time() - began) / 2
            for (_, _, future, _), outcome in zip(jobs, outcomes, strict=True):
                if future.done():  # its caller went away
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        self._turn = None

    async def _gather(self) -> None:
        """Let what is on its way join the batch: one commit costs more than to wait.

        The answers of the last batch bring the next requests, some turns of the loop
        later; PostgreSQL's commit_delay has the same reason.
        """
        quiet_turns = 0
        while quiet_turns < GATHER_TURNS and len(self.waiting) < BATCH_UNITS:
            before = len(self.waiting)
            await asyncio.sleep(0)
            quiet_turns = 0 if len(self.waiting) > before else quiet_turns + 1

    def _next_batch(self, time: float) -> list[Job]:
        jobs: list[Job] = []
        while self.waiting and len(jobs) < BATCH_UNITS:
            job = self.waiting.popleft()
            _, _, future, deadline = job
            if future.done():  # its caller went away
                continue
            if deadline < time:
                late = db.UnavailableError("it waited too long for its turn")
                future.set_exception(late)
            else:
                jobs.append(job)
        return jobs

    def run(self, jobs: list[Job]) -> list[Any]:
        """Run a batch on the lane's thread; an outcome is a value or an exception."""
        try:
            return self.transact(jobs)
        except Exception as exc:
            self.roll_back()
            return [self.health.translated(exc) for _ in jobs]

    def transact(self, jobs: list[Job], careful: bool = False) -> list[Any]:
        """Run a batch in one transaction.

        Savepoints are costly and failures are rare: a unit that changed something and
        then failed sends the batch round again, carefully, each unit in a savepoint.
        """
        connection = self._conn
        connection.execute(self.begin)
        outcomes: list[Any] = []
        added = {} if careful else add_at_once(connection, jobs)
        for place, (question, args, _, _) in enumerate(jobs):
            if place in added:
                outcomes.append(added[place])
                continue
            before = connection.total_changes
            try:
                if careful:
                    connection.execute("SAVEPOINT unit")
                outcomes.append(drive(connection, question(*args)))
            except Exception as exc:
                if not connection.in_transaction:  # SQLite undid all of it
                    raise
                if careful:
                    connection.execute("ROLLBACK TO unit")
                elif connection.total_changes != before:
                    connection.execute("ROLLBACK")
                    return self.transact(jobs, careful=True)
                outcomes.append(self.health.translated(exc))
            if careful:
                connection.execute("RELEASE unit")
        connection.execute("COMMIT")
        return outcomes

    def roll_back(self) -> None:
        """End the transaction, if there still is one, and change nothing."""
        with suppress(driver.Error):
            if self._conn.in_transaction:
                self._conn.execute("ROLLBACK")

    async def close(self) -> None:
        """Finish the units that were accepted, then close the connection."""
        if self._turn is not None:
            await asyncio.wait([self._turn])
        await super().close()


# RETURNING makes a table of what it returns, and a foreign key is checked anyway.
QUICKER = {
    db.INSERT_CUSTOMER: db.INSERT_CUSTOMER.removesuffix(" RETURNING id"),
    db.INSERT_PURCHASE: "INSERT INTO purchases "
    "(purchase_name, quantity, date_created, customer_id) VALUES (?, ?, ?, ?)",
}
"""Statements that insert a row and return its id, in words that do so sooner."""


def rows_of(connection: Any, sql: str, parameters: Row) -> list[Row]:
    """Run a statement, in quicker words where there are some."""
    if sql in QUICKER:
        # What a constraint refuses is asked anew: the words of `db` say what is wrong.
        with suppress(driver.IntegrityError):
            return [(connection.execute(QUICKER[sql], parameters).lastrowid,)]
    rows: list[Row] = connection.execute(sql, parameters).fetchall()
    return rows


def drive(connection: Any, unit: Generator[tuple[str, Row], list[Row], T]) -> T:
    """Run one unit of work: send it the rows of each statement it yields."""
    try:
        sql, parameters = next(unit)
        while True:
            sql, parameters = unit.send(rows_of(connection, sql, parameters))
    except StopIteration as done:
        result: T = done.value
        return result


@cache
def _insert_purchases(count: int) -> str:
    return QUICKER[db.INSERT_PURCHASE] + ", (?, ?, ?, ?)" * (count - 1)


def add_at_once(connection: Any, jobs: list[Job]) -> dict[int, db.Purchase]:
    """Run those units of a batch that only add a purchase, as one statement.

    Return what each gives, by its place in the batch; nothing where a constraint
    refuses one of them, for then each has to be tried alone.
    """
    places = [place for place, job in enumerate(jobs) if job[0] is db.add_purchase]
    if len(places) < 2:
        return {}
    units = [db.add_purchase(*jobs[place][1]) for place in places]
    parameters = [value for unit in units for value in next(unit)[1]]
    try:
        cursor = connection.execute(_insert_purchases(len(units)), parameters)
    except driver.IntegrityError:
        return {}
    # sqlite.org/autoinc.html: each row's id is one more than that of the last
    first: int = cursor.lastrowid - len(units) + 1
    return {
        place: _finished(unit, [(first + number,)])
        for number, (place, unit) in enumerate(zip(places, units, strict=True))
    }


def _finished(unit: Unit[T], rows: list[Row]) -> T:
    try:
        unit.send(rows)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("the unit has more to ask")


class ReadingLane(Lane):
    """A lane that can change nothing."""

    def open(self, path: Path) -> Any:
        """Return a connection that SQLite keeps from writing."""
        connection = super().open(path)
        connection.execute("PRAGMA query_only = ON")
        return connection


class WritingLane(Lane):
    """The one lane that writes: a batch is one commit, and acknowledged after it."""

    begin = "BEGIN IMMEDIATE"

    def __init__(self, path: Path, health: Health) -> None:
        super().__init__(path, health)
        self.wal = path.with_name(f"{path.name}-wal")
        self.commits = 0
        self.units = 0
        self.busy_seconds = BUSY_SECONDS

    def open(self, path: Path) -> Any:
        """Return a connection in WAL mode, and note which files it has open."""
        connection = super().open(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")  # makes the WAL file
        connection.execute("ROLLBACK")
        self.files = self.files_now()
        return connection

    def wait_for_lock(self, seconds: float) -> None:
        """Set how long the next BEGIN waits for another process."""
        if seconds != self.busy_seconds:
            self._conn.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
            self.busy_seconds = seconds

    def files_now(self) -> tuple[tuple[int, int], ...]:
        """Return device and inode of the database and its WAL. OSError."""
        status = (os.stat(self.path), os.stat(self.wal))  # noqa: PTH116 - quicker
        return tuple((file.st_dev, file.st_ino) for file in status)

    def verify_files(self) -> None:
        """Raise UnavailableError where a commit would go to a file nobody can find."""
        try:
            same = self.files_now() == self.files
        except OSError:
            same = False
        if not same:
            raise db.UnavailableError("the database file was deleted or replaced")

    def transact(self, jobs: list[Job], careful: bool = False) -> list[Any]:
        """Run a batch and commit it, in files that are still in their places."""
        if self.health.trouble is not None:
            self.reopen()
        self.wait_for_lock(STILL_BUSY_SECONDS if self.health.locked else BUSY_SECONDS)
        outcomes = super().transact(jobs, careful)
        self.verify_files()
        self.health.locked = False
        self.commits += 1
        self.units += len(jobs)
        return outcomes

    def reopen(self) -> None:
        """Open and check the database anew after an error that left it unknown."""
        if monotonic() - self.health.checked < RECHECK_SECONDS:
            raise db.UnavailableError(self.health.trouble)
        self.health.checked = monotonic()
        with suppress(driver.Error):
            self._conn.close()
        self._connection = self.open(self.path)
        self.busy_seconds = BUSY_SECONDS
        found = self._conn.execute("PRAGMA quick_check(1)").fetchall()
        if found != [("ok",)]:
            raise db.UnavailableError(TROUBLES[CORRUPT])
        self.health.trouble = None


class Checkpointer(Lane):
    """Copies the WAL into the database while commits go on, so that none waits for it.

    What it leaves over, the commit that finds 64 MiB of WAL copies, and then the WAL
    begins anew: that is all that wal_autocheckpoint is still for. An SQLite without
    the fix must not do this beside a writer (sqlite.org/wal.html#walresetbug).
    """

    async def run_beside(self, writer: WritingLane) -> None:
        """Look at the writer again and again, and copy when there is enough."""
        copied = 0
        while True:
            await asyncio.sleep(CHECKPOINT_SECONDS)
            if writer.units - copied >= CHECKPOINT_UNITS:
                copied = writer.units
                # aiosqlite's hop to its thread has no types
                await self._execute(self.checkpoint)  # type: ignore[no-untyped-call]

    def checkpoint(self) -> None:
        """Copy what no reader needs any more (sqlite.org/c3ref/wal_checkpoint_v2)."""
        try:
            self._conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except driver.Error as exc:
            self.health.translated(exc)


class Engine:
    """A SQLite database: units of work on a writing lane and two reading lanes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        health = Health()
        self.writer = WritingLane(path, health)
        self.reader = ReadingLane(path, health)
        # long lists do not hold up short reads
        self.scanner = ReadingLane(path, health)
        self.checkpointer = Checkpointer(path, health)
        self.lanes = (self.writer, self.reader, self.scanner, self.checkpointer)
        self._checkpoints: asyncio.Task[None] | None = None
        self.read = self.reader.submit
        self.scan = self.scanner.submit
        self.write = self.writer.submit
        self.name = f"SQLite {driver.sqlite_version} ({driver.__name__.split('.')[0]})"

    def measures(self) -> db.Measures:
        """Return what the metrics show."""
        lanes = {"write": self.writer, "read": self.reader, "scan": self.scanner}
        waiting = {name: len(lane.waiting) for name, lane in lanes.items()}
        size = sum(
            file.stat().st_size
            for file in (self.path, self.writer.wal)
            if file.exists()
        )
        return db.Measures(self.writer.units, self.writer.commits, waiting, size)

    async def check(self) -> None:
        """Try to read and to begin writing. UnavailableError says what is wrong."""
        await self.write(db.read_anything)
        await self.read(db.read_anything)

    async def open(self) -> None:
        """Open the lanes, the writer first, for it makes the WAL."""
        for lane in self.lanes:
            await lane
        if WAL_RESET_FIXED:
            work = self.checkpointer.run_beside(self.writer)
            self._checkpoints = asyncio.create_task(work)

    async def close(self) -> None:
        """Close the lanes; the writer last, for the last one out checkpoints."""
        if self._checkpoints is not None:
            self._checkpoints.cancel()
        for lane in reversed(self.lanes):
            await lane.close()


async def connect(path: Path) -> Engine:
    """Open the lanes on a database that `make` has made or found well."""
    engine = Engine(path)
    await engine.open()
    return engine


def path_of(url: str) -> Path:
    """Return the file that `sqlite:///relative` or `sqlite:////absolute` names."""
    name = url.removeprefix("sqlite:///")
    if name == url or not name or name == ":memory:":
        raise db.RefusedError(f"{url} names no database: sqlite:///NAME does")
    return Path(name)


# Making, adopting and migrating


def make(path: Path) -> None:
    """Create the database, or bring the one that is there up to date. RefusedError.

    A file that is refused stays as it was, byte for byte.
    """
    try:
        if os.path.lexists(path):
            _migrate(path, described=_recognise(path))
        else:
            _create(path)
    except driver.Error as exc:
        reason = TROUBLES.get(code_of(exc), "SQLite refuses it")
        raise db.RefusedError(f"{path}: {reason}") from exc
    except OSError as exc:
        raise db.RefusedError(f"{path}: {exc.strerror}") from exc


def _create(path: Path) -> None:
    # Made under another name first: whoever finds the file finds it whole.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        _migrate(draft, described=False)
        with suppress(FileExistsError):  # another process was quicker
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _recognise(path: Path) -> bool:
    """Return whether the file is the described server's, not ours. RefusedError."""
    if not path.is_file():
        raise db.RefusedError(f"{path}: not a file")
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise db.RefusedError(f"{path}: not a SQLite database")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise db.RefusedError(f"{path}: the file or its folder cannot be written")
    # sqlite.org/fileformat.html#application_id
    application_id = int.from_bytes(header[68:72], "big")
    with closing(_read_only(path)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application_id == db.APPLICATION_ID:
            if version > len(db.MIGRATIONS):
                raise db.RefusedError(f"{path}: made by a newer version of this server")
            return False
        if application_id or version or _columns(connection) != db.DESCRIBED_COLUMNS:
            raise db.RefusedError(f"{path}: the database of another program")
    return True


def _columns(connection: Any) -> dict[str, set[str]]:
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type != 'index' AND name != ?",
        ("sqlite_sequence",),
    ).fetchall()
    select = "SELECT name FROM pragma_table_info(?)"
    return {
        name: {row[0] for row in connection.execute(select, (name,))}
        for (name,) in names
    }


def _migrate(path: Path, described: bool) -> None:
    """Bring a database to the newest version in one transaction."""
    with closing(driver.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == len(db.MIGRATIONS):
            return
        connection.create_function("canonical_time", 1, canonical_time)
        connection.create_function("casefold", 1, str.casefold)
        connection.execute("BEGIN EXCLUSIVE")
        first = db.ADOPTION if described else db.MIGRATIONS[0]
        for script in (first, *db.MIGRATIONS[1:])[version:]:
            for statement in script.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {db.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(db.MIGRATIONS)}")
        connection.execute("COMMIT")


def canonical_time(text: object) -> str:
    """Return a time of the described server as `db.now` writes it."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text or "1970-01-01 00:00:00.000000+00:00")
    time = time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    return time.isoformat(" ", "microseconds")


# Backups


def backup(path: Path, destination: Path) -> None:
    """Write a consistent copy of a database, also of one that is being served.

    The copy is complete or absent, and only its owner may read it. RefusedError
    when the destination exists. VACUUM INTO reads one snapshot
    (sqlite.org/lang_vacuum.html), and a read-only connection does not checkpoint.
    """
    if not path.is_file() or _recognise(path):
        raise db.RefusedError(f"{path}: not a database of this server")
    if os.path.lexists(destination):
        raise db.RefusedError(f"{destination}: already there")
    draft = destination.with_name(f".{destination.name}.{os.getpid()}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        url = f"{path.absolute().as_uri()}?mode=ro"
        with closing(driver.connect(url, uri=True)) as connection:
            connection.execute("VACUUM INTO ?", (str(draft),))
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.link(draft, destination)
        _sync_folder(destination.parent)
    except driver.Error as exc:
        reason = TROUBLES.get(code_of(exc), str(exc))
        raise db.RefusedError(f"no backup: {reason}") from exc
    finally:
        draft.unlink(missing_ok=True)


def _read_only(path: Path) -> Any:
    # Without a WAL to read, SQLite would make one (sqlite.org/wal.html#readonly).
    wal = path.with_name(f"{path.name}-wal")
    mode = "mode=ro" if wal.exists() else "mode=ro&immutable=1"
    return driver.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    os.fsync(number)
    os.close(number)
