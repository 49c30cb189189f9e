"""Where requests end: the same bytes get the same answers however they are cut."""

import asyncio
import json
import re
import socket
from typing import Any

import pytest

from api.framing import MAX_HEAD
from checks.support.server_process import request_bytes
from tests.support import HOST, JOHN, ApiClient, list_names, one_engine

KEEP = [("Connection", "keep-alive")]
BODY = json.dumps(JOHN).encode()
POST = request_bytes("POST", "/api/v1/customer", BODY, KEEP)
GET = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
HEAD = (
    b"POST /api/v1/customer HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
)
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"5;a=b\r\n" + BODY[:5] + b"\r\n%x\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n"
UPGRADE = b"GET /livez HTTP/1.1\r\n%bConnection: Upgrade\r\nUpgrade: %%b\r\n\r\n" % HOST

VARYING = re.compile(
    "(Date|X-Request-Id|Location|Change|Content-Length): .*"
    '|"(id|created_on|request_id)":[^,}]*'
)
"""What two answers to the same request do not share."""
SEQUENCES: dict[str, tuple[bytes, list[int]]] = {
    "two": (POST + GET, [201, 200]),
    "upgrade": (UPGRADE % b"h2c" + POST, [200, 201]),
    "websocket": (
        UPGRADE % b"websocket" + POST + UPGRADE % b"tcp" + GET,
        [200, 201, 200, 200],
    ),
    "garbage": (POST + b"BAD\r\n\r\n", [201, 400]),
    "many": (POST * 20 + b"BAD", [201] * 20 + [400]),
    "method": (POST + b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n" + GET, [201, 405]),
    "too short": (
        HEAD + b"Content-Length: %d\r\n\r\n" % (len(BODY) - 1) + BODY + GET,
        [400, 400],
    ),
    "chunks": (CHUNKED + CHUNKS + b"0\r\nA: b\r\n\r\n" + GET, [201, 200]),
    "bad chunk": (POST + CHUNKED + CHUNKS + b"x\r\n" + GET, [201, 400]),
    "cut body": (GET + HEAD + b"Content-Length: 9\r\n\r\n{}", [200, 400]),
    "cut chunks": (CHUNKED + CHUNKS, [400]),
    "cut head": (POST + GET[:-4], [201, 400]),
    "unread": (
        GET + CHUNKED.replace(b"customer", b"nothing") + b"x\r\n" + GET,
        [200, 404],
    ),
    "empty lines": (b"\r\n\r\n" + POST + b"\r\n" + GET, [201, 200]),
    "closed": (GET[:-2] + b"Connection: close\r\n\r\n" + GET, [200]),
    "old": (b"GET /livez HTTP/1.0\r\n\r\n" + GET, [200]),
    "target": (
        POST + b"GET http://xn--/ HTTP/1.1\r\n" + HOST + b"\r\n" + POST,
        [201, 400],
    ),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n" + GET, [204, 200]),
    "line": (GET + b"GET / HTTP/1.1\r\nA: " + b"x" * 9000 + b"\r\n\r\n", [200, 400]),
    "coding": (POST + HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + GET, [201, 501]),
    "codings": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS, [501]),
    "no coding": (HEAD + b"Transfer-Encoding: \r\nContent-Length: 2\r\n\r\n{}", [400]),
}


async def answers(api: ApiClient, pieces: list[bytes]) -> tuple[list[int], str]:
    """Give pieces to the server as the network might; return what it answers."""
    runner: Any = api.client.server.runner
    known = set(runner.server.connections)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    await asyncio.sleep(0.001)
    [protocol] = set(runner.server.connections) - known
    for piece in pieces:
        protocol.data_received(piece)
        await asyncio.sleep(0)
    writer.write_eof()
    text = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    statuses = [int(status) for status in re.findall(r"HTTP/1\.1 (\d{3}) ", text)]
    return statuses, VARYING.sub("", text)


@one_engine
@pytest.mark.parametrize("name", SEQUENCES)
async def test_cut_at_every_byte(api: ApiClient, name: str) -> None:
    data, statuses = SEQUENCES[name]
    whole = await answers(api, [data])
    assert whole[0] == statuses, whole[1]
    stored = len(await list_names(api))
    assert stored == statuses.count(201)
    assert await answers(api, [data[at : at + 1] for at in range(len(data))]) == whole
    assert len(await list_names(api)) == 2 * stored


@one_engine
@pytest.mark.parametrize("name", ["websocket", "too short", "chunks", "bad chunk"])
async def test_cut_in_two(api: ApiClient, name: str) -> None:
    """At each place in turn."""
    data = SEQUENCES[name][0]
    whole = await answers(api, [data])
    for at in range(1, len(data)):
        assert await answers(api, [data[:at], data[at:]]) == whole, data[:at]


@one_engine
@pytest.mark.parametrize("size", [1, 1000, 2 * MAX_HEAD])
async def test_largest_head(api: ApiClient, size: int) -> None:
    """It is one of 32 KiB, in whatever pieces; one byte more is 431."""
    begin = b"GET /livez HTTP/1.1\r\n" + HOST
    lines = b"".join(b"A%d: %b\r\n" % (n, b"x" * 8000) for n in range(4))
    room = MAX_HEAD - len(begin + lines) - len(b"B: \r\n\r\n")
    head = begin + lines + b"B: " + b"x" * room + b"\r\n\r\n"
    pieces = [head[at : at + size] for at in range(0, len(head), size)]
    assert (await answers(api, pieces))[0] == [200]
    longer = head.replace(b"B: ", b"B: x")
    pieces = [longer[at : at + size] for at in range(0, len(longer), size)]
    statuses, text = await answers(api, pieces)
    assert statuses == [431], text
    assert "The head of a request has at most 32 KiB." in text
    endless = begin + b"B: " + b"x" * 2 * MAX_HEAD
    pieces = [endless[at : at + size] for at in range(0, len(endless), size)]
    assert (await answers(api, pieces))[0] == [431]


@one_engine
@pytest.mark.parametrize(
    "start", [b"\x16\x03\x01\x02\0", b"GET /livez\r\n", b"GET / HTTP/x\r\n", b"\0"]
)
async def test_answered_before_its_end(api: ApiClient, start: bytes) -> None:
    """What cannot become HTTP any more is refused before a head is complete."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(start)
    assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 400 ")
    writer.close()


@one_engine
async def test_strange_beginning(api: ApiClient) -> None:
    """It is refused soon, though it may yet become a method of somebody's own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(POST + b"BAD")
    text = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    assert re.findall(r"HTTP/1\.1 (\d+)", text) == ["201", "400"]


@one_engine
async def test_many_waiting(api: ApiClient) -> None:
    """More requests than may wait in one segment are all answered, in their order."""
    ids = [f"r{number}" for number in range(300)]
    requests = [
        request_bytes("GET", "/livez", None, [*KEEP, ("X-Request-Id", one)])
        for one in ids
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"".join(requests))
    writer.write_eof()
    text = (await asyncio.wait_for(reader.read(), 20)).decode()
    writer.close()
    assert re.findall(r"X-Request-Id: (\w+)", text) == ids


@one_engine
async def test_answer_to_one_who_goes_on(api: ApiClient) -> None:
    """It can be read though the client was still sending."""

    def visit() -> bytes:
        with socket.create_connection(("127.0.0.1", api.port), 10) as client:
            client.sendall(POST + b"BAD\r\n\r\n")
            for _ in range(20):
                client.sendall(b"x" * 1000)
            received = b""
            while piece := client.recv(65536):
                received += piece
            return received

    text = await asyncio.to_thread(visit)
    assert re.findall(rb"HTTP/1\.1 (\d+)", text) == [b"201", b"400"], text
