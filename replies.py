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


def header_lines(headers: Mapping[str, str]) -> str:
    """Return headers as they are written."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


# RFC 9110 has new names for two; Python's http module has them from 3.13 on.
PHRASES = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    422: "Unprocessable Content",
}
STATUS_LINES = {
    status: f" {status} {phrase}\r\n{header_lines(FIXED_HEADERS)}"
    for status, phrase in PHRASES.items()
}


class _Date:
    """The Date header, made once a second (RFC 9110, section 6.6.1)."""

    second = 0
    line = ""

    def turn(self, second: int) -> None:
        """Begin another second."""
        self.second = second
        self.line = f"Date: {formatdate(second, usegmt=True)}\r\n"


DATE = _Date()
BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


class Reply(web.StreamResponse):
    """An answer that is whole already, written to the transport in one piece.

    Header dictionaries and their serialization are half of what aiohttp's Response
    costs for a small body, so this one writes its head as text. Everything put into
    `lines` is made by this server, without CR or LF.
    """

    status: int = 0  # aiohttp's is a property, and asked for thrice a request

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        lines: str = "",
        content_type: str = JSON,
    ) -> None:
        # Not super().__init__(): the dictionaries it makes would stay empty.
        self.status = status
        self.body = body
        self.lines = lines
        self.content_type_line = f"Content-Type: {content_type}\r\n"
        self.request_id = ""

    def add(self, headers: Mapping[str, str]) -> None:
        """Add headers to those that it has."""
        self.lines += header_lines(headers)

    def head(self, connection: str) -> bytes:
        """Return the status line and the headers."""
        now = int(time())
        if now != DATE.second:
            DATE.turn(now)
        status, body, kind = self.status, self.body, ""
        if body or status == HTTPStatus.OK:
            kind = self.content_type_line
        if status not in BODILESS:
            kind += f"Content-Length: {len(body)}\r\n"
        return (
            f"HTTP/1.1{STATUS_LINES[status]}{DATE.line}{self.lines}{kind}"
            f"{connection}X-Request-Id: {self.request_id}\r\n\r\n"
        ).encode("latin-1")

    def to_closed_connection(self) -> bytes:
        """Return all of it, for a connection that is closed after it."""
        return self.head("Connection: close\r\n") + self.body

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all of it. ConnectionResetError when the client has gone."""
        protocol = request.protocol
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        connection = ""
        if not self._keep_alive:
            connection = "Connection: close\r\n"
        elif request.version < (1, 1):
            connection = "Connection: keep-alive\r\n"
        head = self.head(connection)
        transport.write(head if request.method == "HEAD" else head + self.body)
        if protocol.writing_paused:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` has written the end too."""


def ok(data: Any, lines: str = "") -> Reply:
    """Return the body that every success but deleting has."""
    return Reply(200, ENCODER.encode({"status": "ok", "data": data}), lines)


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
        self.headers = headers or {}

    def reply(self, request_id: str) -> Reply:
        """Return it as application/problem+json."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": PHRASES[self.status],
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors:
            body["errors"] = self.errors
        reply = Reply(
            self.status, ENCODER.encode(body), header_lines(self.headers), PROBLEM
        )
        reply.request_id = request_id
        return reply


Fault = tuple[str, str]
"""A JSON pointer, and what is wrong there."""
MAX_FAULTS = 1000
"""How many faults one answer names."""


def invalid(*faults: Fault) -> Problem:
    """Return a 422 that names every fault, or says that it does not."""
    named = faults[:MAX_FAULTS]
    errors = [{"pointer": pointer, "detail": detail} for pointer, detail in named]
    detail = "The request is not valid: see errors."
    if len(faults) > MAX_FAULTS:
        detail = f"The request is not valid: errors has {MAX_FAULTS} of {len(faults)}."
    return Problem(422, detail, errors)
