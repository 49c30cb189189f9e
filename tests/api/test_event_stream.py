"""The feed as server-sent events."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse

import db
from api import event_stream
from api.event_stream import BROADCAST, Broadcast
from tests.support import HOST, JOHN, PHONE, ApiClient, Opener, add_many, one_engine

EVENTS = {"Accept": "text/event-stream"}


class Listener:
    """A client that listens."""

    def __init__(self, reply: ClientResponse) -> None:
        self.reply = reply

    async def block(self) -> list[str]:
        """Return the lines of the next event or comment, none at the end."""
        lines: list[str] = []
        async with asyncio.timeout(20):
            while line := (await self.reply.content.readline()).decode():
                if line == "\n":
                    return lines
                lines.append(line.rstrip("\n"))
        return lines

    async def event(self) -> dict[str, Any]:
        """Return the row of the next event, after checking its form."""
        fields = dict(line.split(": ", 1) for line in await self.block())
        row: dict[str, Any] = json.loads(fields["data"])
        assert fields["id"] == row["cursor"]
        assert fields["event"] == row["action"]
        return row

    async def cursors(self, number: int) -> list[int]:
        """Return the cursors of the next events."""
        return [int((await self.event())["cursor"]) for _ in range(number)]


@asynccontextmanager
async def listening(
    api: ApiClient, query: str = "", **headers: str
) -> AsyncIterator[Listener]:
    """Listen, from after the first line on."""
    fields = EVENTS | {name.replace("_", "-"): text for name, text in headers.items()}
    async with api.client.get(f"/api/v1/changes{query}", headers=fields) as reply:
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "text/event-stream"
        listener = Listener(reply)
        assert await listener.block() == ["retry: 1000"]
        yield listener


@pytest.fixture
def broadcast(api: ApiClient) -> Broadcast:
    """Return what sends the events of the server under test."""
    served: Any = api.client.server
    found: Broadcast = served.app[BROADCAST]
    return found


async def settle(broadcast: Broadcast, number: int) -> None:
    """Wait until so many listen. TimeoutError."""
    for _ in range(2000):
        await asyncio.sleep(0.01)
        if len(broadcast._all()) == number:
            return
    raise TimeoutError


async def test_rows_as_they_come(api: ApiClient, purchase: int) -> None:
    async with listening(api) as listener:
        assert await listener.cursors(2) == [1, 2]
        await api("PATCH /api/v1/purchase/1", {"quantity": 5})
        row = await listener.event()
        assert row["before"]["quantity"] == 4
        assert row["now"]["quantity"] == 5
        assert row == (await api("GET /api/v1/changes?after=2")).data[0]


async def test_rows_of_another_process(api: ApiClient, opened: Opener) -> None:
    other = await opened()
    async with listening(api) as listener:
        await other("POST /api/v1/customer", JOHN, 201)
        assert await listener.cursors(1) == [1]


@pytest.mark.parametrize(
    ("query", "header", "seen"),
    [("?after=2", "", [3]), ("?after=1", "2", [3]), ("", "1", [2, 3]), ("", "3", [])],
)
async def test_resuming(
    api: ApiClient, purchase: int, query: str, header: str, seen: list[int]
) -> None:
    """Last-Event-ID goes before the query, which EventSource sends again as it was."""
    await api("POST /api/v1/purchase/1", PHONE, 201)
    headers = {"Last_Event_ID": header} if header else {}
    async with listening(api, query, **headers) as listener:
        await api("POST /api/v1/purchase/1", PHONE, 201)
        assert await listener.cursors(len(seen) + 1) == [*seen, 4]


@one_engine
async def test_listeners_are_counted(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch, broadcast: Broadcast
) -> None:
    monkeypatch.setattr(event_stream, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.1)
    async with listening(api):
        await settle(broadcast, 1)
        assert "\nfeed_listeners 1.0\n" in (await api("GET /metrics")).text
    await settle(broadcast, 0)
    assert "\nfeed_listeners 0.0\n" in (await api("GET /metrics")).text


async def test_filters(api: ApiClient, purchase: int, broadcast: Broadcast) -> None:
    """Each listener has its own."""
    query = "?action=purchase.added&customer_id=2"
    async with listening(api, query) as one, listening(api, "?purchase_id=1") as two:
        assert (await two.event())["action"] == "purchase.added"
        await settle(broadcast, 2)
        await api("POST /api/v1/customer", JOHN, 201)
        await api("POST /api/v1/purchase/1", PHONE, 201)
        await api("POST /api/v1/purchase/2", PHONE, 201)
        assert await one.cursors(1) == [5]
        await api("PATCH /api/v1/purchase/1", {"quantity": 5})
        assert await two.cursors(1) == [6]


@one_engine
async def test_long_history(
    api: ApiClient, engine: Any, monkeypatch: pytest.MonkeyPatch, customer: int
) -> None:
    """It comes whole, page by page, while more is written."""
    monkeypatch.setattr(event_stream, "PAGE_ROWS", 3)
    await engine.write(add_many, 1, 20)
    async with listening(api) as listener:
        for _ in range(20):
            await api("POST /api/v1/purchase/1", PHONE, 201)
        assert await listener.cursors(41) == [*range(1, 42)]


@one_engine
async def test_refusals(
    api: ApiClient, engine: Any, monkeypatch: pytest.MonkeyPatch, purchase: int
) -> None:
    for query, pointer in (("limit=1", "/limit"), ("order=desc", "/order")):
        reply = await api(f"GET /api/v1/changes?{query}", None, 422, **EVENTS)
        assert reply.pointers == [pointer]
    for text in ("x", "-1", "1.0", "9223372036854775808"):
        headers = EVENTS | {"Last_Event_ID": text}
        await api("GET /api/v1/changes", None, 422, **headers)
    await api("GET /api/v1/changes", None, 412, If_Match='"1"', **EVENTS)
    await api("GET /api/v1/changes/1", None, 406, **EVENTS)
    while await engine.write(db.forget_some, db.now(-60)):
        pass
    headers = EVENTS | {"Last_Event_ID": "1"}
    await api("GET /api/v1/changes", None, 410, **headers)


@one_engine
async def test_comments(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch, customer: int
) -> None:
    monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.2)
    async with listening(api, "?after=1") as listener:
        assert await listener.block() == [":"]
        assert await listener.block() == [":"]


@one_engine
async def test_gone_listeners(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch, broadcast: Broadcast
) -> None:
    """They are forgotten, and without any nothing is read."""
    monkeypatch.setattr(event_stream, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.1)
    for _ in range(3):
        async with listening(api):
            await settle(broadcast, 1)
        await settle(broadcast, 0)
    task = broadcast._task
    assert task is None or (await asyncio.wait([task], timeout=20))[0]


@one_engine
async def test_listener_that_does_not_read(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch, broadcast: Broadcast, customer: int
) -> None:
    """It is cut, and the others have every row."""
    monkeypatch.setattr(event_stream, "UNREAD_BYTES", 1000)
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        stalled.connect(("127.0.0.1", api.port))
        lines = b"GET /api/v1/changes HTTP/1.1\r\n" + HOST
        stalled.sendall(lines + b"Accept: text/event-stream\r\n\r\n")
        await settle(broadcast, 1)
        long = {"purchase_name": "\u0416" * 200, "quantity": 1}
        async with listening(api, "?after=1") as listener:
            number = 0
            await settle(broadcast, 2)
            while len(broadcast._all()) == 2:
                for _ in range(20):
                    await api("POST /api/v1/purchase/1", long, 201)
                number += 20
                assert number < 3000
            assert await listener.cursors(number) == [*range(2, number + 2)]


@one_engine
async def test_listener_that_stays_behind(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch, broadcast: Broadcast, customer: int
) -> None:
    """One that has not read all, comment after comment, is cut too."""
    monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.1)
    async with listening(api, "?after=1"):
        await settle(broadcast, 1)
        [listener] = broadcast._all()
        monkeypatch.setattr(listener, "transport", Stalled())
        await settle(broadcast, 0)
        assert listener.transport.is_closing()


class Stalled:
    """A transport whose other side does not read."""

    closed = False

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 1

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        self.closed = True


async def test_database_out_of_reach(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch, broadcast: Broadcast, customer: int
) -> None:
    """The stream goes on when it is back."""
    monkeypatch.setattr(event_stream, "RETRY_SECONDS", 0.05)

    def refuse(after: int, limit: int) -> db.Unit[db.Page]:
        raise db.UnavailableError("out of reach")
        yield

    async with listening(api, "?after=1") as listener:
        await settle(broadcast, 1)
        monkeypatch.setattr(db, "follow_changes", refuse)
        await api("POST /api/v1/customer", JOHN, 201)
        await asyncio.sleep(0.3)
        monkeypatch.undo()
        assert await listener.cursors(1) == [2]


@one_engine
async def test_feed_that_cannot_be_read(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch, broadcast: Broadcast, customer: int
) -> None:
    """Streams end, so that their clients come again and learn why."""

    def fail(after: int, limit: int) -> db.Unit[db.Page]:
        raise ValueError("it fails")
        yield

    monkeypatch.setattr(db, "follow_changes", fail)
    async with listening(api, "?after=1") as listener:
        assert await listener.block() == []


@one_engine
async def test_end_of_the_server(api: ApiClient, customer: int) -> None:
    """A stream ends whole, with all that was sent."""
    async with listening(api) as listener:
        assert await listener.cursors(1) == [1]
        served: Any = api.client.server
        await served.app.shutdown()
        assert await listener.block() == []  # an incomplete body would raise


@one_engine
async def test_stream_for_http_1_0(api: ApiClient, customer: int) -> None:
    """Without chunks, which HTTP/1.0 does not know."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    lines = b"GET /api/v1/changes HTTP/1.0\r\n" + HOST
    writer.write(lines + b"Accept: text/event-stream\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert "Transfer-Encoding" not in head
    assert await reader.readuntil(b"\n\n") == b"retry: 1000\n\n"
    assert (await reader.readuntil(b"\n\n")).startswith(b"id: 1\n")
    await api("POST /api/v1/purchase/1", PHONE, 201)
    assert (await reader.readuntil(b"\n\n")).startswith(b"id: 2\n")
    writer.close()
    await writer.wait_closed()


@one_engine
async def test_head_of_a_stream(api: ApiClient) -> None:
    reply = await api("HEAD /api/v1/changes", **EVENTS)
    assert reply.headers["Content-Type"] == "text/event-stream"
    assert reply.text == ""
