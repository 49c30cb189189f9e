"""The PostgreSQL engine: pools of a few connections each."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from storage.engine import (
    TURN_SECONDS,
    EngineStats,
    StartupError,
    Statement,
    T,
    Ts,
    UnavailableError,
    Unit,
    check_wait,
    read_anything,
    without_password,
)
from storage.postgres_connection import (
    COLLISIONS,
    CUT_OFF,
    DURABLE,
    ERROR_MESSAGES,
    ERRORS,
    READ_ONLY,
    TOO_MANY_CONNECTIONS,
    UNIT_SECONDS,
    HostList,
    PostgresConnection,
    code_of,
    reason_of,
    translate,
)
from storage.schema import APPLICATION_ID, POSTGRES_MIGRATIONS

WRITERS, READERS, SCANNERS = 8, 4, 2
"""How many connections each pool opens at the most."""
ATTEMPTS = 5
"""How often a unit is run that collides with others or is cut off."""
RETRY_SECONDS = 0.01
SIZE_SECONDS = 10.0
"""How old the size that the metrics show may become."""
MIGRATION_SECONDS = 600.0


class ConnectionPool:
    """Connections that take units of work in turn."""

    def __init__(self, hosts: HostList, size: int, writing: bool = False) -> None:
        self.hosts = hosts
        self.size = size
        self.writing = writing
        self.idle: list[PostgresConnection] = []
        self.busy = 0
        self.waiting = 0
        self.units = 0
        self.unit_seconds = 0.0
        self._free = asyncio.Semaphore(size)
        self._returned = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_idle(self) -> bool:
        """Return whether no unit waits and none runs."""
        return not self._tasks

    def submit(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> asyncio.Future[T]:
        """Run a unit in its turn, even if its caller goes away meanwhile.

        OverloadedError if it would wait too long.
        """
        if self.waiting:
            check_wait(self.unit_seconds * (1 + self.waiting) / self.size)
        self.waiting += 1
        task = asyncio.create_task(self._take_turn(query, *args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)

    async def _take_turn(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._free.acquire()
        except TimeoutError as exc:
            raise UnavailableError("it waited too long for its turn") from exc
        finally:
            self.waiting -= 1
        try:
            async with asyncio.timeout(UNIT_SECONDS):
                return await self._run_again(query, *args)
        except Exception as exc:
            if error := translate(exc):
                raise error from exc
            raise
        finally:
            self._free.release()

    async def _run_again(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a unit, and again after a collision or a lost connection."""
        for attempt in range(1, ATTEMPTS):
            try:
                return await self._run(query, *args)
            except ERRORS as exc:
                if code_of(exc) not in COLLISIONS | CUT_OFF:
                    raise
            await asyncio.sleep(RETRY_SECONDS * attempt)
        return await self._run(query, *args)

    async def _run(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        time = asyncio.get_running_loop().time
        connection, sound, began = None, False, time()
        try:
            connection = await self._take()
            self.busy += 1
            began = time()  # a new connection is no part of what units take
            result = await connection.run(query, *args)
            sound = True
        except Exception as exc:
            sound = connection is not None and await connection.recover(exc)
            raise
        finally:  # a time limit comes as a cancellation, and leaves it unsound
            self.unit_seconds += (time() - began - self.unit_seconds) / 8
            if connection is not None:
                self._put_back(connection, sound)
        self.units += 1
        return result

    async def _take(self) -> PostgresConnection:
        """Return a connection that nobody uses, or a new one. Errors of asyncpg."""
        while True:
            while self.idle:
                connection = self.idle.pop()
                current = connection.generation == self.hosts.generation
                if current and not connection.raw.is_closed():
                    return connection
                connection.raw.terminate()
            try:
                return await self._connect()
            except ERRORS as exc:
                full = code_of(exc) == TOO_MANY_CONNECTIONS
                if not full or not (self.busy or self.idle):
                    raise
            if not self.idle:
                self._returned.clear()
                await self._returned.wait()

    async def _connect(self) -> PostgresConnection:
        generation = self.hosts.generation
        raw = await self.hosts.connect()
        connection = PostgresConnection(raw, generation, self.writing)
        try:
            await connection.set_up()
        except BaseException:
            raw.terminate()
            raise
        return connection

    def _put_back(self, connection: PostgresConnection, sound: bool) -> None:
        """Keep a connection, or close it and begin a generation without its like."""
        # After one connection has found that a host is gone or became a standby, the
        # others need not find it one by one.
        self.busy -= 1
        self._returned.set()
        if sound:
            self.idle.append(connection)
            return
        connection.raw.terminate()
        if connection.generation == self.hosts.generation:
            self.hosts.generation += 1

    async def close(self) -> None:
        """Finish the units that were accepted, then close the connections."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(connection.close() for connection in self.idle))
        self.idle.clear()


class PostgresEngine:
    """A PostgreSQL database: units of work on pools of connections."""

    def __init__(self, url: str) -> None:
        self.hosts = HostList(url)
        self.writer = ConnectionPool(self.hosts, WRITERS, writing=True)
        self.reader = ConnectionPool(self.hosts, READERS)
        # long lists do not hold up short reads
        self.scanner = ConnectionPool(self.hosts, SCANNERS)
        self.pools = {"write": self.writer, "read": self.reader, "scan": self.scanner}
        self.read = self.reader.submit
        self.scan = self.scanner.submit
        self.write = self.writer.submit
        self.name = "PostgreSQL"
        self._size = 0
        self._size_due = 0.0

    @classmethod
    async def open(cls, url: str) -> "PostgresEngine":
        """Open a database that `create_or_migrate` has accepted; it may be away now."""
        engine = cls(url)
        with suppress(UnavailableError):
            await engine.check()
        return engine

    def stats(self) -> EngineStats:
        """Return the figures for the metrics; the size as it was some seconds ago."""
        time = asyncio.get_running_loop().time()
        if self._size_due < time and not self.scanner.waiting:
            self._size_due = time + SIZE_SECONDS
            self.scan(_read_value, SELECT_SIZE).add_done_callback(self._keep_size)
        waiting = {name: pool.waiting for name, pool in self.pools.items()}
        return EngineStats(self.writer.units, self.writer.units, waiting, self._size)

    def _keep_size(self, size: asyncio.Future[int]) -> None:
        if not size.cancelled() and size.exception() is None:
            self._size = size.result()

    async def check(self) -> None:
        """Try to read and to begin a write. UnavailableError."""
        await self.write(_begin_to_write)
        version: str = await self.read(_read_value, SHOW_VERSION)
        self.name = f"PostgreSQL {version.partition(' ')[0]}"

    async def close(self) -> None:
        """Close the pools."""
        await asyncio.gather(*(pool.close() for pool in self.pools.values()))


SHOW_READ_ONLY = Statement("SHOW transaction_read_only")
SELECT_SIZE = Statement("SELECT pg_database_size(current_database())")
SHOW_VERSION = Statement("SHOW server_version")


def _begin_to_write() -> Unit[None]:
    """Find a server that takes writes, and the tables there. UnavailableError."""
    rows = yield SHOW_READ_ONLY, ()
    if rows[0][0] == "on":
        raise UnavailableError(ERROR_MESSAGES[READ_ONLY])
    yield from read_anything()


def _read_value(statement: Statement) -> Unit[Any]:
    rows = yield statement, ()
    return rows[0][0]


LOCK_KEY = APPLICATION_ID
"""The advisory lock under which one process at a time migrates."""
SCHEMA_TABLE = "customer_purchase_schema"
TABLES = ("customer", "purchases", "idempotency")
SELECT_RELATIONS = """
SELECT relname FROM pg_class WHERE relnamespace = CAST(current_schema() AS regnamespace)
"""


async def create_or_migrate(url: str) -> None:
    """Create the tables, or migrate those that are there. StartupError."""
    async with transaction(url) as connection, asyncio.timeout(MIGRATION_SECONDS):
        await migrate(connection)


@asynccontextmanager
async def transaction(url: str) -> AsyncIterator[Any]:
    """Yield a connection whose transaction is committed in the end. StartupError."""
    try:
        connection = await HostList(url).connect()
        try:
            await connection.execute(f"{DURABLE} SET statement_timeout = 0")
            async with connection.transaction():
                yield connection
        finally:
            connection.terminate()
    except (*ERRORS, ValueError, OverflowError, StartupError) as exc:
        raise _startup_error(url, exc) from exc


def _startup_error(url: str, exc: Exception) -> StartupError:
    """Return an error in one line, without the password of the URL."""
    line = str(exc).partition("\n")[0]
    if isinstance(exc, ValueError) and not isinstance(exc, ERRORS) and "@" in url:
        line = "it cannot be read: what is special in a password is percent-encoded"
    elif not isinstance(exc, (StartupError, ValueError)):
        reason = reason_of(exc) or "it is refused"
        line = f"{reason} ({line})" if line else reason
    return StartupError(f"{without_password(url)}: {line}")


async def migrate(connection: Any) -> None:
    """Bring a database to the newest version. StartupError for one that is not ours."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise StartupError(f"its encoding is {encoding}, not UTF8")
    names = {row[0] for row in await connection.fetch(SELECT_RELATIONS)}
    version, newest = 0, len(POSTGRES_MIGRATIONS)
    if SCHEMA_TABLE in names:
        version = await connection.fetchval(f"SELECT version FROM {SCHEMA_TABLE}")  # noqa: S608 - a literal
    elif foreign := names & {*TABLES}:
        raise StartupError(f"table {min(foreign)} is of another program")
    if version not in range(newest + 1):
        raise StartupError("made by a newer version of this server")
    if version < newest:
        for script in POSTGRES_MIGRATIONS[version:]:
            await connection.execute(script)
        await connection.execute(f"UPDATE {SCHEMA_TABLE} SET version = $1", newest)  # noqa: S608 - a literal
