"""Reports: as of one moment, beside all else, and stopped in time."""

import asyncio
from typing import Any

import pytest

import db
from api import connections, shares
from storage.engine import Statement
from tests.support import JOHN, PHONE, ApiClient, count

ENDLESS = Statement(
    sqlite="""
WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n
""",
    postgres="SELECT pg_sleep(60)",
)
A_WHILE = Statement(
    sqlite="""
WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000000)
SELECT count(*) FROM n""",
    postgres="SELECT pg_sleep(0.5)",
)
COUNT_ACTIVE = Statement(
    sqlite="SELECT 0",
    postgres="""
SELECT count(*) FROM pg_stat_activity
WHERE state = 'active' AND query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()""",
)
COUNTED = {"Prefer": "count=exact"}


def endless(*_: object) -> db.Unit[int]:
    """Count for ever."""
    [(number,)] = yield ENDLESS, ()
    return int(number)


def count_twice() -> db.Unit[list[int]]:
    """Count the customers, and again after a while."""
    first = yield from count("customer")
    yield A_WHILE, ()
    return [first, (yield from count("customer"))]


def active() -> db.Unit[int]:
    """Return how many endless statements PostgreSQL still runs."""
    [(number,)] = yield COUNT_ACTIVE, ()
    return int(number)


async def is_over(engine: Any) -> bool:
    """Return whether, soon, no report runs any more."""
    queues = getattr(engine, "reporters", None) or [engine.reporter]
    for _ in range(200):
        if all(queue.is_idle for queue in queues) and not await engine.read(active):
            return True
        await asyncio.sleep(0.05)
    return False


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every count take for ever."""
    monkeypatch.setattr(db, "count_customers", endless)
    monkeypatch.setattr(shares, "CHECK_SECONDS", 0.05)


async def test_one_moment(api: ApiClient, engine: Any, customer: int) -> None:
    report = asyncio.ensure_future(engine.report(count_twice))
    await asyncio.sleep(0.1)
    await api("POST /api/v1/customer", JOHN, 201)
    assert not report.done(), "the report was over before the write"
    assert await report == [1, 1]
    assert await engine.report(count_twice) == [2, 2]


@pytest.mark.usefixtures("slow")
async def test_too_long(
    api: ApiClient, engine: Any, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, and says what to do; meanwhile others read and write."""
    monkeypatch.setattr(shares, "REPORT_SECONDS", 1.0)
    path = "GET /api/v1/customers"
    counting = asyncio.ensure_future(api(path, None, 503, **COUNTED))
    await asyncio.sleep(0.2)
    await api(f"POST /api/v1/purchase/{customer}", PHONE, 201)
    await api("GET /api/v1/customer")
    assert not counting.done()
    assert "ask for less at a time, with customer_id" in (await counting).json["detail"]
    assert await is_over(engine)
    await api("GET /api/v1/summary?by=day")


@pytest.mark.usefixtures("slow")
async def test_client_gone(
    api: ApiClient, engine: Any, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ABANDONED_SECONDS", 0.1)
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(
        b"GET /api/v1/customers HTTP/1.1\r\nHost: x\r\nPrefer: count=exact\r\n\r\n"
    )
    await asyncio.sleep(0.5)
    queues = getattr(engine, "reporters", None) or [engine.reporter]
    assert not all(queue.is_idle for queue in queues)
    writer.close()
    await writer.wait_closed()
    assert await is_over(engine)
    await api("GET /api/v1/customer", None, 200, **COUNTED)


@pytest.mark.usefixtures("slow")
async def test_one_at_a_time(
    api: ApiClient, engine: Any, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller's second report waits for its first."""
    monkeypatch.setattr(shares, "REPORT_SECONDS", 1.0)
    monkeypatch.setattr(shares, "TURN_SECONDS", 0.2)
    path = "GET /api/v1/customers"
    first = asyncio.ensure_future(api(path, None, 503, **COUNTED))
    await asyncio.sleep(0.1)
    second = await api("GET /api/v1/summary?by=day", None, 503)
    assert second.json["detail"] == "Too busy."
    assert "ask for less" in (await first).json["detail"]
    assert await is_over(engine)
