"""Units of work among others: whole or not at all, in time or dropped."""

import asyncio
import json
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import db
from checks.support.server_process import request_bytes
from storage import batch_queue, sqlite_connection
from storage.engine import UNKNOWN_OUTCOME, Statement
from storage.sqlite_connection import driver
from storage.sqlite_engine import SqliteEngine
from tests.storage.faults import holding_writes
from tests.support import (
    JOHN,
    PHONE,
    ApiClient,
    by,
    count,
    list_ids,
    list_names,
    one_engine,
    wait_until,
)


async def test_adding_at_once(api: ApiClient, engine: Any, customer: int) -> None:
    """Every 201 is one row, and many rows share a commit."""
    before = engine.stats()
    asked = (api("POST /api/v1/purchase/1", PHONE, 201) for _ in range(64))
    ids = [reply.data["id"] for reply in await asyncio.gather(*asked)]
    after = engine.stats()
    assert sorted(ids) == await list_ids(api)
    assert after.units - before.units >= 64  # upkeep may write too
    assert 0 < after.commits - before.commits < 64


def fails(changes: bool) -> db.Unit[None]:
    """Fail, with or without having changed something."""
    yield db.SELECT_CUSTOMER, (1,)
    if changes:
        yield db.INSERT_CUSTOMER, ("half", "", db.now(), "half", db.now(), "")
    raise ValueError("it fails")


@pytest.mark.parametrize("changes", [False, True])
async def test_failed_unit_among_others(
    api: ApiClient, engine: Any, changes: bool
) -> None:
    names = [f"c{number}" for number in range(20)]
    units = [engine.write(db.add_customer, name, "", *by()) for name in names]
    units[10:10] = [engine.write(fails, changes)]
    outcomes = await asyncio.gather(*units, return_exceptions=True)
    assert isinstance(outcomes.pop(10), ValueError)
    added = [one.result.name for one in outcomes if isinstance(one, db.Written)]
    assert added == names
    assert sorted(await list_names(api)) == sorted(names)


async def test_statement_refused_among_others(api: ApiClient, engine: Any) -> None:
    def wrong() -> db.Unit[None]:
        yield db.INSERT_CUSTOMER, (None, "", db.now(), "", db.now(), "")

    units = [engine.write(db.add_customer, "a", "", *by()), engine.write(wrong)]
    outcomes = await asyncio.gather(*units, return_exceptions=True)
    assert isinstance(outcomes[1], Exception)
    assert await list_names(api) == ["a"]


async def test_refusals_among_others(api: ApiClient, customer: int) -> None:
    async def add(owner: int) -> int:
        status = 201 if owner == 1 else 404
        return (await api(f"POST /api/v1/purchase/{owner}", PHONE, status)).status

    await asyncio.gather(*(add(1 + number % 2) for number in range(64)))
    assert len(await list_ids(api)) == 32


async def test_clients_that_go_away(api: ApiClient, engine: Any, customer: int) -> None:
    """300 leave at any moment: a row is whole, with its key, or not there."""
    body = json.dumps(PHONE).encode()

    async def leave(number: int) -> None:
        key = [("Idempotency-Key", f"k{number}")]
        request = request_bytes("POST", "/api/v1/purchase/1", body, key)
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        cut = len(request) if number % 3 else len(request) * number // 300
        writer.write(request[:cut])
        await asyncio.sleep(number % 50 / 5000)
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()

    for wave in range(6):
        await asyncio.gather(*(leave(number) for number in range(wave, 300, 6)))
    # units run on whose callers have gone: PostgreSQL's write side by side
    assert await asyncio.to_thread(wait_until, lambda: engine.writer.is_idle)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    assert await asyncio.to_thread(wait_until, lambda: engine.writer.is_idle)
    rows = (await api("GET /api/v1/customer")).data
    assert 1 < len(rows) <= 201
    assert all(row | PHONE == row for row in rows)
    assert await engine.read(count, "idempotency") == len(rows) - 1
    if isinstance(engine, SqliteEngine):
        assert not engine.write_connection.raw.in_transaction


async def test_callers_that_are_cancelled(api: ApiClient, engine: Any) -> None:
    async def add(number: int) -> None:
        await engine.write(db.add_customer, f"c{number}", "", *by())

    tasks = [asyncio.create_task(add(number)) for number in range(300)]
    for number, task in enumerate(tasks):
        if number % 2:
            await asyncio.sleep(0 if number % 20 > 1 else 0.001)
            task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    done = {f"c{number}" for number in range(300) if outcomes[number] is None}
    names = await list_names(api)
    assert len(done) >= 150
    assert done <= set(names)
    assert len(names) == len(set(names))
    await api("POST /api/v1/customer", JOHN, 201)


@one_engine
async def test_no_other_writer_comes_between(
    api: ApiClient, engine: SqliteEngine, customer: int, sqlite_path: Path
) -> None:
    """What a unit has read stays so until it has written."""
    outcomes = []

    def read_and_write() -> db.Unit[None]:
        yield db.SELECT_CUSTOMER, (1,)
        with closing(driver.connect(sqlite_path, timeout=0)) as other:
            try:
                other.execute("UPDATE customer SET name = 'other'")
                other.commit()
            except driver.OperationalError as exc:
                outcomes.append(sqlite_connection.code_of(exc))
        yield db.UPDATE_CUSTOMER, ("ours", "ours", None, 1, 1)

    await engine.write(read_and_write)
    assert outcomes == [sqlite_connection.BUSY]
    assert await list_names(api) == ["ours"]


@one_engine
async def test_overload(
    api: ApiClient, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the fixture `patience`
    with holding_writes(engine):
        await asyncio.sleep(0.05)
        engine.writer.batch_seconds = 2.5
        waiting = asyncio.create_task(api("POST /api/v1/customer", JOHN, 201))
        await asyncio.sleep(0.1)
        assert engine.stats().waiting["write"] == 1
        reply = await api("POST /api/v1/customer", JOHN, 503)
        assert int(reply.headers["Retry-After"]) >= 2
        await api("GET /api/v1/customers")
    assert (await waiting).data["id"] == 1
    assert await list_names(api) == ["John Doe"]


@one_engine
async def test_late_unit_is_dropped(
    api: ApiClient, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_queue, "TURN_SECONDS", 0.1)
    with holding_writes(engine):
        await asyncio.sleep(0.05)
        late = asyncio.create_task(api("POST /api/v1/customer", JOHN, 503))
        await asyncio.sleep(0.3)
    assert "too long" in (await late).json["detail"]
    assert await list_names(api) == []


@one_engine
async def test_endless_unit_is_interrupted(
    api: ApiClient, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless() -> db.Unit[None]:
        yield (
            Statement(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
                "SELECT count(*) FROM n"
            ),
            (),
        )

    monkeypatch.setattr(batch_queue, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(batch_queue, "BATCH_SECONDS", 0.1)
    for run in (engine.read, engine.write):
        with pytest.raises(db.UnavailableError, match="longer than"):
            await run(endless)
    monkeypatch.undo()
    await api("POST /api/v1/customer", JOHN, 201)


@one_engine
async def test_disk_that_hangs(
    api: ApiClient, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits is told so in time, and what comes after it is written."""
    limits = {"WATCH": 0.02, "TURN": 0.2, "BATCH": 0.1, "HANG": 0.1}
    for name, seconds in limits.items():
        monkeypatch.setattr(batch_queue, f"{name}_SECONDS", seconds)
    with holding_writes(engine) as futures:
        await asyncio.sleep(0.05)
        reply = await api("POST /api/v1/customer", JOHN, 503)
        assert "too long for its turn" in reply.json["detail"]
        with pytest.raises(db.UnavailableError, match=UNKNOWN_OUTCOME):
            await futures[0]
        await api("GET /api/v1/customers")
    monkeypatch.undo()
    await api("POST /api/v1/customer", JOHN, 201)
    assert await list_names(api) == ["John Doe"]


@one_engine
async def test_caller_that_is_gone_and_late(
    api: ApiClient, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is told to it, and whoever comes after it is served."""
    monkeypatch.setattr(batch_queue, "TURN_SECONDS", 0.1)
    with holding_writes(engine):
        await asyncio.sleep(0.05)
        gone = [engine.write(db.add_customer, "gone", "", *by()) for _ in range(3)]
        for future in gone:
            future.cancel()
        await asyncio.sleep(0.2)
    monkeypatch.undo()
    async with asyncio.timeout(10):
        await api("POST /api/v1/customer", JOHN, 201)
    assert await list_names(api) == ["John Doe"]


@one_engine
async def test_time_behind_a_hanging_disk(
    api: ApiClient, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits hears of it while the disk hangs, not when it comes back."""
    limits = {"WATCH": 0.02, "TURN": 0.2, "BATCH": 5.0, "HANG": 5.0}
    for name, seconds in limits.items():
        monkeypatch.setattr(batch_queue, f"{name}_SECONDS", seconds)
    with holding_writes(engine) as futures:
        await asyncio.sleep(0.05)
        waiting = [engine.write(db.add_customer, "x", "", *by()) for _ in range(3)]
        done, _ = await asyncio.wait(waiting, timeout=4)
        assert len(done) == 3
        assert not futures[0].done()
        for future in waiting:
            with pytest.raises(db.UnavailableError, match="too long for its turn"):
                await future


@one_engine
async def test_gathering_beside_other_work(
    api: ApiClient, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch does not wait for as many passes of a loop that has much else to do."""
    passes = 0

    async def be_busy() -> None:
        nonlocal passes
        while True:
            time.sleep(batch_queue.GATHER_SECONDS / 2)  # noqa: ASYNC251 - it blocks
            passes += 1
            await asyncio.sleep(0)

    engine.writer.idle_ticks = 1000
    task = asyncio.create_task(be_busy())
    await engine.write(db.add_customer, "x", "", *by())
    task.cancel()
    assert passes < 500
