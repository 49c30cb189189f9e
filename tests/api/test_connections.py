"""Connections: requests that are not HTTP, slow and many clients."""

import asyncio
import json
import re
import socket
import time
from contextlib import suppress
from typing import Any

import pytest

from api import connections, request_body
from checks.support.server_process import request_bytes
from tests.support import (
    HOST,
    JOHN,
    ApiClient,
    Opener,
    add_many,
    count_connections,
    list_names,
    one_engine,
    wait_until,
)

SIZED = b"POST /api/v1/customer HTTP/1.1\r\n" + HOST


CHUNKED = (
    SIZED + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)


UNREADABLE = (
    b"GET http://xn--/",
    b"GET http://xn--a:80/livez?a=marker",
    b"HEAD https://a.xn--a-.example/livez",
    b"GET http://xn--\xc3\xbc/",
    b"GET http://[::1/",
    b"GET http://a:99999/",
    b"GET http://a:marker/",
    b"GET http:livez",
    b"CONNECT xn--a:443",
    b"CONNECT a:99999",
    b"CONNECT a:b",
)
"""Begin requests whose target no parser, or not every one, can take to pieces."""


@one_engine
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/3.9\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400),
        (b"GET /\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: one\r\nHost: two\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"No colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: \0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"x" * 9000 + b"\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 200 + b"\r\n", 400),
        (SIZED + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
        (SIZED + b"Content-Length: -1\r\n\r\n", 400),
        (SIZED + b"Content-Length: 1x\r\n\r\nx", 400),
        (
            SIZED + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (CHUNKED + b"marker\r\n\r\n", 400),
        ([CHUNKED, b"marker\r\n\r\n"], 400),
        ([CHUNKED, b"2\r\n{}marker\r\n"], 400),
        ([CHUNKED, b"2\r\n{}\r\n", b"FFFFFFFFFFFFFFFFF\r\n"], 400),
        (b"FOO /api/v1/customer/5 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        *((line + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400) for line in UNREADABLE),
    ],
)
async def test_not_http(
    api: ApiClient,
    caplog: pytest.LogCaptureFixture,
    request_: bytes | list[bytes],
    status: int,
) -> None:
    """What aiohttp's parser refuses is a problem like any other, without an echo."""
    began = time.monotonic()
    reply = await api.raw(request_, status, pause=0.05)
    assert time.monotonic() - began < request_body.BODY_SECONDS / 2
    assert "marker" not in reply.text
    assert not caplog.records, caplog.text
    assert (await api("GET /")).json["healthy"] is True


@one_engine
async def test_unreadable_targets_hold_nothing(api: ApiClient) -> None:
    """Their connections are closed, whether their clients stay, hang up or go."""
    await api("GET /livez")
    before = count_connections(api)
    opens = []
    for number in range(300):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        line = UNREADABLE[number % len(UNREADABLE)]
        writer.write(line + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        if number % 3 == 0:
            writer.close()
        elif number % 3 == 1:
            writer.write_eof()
        opens.append((reader, writer))
    for reader, writer in opens:
        if not writer.is_closing():
            reply = await asyncio.wait_for(reader.read(), 10)
            assert reply.startswith(b"HTTP/1.1 400 "), reply
            writer.close()
    assert await asyncio.to_thread(
        wait_until, lambda: count_connections(api) == before, 5
    )
    await api("GET /livez")


@one_engine
async def test_answers_before_an_unreadable_target(api: ApiClient) -> None:
    """What came before it on the connection is answered, and it has its own id."""
    body = json.dumps(JOHN).encode()
    keep = [("Connection", "keep-alive"), ("X-Request-Id", "first")]
    whole = request_bytes("POST", "/api/v1/customer", body, keep)
    bad = UNREADABLE[0] + b" HTTP/1.1\r\n" + HOST + b"X-Request-Id: second\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(whole + bad + whole)
    replies = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    found = re.findall(r"HTTP/1.1 (\d+)|X-Request-Id: (\w+)", replies)
    assert found == [("201", ""), ("", "first"), ("400", ""), ("", "second")], replies
    assert await list_names(api) == ["John Doe"]


@one_engine
async def test_task_that_dies(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever ends the task of a connection, the connection is closed and it is told.

    The writer of an answer is made outside of everything that catches.
    """
    monkeypatch.setattr("api.request_loop.StreamWriter", None)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(request_bytes("GET", "/livez"))
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    monkeypatch.undo()
    assert [record.getMessage() for record in caplog.records] == [
        "a connection broke off: 'NoneType' object is not callable"
    ]
    await api("GET /livez")


@one_engine
async def test_half_a_body(api: ApiClient, caplog: pytest.LogCaptureFixture) -> None:
    request = request_bytes("POST", "/api/v1/customer", json.dumps(JOHN).encode())
    with suppress(AssertionError):  # whether it is answered is left open
        await api.raw(request[:-5], 400, hang_up=True)
    await api("GET /livez")
    assert not caplog.records, caplog.text
    assert await list_names(api) == []


@one_engine
async def test_half_closed_client(api: ApiClient) -> None:
    """A client that says it sends nothing more still gets its answer."""
    request = request_bytes("POST", "/api/v1/customer", json.dumps(JOHN).encode())
    reply = await api.raw(request, 201, hang_up=True)
    assert reply.data["id"] == 1


@one_engine
async def test_http_1_0(api: ApiClient) -> None:
    line = b"GET / HTTP/1.0\r\n"
    closed = await api.raw(line + b"\r\n", 200)
    kept = await api.raw(line + b"Connection: keep-alive\r\n\r\n", 200)
    assert closed.json == kept.json == (await api("GET /")).json
    assert (closed.headers["Connection"], kept.headers["Connection"]) == (
        "close",
        "keep-alive",
    )


@one_engine
async def test_slow_head(api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"GET / HTTP/1.1\r\nHost:")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    assert (await api("GET /")).json["healthy"] is True


@one_engine
async def test_client_that_never_reads(
    api: ApiClient, engine: Any, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut off, however much it asked for."""
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.1)
    await engine.write(add_many, customer, 5000)
    before = count_connections(api)
    kept = request_bytes(
        "GET", "/api/v1/customer", None, [("Connection", "keep-alive")]
    )
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", api.port))
        stuck.sendall(kept * 20)
        await asyncio.sleep(0.5)
        assert count_connections(api) == before + 1
        # less than the session keeps its own connection
        assert await asyncio.to_thread(
            wait_until, lambda: count_connections(api) == before, 8
        )
    await api("GET /")


@one_engine
async def test_too_many_connections(opened: Opener) -> None:
    """While all are busy, another is told so, and it is counted."""
    api = await opened(max_connections=2, cors_origins=("https://shop.example",))
    busy = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(2)]
    for _, writer in busy:
        writer.write(SIZED + b"Content-Type: application/json\r\n")
        writer.write(b"Content-Length: 100\r\n\r\n")
    await asyncio.sleep(0.1)
    origin = [("Origin", "https://shop.example"), ("X-Request-Id", "mine")]
    body = b"x" * 200_000  # is not read, and must not cost the client the answer
    reply = await api.raw(request_bytes("POST", "/livez", body, origin), 503)
    assert reply.headers["Connection"] == "close"
    assert reply.headers["X-Request-Id"] == "mine"
    assert reply.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    silent = await api.raw([b"GET"], 503)
    assert silent.headers["X-Request-Id"] != "mine"
    busy[0][1].close()
    await asyncio.sleep(0.1)
    text = (await api("GET /metrics")).text
    assert refusals(text) == 2, text
    busy[1][1].close()


def refusals(text: str) -> int:
    """Return how many connections were refused, by the metrics."""
    found = re.search(r'_count{.*"503",http_route="unparsed"} (\d+)\.0', text)
    return int(found[1]) if found else 0


@one_engine
async def test_longest_idle_makes_room(opened: Opener) -> None:
    """A full server closes an idle connection for a new one, the oldest first."""
    api = await opened(max_connections=3)
    idle = []
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
        await reader.readuntil(b"}")
        idle.append((reader, writer))
        await asyncio.sleep(0.01)
    await api.raw(request_bytes("GET", "/livez"), 200)
    assert await asyncio.wait_for(idle[0][0].read(), 10) == b""
    for reader, writer in idle[1:]:
        writer.write(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
    for _, writer in idle:
        writer.close()


@one_engine
async def test_refused_clients_make_room(opened: Opener) -> None:
    """Those that were answered 400 and stay do not keep others out."""
    api = await opened(max_connections=2)
    peers = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(b"garbage\r\n\r\n")
        await reader.readuntil(b"}")
        peers.append(writer)
    for _ in range(2):
        await api.raw(request_bytes("GET", "/livez"), 200)
    for writer in peers:
        writer.close()
