"""Expectations, request ids and unknown errors."""

import asyncio
import json

import pytest

import db
from api import request_body
from checks.support.server_process import request_bytes
from runtime import access_log
from tests.support import JOHN, ApiClient, Like, list_names, one_engine


@one_engine
@pytest.mark.parametrize(
    ("expect", "status"),
    [("100-continue", 201), ("100-Continue", 201), ("a miracle", 417), ("\xe9", 417)],
)
async def test_expect(api: ApiClient, expect: str, status: int) -> None:
    """A body that waits for leave to come is asked for; what else is, is refused."""
    whole = request_bytes("POST", "/api/v1/customer", json.dumps(JOHN).encode())
    head, _, body = whole.partition(b"\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(head + f"\r\nExpect: {expect}\r\n\r\n".encode("latin-1"))
    first = (await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)).split()
    if status == 201:
        assert first[1:] == [b"100", b"Continue"]
        assert await reader.readuntil(b"\r\n") == b"\r\n"
        writer.write(body)
        first = (await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)).split()
    assert int(first[1]) == status
    assert "miracle" not in (await reader.read()).decode()
    writer.close()
    assert await list_names(api) == ["John Doe"][: status == 201]


@one_engine
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.B_9-", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("é", False),
    ],
)
async def test_request_id(api: ApiClient, given: str, kept: bool) -> None:
    """It comes back where it is one, also from what no handler has seen."""
    for line, status in (("GET /livez", 200), ("GET /nowhere", 404), ("FOO /", 405)):
        reply = await api(line, None, status, X_Request_Id=given)
        assert (reply.headers["X-Request-Id"] == given) is kept
    reply = await api("GET /", None, 417, X_Request_Id=given, Expect="x")
    assert (reply.headers["X-Request-Id"] == given) is kept
    ids = {(await api("GET /livez")).headers["X-Request-Id"] for _ in range(5)}
    assert len(ids) == 5


async def test_unknown_fault(
    api: ApiClient,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(customer_id: int) -> db.Unit[db.Customer]:
        yield db.SELECT_CUSTOMER, (customer_id,)
        raise RuntimeError("the marker")

    monkeypatch.setattr(db, "read_customer", broken)
    reply = await api("GET /api/v1/customer/1", None, 500, X_Request_Id="mine")
    assert "marker" not in reply.text
    [record] = caplog.records
    assert vars(record)["request_id"] == "mine"
    line = json.loads(access_log.JSONFormatter().format(record))
    assert line == {
        "time": Like(r"\d{4}-\d\d-\d\dT.*Z"),
        "level": "error",
        "message": "unknown fault",
        "id": "mine",
        "traceback": Like(r"(?s)Traceback .*RuntimeError: the marker\n"),
    }
    monkeypatch.undo()
    await api("GET /api/v1/customer/1")


@one_engine
@pytest.mark.parametrize(
    ("version", "length", "first"),
    [
        ("1.1", 256 * 1024, b"HTTP/1.1 100 Continue"),
        ("1.1", 256 * 1024 + 1, b"HTTP/1.1 413 Content Too Large"),
        ("1.0", 2, b"HTTP/1.1 422 Unprocessable Content"),
    ],
)
async def test_leave_to_send_a_body(
    api: ApiClient, version: str, length: int, first: bytes
) -> None:
    """It is not given for a body that is too large, nor to HTTP/1.0."""
    head = (
        f"POST /api/v1/customer HTTP/{version}\r\nHost: a\r\nExpect: 100-continue\r\n"
    )
    head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(head.encode())
    if version == "1.0":
        writer.write(b"{}")
    line = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
    assert line.strip() == first
    writer.close()


@one_engine
async def test_connection_after_a_body_that_is_left(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said to close: nobody reads the rest."""
    head = "POST /api/v1/customer HTTP/1.1\r\nHost: a\r\n"
    head += "Content-Type: application/json\r\n"
    large = f"{head}Content-Length: 300000\r\n\r\n".encode()
    assert (await api.raw(large, 413)).headers["Connection"] == "close"
    monkeypatch.setattr(request_body, "BODY_SECONDS", 0.1)
    slow = f"{head}Content-Length: 3\r\n\r\n".encode()
    assert (await api.raw([slow + b"{"], 408)).headers["Connection"] == "close"


@one_engine
@pytest.mark.parametrize("name", ["Accept", "If-Match", "If-None-Match"])
async def test_header_in_many_lines(api: ApiClient, purchase: int, name: str) -> None:
    """Together they may hold 8,192 characters."""
    path = "/api/v1/customer" if name == "Accept" else "/api/v1/customer/1"
    for number, statuses in ((2, (200, 304, 406, 412)), (3, (400,))):
        lines = f"{name}: {'x' * 3500}\r\n" * number
        request = f"GET {path} HTTP/1.1\r\nHost: a\r\n{lines}Connection: close\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(request.encode())
        status = int((await asyncio.wait_for(reader.read(), 10)).split()[1])
        assert status in statuses
        writer.close()
