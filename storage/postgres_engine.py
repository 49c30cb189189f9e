"""The PostgreSQL engine: pools of connections for what writes and what reads."""

import asyncio
from contextlib import suppress

from storage.engine import (
    EngineStats,
    Row,
    Statement,
    UnavailableError,
    Unit,
    read_anything,
    read_row,
)
from storage.postgres_batches import WriterPool
from storage.postgres_connection import (
    ERROR_MESSAGES,
    NOT_PERMITTED,
    READ_ONLY,
    code_of,
)
from storage.postgres_hosts import HostList, retrieve
from storage.postgres_pool import ConnectionPool

WRITERS, READERS, SCANNERS, REPORTERS = 8, 4, 2, 2
"""How many connections each pool opens at the most."""
CHECK_SECONDS = 3.0
"""How long it may take to find out whether the database can be used."""
SIZE_SECONDS = 10.0
"""How old the size that the metrics show may become."""


class PostgresEngine:
    """A PostgreSQL database: units of work on pools of connections."""

    def __init__(self, url: str) -> None:
        self.hosts = HostList(url)
        self.writer = WriterPool(self.hosts, WRITERS)
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
            self.scan(read_row, SELECT_SIZE).add_done_callback(self._keep_size)
        waiting = {name: pool.waiting for name, pool in self.pools.items()}
        return EngineStats(self.writer.units, self.writer.commits, waiting, self._size)

    def _keep_size(self, row: asyncio.Future[Row]) -> None:
        if not row.cancelled() and row.exception() is None:
            [self._size] = row.result()

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
        [version] = await self.read(read_row, SHOW_VERSION)
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
    [is_read_only] = yield from read_row(SHOW_READ_ONLY)
    if is_read_only == "on":
        raise UnavailableError(ERROR_MESSAGES[READ_ONLY])
    yield from read_anything()


def _commit() -> Unit[None]:
    """Commit something that changes nothing."""
    yield WRITE_ANYTHING, ()
