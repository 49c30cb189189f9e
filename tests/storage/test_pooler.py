"""PostgreSQL through a pooler that gives each transaction another session."""

import asyncio
import importlib
from typing import Any

import pytest

import db
import server
from storage.engine import Statement
from storage.postgres_settings import begin, split
from tests.storage.test_postgres_faults import add, new_role, opened, show
from tests.support import author

POOLED = "?pgbouncer=true"
LEFT = {
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "search_path": "elsewhere",
    "timezone": "Asia/Tokyo",
    "datestyle": "SQL, DMY",
    "synchronous_commit": "off",
    "standard_conforming_strings": "off",
    "statement_timeout": "20s",
    "lock_timeout": "30s",
    "role": "nobody_else",
}
"""What another client of the pooler may leave in a session."""


async def test_session_of_another(postgresql_cluster: Any) -> None:
    """What it is left with is neither relied on nor changed."""
    role = new_role(postgresql_cluster, options="SUPERUSER")
    postgresql_cluster.sql("DROP ROLE IF EXISTS nobody_else; CREATE ROLE nobody_else")
    async with opened(role.url + POOLED) as engine:
        await asyncio.gather(add(engine), engine.read(show, "timezone"))
        await engine.scan(show, "timezone")
        await engine.report(show, "timezone")
        pools = engine.pools.values()
        raws = [pool.idle[0].raw for pool in pools]
        for raw in raws:
            for name, value in LEFT.items():
                await raw.execute(f"SET {name} = '{value}'")
        customer = await add(engine, "back\\slash")
        await engine.write(db.update_customer, customer.id, "y", None, author(), None)
        assert (await engine.read(db.read_customer, customer.id)).name == "y"
        page = await engine.scan(db.find_customers, "y", False, 0, 5)
        assert page.size == 1
        for run in (engine.write, engine.read, engine.scan, engine.report):
            assert await run(show, "timezone") == "UTC"
            assert await run(show, "search_path") == '"$user", public'
            assert await run(show, "role") == "none"
            assert await run(show, "statement_timeout") == "8s"
        assert await engine.write(show, "transaction_isolation") == "read committed"
        assert await engine.report(show, "transaction_isolation") == "repeatable read"
        assert await engine.write(show, "synchronous_commit") == "on"
        assert await engine.write(show, "transaction_read_only") == "off"
        for run in (engine.read, engine.scan, engine.report):
            assert await run(show, "transaction_read_only") == "on"
        for raw in raws:
            for name, value in LEFT.items():
                await raw.execute("BEGIN")
                assert await raw.fetchval(f"SHOW {name}") == value
                await raw.execute("COMMIT")


async def test_nothing_is_left(postgresql_cluster: Any) -> None:
    """No statement and no lock, in any session."""
    role = new_role(postgresql_cluster)
    async with opened(role.url + POOLED) as engine:
        await asyncio.gather(*(add(engine) for _ in range(20)))
        await engine.read(db.list_purchases, 0, 5)
        await engine.scan(db.find_customers, "x", False, 0, 5)
        await engine.write(db.update_customer, 1, "y", None, author(), None)
        connections = [one for pool in engine.pools.values() for one in pool.idle]
        assert len(connections) > 3
        for connection in connections:
            statements = "SELECT FROM pg_prepared_statements"
            assert await connection.raw.fetch(statements) == []
            locks = (
                "SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = $1"
            )
            assert await connection.raw.fetch(locks, "advisory") == []


async def test_pooler_is_found(
    postgresql_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the id of the process, which is another than the one that was announced."""
    role = new_role(postgresql_cluster)
    async with opened(role.url) as engine:
        await engine.check()
        assert "(pooled)" not in engine.name
        assert not engine.hosts.pooler.found
    connection = importlib.import_module("asyncpg").Connection
    monkeypatch.setattr(connection, "get_server_pid", lambda _: 1)
    async with opened(role.url) as engine:
        assert engine.name.endswith(" (pooled)")
        assert (await add(engine)).id == 1
        statements = "SELECT FROM pg_prepared_statements"
        assert await engine.writer.idle[0].raw.fetch(statements) == []


async def test_pooler_that_is_seen_late(postgresql_cluster: Any) -> None:
    """One that announces the right id: a statement that is gone tells of it."""
    role = new_role(postgresql_cluster)
    async with opened(role.url) as engine:
        await add(engine)
        await add(engine)
        for connection in engine.writer.idle:
            await connection.raw.execute("DEALLOCATE ALL")
        assert (await add(engine)).id == 3
        assert engine.hosts.pooler.found
        statements = Statement("SELECT count(*) FROM pg_prepared_statements")
        assert await engine.write(_value, statements) == 0


def _value(statement: Statement) -> db.Unit[Any]:
    rows = yield statement, ()
    return rows[0][0]


async def test_parameter_that_a_pooler_refuses(
    postgresql_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given to each transaction instead."""
    asyncpg = importlib.import_module("asyncpg")
    connect = asyncpg.connect

    async def refuse(url: str, **options: Any) -> Any:
        if "search_path" in url:
            said = "unsupported startup parameter: search_path"
            raise asyncpg.ProtocolViolationError(said)
        return await connect(url, **options)

    monkeypatch.setattr(asyncpg, "connect", refuse)
    async with opened(postgresql_cluster.new_schema()) as engine:
        assert (await add(engine)).id == 1
        assert "(pooled)" in engine.name


async def test_standby_behind_a_pooler(
    postgresql_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses to begin a write as if it were no part of its trade."""
    asyncpg = importlib.import_module("asyncpg")
    role = new_role(postgresql_cluster)
    async with opened(role.url + POOLED) as engine:
        await add(engine)
        [connection] = engine.writer.idle
        raw = connection.raw

        class Standby:
            async def execute(self, sql: str) -> None:
                said = "cannot set transaction read-write mode during recovery"
                raise asyncpg.FeatureNotSupportedError(said)

            def __getattr__(self, name: str) -> Any:
                return getattr(raw, name)

        connection.raw = Standby()
        with pytest.raises(db.UnavailableError, match="read-only"):
            await add(engine)
        assert (await add(engine)).id == 2


@pytest.mark.parametrize(
    ("error", "said", "told"),
    [
        (
            "ProtocolViolationError",
            "transaction blocks not allowed in statement pooling mode",
            "must be in transaction or session mode",
        ),
        (
            "ProtocolViolationError",
            "unsupported startup parameter: options",
            "leave it out",
        ),
        (
            "FeatureNotSupportedError",
            "unlogged sequences are not supported",
            "cannot run on this engine",
        ),
    ],
)
async def test_start_that_cannot_work(
    postgresql_cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: str,
    said: str,
    told: str,
) -> None:
    """One line says why, and what to do."""
    asyncpg = importlib.import_module("asyncpg")

    async def fail(*_: object) -> None:
        raise getattr(asyncpg, error)(f"{said}\nand more")

    monkeypatch.setattr("storage.postgres_schema.migrate", fail)
    with pytest.raises(db.StartupError) as caught:
        await asyncio.to_thread(server.try_make_db, postgresql_cluster.new_schema())
    line = str(caught.value)
    assert told in line
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("query", "kept", "settings"),
    [
        ("search_path=a,b", "", {"search_path": "a,b"}),
        ("sslmode=require&work_mem=1MB", "sslmode=require", {"work_mem": "1MB"}),
        ("application_name=till", "application_name=till", {}),
        ("target_session_attrs=any", "", {}),
        ("options=-c a.b=1 --c=2 -cd=", "", {"a.b": "1", "c": "2", "d": ""}),
        ("options=reference%3Dtenant", "options=reference%3Dtenant", {}),
        ("options=-c a=b%5C c", "options=-c+a%3Db%5C+c", {}),
    ],
)
def test_parameters_of_a_pooler(
    query: str, kept: str, settings: dict[str, str]
) -> None:
    url = "postgresql://shop:a%2Fb@db/shop"
    assert split(f"{url}?{query}") == (f"{url}?{kept}".removesuffix("?"), settings)


async def test_settings_that_need_quotes(postgresql_cluster: Any) -> None:
    """They arrive as they are, whatever the session makes of a backslash."""
    role = new_role(postgresql_cluster)
    given = {"shop.text": "it's \\ a 'name'", "TimeZone": "Asia/Tokyo"}
    raw = await importlib.import_module("asyncpg").connect(role.url)
    for standard in ("on", "off"):
        await raw.execute(f"SET standard_conforming_strings = {standard}")
        await raw.execute(begin(given))
        assert await raw.fetchval("SHOW shop.text") == given["shop.text"]
        assert await raw.fetchval("SHOW timezone") == "UTC"
        await raw.execute("ROLLBACK")
    await raw.close()
