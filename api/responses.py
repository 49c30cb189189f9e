"""Replies as they are written: raw responses, and problems (RFC 9457)."""

from collections.abc import Mapping, Sequence
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from msgspec import UNSET, UnsetType

JSON = "application/json; charset=utf-8"
PROBLEM = "application/problem+json"

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
CALLER: web.RequestKey[str] = web.RequestKey("caller", str)

FIXED_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",
}
ENCODER = msgspec.json.Encoder()
VARY = "Vary: Accept\r\n"


def header_lines(headers: Mapping[str, str]) -> str:
    """Return headers as lines of a head."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


# RFC 9110 renamed two; Python's http module follows from 3.13 on.
PHRASES = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    431: "Request Header Fields Too Large",
}
STATUS_LINES = {
    status: f" {status} {phrase}\r\n{header_lines(FIXED_HEADERS)}"
    for status, phrase in PHRASES.items()
}


@lru_cache(1)
def date_line(second: int) -> str:
    """Return the Date header (RFC 9110, section 6.6.1)."""
    return f"Date: {formatdate(second, usegmt=True)}\r\n"


BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


class RawResponse(web.StreamResponse):
    """A response that is complete, written to the transport in one piece.

    Header dictionaries and their serialization are half of the cost of aiohttp's
    Response for a small body, so this one writes its head as text. Every header in
    `lines` is made by this server, without CR or LF.
    """

    # Attributes in the place of aiohttp's properties, read several times a request
    status: int = 0
    keep_alive: bool | None = None

    def __init__(
        self, status: int, body: bytes = b"", lines: str = "", content_type: str = JSON
    ) -> None:
        # Not super().__init__(): its dictionaries would stay empty.
        self.status = status
        self.body = body
        self.lines = lines
        self.content_type_line = f"Content-Type: {content_type}\r\n"
        self.request_id = ""

    def add(self, headers: Mapping[str, str]) -> None:
        """Add headers."""
        self.lines += header_lines(headers)

    def head(self, connection: str) -> bytes:
        """Return the status line and the headers."""
        status, body, content = self.status, self.body, ""
        if body or status == HTTPStatus.OK:
            content = self.content_type_line
        if status not in BODILESS:
            content += f"Content-Length: {len(body)}\r\n"
        date = date_line(int(time()))
        return (
            f"HTTP/1.1{STATUS_LINES[status]}{date}{self.lines}{content}"
            f"{connection}X-Request-Id: {self.request_id}\r\n\r\n"
        ).encode("latin-1")

    def force_close(self) -> None:
        """Have the connection closed after this response."""
        self.keep_alive = False

    def last_bytes(self) -> bytes:
        """Return head and body, for a connection that is closed after it."""
        return self.head("Connection: close\r\n") + self.body

    def write(self, request: web.BaseRequest) -> None:  # type: ignore[override]
        """Write head and body. ConnectionResetError when the client has gone."""
        protocol = request.protocol
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        if self.keep_alive is None:
            self.keep_alive = request.keep_alive
        connection = ""
        if not self.keep_alive:
            connection = "Connection: close\r\n"
        elif request.version < (1, 1):
            connection = "Connection: keep-alive\r\n"
        head = self.head(connection)
        transport.write(head if request.method == "HEAD" else head + self.body)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Do the same, and wait until the client takes more."""
        self.write(request)
        if request.protocol.writing_paused:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` has written the end too."""


def ok_body(data: Any) -> bytes:
    """Return the body that every success but a deletion has."""
    return ENCODER.encode({"status": "ok", "data": data})


def ok(data: Any, lines: str = "") -> RawResponse:
    """Return the response that such a success has."""
    return RawResponse(200, ok_body(data), lines)


class FieldError(msgspec.Struct):
    """A fault of a request, and a JSON pointer to its place; of a file, the line too.

    The first line is 1; a row of several lines counts as the first of them.
    """

    pointer: str
    detail: str
    line: int | UnsetType = UNSET


class ProblemDetails(msgspec.Struct):
    """The cause of an error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] | UnsetType = UNSET


class ProblemError(Exception):
    """An error as its client should see it."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    def response(self, request_id: str) -> RawResponse:
        """Return it as application/problem+json, or the 304 that is no error."""
        if self.status == HTTPStatus.NOT_MODIFIED:
            return RawResponse(304)
        details = ProblemDetails(
            "about:blank",
            PHRASES[self.status],
            self.status,
            self.detail,
            request_id,
            [*self.errors] or UNSET,
        )
        lines = header_lines(self.headers)
        response = RawResponse(self.status, ENCODER.encode(details), lines, PROBLEM)
        response.request_id = request_id
        return response


MAX_ERRORS = 100
"""How many faults one response names; what is beyond is not looked for."""


def count_of_faults(number: int) -> str:
    """Return how many faults there are, and that not all are named."""
    found = "1 fault" if number == 1 else f"{number} faults"
    return found + f", of which these are the first {MAX_ERRORS}" * (
        number > MAX_ERRORS
    )


def invalid(*errors: FieldError) -> ProblemError:
    """Return a 422 that names every fault, or the first and that there are more."""
    number = len(errors)
    found = count_of_faults(number)
    if number > MAX_ERRORS:  # nobody has looked for the others
        found = f"more than {MAX_ERRORS} faults, of which these are the first"
    detail = f"The request is not valid, see errors: {found}."
    return ProblemError(422, detail, errors[:MAX_ERRORS])


def invalid_field(pointer: str, detail: str) -> ProblemError:
    """Return a 422 that names one fault."""
    return invalid(FieldError(pointer, detail))
