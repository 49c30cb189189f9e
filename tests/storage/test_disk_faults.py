"""Faults of the disk and the file."""

import asyncio
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import db
from storage import sqlite_connection, sqlite_engine, sqlite_file
from storage.engine import UNKNOWN_OUTCOME
from storage.sqlite_connection import driver
from storage.sqlite_engine import SqliteEngine
from tests.storage.faults import (
    Faulty,
    failing,
    holding_writes,
    move_away,
    wait_for_check,
)
from tests.support import (
    JOHN,
    PHONE,
    ApiClient,
    Opener,
    by,
    list_ids,
    list_names,
    one_engine,
    run_sql,
)


@one_engine
@pytest.mark.parametrize(
    ("begins", "code", "status"),
    [
        ("COMMIT", sqlite_connection.IOERR, 503),
        ("COMMIT", sqlite_connection.FULL, 507),
        ("COMMIT", sqlite_connection.BUSY, 503),
        ("COMMIT", sqlite_connection.CORRUPT, 503),
        ("COMMIT", sqlite_connection.READONLY, 503),
        ("COMMIT", 1, 500),
        ("BEGIN", sqlite_connection.BUSY, 503),
        ("INSERT INTO purchases", sqlite_connection.FULL, 507),
        ("INSERT INTO purchases", sqlite_connection.IOERR, 503),
        ("INSERT INTO purchases", 1, 500),
    ],
)
async def test_failed_commit(
    api: ApiClient,
    engine: SqliteEngine,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    begins: str,
    code: int,
    status: int,
) -> None:
    """No unit of the batch is acknowledged, none is there, and the next one is."""
    monkeypatch.setattr(sqlite_engine, "RECHECK_SECONDS", 0)
    with failing(engine.write_connection, begins, code):
        reply = await api("POST /api/v1/purchase/1", PHONE, status)
    # of a commit that the disk failed, nobody can say what became of it
    unknown = begins == "COMMIT" and code in sqlite_connection.UNCERTAIN
    assert (UNKNOWN_OUTCOME in reply.json["detail"]) is unknown
    await wait_for_check(engine)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    with failing(engine.write_connection, begins, code):
        units = [
            engine.write(db.add_purchase, 1, "x", 1, None, *by()) for _ in range(8)
        ]
        outcomes = await asyncio.gather(*units, return_exceptions=True)
    assert all(isinstance(outcome, Exception) for outcome in outcomes), outcomes
    assert not engine.write_connection.raw.in_transaction
    assert await list_ids(api) == [1]
    await wait_for_check(engine)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    assert await list_ids(api) == [1, 2]


@one_engine
async def test_disk_full(api: ApiClient, engine: SqliteEngine, customer: int) -> None:
    connection: Any = engine.write_connection.raw
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    large = {"name": "x", "address": "x" * 500}
    for _ in range(20):
        with suppress(AssertionError):
            await api("POST /api/v1/customer", large, 201)
    reply = await api("POST /api/v1/customer", large, 507)
    assert "space" in reply.json["detail"]
    number = len(await list_names(api))
    connection.execute("PRAGMA max_page_count = 1000000")
    await api("POST /api/v1/customer", large, 201)
    assert len(await list_names(api)) == number + 1


@one_engine
async def test_locked(api: ApiClient, engine: SqliteEngine, sqlite_path: Path) -> None:
    with closing(driver.connect(sqlite_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        reply = await api("POST /api/v1/customer", JOHN, 503)
        assert "locked" in reply.json["detail"]
        assert sqlite_connection.BUSY_SECONDS - 1 < time.monotonic() - began < 10
        assert await list_names(api) == []
        other.execute("ROLLBACK")
    await api("POST /api/v1/customer", JOHN, 201)


@one_engine
@pytest.mark.parametrize("replaced", [False, True])
async def test_file_gone(
    api: ApiClient,
    engine: SqliteEngine,
    customer: int,
    sqlite_path: Path,
    replaced: bool,
) -> None:
    move_away(sqlite_path)
    if replaced:
        other = sqlite_path.with_name("other")
        sqlite_file.create_or_migrate(other)
        await asyncio.to_thread(other.replace, sqlite_path)
    for line, body in (("POST /api/v1/customer", JOHN), ("GET /readyz", None)):
        reply = await api(line, body, 503)
        assert "deleted or replaced" in reply.json["detail"]
    await api("GET /livez")
    sqlite_path.with_name("elsewhere").replace(sqlite_path)
    assert await list_names(api) == ["John Doe"], "what was refused is there"
    assert (await api("POST /api/v1/customer", JOHN, 201)).data["id"] == 2


@one_engine
@pytest.mark.parametrize("end", ["-wal", "-shm"])
async def test_file_beside_it_gone(
    api: ApiClient, customer: int, sqlite_path: Path, end: str
) -> None:
    move_away(sqlite_path.with_name(f"{sqlite_path.name}{end}"))
    await api("POST /api/v1/customer", JOHN, 503)
    await api("GET /readyz", None, 503)
    assert await list_names(api) == ["John Doe"]


@one_engine
async def test_file_gone_while_committing(
    api: ApiClient, engine: SqliteEngine, customer: int, sqlite_path: Path
) -> None:
    class Slow(Faulty):
        def execute(self, sql: str, *parameters: object) -> Any:
            done = self.connection.execute(sql, *parameters)
            if sql == "COMMIT":
                move_away(sqlite_path)
            return done

    raw = engine.write_connection.raw
    engine.write_connection.raw = Slow(raw, "", 0)
    reply = await api("POST /api/v1/customer", JOHN, 503)
    assert UNKNOWN_OUTCOME in reply.json["detail"]


@one_engine
async def test_file_gone_in_the_middle(
    api: ApiClient, engine: SqliteEngine, sqlite_path: Path
) -> None:
    with holding_writes(engine) as futures:
        futures.append(engine.write(db.add_customer, "x", "", *by()))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        move_away(sqlite_path)
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [db.UnavailableError] * 2


def damage(path: Path) -> None:
    """Make a database of 2,000 purchases, and overwrite two pages in its middle."""
    sqlite_file.create_or_migrate(path)
    run_sql(
        path,
        """INSERT INTO customer (name, date_created) VALUES ('x', '2022-04-09');
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000)
        INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
        SELECT 'thing ' || i, 1, 1, '2022-04-09 12:43:17.000000+00:00' FROM n""",
    )
    pages = bytearray(path.read_bytes())
    middle = len(pages) // 2 // 4096 * 4096
    pages[middle : middle + 8192] = b"\xa5" * 8192
    path.write_bytes(pages)


@one_engine
async def test_damaged_page(sqlite_path: Path, opened: Opener) -> None:
    """Who reads it is told so, and writing ends: nothing is answered from it."""
    damage(sqlite_path)
    api = await opened()
    await api("GET /readyz")
    with suppress(aiohttp.ClientPayloadError):  # it may have begun
        await api("GET /api/v1/customer", None, 503)
    for line, body in (("GET /readyz", None), ("POST /api/v1/customer", JOHN)):
        reply = await api(line, body, 503)
        assert "damaged" in reply.json["detail"]
    await api("GET /api/v1/customer/1")
