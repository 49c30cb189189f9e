"""PostgreSQL as it is found: settings, names, limits and changes under the server."""

import asyncio
import importlib
import secrets
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

import db
import server
from storage import schema
from storage.engine import Statement
from tests.support import POSTGRES, POSTGRES_POOL, author, by


class Role(NamedTuple):
    """A role with its own schema, and its URL."""

    name: str
    url: str


def new_role(cluster: Any, name: str = "", options: str = "") -> Role:
    """Create a role, and a schema of its name that it finds first."""
    name = name or f"role_{secrets.token_hex(4)}"
    cluster.sql(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'secret' {options}")
    cluster.sql(f'CREATE SCHEMA "{name}" AUTHORIZATION "{name}"')
    return Role(name, f"postgresql://{name}:secret@{cluster.host}/postgres")


@asynccontextmanager
async def opened(url: str, create: bool = True) -> AsyncIterator[Any]:
    """Open an engine on a database, made first."""
    if create:
        await asyncio.to_thread(server.try_make_db, url)
    engine = await importlib.import_module(POSTGRES).PostgresEngine.open(url)
    try:
        yield engine
    finally:
        await engine.close()


def backends(cluster: Any, role: Role) -> list[str]:
    """Return the process ids of the connections of a role."""
    rows = cluster.sql("SELECT usename, pid FROM pg_stat_activity").split()
    return [
        pid
        for name, _, pid in (row.partition("|") for row in rows)
        if name == role.name
    ]


def show(name: str) -> db.Unit[str]:
    """Return a setting of the session."""
    rows = yield Statement(f"SELECT current_setting('{name}')"), ()
    text: str = rows[0][0]
    return text


async def add(engine: Any, name: str = "x") -> db.Customer:
    """Add a customer."""
    row: db.Customer = (await engine.write(db.add_customer, name, "", *by())).result
    return row


both_ways = pytest.mark.parametrize("query", ["", "?pgbouncer=true"])
"""Marks a test of sessions, and of transactions that rely on none."""


@both_ways
async def test_promise_outlives_a_reload(postgresql_cluster: Any, query: str) -> None:
    """A setting of the server changes only sessions that have not set it."""
    role = new_role(postgresql_cluster)
    async with opened(role.url + query) as engine:
        await add(engine)
        postgresql_cluster.change("synchronous_commit", "off")
        try:
            for _ in range(20):
                assert await engine.write(show, "synchronous_commit") == "on"
                await asyncio.sleep(0.02)
        finally:
            postgresql_cluster.change("synchronous_commit", "on")


@both_ways
async def test_settings_of_sessions(postgresql_cluster: Any, query: str) -> None:
    """Whatever a role has, time, text and transactions are as the server means them."""
    role = new_role(postgresql_cluster)
    for setting in (
        "timezone = 'America/New_York'",
        "datestyle = 'SQL, DMY'",
        "default_transaction_isolation = 'serializable'",
        "statement_timeout = 0",
        "lock_timeout = 0",
        "idle_in_transaction_session_timeout = 0",
    ):
        postgresql_cluster.sql(f'ALTER ROLE "{role.name}" SET {setting}')
    expected = {
        "timezone": "UTC",
        "datestyle": "ISO, DMY",
        "default_transaction_isolation": "read committed",
        "statement_timeout": "8s",
        "lock_timeout": "2s",
        "idle_in_transaction_session_timeout": "10s",
    }
    async with opened(role.url + query) as engine:
        for name, value in expected.items():
            assert await engine.write(show, name) == value
            assert await engine.read(show, name) == value
        assert await engine.write(show, "transaction_isolation") == "read committed"
        assert await engine.write(show, "transaction_read_only") == "off"
        for run in (engine.read, engine.scan):
            assert await run(show, "transaction_read_only") == "on"


async def test_publication_of_all_tables(postgresql_cluster: Any) -> None:
    """Every table has a key, or updates of what is published would be refused."""
    name = f"published_{secrets.token_hex(4)}"
    postgresql_cluster.sql(f"CREATE DATABASE {name}")
    url = postgresql_cluster.url.removesuffix("postgres") + name
    hosts = importlib.import_module("storage.postgres_hosts").HostList(url)
    raw = await hosts.connect()
    await raw.execute("CREATE PUBLICATION p FOR ALL TABLES")
    async with opened(url) as engine:
        customer = await add(engine)
        await engine.write(db.update_customer, customer.id, "y", None, author(), None)
    without = """SELECT relname FROM pg_class WHERE relkind = 'r' AND NOT EXISTS (
        SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary
    ) AND relnamespace = CAST('public' AS regnamespace)"""
    assert await raw.fetch(without) == []
    await raw.close()
    server_again = asyncio.to_thread(server.try_make_db, url)
    await server_again


async def test_table_that_changes_under_plans(postgresql_cluster: Any) -> None:
    """What was refused for its plan was undone, and is run again."""
    role = new_role(postgresql_cluster)
    async with opened(role.url) as engine:
        customer = await add(engine)
        for turn in range(2):
            change = (
                db.update_customer,
                customer.id,
                f"name {turn}",
                None,
                author(),
                None,
            )
            await asyncio.gather(*(engine.write(*change) for _ in range(24)))
            postgresql_cluster.sql(
                f'ALTER TABLE "{role.name}".customer ALTER address '
                f"TYPE varchar({600 + turn})"
            )
        await asyncio.gather(*(engine.write(*change) for _ in range(24)))
        assert (await engine.read(db.read_customer, customer.id)).version == 73


async def test_statements_that_are_gone(postgresql_cluster: Any) -> None:
    """A prepared statement that the server no longer knows is prepared again."""
    role = new_role(postgresql_cluster)
    async with opened(role.url) as engine:
        customer = await add(engine)
        change = (db.update_customer, customer.id, "name", None, author(), None)
        await engine.write(*change)
        for connection in (*engine.writer.idle, *engine.reader.idle):
            await connection.raw.execute("DEALLOCATE ALL")
        assert (await engine.write(*change)).result.version == 3


@pytest.mark.parametrize("name", ["Shop", "shop.eu", 'a"b', "select"])
async def test_names_that_need_quotes(postgresql_cluster: Any, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    postgresql_cluster.sql(f"CREATE ROLE {quoted} LOGIN PASSWORD 'secret'")
    postgresql_cluster.sql(f"CREATE SCHEMA {quoted} AUTHORIZATION {quoted}")
    user = name.replace('"', "%22")
    url = f"postgresql://{user}:secret@{postgresql_cluster.host}/postgres"
    async with opened(url) as engine:
        assert (await add(engine)).id == 1
    async with opened(url) as engine:
        assert (await add(engine)).id == 2


@both_ways
async def test_two_servers_start_at_once(postgresql_cluster: Any, query: str) -> None:
    """Also where transactions see what there was when they began."""
    role = new_role(postgresql_cluster)
    isolation = "default_transaction_isolation = 'repeatable read'"
    postgresql_cluster.sql(f'ALTER ROLE "{role.name}" SET {isolation}')
    starts = (asyncio.to_thread(server.try_make_db, role.url + query) for _ in range(6))
    await asyncio.gather(*starts)


async def test_few_connections(
    postgresql_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that one pool leaves idle make room for another's."""
    role = new_role(postgresql_cluster, options="CONNECTION LIMIT 8")
    async with opened(role.url) as engine:
        await asyncio.gather(*(add(engine) for _ in range(30)))
        for _ in range(10):
            found = (engine.scan(db.find_customers, "x", False, 0, 5) for _ in range(2))
            reads = (engine.read(db.read_customer, 1) for _ in range(4))
            await asyncio.gather(*found, *reads, *(add(engine) for _ in range(20)))
        await engine.check()


async def test_idle_connections_are_closed(
    postgresql_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module(POSTGRES_POOL), "IDLE_SECONDS", 0.2)
    role = new_role(postgresql_cluster)
    async with opened(role.url) as engine:
        await asyncio.gather(*(add(engine) for _ in range(100)))
        assert len(engine.writer.idle) > 1
        await asyncio.sleep(0.6)
        assert len(engine.writer.idle) == 1
        # and one that reads
        assert len(backends(postgresql_cluster, role)) == 2
        await add(engine)


async def test_first_error_is_told(postgresql_cluster: Any) -> None:
    """Not that the transaction could not be ended after it."""
    role = new_role(postgresql_cluster)
    module = importlib.import_module("storage.postgres_schema")
    with pytest.raises(db.StartupError) as caught:
        async with module.transaction(role.url) as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert "terminating connection" in str(caught.value)


@both_ways
async def test_time_limits_of_a_role(postgresql_cluster: Any, query: str) -> None:
    """They do not end a migration or a copy."""
    role = new_role(postgresql_cluster)
    limits = ("statement_timeout", "transaction_timeout", "lock_timeout")
    for limit in limits:
        postgresql_cluster.sql(f"ALTER ROLE \"{role.name}\" SET {limit} = '300ms'")
    module = importlib.import_module("storage.postgres_schema")
    async with module.transaction(role.url + query) as connection:
        await connection.execute("SELECT pg_sleep(0.5)")
        for limit in (*limits, "idle_in_transaction_session_timeout"):
            assert await connection.fetchval(f"SHOW {limit}") == "0"


@both_ways
async def test_primary_that_takes_no_writes(
    postgresql_cluster: Any, query: str
) -> None:
    """A provider makes it so when its disk is nearly full: reads go on."""
    role = new_role(postgresql_cluster)
    async with opened(role.url + query) as engine:
        await add(engine)
        read_only = "default_transaction_read_only"
        postgresql_cluster.sql(f'ALTER ROLE "{role.name}" SET {read_only} = on')
        for pid in backends(postgresql_cluster, role):
            postgresql_cluster.sql(f"SELECT pg_terminate_backend({pid})")
        for _ in range(3):
            with pytest.raises(db.UnavailableError):
                await add(engine)
            assert (await engine.read(db.read_customer, 1)).id == 1
            await engine.scan(db.find_customers, "x", False, 0, 5)
        with pytest.raises(db.UnavailableError):
            await engine.check()
        postgresql_cluster.sql(f'ALTER ROLE "{role.name}" RESET {read_only}')
        if query:  # what a role has, a session behind a pooler learns when it begins
            await engine.close()
        assert (await add(engine)).id == 2


async def test_names_are_folded_anew(
    postgresql_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first version did not compose them."""
    role = new_role(postgresql_cluster)
    module = importlib.import_module("storage.postgres_schema")
    first = schema.POSTGRES_MIGRATIONS[:1]
    monkeypatch.setattr(module, "POSTGRES_MIGRATIONS", first)
    await asyncio.to_thread(server.try_make_db, role.url)
    for name in ("plain", unicodedata.normalize("NFD", "René"), "Straße", "Ω"):
        values = f"'{name}', '', now(), '{name.casefold()}'"
        postgresql_cluster.sql(
            f'INSERT INTO "{role.name}".customer '
            f"(name, address, date_created, name_folded) "
            f"SELECT {values} FROM generate_series(1, 300)"
        )
    monkeypatch.undo()
    async with opened(role.url) as engine:
        for part, number in (
            ("RENÉ", 300),
            ("strasse", 300),
            ("lain", 300),
            ("ω", 300),
        ):
            page = await engine.scan(db.find_customers, part, False, 0, 1000)
            assert page.size == number, part


async def test_password_from_elsewhere(
    postgresql_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not stand in an argument, where everybody can read it."""
    role = new_role(postgresql_cluster)
    url = role.url.replace(":secret", "")
    parts = urlsplit(url)
    with pytest.raises(db.StartupError):
        await asyncio.to_thread(server.try_make_db, url)
    monkeypatch.setenv("PGPASSWORD", "secret")
    async with opened(url) as engine:
        await add(engine)
    monkeypatch.delenv("PGPASSWORD")
    file = tmp_path / "pgpass"
    file.write_text(f"{parts.hostname}:{parts.port}:*:{role.name}:secret\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    async with opened(url) as engine:
        assert (await add(engine)).id == 2


HOSTS = "storage.postgres_hosts"


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("sslmode=require&channel_binding=prefer", {"sslmode": "require"}),
        ("keepalives=1&keepalives_idle=5&tcp_user_timeout=9", {}),
        ("gssencmode=disable&search_path=a", {"search_path": "a"}),
        ("target_session_attrs=any&sslsni=1", {"target_session_attrs": "any"}),
        ("application_name=till", {"application_name": "till"}),
    ],
)
def test_parameters_of_providers(query: str, kept: dict[str, str]) -> None:
    read = importlib.import_module(HOSTS).read_parameters
    assert read(query) == (kept, 2.0)
    assert read(f"{query}&connect_timeout=10") == (kept, 10.0)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("channel_binding=require", "channel_binding"),
        ("gssencmode=require", "gssencmode"),
        ("load_balance_hosts=random", "load_balance_hosts"),
        ("pgbouncer=perhaps", "pgbouncer"),
        ("connect_timeout=soon", "connect_timeout"),
    ],
)
def test_parameters_refused(query: str, word: str) -> None:
    """By name, with what to do, and without the password of the URL."""
    url = f"postgresql://shop:SECRET@127.0.0.1:1/shop?{query}"
    with pytest.raises(db.StartupError) as caught:
        server.try_make_db(url)
    assert word in str(caught.value)
    assert "SECRET" not in str(caught.value)


async def test_several_hosts_with_a_user(postgresql_cluster: Any) -> None:
    """The user and the password are those of each; one that is away is passed by."""
    role = new_role(postgresql_cluster)
    hosts = f"127.0.0.1:1,{postgresql_cluster.host}"
    url = role.url.replace(postgresql_cluster.host, hosts)
    async with opened(url) as engine:
        assert (await add(engine)).id == 1
        assert postgresql_cluster.host in engine.hosts.urls[0]
