"""The PostgreSQL engine: lanes of a few connections each."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from math import ceil
from typing import Any, TypeVarTuple

import db
import schema
from db import T, Unit
from postgres_session import (
    COLLISIONS,
    CROWDED,
    CUT_OFF,
    DURABLE,
    ERRORS,
    READ_ONLY,
    TROUBLES,
    UNIT_SECONDS,
    Hosts,
    Session,
    code_of,
    reason_of,
    translated,
)

Ts = TypeVarTuple("Ts")

WRITERS, READERS, SCANNERS = 8, 4, 2
"""How many connections each lane opens at the most."""
QUEUE_SECONDS = 1.0
"""The estimated wait past which a lane takes no more units."""
TURN_SECONDS = 5.0
"""How long a unit waits for its turn before it is dropped."""
ATTEMPTS = 5
"""How often a unit is run that collides with others or is cut off."""
RETRY_SECONDS = 0.01
SIZE_SECONDS = 10.0
"""How old the size that the metrics show may become."""
MIGRATION_SECONDS = 600.0

# Lanes


class Lane:
    """Connections that take units of work in turn."""

    def __init__(self, hosts: Hosts, size: int, writing: bool = False) -> None:
        self.hosts = hosts
        self.size = size
        self.writing = writing
        self.idle: list[Session] = []
        self.busy = 0
        self.waiting = 0
        self.units = 0
        self.unit_seconds = 0.0
        self._free = asyncio.Semaphore(size)
        self._returned = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def submit(
        self, question: Callable[[*Ts], Unit[T]], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a unit in its turn, also when its caller goes away meanwhile.

        OverloadedError when it would wait too long.
        """
        if self.waiting:
            wait = self.unit_seconds * (1 + self.waiting) / self.size
            if wait > QUEUE_SECONDS:
                raise db.OverloadedError("too many requests are waiting", ceil(wait))
        self.waiting += 1
        task = asyncio.create_task(self._take_turn(question, *args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)

    async def _take_turn(self, question: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._free.acquire()
        except TimeoutError as exc:
            raise db.UnavailableError("it waited too long for its turn") from exc
        finally:
            self.waiting -= 1
        try:
            async with asyncio.timeout(UNIT_SECONDS):
                return await self._run_again(question, *args)
        except Exception as exc:
            if meaning := translated(exc):
                raise meaning from exc
            raise
        finally:
            self._free.release()

    async def _run_again(self, question: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a unit, again where that can help."""
        for attempt in range(1, ATTEMPTS):
            try:
                return await self._run(question, *args)
            except ERRORS as exc:
                if code_of(exc) not in COLLISIONS | CUT_OFF:
                    raise
            await asyncio.sleep(RETRY_SECONDS * attempt)
        return await self._run(question, *args)

    async def _run(self, question: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        time = asyncio.get_running_loop().time
        session, sound, began = None, False, time()
        try:
            session = await self._session()
            self.busy += 1
            began = time()  # a new connection is no part of what units take
            result = await session.run(question, *args)
            sound = True
        except Exception as exc:
            sound = session is not None and await session.recover(exc)
            raise
        finally:  # a time limit comes as a cancellation, and leaves it unsound
            self.unit_seconds += (time() - began - self.unit_seconds) / 8
            if session is not None:
                self._put_back(session, sound)
        self.units += 1
        return result

    async def _session(self) -> Session:
        """Return a session that nobody uses, or a new one. Errors of asyncpg."""
        while True:
            while self.idle:
                session = self.idle.pop()
                if session.era == self.hosts.era and not session.connection.is_closed():
                    return session
                session.connection.terminate()
            try:
                return await self._new_session()
            except ERRORS as exc:
                if code_of(exc) != CROWDED or not (self.busy or self.idle):
                    raise
            if not self.idle:
                self._returned.clear()
                await self._returned.wait()

    async def _new_session(self) -> Session:
        era = self.hosts.era
        session = Session(await self.hosts.connect(), era, self.writing)
        try:
            await session.set_up()
        except BaseException:
            session.connection.terminate()
            raise
        return session

    def _put_back(self, session: Session, sound: bool) -> None:
        """Keep a session, or close it and let no lane use those of its age.

        What one connection found out, a host that is gone or became a standby, the
        others need not find out one by one.
        """
        self.busy -= 1
        self._returned.set()
        if sound:
            self.idle.append(session)
            return
        session.connection.terminate()
        if session.era == self.hosts.era:
            self.hosts.era += 1

    async def close(self) -> None:
        """Finish the units that were accepted, then close the connections."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(session.close() for session in self.idle))
        self.idle.clear()


# The engine


class Engine:
    """A PostgreSQL database: units of work on lanes of connections."""

    def __init__(self, url: str) -> None:
        self.hosts = Hosts(url)
        self.writer = Lane(self.hosts, WRITERS, writing=True)
        self.reader = Lane(self.hosts, READERS)
        # long lists do not hold up short reads
        self.scanner = Lane(self.hosts, SCANNERS)
        self.read = self.reader.submit
        self.scan = self.scanner.submit
        self.write = self.writer.submit
        self.name = "PostgreSQL"
        self._size = 0
        self._size_due = 0.0

    def measures(self) -> db.Measures:
        """Return what the metrics show; the size as it was a few seconds ago."""
        time = asyncio.get_running_loop().time()
        if self._size_due < time and not self.scanner.waiting:
            self._size_due = time + SIZE_SECONDS
            self.scan(_read_size).add_done_callback(self._keep_size)
        lanes = {"write": self.writer, "read": self.reader, "scan": self.scanner}
        waiting = {name: lane.waiting for name, lane in lanes.items()}
        return db.Measures(self.writer.units, self.writer.units, waiting, self._size)

    def _keep_size(self, size: asyncio.Future[int]) -> None:
        if not size.cancelled() and size.exception() is None:
            self._size = size.result()

    async def check(self) -> None:
        """Try to read and to begin writing. UnavailableError says what is wrong."""
        await self.write(_begin_to_write)
        version = await self.read(_read_version)
        self.name = f"PostgreSQL {version}"

    async def close(self) -> None:
        """Close the lanes."""
        lanes = (self.scanner, self.reader, self.writer)
        await asyncio.gather(*(lane.close() for lane in lanes))


def _begin_to_write() -> Unit[None]:
    """Find a server that takes writes, and the tables there. UnavailableError."""
    rows = yield "SHOW transaction_read_only", ()
    if rows[0][0] == "on":
        raise db.UnavailableError(TROUBLES[READ_ONLY])
    yield from db.read_anything()


def _read_size() -> Unit[int]:
    """Return the bytes of the database."""
    rows = yield "SELECT pg_database_size(current_database())", ()
    size: int = rows[0][0]
    return size


def _read_version() -> Unit[str]:
    """Return the version of the server as `17.10`."""
    rows = yield "SHOW server_version", ()
    version: str = rows[0][0].partition(" ")[0]
    return version


async def connect(url: str) -> Engine:
    """Open a database that `make` has made or found well; it may be away just now."""
    engine = Engine(url)
    with suppress(db.UnavailableError):
        await engine.check()
    return engine


# Making and migrating

LOCK_KEY = schema.APPLICATION_ID
"""The advisory lock under which one process at a time looks and migrates."""
SCHEMA_TABLE = "customer_purchase_schema"
TABLES = ("customer", "purchases", "idempotency")
SELECT_RELATIONS = """
SELECT relname FROM pg_class WHERE relnamespace = CAST(current_schema() AS regnamespace)
"""


async def make(url: str) -> None:
    """Create the tables, or bring those that are there up to date. RefusedError."""
    async with transaction(url) as connection, asyncio.timeout(MIGRATION_SECONDS):
        await migrate(connection)


@asynccontextmanager
async def transaction(url: str) -> AsyncIterator[Any]:
    """Give a connection whose transaction is committed in the end. RefusedError."""
    try:
        connection = await Hosts(url).connect()
        try:
            await connection.execute(f"{DURABLE} SET statement_timeout = 0")
            async with connection.transaction():
                yield connection
        finally:
            connection.terminate()
    except (*ERRORS, ValueError, OverflowError, db.RefusedError) as exc:
        raise _refused(url, exc) from exc


def _refused(url: str, exc: Exception) -> db.RefusedError:
    """Return an error in one line, without the password of the URL."""
    line = str(exc).partition("\n")[0]
    if isinstance(exc, ValueError) and not isinstance(exc, ERRORS) and "@" in url:
        line = "it cannot be read: what is special in a password is percent-encoded"
    elif not isinstance(exc, (db.RefusedError, ValueError)):
        reason = reason_of(exc) or "it is refused"
        line = f"{reason} ({line})" if line else reason
    return db.RefusedError(f"{db.without_password(url)}: {line}")


async def migrate(connection: Any) -> None:
    """Bring a database to the newest version. RefusedError for one that is not ours."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise db.RefusedError(f"its encoding is {encoding}, not UTF8")
    names = {row[0] for row in await connection.fetch(SELECT_RELATIONS)}
    version, newest = 0, len(schema.POSTGRES_MIGRATIONS)
    if SCHEMA_TABLE in names:
        version = await connection.fetchval(f"SELECT version FROM {SCHEMA_TABLE}")  # noqa: S608 - a literal
    elif foreign := names & {*TABLES}:
        raise db.RefusedError(f"table {min(foreign)} is of another program")
    if version not in range(newest + 1):
        raise db.RefusedError("made by a newer version of this server")
    if version < newest:
        for script in schema.POSTGRES_MIGRATIONS[version:]:
            await connection.execute(script)
        await connection.execute(f"UPDATE {SCHEMA_TABLE} SET version = $1", newest)  # noqa: S608 - a literal
