"""Copying into PostgreSQL."""

import asyncio
import importlib
from pathlib import Path
from typing import Any

import pytest

import db
import server
from storage.engine import StartupError
from storage.postgres_settings import begin
from tests.support import run_sql

TIME = "'2026-01-01 00:00:00.000000+00:00'"
ROWS = f"""
INSERT INTO customer (id, name, address, date_created, name_folded)
VALUES (3, 'Ann', '', {TIME}, 'ann');
INSERT INTO purchases (id, purchase_name, quantity, customer_id, date_created)
VALUES (5, 'x', 2, 3, {TIME});"""
VALIDATED = """
SELECT convalidated FROM pg_constraint
WHERE conrelid = CAST('purchases' AS regclass) AND conname = 'purchases_customer'"""


@pytest.fixture
def source(sqlite_path: Path) -> Path:
    """Return a SQLite file with a customer and a purchase."""
    server.try_make_db(f"sqlite:///{sqlite_path}")
    run_sql(sqlite_path, ROWS)
    return sqlite_path


@pytest.fixture(params=["", "&pgbouncer=true"], ids=["direct", "pooled"])
def destination(request: pytest.FixtureRequest, postgresql_cluster: Any) -> str:
    """Return the URL of an empty schema."""
    url: str = postgresql_cluster.new_schema() + request.param
    return url


def copy(source: Path, destination: str) -> None:
    """Copy a file."""
    transfer = importlib.import_module("storage.transfer")
    asyncio.run(transfer.copy(f"sqlite:///{source}", destination))


async def fetch(destination: str, sql: str) -> list[Any]:
    """Return the rows of a query."""
    hosts = importlib.import_module("storage.postgres_hosts").HostList(destination)
    raw = await hosts.connect()
    try:
        await raw.execute(begin(hosts.pooler.settings))
        rows = [tuple(row) for row in await raw.fetch(sql)]
        await raw.execute("COMMIT")
        return rows
    finally:
        await raw.close()


@pytest.mark.parametrize("year", ["0001-01-01", "9999-12-31"])
def test_time_that_cannot_be_copied(year: str) -> None:
    """The driver would take it for infinity."""
    transfer = importlib.import_module("storage.transfer")
    with pytest.raises(ValueError, match=f"{year}.* is too far"):
        transfer._weigh("time", f"{year} 00:00:00.000000+00:00")


def test_tables_of_others(source: Path, destination: str) -> None:
    """They stay where they are, and so do their next ids."""
    own = "CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT);"
    run_sql(source, f"{own} INSERT INTO notes (id, text) VALUES (77, 'x');")
    copy(source, destination)
    assert asyncio.run(fetch(destination, VALIDATED)) == [(True,)]
    ids = "SELECT nextval('customer_id_seq'), nextval('purchases_id_seq')"
    assert asyncio.run(fetch(destination, ids)) == [(4, 6)]


def test_column_of_others(source: Path, destination: str) -> None:
    """What would be dropped is named."""
    run_sql(source, "ALTER TABLE customer ADD COLUMN phone TEXT")
    with pytest.raises(StartupError, match="customer"):
        copy(source, destination)


def test_bad_row(source: Path, destination: str) -> None:
    """Its table is named, and nothing is copied."""
    run_sql(source, "UPDATE purchases SET date_created = 'yesterday'")
    with pytest.raises(StartupError, match=r"purchases\.date_created of row 5"):
        copy(source, destination)
    server.try_make_db(destination)
    assert asyncio.run(fetch(destination, "SELECT * FROM customer")) == []


def test_purchases_of_nobody(source: Path, destination: str) -> None:
    """They come along, under a constraint that holds for whatever is added later."""
    orphan = ROWS.partition(";")[2].replace("(5,", "(6,").replace("2, 3,", "2, 99,")
    run_sql(source, f"PRAGMA foreign_keys = OFF; {orphan}")
    copy(source, destination)
    purchases = "SELECT id, customer_id FROM purchases ORDER BY id"
    assert asyncio.run(fetch(destination, purchases)) == [(5, 3), (6, 99)]
    assert asyncio.run(fetch(destination, VALIDATED)) == [(False,)]
    foreign_key = importlib.import_module("asyncpg").ForeignKeyViolationError
    with pytest.raises(foreign_key):
        asyncio.run(fetch(destination, "UPDATE purchases SET customer_id = 98"))


async def test_rows_that_come_meanwhile(source: Path, destination: str) -> None:
    """The destination is locked before it is found to be empty."""
    await asyncio.to_thread(server.try_make_db, destination)
    hosts = importlib.import_module("storage.postgres_hosts").HostList(destination)
    other = await hosts.connect()
    await other.execute(begin(hosts.pooler.settings))
    columns = "(name, date_created, name_folded)"
    await other.execute(f"INSERT INTO customer {columns} VALUES ('x', now(), 'x')")
    copying = asyncio.create_task(asyncio.to_thread(copy, source, destination))
    await asyncio.sleep(0.5)
    assert not copying.done()
    await other.execute("COMMIT")
    with pytest.raises(db.StartupError, match="not empty: table customer"):
        await copying
    await other.close()
