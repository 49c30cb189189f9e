"""Connections to SQLite: their settings, waits, and the driver that may be missing."""

import asyncio
import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import db
from checks.support.server_process import PROJECT, Server, exchange
from storage import sqlite_connection, sqlite_engine
from storage.sqlite_connection import driver, has_wal_reset_fix
from storage.sqlite_engine import SqliteEngine
from tests.support import JOHN, ApiClient, by, list_names, one_engine, post


@pytest.mark.parametrize(
    ("version", "fixed"),
    [
        ((3, 7, 0), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 44, 99), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_versions_with_the_fix(version: tuple[int, int, int], fixed: bool) -> None:
    """See sqlite.org/wal.html#walresetbug for the releases that have it."""
    assert has_wal_reset_fix(version) is fixed


@one_engine
async def test_settings_of_every_connection(
    api: ApiClient, engine: SqliteEngine
) -> None:
    expected = {
        "foreign_keys": 1,
        "synchronous": 2,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "journal_size_limit": 64 * 1024 * 1024,
        "cache_size": -16384,
    }
    connections = [queue.connection for queue in engine.queues.values()]
    for connection in (*connections, engine.maintenance):
        for name, value in expected.items():
            [(found,)] = connection.raw.execute(f"PRAGMA {name}").fetchall()
            assert found == value, name
    for queue in (engine.reader, engine.scanner):
        assert queue.connection.raw.execute("PRAGMA query_only").fetchone() == (1,)


@one_engine
async def test_waits_for_another_process_once(
    api: ApiClient, engine: SqliteEngine, sqlite_path: Path
) -> None:
    """Only the first batch waits for long; those behind it soon hear the same."""
    with closing(driver.connect(sqlite_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waits = []
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(db.UnavailableError, match="locked"):
                await engine.write(db.add_customer, "x", "", *by())
            waits.append(time.monotonic() - began)
        assert waits[0] > sqlite_connection.BUSY_SECONDS * 0.9
        assert max(waits[1:]) < sqlite_connection.BUSY_SECONDS / 2
        other.execute("ROLLBACK")
    await engine.write(db.add_customer, "x", "", *by())
    assert engine.write_connection._busy_seconds == sqlite_connection.STILL_BUSY_SECONDS
    await engine.write(db.add_customer, "x", "", *by())
    assert engine.write_connection._busy_seconds == sqlite_connection.BUSY_SECONDS


@one_engine
async def test_failed_checks_are_rare(
    api: ApiClient, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged database is not read through again and again."""
    checks: list[float] = []
    connect = engine.maintenance.connect

    def count() -> object:
        checks.append(time.monotonic())
        return connect()

    monkeypatch.setattr(engine.maintenance, "connect", count)
    monkeypatch.setattr(sqlite_engine, "MAINTENANCE_INTERVAL", 0.02)
    monkeypatch.setattr(sqlite_engine, "RECHECK_SECONDS", 0.5)

    class Damaged:
        def execute(self, _: str) -> "Damaged":
            return self

        def fetchall(self) -> list[tuple[str]]:
            return [("a page is damaged",)]

        def close(self) -> None:
            pass

    monkeypatch.setattr(engine.maintenance, "connect", lambda: count() and Damaged())
    engine.health.error = "the database is damaged"
    await asyncio.sleep(1.3)
    assert 1 <= len(checks) <= 4
    assert engine.health.error is not None


def test_driver_of_python(tmp_path: Path) -> None:
    """Where there is no wheel of pysqlite3, Python's own SQLite serves."""
    hide = "import sys, runpy; sys.modules['pysqlite3'] = None; "
    run = f"runpy.run_path({str(PROJECT / 'server.py')!r}, run_name='__main__')"
    command = (sys.executable, "-c", f"{hide}sys.path[0] = {str(PROJECT)!r}; {run}")
    ours = Server(tmp_path, command=command).start()
    try:
        reply = exchange(ours.port, post("/api/v1/customer", JOHN))
        assert reply.status == 201, ours.log()
        ready = exchange(ours.port, b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert "(sqlite3)" in json.loads(ready.body)["database"]
    finally:
        assert ours.stop() == 0, ours.log()


@one_engine
async def test_names_of_unfinished_units(api: ApiClient, engine: SqliteEngine) -> None:
    """A unit that fails after a change takes nothing of others with it."""

    def half() -> db.Unit[None]:
        yield db.INSERT_CUSTOMER, ("half", "", db.now(), "half", db.now(), "")
        raise ValueError("on purpose")

    units: list[asyncio.Future[Any]] = [
        engine.write(db.add_customer, "one", "", *by()),
        engine.write(half),
        engine.write(db.add_customer, "two", "", *by()),
    ]
    outcomes = await asyncio.gather(*units, return_exceptions=True)
    assert isinstance(outcomes[1], ValueError)
    assert await list_names(api) == ["one", "two"]
