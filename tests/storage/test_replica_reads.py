"""Reads from a replica while the primary answers, as clients see them."""

import asyncio
import importlib
import logging
from pathlib import Path

import pytest

import db
from tests.storage.replicas import READS, Pair, Serve, add, engine_of, slow_writer
from tests.support import PHONE, Main, list_names


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a replica that a slow machine holds up."""
    monkeypatch.setattr(importlib.import_module(READS), "LAG_SECONDS", 8.0)


@pytest.mark.usefixtures("patient")
async def test_replica_carries_long_reads(pair: Pair, serve: Serve) -> None:
    """And single rows come from the primary, which costs it no more than a sample."""
    api = await serve(*pair.urls())
    number, _ = await add(api)
    pair.catch_up()
    engine = engine_of(api)
    for path in (
        "customers?name=ohn",
        "summary?by=day",
        "changes",
        "customer?order=desc",
    ):
        before = engine.replica.scanner.units + engine.replica.reporter.units
        reply = await api(f"GET /api/v1/{path}")
        assert "Age" not in reply.headers
        assert engine.replica.scanner.units + engine.replica.reporter.units > before, (
            path
        )
    before = engine.primary.reader.units
    for _ in range(20):
        await api(f"GET /api/v1/customer/{number}")
    assert engine.primary.reader.units >= before + 20


@pytest.mark.parametrize("text", ["x", "0", "-1", "1, 2", "9223372036854775808", ""])
async def test_malformed_change(pair: Pair, serve: Serve, text: str) -> None:
    api = await serve(*pair.urls())
    reply = await api("GET /api/v1/customers", None, 400, Change=text)
    assert reply.json["detail"] == "Change must be the number of one change."


@pytest.mark.usefixtures("patient")
async def test_writers_that_take_long(
    pair: Pair, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list and the feed end before a row that is still to come."""
    monkeypatch.setattr(importlib.import_module(READS), "SETTLE_SECONDS", 0.1)
    api = await serve(*pair.urls())
    await add(api, "first")
    pair.catch_up()
    before = engine_of(api).replica.scanner.units
    async with slow_writer(api) as commit:
        await add(api, "third")
        for _ in range(2):
            assert await list_names(api) == ["first"]
            assert len((await api("GET /api/v1/changes")).data) == 1
        assert engine_of(api).replica.scanner.units >= before + 4
        await commit()
    assert await list_names(api) == ["first", "slow", "third"]
    assert len((await api("GET /api/v1/changes")).data) == 3


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("path", ["customers", "customers?order=desc", "changes"])
async def test_writers_are_waited_for(
    pair: Pair, serve: Serve, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """So that nobody misses what was acknowledged meanwhile."""
    monkeypatch.setattr(importlib.import_module(READS), "SETTLE_SECONDS", 20.0)
    api = await serve(*pair.urls())
    await add(api, "first")
    pair.catch_up()
    async with slow_writer(api) as commit:
        await add(api, "third")
        reading = asyncio.create_task(api(f"GET /api/v1/{path}"))
        await asyncio.sleep(0.3)
        assert not reading.done()
        await commit()
        assert len((await reading).data) == 3
    assert engine_of(api).replica.scanner.units >= 1


async def test_replica_that_goes(pair: Pair, serve: Serve) -> None:
    """Then the primary carries all."""
    api = await serve(*pair.urls())
    await add(api)
    await list_names(api)
    pair.standby.kill()
    for _ in range(3):
        reply = await api("GET /api/v1/customers")
        assert len(reply.data) == 1
        assert "Age" not in reply.headers
    await api("GET /readyz")


async def test_replica_away_at_start(
    pair: Pair, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    url, _ = pair.urls()
    with caplog.at_level(logging.WARNING):
        api = await serve(url, url.replace(pair.primary.host, "127.0.0.1:1"))
    assert [record.message.partition(": ")[0] for record in caplog.records] == [
        "READ_DATABASE_URL postgresql://127.0.0.1:1/postgres"
    ]
    await add(api)
    assert len(await list_names(api)) == 1


@pytest.mark.usefixtures("patient")
async def test_primary_as_its_own_replica(pair: Pair, serve: Serve) -> None:
    url, _ = pair.urls()
    api = await serve(url, url)
    await add(api)
    before = engine_of(api).replica.scanner.units
    assert len(await list_names(api)) == 1
    assert engine_of(api).replica.scanner.units > before


@pytest.mark.usefixtures("patient")
async def test_samples_are_shared(pair: Pair, serve: Serve) -> None:
    api = await serve(*pair.urls())
    await add(api)
    pair.catch_up()
    engine = engine_of(api)
    samples, reads = engine.state.pool.units, engine.replica.scanner.units
    token = db.READING.set(db.Reading())
    find = db.find_customers, "ohn", False, 0, 5
    pages = await asyncio.gather(*(engine.scan(*find) for _ in range(40)))
    db.READING.reset(token)
    assert [page.size for page in pages] == [1] * 40
    assert engine.replica.scanner.units - reads == 40
    assert engine.state.pool.units - samples < 10


async def test_reads_outside_of_requests(pair: Pair, serve: Serve) -> None:
    """What prepares a write needs what the primary holds, and a replica takes none."""
    api = await serve(*pair.urls())
    engine = engine_of(api)
    pools = [engine.replica.pools[name] for name in ("scan", "report", "write")]
    before = [pool.units for pool in pools]
    await engine.read(db.is_fillable)
    await engine.scan(db.find_customers, "x", False, 0, 5)
    await engine.report(db.count_customers, "x")
    await engine.check()
    file = b"customer_name,customer_address\nJohn,x\n"
    await api("POST /api/v1/imports", file, 201, Content_Type="text/csv")
    await api("POST /api/v1/purchase/99", PHONE, 404)
    assert [pool.units for pool in pools] == before


@pytest.mark.usefixtures("patient")
async def test_report_that_waits(pair: Pair, serve: Serve) -> None:
    """Its snapshot is of the time when the replica had caught up."""
    api = await serve(*pair.urls())
    await add(api, "first")
    pair.pause()
    await add(api, "second")
    engine = engine_of(api)
    before = engine.replica.reporter.units
    report = asyncio.create_task(
        api("GET /api/v1/customers?name=s", Prefer="count=exact")
    )
    await asyncio.sleep(0.3)
    assert not report.done()
    pair.resume()
    assert (await report).headers["Total-Count"] == "2"
    assert engine.replica.reporter.units > before


@pytest.mark.parametrize(
    ("url", "replica_url"),
    [
        ("sqlite:///db.sqlite3", "postgresql://127.0.0.1:1/x"),
        ("postgresql://127.0.0.1:1/x", "sqlite:///db.sqlite3"),
        ("sqlite:///db.sqlite3", "sqlite:///db.sqlite3"),
    ],
)
def test_no_replica_of_sqlite(
    main: Main, tmp_path: Path, url: str, replica_url: str
) -> None:
    urls = {"DATABASE_URL": url, "READ_DATABASE_URL": replica_url}
    status, out, err = main("--port=0", **urls)
    text = "READ_DATABASE_URL: it and DATABASE_URL must both name PostgreSQL"
    assert (status, out, err) == (2, "", f"server.py: {text}\n")
    assert [*tmp_path.iterdir()] == []
