"""How an answer is written: replies and problems."""

from collections.abc import Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from time import time
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

JSON = "application/json; charset=utf-8"
PROBLEM = "application/problem+json"

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
CALLER: web.RequestKey[str] = web.RequestKey("caller", str)

FIXED_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",
}
ENCODER = msgspec.json.Encoder()


def _lines(headers: Mapping[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


STATUS_LINES = {
    status.value: f" {status.value} {status.phrase}\r\n{_lines(FIXED_HEADERS)}"
    for status in HTTPStatus
}


class _DateLine:
    """The Date header, made once a second (RFC 9110, section 6.6.1)."""

    second = 0
    line = ""

    def at(self, seconds: float) -> str:
        if int(seconds) != self.second:
            self.second = int(seconds)
            self.line = f"Date: {formatdate(self.second, usegmt=True)}\r\n"
        return self.line


DATE = _DateLine()
BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


class Reply(web.StreamResponse):
    """An answer that is whole already, written to the transport in one piece.

    Header dictionaries and their serialization are half of what aiohttp's Response
    costs for a small body, so this one writes its head as text. Everything put into
    `lines` is made by this server, without CR or LF.
    """

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> None:
        # Not super().__init__(): the dictionaries it makes would stay empty.
        self._status = status
        self.body = body
        self.lines = _lines(headers) if headers else ""
        if body or status == HTTPStatus.OK:
            self.lines += f"Content-Type: {content_type}\r\n"

    def add(self, headers: Mapping[str, str]) -> None:
        """Add headers to those that it has."""
        self.lines += _lines(headers)

    def head(self, request_id: str, connection: str) -> bytes:
        """Return the status line and the headers."""
        length = (
            "" if self.status in BODILESS else f"Content-Length: {len(self.body)}\r\n"
        )
        return (
            f"HTTP/1.1{STATUS_LINES[self.status]}{DATE.at(time())}{self.lines}{length}"
            f"{connection}X-Request-Id: {request_id}\r\n\r\n"
        ).encode("latin-1")

    def to_closed_connection(self, request_id: str) -> bytes:
        """Return all of it, for a connection that is closed after it."""
        return self.head(request_id, "Connection: close\r\n") + self.body

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all of it. ConnectionResetError when the client has gone."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        connection = ""
        if not self._keep_alive:
            connection = "Connection: close\r\n"
        elif request.version < (1, 1):
            connection = "Connection: keep-alive\r\n"
        head = self.head(request[REQUEST_ID], connection)
        transport.write(head if request.method == "HEAD" else head + self.body)
        if request.protocol.writing_paused:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` has written the end too."""


def ok(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return the body that every success but deleting has."""
    return Reply(status, ENCODER.encode({"status": "ok", "data": data}), headers)


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it a problem
    """What went wrong with a request, as its client should see it (RFC 9457)."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers

    def reply(self, request_id: str) -> Reply:
        """Return it as application/problem+json."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors:
            body["errors"] = self.errors
        return Reply(self.status, ENCODER.encode(body), self.headers, PROBLEM)


def invalid(*faults: tuple[str, str]) -> Problem:
    """Return a 422 that names every fault: a JSON pointer and what is wrong there."""
    errors = [{"pointer": pointer, "detail": detail} for pointer, detail in faults]
    return Problem(422, "The request is not valid: see errors.", errors)
