"""The PostgreSQL engine: pools of a few connections each."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from storage.engine import (
    TURN_SECONDS,
    EngineStats,
    Statement,
    T,
    Ts,
    UnavailableError,
    Unit,
    check_wait,
    read_anything,
)
from storage.postgres_connection import (
    CUT_OFF,
    ERROR_MESSAGES,
    NOT_PERMITTED,
    READ_ONLY,
    PooledConnection,
    PostgresConnection,
    UncertainError,
    code_of,
    is_collision,
    is_full,
    translate,
)
from storage.postgres_hosts import ERRORS, HostList, retrieve
from storage.postgres_pooler import WANDERED
from storage.postgres_settings import UNIT_SECONDS

WRITERS, READERS, SCANNERS, REPORTERS = 8, 4, 2, 2
"""How many connections each pool opens at the most."""
ATTEMPTS = 5
"""How often a unit is run that collides with others or is cut off."""
RETRY_SECONDS = 0.01
RELEASE_SECONDS, RELEASE_TRIES = 0.05, 20
"""How often, and how many times, to try whether a closed connection made room."""
IDLE_SECONDS = 60.0
"""How long a pool keeps more than one connection that it does not use."""
CHECK_SECONDS = 3.0
"""How long it may take to find out whether the database can be used."""
SLOW_SECONDS = 1.0
"""Past this a unit may wait for a standby that is gone."""
SIZE_SECONDS = 10.0
"""How old the size that the metrics show may become."""


class ConnectionPool:
    """Connections that take units of work in turn."""

    def __init__(
        self, hosts: HostList, size: int, writing: bool = False, reporting: bool = False
    ) -> None:
        self.hosts = hosts
        self.size = size
        self.writing = writing
        self.reporting = reporting
        """Whether a unit sees one snapshot, and ends when its caller goes away."""
        self.idle: list[PostgresConnection] = []
        self.running: dict[PostgresConnection, float] = {}
        """The connections that run a unit, and since when by the loop's clock."""
        self.connecting = 0
        """How many connections are being opened."""
        self.doubtful = False
        """Whether the outcome of a commit was unknown, since one last succeeded."""
        self.waiting = 0
        self.units = 0
        self.unit_seconds = 0.0
        self._free = asyncio.Semaphore(size)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.siblings = [self]
        """The pools that share the server's limit on connections, this one too."""
        self.returned = asyncio.Event()
        """Set whenever one of them has put a connection back."""

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
        return task if self.reporting else asyncio.shield(task)

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
                if not is_collision(exc) and code_of(exc) not in CUT_OFF:
                    raise
            await asyncio.sleep(RETRY_SECONDS * attempt)
        return await self._run(query, *args)

    async def _run(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        time = asyncio.get_running_loop().time
        connection, sound, began = None, False, time()
        try:
            connection = await self._take()
            began = time()  # a new connection is no part of what units take
            self.running[connection] = began
            result = await connection.run(query, *args)
            sound = True
        except Exception as exc:
            self.doubtful |= isinstance(exc, UncertainError)
            sound = connection is not None and await connection.recover(exc)
            self.hosts.pooler.found |= code_of(exc) in WANDERED
            raise
        finally:  # a time limit comes as a cancellation, and leaves it unsound
            self.unit_seconds += (time() - began - self.unit_seconds) / 8
            if connection is not None:
                self._put_back(connection, sound)
        self.units += 1
        return result

    async def _take(self) -> PostgresConnection:
        """Return a connection that nobody uses, or a new one. Errors of asyncpg."""
        tries = 0
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
                if not is_full(exc):
                    raise
                if await self._close_idle_sibling():
                    tries = RELEASE_TRIES
                elif not tries and not self._is_any_in_use():
                    raise
            if tries:  # the server takes a moment until it counts one less
                tries -= 1
                await asyncio.sleep(RELEASE_SECONDS)
            elif not self.idle:
                self.returned.clear()
                with suppress(TimeoutError):  # one that was opened may have failed
                    async with asyncio.timeout(RELEASE_SECONDS * RELEASE_TRIES):
                        await self.returned.wait()

    def _is_any_in_use(self) -> bool:
        """Return whether a connection of any pool is to be put back some time."""
        return any(pool.running or pool.connecting for pool in self.siblings)

    async def _close_idle_sibling(self) -> bool:
        """Close a connection that another pool does not use; return whether one is."""
        for pool in self.siblings:
            if pool.idle:
                await pool.idle.pop(0).close()
                return True
        return False

    def _close_idle(self) -> None:
        """Close what has been idle for long, but for one connection."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while len(self.idle) > 1:
            rest = self.idle[0].idle_since + IDLE_SECONDS - loop.time()
            if rest > 0:
                self._timer = loop.call_later(rest, self._close_idle)
                return
            self._close(self.idle.pop(0))

    def _close(self, connection: PostgresConnection) -> None:
        """Close a connection beside all else."""
        closing = asyncio.get_running_loop().create_task(connection.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _connect(self) -> PostgresConnection:
        generation = self.hosts.generation
        connection: PostgresConnection
        self.connecting += 1
        try:
            raw = await self.hosts.connect(self.writing)
            options = generation, self.writing, self.reporting
            pooler = self.hosts.pooler
            if pooler.found:
                connection = PooledConnection(pooler.settings, raw, *options)
            else:
                connection = PostgresConnection(raw, *options)
            try:
                await connection.set_up()
            except BaseException:
                raw.terminate()
                raise
        finally:
            self.connecting -= 1
        return connection

    def _put_back(self, connection: PostgresConnection, sound: bool) -> None:
        """Keep a connection, or close it and begin a generation without its like."""
        # After one connection has found that a host is gone or became a standby, the
        # others need not find it one by one.
        del self.running[connection]
        self.returned.set()
        if sound:
            loop = asyncio.get_running_loop()
            connection.idle_since = loop.time()
            self.idle.append(connection)
            if self._timer is None and len(self.idle) > 1:
                self._timer = loop.call_later(IDLE_SECONDS, self._close_idle)
            return
        if self.reporting:  # it was stopped, and the server is to hear that
            self._close(connection)
            return
        connection.raw.terminate()
        if connection.generation == self.hosts.generation:
            self.hosts.generation += 1

    def is_doubtful(self) -> bool:
        """Return whether commits may not come to an end, though writes begin."""
        late = asyncio.get_running_loop().time() - SLOW_SECONDS
        return self.doubtful or any(began < late for began in self.running.values())

    def cut_off(self) -> None:
        """Cut what waits for a host that is no longer the one to be used."""
        for connection in self.running:
            if connection.generation != self.hosts.generation:
                connection.raw.terminate()

    async def close(self) -> None:
        """Finish the units that were accepted, then close the connections."""
        if self._timer is not None:
            self._timer.cancel()
        if tasks := self._tasks | self._closing:
            await asyncio.wait(tasks)
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
        self.reporter = ConnectionPool(self.hosts, REPORTERS, reporting=True)
        self.pools = {"write": self.writer, "read": self.reader, "scan": self.scanner}
        self.pools["report"] = self.reporter
        for pool in self.pools.values():
            pool.siblings = [*self.pools.values()]
            pool.returned = self.writer.returned
        self.read = self.reader.submit
        self.scan = self.scanner.submit
        self.report = self.reporter.submit
        self.write = self.write_alone = self.writer.submit
        self.name = "PostgreSQL"
        self._checking: asyncio.Task[str] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._size = 0
        self._size_due = 0.0

    @classmethod
    async def open(cls, url: str) -> "PostgresEngine":
        """Open a database that `create_or_migrate` has accepted; it may be away now."""
        engine = cls(url)
        if engine.hosts.is_watched:
            watch = engine.hosts.watch(engine._cut_off)
            engine._watching = asyncio.create_task(watch)
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

    def _cut_off(self) -> None:
        for pool in self.pools.values():
            pool.cut_off()

    async def check(self) -> None:
        """Try to read and to begin a write, or to commit one. UnavailableError.

        All who ask wait for the same trial, and for CHECK_SECONDS at the most.
        """
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._try_all())
            self._checking.add_done_callback(retrieve)
        await asyncio.wait((self._checking,), timeout=CHECK_SECONDS)
        if not self._checking.done():
            raise UnavailableError("the database did not answer in time")
        self.name = self._checking.result()

    async def _try_all(self) -> str:
        """Return the database and its version. UnavailableError."""
        if self.writer.is_doubtful():
            await self._try_commit()
        else:
            await self.write(_begin_to_write)
        version: str = await self.read(_read_value, SHOW_VERSION)
        pooled = " (pooled)" if self.hosts.pooler.found else ""
        return f"PostgreSQL {version.partition(' ')[0]}{pooled}"

    async def _try_commit(self) -> None:
        """See whether commits come to an end. UnavailableError."""
        self.writer.doubtful, doubtful = False, self.writer.doubtful
        try:
            await self.write(_commit)
        except Exception as exc:
            self.writer.doubtful |= doubtful
            # A user who may not write this table may well write the others.
            if code_of(exc.__cause__ or exc) != NOT_PERMITTED:
                raise
            await self.write(_begin_to_write)

    async def close(self) -> None:
        """Close the pools."""
        tasks = [task for task in (self._checking, self._watching) if task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.gather(*(pool.close() for pool in self.pools.values()))
        await self.hosts.close()


SHOW_READ_ONLY = Statement("SHOW transaction_read_only")
SELECT_SIZE = Statement("SELECT pg_database_size(current_database())")
SHOW_VERSION = Statement("SHOW server_version")
WRITE_ANYTHING = Statement(
    "UPDATE customer_purchase_schema SET version = version RETURNING version"
)


def _begin_to_write() -> Unit[None]:
    """Find a server that takes writes, and the tables there. UnavailableError."""
    rows = yield SHOW_READ_ONLY, ()
    if rows[0][0] == "on":
        raise UnavailableError(ERROR_MESSAGES[READ_ONLY])
    yield from read_anything()


def _commit() -> Unit[None]:
    """Commit something that changes nothing."""
    yield WRITE_ANYTHING, ()


def _read_value(statement: Statement) -> Unit[Any]:
    rows = yield statement, ()
    return rows[0][0]
