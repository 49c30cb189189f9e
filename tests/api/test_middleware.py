"""Expectations, request ids and unknown errors."""

import asyncio
import json

import pytest

import db
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
