"""The PostgreSQL engine."""

import asyncio
import importlib
import sys
from typing import Any, NamedTuple

import pytest

import db
import server
from storage.engine import UNKNOWN_OUTCOME, Statement
from tests.support import POSTGRES, Main, by


def test_asyncpg_missing(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    names = ("engine", "connection", "hosts", "pooler", "schema")
    for name in map("postgres_{}".format, names):
        monkeypatch.delitem(sys.modules, f"storage.{name}", raising=False)
        monkeypatch.delattr(f"storage.{name}", raising=False)
    status, out, err = main("--database-url", "postgresql://127.0.0.1:1/shop")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "pip install asyncpg==" in err


@pytest.fixture
def postgresql_url(postgresql_cluster: Any) -> str:
    """Return the URL of an empty schema."""
    url: str = postgresql_cluster.new_schema()
    return url


@pytest.mark.parametrize("pooled", ["", "&pgbouncer=true"])
async def test_commits_of_postgresql_reach_its_disk(
    postgresql_cluster: Any, postgresql_url: str, pooled: str
) -> None:
    """Whatever the server or the role says, and only then are they acknowledged."""
    postgres = importlib.import_module(POSTGRES).PostgresEngine

    def setting(name: str) -> db.Unit[str]:
        rows = yield Statement(f"SELECT current_setting('{name}')"), ()
        text: str = rows[0][0]
        return text

    for given, kept in (("off", "on"), ("local", "local"), ("remote_apply",) * 2):
        query = f"&options=-csynchronous_commit%3D{given}"
        engine = await postgres.open(postgresql_url + query + pooled)
        try:
            assert await engine.write(setting, "synchronous_commit") == kept
            assert await engine.write(setting, "client_min_messages") == "warning"
        finally:
            await engine.close()


async def test_commit_that_nobody_vouches_for(postgresql_url: str) -> None:
    """A 201 would promise too much; from other warnings nothing follows."""
    postgres = importlib.import_module(POSTGRES).PostgresEngine
    engine = await postgres.open(postgresql_url)
    [connection] = engine.writer.idle
    try:
        async with connection._committing():
            await connection.raw.execute("DO $$ BEGIN RAISE WARNING 'x'; END $$")
        with pytest.raises(db.UnavailableError, match=UNKNOWN_OUTCOME):
            async with connection._committing():
                connection._hear(None, SyncRepWarning())
        with pytest.raises(db.UnavailableError, match=UNKNOWN_OUTCOME):
            async with connection._committing():
                raise ConnectionResetError("cut off in the middle of it")
    finally:
        await engine.close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("TooManyConnectionsError", "too many clients"),
        ("ProtocolViolationError", "no more connections allowed (max_client_conn)"),
        ("InternalServerError", "Max client connections reached"),
    ],
)
async def test_connections_that_are_let_in_no_more(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    """Those that are there do the work."""
    await asyncio.to_thread(server.try_make_db, postgresql_url)
    engine = await importlib.import_module(POSTGRES).PostgresEngine.open(postgresql_url)
    asyncpg = importlib.import_module("asyncpg")

    async def refuse(writing: bool) -> None:
        raise getattr(asyncpg, name)(said)

    monkeypatch.setattr(engine.hosts, "connect", refuse)
    try:
        units = [engine.write(db.add_customer, "x", "", *by()) for _ in range(6)]
        rows = await asyncio.gather(*units)
        assert sorted(row.result.id for row in rows) == [1, 2, 3, 4, 5, 6]
    finally:
        await engine.close()


@pytest.mark.parametrize("pooled", ["", "&pgbouncer=true"])
async def test_ready_for_reading_alone(postgresql_url: str, pooled: str) -> None:
    query = "&target_session_attrs=any&options=-cdefault_transaction_read_only%3Don"
    engine = await importlib.import_module(POSTGRES).PostgresEngine.open(
        postgresql_url + query + pooled
    )
    try:
        with pytest.raises(db.UnavailableError, match="read-only"):
            await engine.check()
    finally:
        await engine.close()


def test_ids_come_to_an_end() -> None:
    """It is told as on SQLite."""
    connection = importlib.import_module("storage.postgres_connection")
    limit = importlib.import_module("asyncpg").SequenceGeneratorLimitExceededError
    assert isinstance(connection.translate(limit("nextval")), db.DiskFullError)


class SyncRepWarning(NamedTuple):
    """What PostgreSQL says when it no longer waits for a standby."""

    server_source_function: str = "SyncRepWaitForLSN"
