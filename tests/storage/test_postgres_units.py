"""Units of work on PostgreSQL: errors, attempts, turns, and who waits for whom."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

import db
import server
from storage.engine import UNKNOWN_OUTCOME
from storage.postgres_settings import begin
from tests.storage.test_postgres_engine import SyncRepWarning
from tests.support import POSTGRES, POSTGRES_POOL, author, by


@pytest.fixture(params=["", "&pgbouncer=true"], ids=["direct", "pooled"])
async def engine(
    request: pytest.FixtureRequest, postgresql_cluster: Any
) -> AsyncIterator[Any]:
    """Return an engine on an empty schema."""
    url = postgresql_cluster.new_schema() + request.param
    await asyncio.to_thread(server.try_make_db, url)
    engine = await importlib.import_module(POSTGRES).PostgresEngine.open(url)
    yield engine
    await engine.close()


def error(name: str, severity: str = "ERROR") -> Exception:
    """Return an error of asyncpg as the server would report it."""
    found: Exception = getattr(importlib.import_module("asyncpg"), name)("on purpose")
    vars(found)["severity_en"] = severity
    return found


class Raw:
    """A connection of asyncpg whose COMMIT, or first statement, fails."""

    def __init__(self, raw: Any, exc: Exception, fails: str) -> None:
        self.raw, self.exc, self.fails = raw, exc, fails
        self.done: list[str] = []

    async def execute(self, sql: str) -> Any:
        """Run a statement; a COMMIT is carried out and then fails."""
        done = await self.raw.execute(sql)
        self.done.append(sql)
        if sql == self.fails:
            self.fails = ""
            raise self.exc
        return done

    async def fetch(self, sql: str, *parameters: object) -> Any:
        """Run a statement, or fail."""
        if self.fails == "fetch":
            self.fails = ""
            raise self.exc
        return await self.raw.fetch(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        """Return what the connection has by a name."""
        return getattr(self.raw, name)


async def add(engine: Any, name: str = "x") -> db.Customer:
    """Add a customer."""
    row: db.Customer = (await engine.write(db.add_customer, name, "", *by())).result
    return row


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("AdminShutdownError", "FATAL"),
        ("CrashShutdownError", "PANIC"),
        ("ConnectionFailureError", "FATAL"),
        ("TransactionResolutionUnknownError", "ERROR"),
        ("StatementCompletionUnknownError", "ERROR"),
        ("ProtocolViolationError", ""),
        ("ConnectionDoesNotExistError", ""),
    ],
)
async def test_commit_that_may_have_been_made(
    engine: Any, name: str, severity: str
) -> None:
    """It is not made again: that might store twice."""
    await add(engine)
    [connection] = engine.writer.idle
    raw = connection.raw = Raw(connection.raw, error(name, severity), "COMMIT")
    with pytest.raises(db.UnavailableError, match=UNKNOWN_OUTCOME):
        await engine.write(db.update_customer, 1, "y", None, author(), None)
    assert [sql.partition(" ")[0] for sql in raw.done] == ["BEGIN", "COMMIT"]
    row = await engine.read(db.read_customer, 1)
    assert (row.name, row.version) == ("y", 2)


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("SerializationError", "ERROR"),
        ("DeadlockDetectedError", "ERROR"),
        ("ConnectionFailureError", "FATAL"),
        ("AdminShutdownError", "FATAL"),
        ("InvalidCachedStatementError", "ERROR"),
        ("InvalidSQLStatementNameError", "ERROR"),
        ("DuplicatePreparedStatementError", "ERROR"),
        ("ProtocolViolationError", ""),
    ],
)
async def test_unit_that_was_undone(engine: Any, name: str, severity: str) -> None:
    """It is run again, from its start."""
    await add(engine)
    [connection] = engine.writer.idle
    connection.raw = Raw(connection.raw, error(name, severity), "fetch")
    row = (await engine.write(db.update_customer, 1, "y", None, author(), None)).result
    assert (row.name, row.version) == ("y", 2)


async def test_attempts_come_to_an_end(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def collide() -> db.Unit[None]:
        ran.append(1)
        raise error("SerializationError")
        yield

    with pytest.raises(db.UnavailableError, match="collided"):
        await engine.write(collide)
    assert len(ran) == importlib.import_module(POSTGRES_POOL).ATTEMPTS


async def test_standby_that_was_missed(engine: Any) -> None:
    """Nothing that is said after it makes up for it."""
    await add(engine)
    [connection] = engine.writer.idle

    async def commit() -> None:
        async with connection._committing():
            connection._hear(None, SyncRepWarning())
            connection._hear(None, SyncRepWarning("somewhere else"))

    with pytest.raises(db.UnavailableError, match=UNKNOWN_OUTCOME):
        await commit()
    async with connection._committing():
        pass


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("IdleInTransactionSessionTimeoutError", "stood idle"),
        ("ReadOnlySQLTransactionError", "read-only"),
        ("InvalidPasswordError", "user or password"),
        ("InvalidCatalogNameError", "no such database"),
        ("InsufficientPrivilegeError", "may not do this"),
        ("UndefinedTableError", "table is missing"),
        ("OutOfMemoryError", "resources"),
        ("LockNotAvailableError", "locked"),
        ("FeatureNotSupportedError", "cannot do this"),
        ("InvalidSQLStatementNameError", "sessions change"),
        ("DuplicatePreparedStatementError", "sessions change"),
        ("ProtocolViolationError", "connection to the database was lost"),
        ("CannotConnectNowError", "starting or stopping"),
        ("QueryCanceledError", "longer than"),
        ("PostgresIOError", "disk"),
        ("DataCorruptedError", "damaged"),
        ("IndexCorruptedError", "damaged"),
    ],
)
def test_errors_of_the_server(name: str, said: str) -> None:
    translate = importlib.import_module("storage.postgres_connection").translate
    found = translate(error(name))
    assert isinstance(found, db.UnavailableError)
    assert said in str(found)
    assert isinstance(translate(error("DiskFullError")), db.DiskFullError)
    assert translate(error("PostgresSyntaxError")) is None
    assert translate(error("PostgresSyntaxError", "FATAL")) is not None
    assert translate(ValueError("ours")) is None


async def test_overload(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More units than can be done in a second are not accepted."""
    monkeypatch.undo()  # the fixture `patience`
    engine.writer.waiting, engine.writer.unit_seconds = 7, 1.2
    with pytest.raises(db.OverloadedError) as caught:
        await add(engine)
    assert caught.value.args[1] == 2
    engine.writer.waiting, engine.writer.unit_seconds = 0, 9.0
    await add(engine)  # nobody waits, so this one does not either


async def test_turn_that_does_not_come(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(POSTGRES)
    monkeypatch.setattr("storage.postgres_batches.TURN_SECONDS", 0.1)
    for _ in range(module.WRITERS):
        await engine.writer._free.acquire()
    with pytest.raises(db.UnavailableError, match="too long for its turn"):
        await add(engine)
    assert engine.writer.waiting == 0
    for _ in range(module.WRITERS):
        engine.writer._free.release()
    await add(engine)


async def test_unit_that_takes_too_long(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is given up, and the next unit has another."""
    monkeypatch.setattr(importlib.import_module(POSTGRES_POOL), "UNIT_SECONDS", 0.3)
    sleep = importlib.import_module("storage.engine").Statement("SELECT pg_sleep(5)")

    def slow() -> db.Unit[None]:
        yield sleep, ()

    with pytest.raises(db.UnavailableError):
        await engine.write(slow)
    monkeypatch.undo()
    await add(engine)


async def test_no_more_connections_than_said(engine: Any) -> None:
    module = importlib.import_module(POSTGRES)
    await asyncio.gather(*(add(engine) for _ in range(200)))
    assert 1 < len(engine.writer.idle) <= module.WRITERS
    assert not engine.writer.running
    found = [engine.scan(db.find_customers, "x", False, 0, 5) for _ in range(20)]
    await asyncio.gather(*found)
    assert len(engine.scanner.idle) <= module.SCANNERS


async def test_purchase_beside_an_erasure(engine: Any) -> None:
    """It waits for the end of the erasure, and then finds no customer."""
    await add(engine)
    other = await engine.hosts.connect()
    await other.execute(begin(engine.hosts.pooler.settings))
    await other.execute("DELETE FROM customer WHERE id = 1")
    adding = engine.write(db.add_purchase, 1, "x", 1, None, *by())
    await asyncio.sleep(0.3)
    assert not adding.done()
    await other.execute("COMMIT")
    with pytest.raises(db.NotFoundError):
        await adding
    await other.close()


async def test_row_that_another_holds(engine: Any) -> None:
    """Who waits for it for too long is told so."""
    await add(engine)
    other = await engine.hosts.connect()
    await other.execute(begin(engine.hosts.pooler.settings))
    await other.execute("UPDATE customer SET name = 'z' WHERE id = 1")
    with pytest.raises(db.UnavailableError, match="locked"):
        await engine.write(db.update_customer, 1, "y", None, author(), None)
    await other.execute("ROLLBACK")
    await engine.write(db.update_customer, 1, "y", None, author(), None)
    await other.close()
