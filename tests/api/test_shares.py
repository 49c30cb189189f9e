"""Long reads: shared fairly, and ended with their clients."""

import asyncio
import time
from typing import Any

import pytest

import db
from api import connections, shares
from tests.support import HOST, JOHN, ApiClient, one_engine

SEARCH = b"GET /api/v1/customers?name=nobody&limit=1 HTTP/1.1\r\n" + HOST + b"\r\n"


class Scans:
    """Stands for an engine's `scan`: each takes a while, and they are counted."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds
        self.running = self.most = self.done = 0

    async def __call__(self, *_: object) -> db.Page:
        """Take a while; there is always more."""
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.seconds)
        self.running -= 1
        self.done += 1
        return db.Page(0, "[]", self.done)


@pytest.fixture
def scans(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Scans:
    """Put it in the place of the engine's."""
    found = Scans()
    monkeypatch.setattr(engine, "scan", found)
    return found


@one_engine
@pytest.mark.parametrize("end", ["close", "abort", "write_eof"])
async def test_search_ends_with_its_client(
    api: ApiClient, scans: Scans, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Also where it only ended its half, after a while: it may have gone."""
    monkeypatch.setattr(connections, "ABANDONED_SECONDS", 0.3)
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(SEARCH)
    await asyncio.sleep(0.2)
    assert scans.done
    if end == "abort":
        writer.transport.abort()
    else:
        getattr(writer, end)()
    await asyncio.sleep(0.6)
    done = scans.done
    await asyncio.sleep(0.3)
    assert scans.done == done
    writer.close()
    await api("GET /livez")


@one_engine
async def test_search_of_one_who_waits(
    api: ApiClient, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has ended its half gets what is soon found."""

    async def found(*_: object) -> db.Page:
        await asyncio.sleep(0.1)
        return db.Page(0, "[]", None)

    monkeypatch.setattr(engine, "scan", found)
    reply = await api.raw(SEARCH, 200, hang_up=True)
    assert reply.data == []


@one_engine
async def test_share_of_a_caller(
    api: ApiClient, scans: Scans, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many long reads of one caller are worked on a few at a time."""
    monkeypatch.setattr(connections, "ABANDONED_SECONDS", 0.1)
    writers = []
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(SEARCH)
        writers.append(writer)
    await asyncio.sleep(0.5)
    assert scans.most == shares.SHARE
    for writer in writers:
        writer.close()
    await asyncio.sleep(0.5)
    assert scans.running == 0


@one_engine
async def test_turn_that_does_not_come(
    api: ApiClient, scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "TURN_SECONDS", 0.1)
    scans.seconds = 1.0
    writers = []
    for _ in range(shares.SHARE):
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(SEARCH)
        writers.append(writer)
    await asyncio.sleep(0.2)
    began = time.monotonic()
    reply = await api("GET /api/v1/customers", None, 503)
    assert reply.headers["Retry-After"] == "1"
    assert time.monotonic() - began < 1
    await api("POST /api/v1/customer", JOHN, 201)
    for writer in writers:
        writer.close()
    await asyncio.sleep(1)
