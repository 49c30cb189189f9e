"""A connection to SQLite that runs units of work in batches, over aiosqlite."""

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import cache, partial
from math import ceil
from pathlib import Path
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

LOG = logging.getLogger("server")
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
BATCH_SECONDS = 10.0
"""How long a batch may run before it is interrupted."""
HANG_SECONDS = 1.0
"""How long after that its callers wait for a disk that does not answer."""
WATCH_SECONDS = 0.5
"""How often to look after a batch that runs, and the units that wait for its end."""
BATCH_UNITS = 256
"""The most units in one transaction, so that the first is not held up by the last."""
GATHER_TURNS = 2
"""Turns of the loop without a new unit, after which a batch begins."""
WAL_PAGES = 16384
"""How long the WAL becomes before a commit begins it anew, where no reader needs it."""

PRAGMAS = f"""
PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)};
PRAGMA foreign_keys = ON;
PRAGMA synchronous = FULL;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
PRAGMA journal_size_limit = 67108864;
PRAGMA wal_autocheckpoint = {4 * WAL_PAGES if WAL_RESET_FIXED else 3000};
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
    """Why nothing may be written until the database was checked."""
    locked = False

    def translated(self, exc: Exception) -> Exception:
        """Return what an error of the driver means to the caller, and note trouble."""
        code = IOERR if isinstance(exc, OSError) else code_of(exc)
        if code in UNCERTAIN:
            if self.trouble is None:
                LOG.error("no more writes until a check: %s", TROUBLES[code])
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
    gather_turns = GATHER_TURNS
    hanging = "the disk does not answer"

    def __init__(self, path: Path, health: Health) -> None:
        super().__init__(partial(self.open, path), iter_chunk_size=64)
        self.path = path
        self.health = health
        self.waiting: deque[Job] = deque()
        self.batch_seconds = 0.0
        self.loop = asyncio.get_running_loop()
        self._turn: asyncio.Task[None] | None = None
        self._watching: asyncio.TimerHandle

    def open(self, path: Path) -> Any:
        """Return a connection of the driver, set up for this lane; it makes no file."""
        connection = driver.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_SECONDS,
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
            self._watching = loop.call_later(WATCH_SECONDS, self._watch, jobs, began)
            try:
                # aiosqlite's hop to its thread has no types
                outcomes = await self._execute(self.run, jobs)  # type: ignore[no-untyped-call]
            except Exception as exc:
                outcomes = [exc for _ in jobs]
            finally:
                self._watching.cancel()
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
        while quiet_turns < self.gather_turns and len(self.waiting) < BATCH_UNITS:
            before = len(self.waiting)
            await asyncio.sleep(0)
            quiet_turns = 0 if len(self.waiting) > before else quiet_turns + 1

    def _next_batch(self, time: float) -> list[Job]:
        self._drop_late(time)
        jobs: list[Job] = []
        while self.waiting and len(jobs) < BATCH_UNITS:
            job = self.waiting.popleft()
            if not job[2].done():  # its caller is still there
                jobs.append(job)
        return jobs

    def _drop_late(self, time: float) -> None:
        while self.waiting and self.waiting[0][3] < time:
            future = self.waiting.popleft()[2]
            if not future.done():
                late = db.UnavailableError("it waited too long for its turn")
                future.set_exception(late)

    def _watch(self, jobs: list[Job], began: float) -> None:
        """Keep a batch that takes long from taking for ever, as its callers see it."""
        time = self.loop.time()
        self._drop_late(time)
        if time - began > BATCH_SECONDS:
            with suppress(driver.Error):  # a connection that is just being reopened
                self._conn.interrupt()
        if time - began > BATCH_SECONDS + HANG_SECONDS:  # nor does that end it
            for _, _, future, _ in jobs:
                if not future.done():
                    future.set_exception(db.UnavailableError(self.hanging))
        self._watching = self.loop.call_later(WATCH_SECONDS, self._watch, jobs, began)

    def run(self, jobs: list[Job]) -> list[Any]:
        """Run a batch on the lane's thread; an outcome is a value or an exception."""
        try:
            return self.transact(jobs)
        except Exception as exc:
            self.roll_back()
            return [self.health.translated(exc) for _ in jobs]

    def transact(self, jobs: list[Job]) -> list[Any]:
        """Run a batch in one transaction.

        Savepoints are costly and failures are rare: a unit that changed something and
        then failed sends the batch round again, carefully, each unit in a savepoint.
        """
        return self._attempt(jobs) or self._attempt(jobs, careful=True)

    def _attempt(self, jobs: list[Job], careful: bool = False) -> list[Any]:
        """Return the outcomes of a batch, none where it has to go round again."""
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
                    return []
                outcomes.append(self.health.translated(exc))
            if careful:
                connection.execute("RELEASE unit")
        self.commit_batch()
        return outcomes

    def commit_batch(self) -> None:
        """End the transaction."""
        self._conn.execute("COMMIT")

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
