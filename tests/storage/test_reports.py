"""Reports: of one moment, beside all other work, and ended with their callers."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import db
from api import connections, shares
from api.auth import Authenticator, read_tokens
from api.database import DATABASE
from storage.engine import Statement, UnavailableError, Unit
from tests.support import (
    HOST,
    JOHN,
    PHONE,
    ApiClient,
    LimitedServer,
    Opener,
    by,
    count,
    digest,
    list_ids,
    one_engine,
)

SUMMARY = "GET /api/v1/summary?by=day"


def spin(steps: str, seconds: str) -> Statement:
    """Return a statement that takes a while: SQLite counts, PostgreSQL sleeps."""
    return Statement(
        sqlite=f"""
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {steps})
SELECT count(*) FROM n""",
        postgres=f"SELECT pg_sleep({seconds})",
    )


WHILE, ENDLESS, SHORT = spin("3e6", "0.7"), spin("1e12", "7.5"), spin("3e4", "0.01")
ACTIVE = Statement(
    sqlite="SELECT 0",
    postgres="""
SELECT count(*) FROM pg_stat_activity
WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(7.5)%'
    AND application_name IS NOT NULL AND pid <> pg_backend_pid()""",
)


def endless(*_: object) -> Unit[db.Page]:
    """Run what does not end by itself."""
    yield ENDLESS, ()
    return db.Page(0, "[]", None)


def count_active() -> Unit[int]:
    """Return how many endless statements PostgreSQL is working on."""
    [(number,)] = yield ACTIVE, ()
    return int(number)


async def is_running(engine: Any) -> bool:
    """Return whether an endless report runs, on the server of PostgreSQL too."""
    if engine.name.startswith("SQLite"):
        return any(queue.running for queue in engine.reporters)
    return bool(await engine.read(count_active))


async def becomes(engine: Any, running: bool) -> bool:
    """Return whether an endless report runs, or has ended, before long."""
    for _ in range(300):
        if await is_running(engine) is running:
            return True
        await asyncio.sleep(0.01)
    return False


@asynccontextmanager
async def running_reports(engine: Any, number: int) -> AsyncIterator[list[Any]]:
    """Have endless reports run meanwhile."""
    reports = [asyncio.ensure_future(engine.report(endless)) for _ in range(number)]
    assert await becomes(engine, running=True)
    yield reports
    for report in reports:
        report.cancel()
    await asyncio.wait(reports)


async def test_one_moment(api: ApiClient, engine: Any, customer: int) -> None:
    """A report sees nothing of what is written while it runs."""

    def count_twice() -> Unit[tuple[int, int]]:
        first = yield from count("purchases")
        yield WHILE, ()
        return first, (yield from count("purchases"))

    running = asyncio.ensure_future(engine.report(count_twice))
    added = 0
    while not running.done():
        await api("POST /api/v1/purchase/1", PHONE, 201)
        added += 1
    first, second = await running
    assert first == second < added
    assert (await engine.report(count_twice)) == (added, added)


async def test_beside_all_other_work(
    api: ApiClient, engine: Any, customer: int
) -> None:
    async with running_reports(engine, 2) as reports:
        for number in range(20):
            await api("POST /api/v1/purchase/1", PHONE, 201)
            assert len(await list_ids(api)) == number + 1
        await api("GET /api/v1/customers?name=john")
        await api("GET /api/v1/customer?purchase_name=iphone&order=desc")
        await api("GET /readyz")
        assert not any(report.done() for report in reports)
    assert (await api(SUMMARY)).data[0]["purchases"] == 20


async def test_caller_that_goes_away(api: ApiClient, engine: Any) -> None:
    """Its report ends, and the next one has its turn."""
    async with running_reports(engine, 2) as reports:
        waiting = asyncio.ensure_future(engine.report(count, "customer"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        reports[0].cancel()
        assert await asyncio.wait_for(waiting, 5) == 0
        assert not reports[1].done()
    assert await becomes(engine, running=False)
    assert await engine.report(count, "customer") == 0


async def test_caller_that_goes_away_before_its_turn(
    api: ApiClient, engine: Any
) -> None:
    """Nothing of it runs, and the reports before it go on."""
    async with running_reports(engine, 2) as reports:
        waiting = [asyncio.ensure_future(engine.report(endless)) for _ in range(3)]
        await asyncio.sleep(0.05)
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
        await asyncio.sleep(0.1)
        assert not any(report.done() for report in reports)
    assert await becomes(engine, running=False)
    assert await engine.report(count, "customer") == 0


async def test_only_who_went_away_is_stopped(
    api: ApiClient, engine: Any, customer: int
) -> None:
    """However close together the end of one report and the beginning of another."""
    chance = random.Random(1)  # noqa: S311 - nothing is secret

    def report() -> Unit[int]:
        yield SHORT, ()
        return (yield from count("customer"))

    async def ask() -> None:
        assert await engine.report(report) == 1

    async def leave() -> None:
        running = asyncio.ensure_future(engine.report(report))
        await asyncio.sleep(chance.random() * 0.02)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    for _ in range(30):
        await asyncio.gather(ask(), leave(), leave())


@pytest.mark.parametrize("end", ["close", "abort", "write_eof"])
async def test_client_that_goes_away(
    api: ApiClient, engine: Any, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(connections, "ABANDONED_SECONDS", 0.3)
    with monkeypatch.context() as patch:
        patch.setattr(db, "summarize_purchases", endless)
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(f"{SUMMARY} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
        assert await becomes(engine, running=True)
        if end == "abort":
            writer.transport.abort()
        else:
            getattr(writer, end)()
        assert await becomes(engine, running=False)
    assert (await api(SUMMARY)).data == []
    writer.close()


async def test_report_that_takes_too_long(
    api: ApiClient, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up, here and on the server, and the reply says what to ask for."""
    monkeypatch.setattr(shares, "REPORT_SECONDS", 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(db, "summarize_purchases", endless)
        patch.setattr(db, "count_purchases", endless)
        for line in (SUMMARY, "GET /api/v1/customer?order=desc"):
            reply = await api(line, None, 503, Prefer="count=exact")
            text = reply.json["detail"]
            assert "customer_id, purchased_from or purchased_before" in text
            assert await becomes(engine, running=False)
    assert (await api(SUMMARY)).data == []


async def test_limits_of_the_engine(
    api: ApiClient, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody else ends it, the engine does, and goes on."""
    if engine.name.startswith("SQLite"):
        monkeypatch.setattr("storage.batch_queue.BATCH_SECONDS", 0.2)
    else:
        monkeypatch.setattr("storage.postgres_pool.UNIT_SECONDS", 0.2)
    with pytest.raises(UnavailableError):
        await engine.report(endless)
    assert await becomes(engine, running=False)
    assert await engine.report(count, "customer") == 0
    await engine.write(db.add_customer, "x", "", *by())


async def test_report_that_writes(api: ApiClient, engine: Any) -> None:
    """It cannot, whatever its query says."""
    with pytest.raises((UnavailableError, Exception)):
        await engine.report(db.update_customer, 1, "x", None, None, None)
    wrong = Statement("DELETE FROM customer")

    def write() -> Unit[None]:
        yield wrong, ()

    await api("POST /api/v1/customer", JOHN, 201)
    with pytest.raises(UnavailableError, match="read-only"):
        await engine.report(write)
    assert await engine.report(count, "customer") == 1


class Reports:
    """Stands for an engine's `report`: each takes a while, and they are counted."""

    def __init__(self) -> None:
        self.running = self.most = 0

    async def __call__(self, *_: object) -> db.Page:
        """Take a while."""
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.1)
        self.running -= 1
        return db.Page(0, "[]", None)


@one_engine
@pytest.mark.parametrize("callers", [1, 2])
async def test_turn_of_each_caller(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, callers: int
) -> None:
    file = tmp_path / "tokens"
    file.write_text("\n".join(f"{name} {digest(name)} read" for name in "ab"))
    api = await opened(Authenticator(read_tokens(file)))
    served = api.client.server
    assert isinstance(served, LimitedServer)
    reports = Reports()
    monkeypatch.setattr(served.app[DATABASE], "report", reports)
    tokens = [f"Bearer {name}" for name in "ab"[:callers]] * 3
    asked = (api(SUMMARY, None, 200, Authorization=token) for token in tokens)
    await asyncio.gather(*asked)
    assert reports.most == callers


@one_engine
async def test_turn_that_does_not_come(
    api: ApiClient, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has a long report waits; other reads of theirs do not."""
    monkeypatch.setattr(shares, "TURN_SECONDS", 0.1)
    monkeypatch.setattr(db, "summarize_purchases", endless)
    running = asyncio.ensure_future(api(SUMMARY, None, 503))
    assert await becomes(engine, running=True)
    reply = await api("GET /api/v1/customer", None, 503, Prefer="count=exact")
    assert reply.headers["Retry-After"] == "1"
    await api("GET /api/v1/customer?purchase_name=x")
    assert not running.done()
    monkeypatch.setattr(shares, "REPORT_SECONDS", 0.0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert await becomes(engine, running=False)
