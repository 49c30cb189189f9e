"""Checkpoints, checks and settings of the connections to SQLite."""

import asyncio
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import db
from api.database import DATABASE
from checks.support.server_process import visitor_of
from storage import sqlite_connection, sqlite_engine, sqlite_file
from storage.engine import Statement
from storage.sqlite_engine import SqliteEngine
from tests.storage.faults import (
    failing,
    fault,
    move_away,
    wait_for_check,
    wait_for_error,
)
from tests.support import (
    JOHN,
    PHONE,
    ApiClient,
    LimitedServer,
    Opener,
    add_many,
    by,
    list_ids,
    one_engine,
    several_processes,
    wait_until,
)


async def visit(path: Path) -> None:
    """Look into a database from another process."""
    visitor = await asyncio.create_subprocess_exec(*visitor_of(path))
    assert await visitor.wait() == 0


@several_processes
@one_engine
async def test_checkpoint_after_one_large_unit(
    opened: Opener, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that wrote many rows fills the WAL as much as many that wrote one."""
    monkeypatch.setattr(sqlite_engine, "MAINTENANCE_INTERVAL", 0.01)
    api = await opened()
    served = api.client.server
    assert isinstance(served, LimitedServer)

    def size() -> int:
        return sqlite_path.stat().st_size

    before = size()
    await api("POST /api/v1/customer", JOHN, 201)
    await served.app[DATABASE].write(add_many, 1, sqlite_engine.CHECKPOINT_ROWS)
    assert await asyncio.to_thread(wait_until, lambda: size() > before)


@several_processes
@one_engine
async def test_checkpoints_beside_commits(
    opened: Opener, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The WAL is copied without a commit doing it; a fault there is no secret."""
    monkeypatch.setattr(sqlite_engine, "MAINTENANCE_INTERVAL", 0.01)
    monkeypatch.setattr(sqlite_engine, "CHECKPOINT_UNITS", 1)
    api = await opened()
    served = api.client.server
    assert isinstance(served, LimitedServer)
    engine: Any = served.app[DATABASE]

    def size() -> int:
        return sqlite_path.stat().st_size

    before = size()
    await api("POST /api/v1/customer", JOHN, 201)
    await engine.write(add_many, 1, 2000)
    assert await asyncio.to_thread(wait_until, lambda: size() > before)
    await visit(sqlite_path)
    await api("POST /api/v1/customer", JOHN, 201)
    monkeypatch.setattr(sqlite_engine, "WAL_PAGES", 0)
    monkeypatch.setattr(sqlite_engine, "QUICK_SECONDS", 60)
    wal = sqlite_path.with_name(f"{sqlite_path.name}-wal")

    def header() -> bytes:
        return wal.read_bytes()[:32]

    # a WAL that begins anew has another salt (sqlite.org/fileformat.html, 4.1)
    first = header()
    for _ in range(200):
        await api("POST /api/v1/purchase/1", PHONE, 201)
        if header() != first:
            break
        await asyncio.sleep(0.01)
    assert header() != first
    for failure in (
        failing(engine.maintenance, "PRAGMA wal_checkpoint", sqlite_connection.IOERR),
        failing_sync(monkeypatch),
    ):
        with failure:
            with suppress(AssertionError):  # it may have failed already
                await api("POST /api/v1/purchase/1", PHONE, 201)
            await wait_for_error(engine, "the disk failed to read or write")
        await wait_for_check(engine)
        await api("POST /api/v1/purchase/1", PHONE, 201)


@contextmanager
def failing_sync(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the disk fail to take what was written."""

    def refuse(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        yield


@one_engine
@pytest.mark.parametrize("code", [sqlite_connection.FULL, sqlite_connection.IOERR])
async def test_failed_checkpoint_after_a_commit(
    api: ApiClient,
    engine: SqliteEngine,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    """What was committed is acknowledged all the same."""
    monkeypatch.setattr(sqlite_engine, "RECHECK_SECONDS", 0)
    with failing(engine.write_connection, "PRAGMA wal_checkpoint", code):
        engine.health.nearly_copied = True
        await api("POST /api/v1/purchase/1", PHONE, 201)
    assert not engine.health.nearly_copied
    await wait_for_check(engine)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    assert await list_ids(api) == [1, 2]


def frames_copied(engine: SqliteEngine) -> int:
    """Return how much of the WAL its index tells to be copied."""
    place = sqlite_engine.COPIED_FRAMES
    return int.from_bytes(
        os.pread(engine.maintenance.files[1], 4, place), sys.byteorder
    )


@one_engine
@pytest.mark.parametrize("nearly", [False, True])
async def test_commits_copy(
    api: ApiClient,
    engine: SqliteEngine,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    nearly: bool,
) -> None:
    """The WAL, where nobody did for many rows, or where that ends it soon."""
    await api("POST /api/v1/purchase/1", PHONE, 201)
    assert frames_copied(engine) == 0
    if nearly:
        engine.health.nearly_copied = True
    else:
        monkeypatch.setattr(sqlite_connection, "MOST_CHANGES", 2)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    copied = frames_copied(engine)
    assert copied > 0
    await api("POST /api/v1/customer", JOHN, 201)  # begins the WAL anew
    assert frames_copied(engine) == 0


@one_engine
async def test_commits_leave_it_to_maintenance(
    api: ApiClient, engine: SqliteEngine, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To copy the WAL, as long as it does."""
    monkeypatch.setattr(sqlite_connection, "MOST_CHANGES", 2)
    for _ in range(2):
        await engine.maintenance.call(engine.maintenance.checkpoint)
        await api("POST /api/v1/purchase/1", PHONE, 201)
        assert frames_copied(engine) == 0  # by a WAL that began anew


@one_engine
async def test_what_a_failed_fsync_loses(
    api: ApiClient, engine: SqliteEngine, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the WAL is copied again, for nobody knows what is on disk."""
    await api("POST /api/v1/purchase/1", PHONE, 201)
    await engine.maintenance.call(engine.maintenance.checkpoint)
    copied = frames_copied(engine)
    assert copied > 0
    with engine.health.committing:
        monkeypatch.setattr(sqlite_engine, "LOCK_SECONDS", 0.05)
        engine.health.error = "the disk failed"
        await wait_for_error(engine, "the disk does not answer")
    assert frames_copied(engine) == copied
    engine.maintenance.due = 0
    await wait_for_check(engine)
    assert frames_copied(engine) == 0
    await engine.maintenance.call(engine.maintenance.checkpoint)
    assert frames_copied(engine) == copied


@one_engine
@pytest.mark.parametrize("stale", [False, True])
async def test_stopped_before_the_check(
    engine: SqliteEngine, sqlite_path: Path, stale: bool
) -> None:
    """The stop copies the whole WAL, too."""
    other = await SqliteEngine.open(sqlite_path)
    await other.write(db.add_customer, "x", "", *by())
    await other.maintenance.call(other.maintenance.checkpoint)
    assert frames_copied(other) > 0
    other.health.error, other.health.stale = (None, True) if stale else ("x", False)
    await other.close()
    assert frames_copied(engine) == 0


@several_processes
@one_engine
async def test_maintenance_goes_on(
    api: ApiClient, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it comes upon."""
    monkeypatch.setattr(sqlite_engine, "MAINTENANCE_INTERVAL", 0.01)
    monkeypatch.setattr(sqlite_engine, "CHECKPOINT_UNITS", 1)
    seen: list[object] = []

    def broken() -> None:
        seen.append("checkpoint")
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(engine.maintenance, "checkpoint", broken)
    for _ in range(2):
        seen.clear()
        await api("POST /api/v1/customer", JOHN, 201)
        assert await asyncio.to_thread(wait_until, lambda: bool(seen))


@one_engine
async def test_settings_of_the_connections(
    api: ApiClient, engine: SqliteEngine
) -> None:
    """Commits reach the disk, references hold, and readers cannot write."""

    def value(pragma: str) -> db.Unit[Any]:
        rows = yield Statement(f"PRAGMA {pragma}"), ()
        return rows[0][0]

    for run, pragma, expected in (
        (engine.write, "synchronous", 2),
        (engine.write, "journal_mode", "wal"),
        (engine.write, "foreign_keys", 1),
        (engine.write, "trusted_schema", 0),
        (engine.read, "query_only", 1),
        (engine.scan, "query_only", 1),
    ):
        assert await run(value, pragma) == expected, pragma


@one_engine
async def test_size_of_the_caches(opened: Opener) -> None:
    """Of those that serve; reports and maintenance keep what they always had."""

    def cache_size() -> db.Unit[Any]:
        rows = yield Statement("PRAGMA cache_size"), ()
        return rows[0][0]

    served = (await opened(cache_mib=3)).client.server
    assert isinstance(served, LimitedServer)
    engine = served.app[DATABASE]
    for run, mib in (
        (engine.write, 3),
        (engine.read, 3),
        (engine.scan, 3),
        (engine.report, 16),
    ):
        assert await run(cache_size) == -1024 * mib


@one_engine
async def test_no_write_until_checked(
    api: ApiClient, engine: SqliteEngine, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error of the disk the file is opened and checked anew."""
    monkeypatch.setattr(sqlite_engine, "RECHECK_SECONDS", 0)

    def refuse() -> None:
        raise fault(sqlite_connection.CANTOPEN)

    monkeypatch.setattr(engine.maintenance, "connect", refuse)
    opened = engine.write_connection.raw
    with failing(engine.write_connection, "COMMIT", sqlite_connection.IOERR):
        await api("POST /api/v1/purchase/1", PHONE, 503)
    await wait_for_error(engine, "the database file cannot be opened")
    for line, body in (("POST /api/v1/purchase/1", PHONE), ("GET /readyz", None)):
        reply = await api(line, body, 503)
        assert "cannot be opened" in reply.json["detail"]
    assert await list_ids(api) == []
    monkeypatch.undo()
    await wait_for_check(engine)
    assert (await api("GET /readyz")).json["database"].startswith("SQLite 3.")
    await api("POST /api/v1/purchase/1", PHONE, 201)
    assert engine.write_connection.raw is not opened
    assert await list_ids(api) == [1]


@one_engine
@pytest.mark.parametrize("replaced", [False, True])
async def test_checked_file_is_the_same(
    api: ApiClient,
    engine: SqliteEngine,
    customer: int,
    sqlite_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replaced: bool,
) -> None:
    """What lies in the place of the file by then is not taken for it, nor made."""
    monkeypatch.setattr(sqlite_engine, "RECHECK_SECONDS", 0)
    with failing(engine.write_connection, "COMMIT", sqlite_connection.IOERR):
        await api("POST /api/v1/purchase/1", PHONE, 503)
        move_away(sqlite_path)
        if replaced:
            other = sqlite_path.with_name("other")
            sqlite_file.create_or_migrate(other)
            await asyncio.to_thread(other.replace, sqlite_path)
    await wait_for_error(engine, sqlite_connection.FILE_GONE)
    for line, body in (("POST /api/v1/customer", JOHN), ("GET /readyz", None)):
        await api(line, body, 503)
    assert await asyncio.to_thread(sqlite_path.exists) is replaced
    sqlite_path.with_name("elsewhere").replace(sqlite_path)
    await wait_for_check(engine)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    assert await list_ids(api) == [1]
