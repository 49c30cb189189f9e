"""How a list is written: JSON, JSON Lines or CSV, whole or as a stream of pages."""

import csv
import io
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

import db
from conditions import joined
from replies import ENCODER, FIXED_HEADERS, JSON, REQUEST_ID, Problem

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


class Kind(NamedTuple):
    """What a list holds: the struct of a row, and how it is made from stored JSON."""

    struct: type[msgspec.Struct]
    structs: Callable[[str], Sequence[msgspec.Struct]]
    as_stored: bool
    """Whether the stored JSON is what a reply shows."""


class Format(NamedTuple):
    """A media type, and the pieces that a list is written with."""

    media_type: str
    content_type: str
    before: Callable[[Kind], bytes]
    rows: Callable[[Kind, str], bytes]
    between: bytes = b""
    after: bytes = b""

    def whole(self, kind: Kind, json: str) -> bytes:
        """Return a list in one piece."""
        return self.before(kind) + self.rows(kind, json) + self.after


def _json_rows(kind: Kind, json: str) -> bytes:
    if kind.as_stored:
        return json[1:-1].encode()
    return ENCODER.encode(kind.structs(json))[1:-1]


def _jsonl_rows(kind: Kind, json: str) -> bytes:
    return ENCODER.encode_lines(kind.structs(json))


def _csv_lines(lines: list[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)  # RFC 4180: CRLF, quotes doubled
    return text.getvalue().encode()


def _csv_cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _csv_rows(kind: Kind, json: str) -> bytes:
    rows = map(msgspec.structs.astuple, kind.structs(json))
    return _csv_lines([[_csv_cell(value) for value in row] for row in rows])


FORMATS = (
    Format(
        "application/json",
        JSON,
        lambda kind: b'{"status":"ok","data":[',
        _json_rows,
        b",",
        b"]}",
    ),
    Format(
        "application/jsonl",
        "application/jsonl; charset=utf-8",
        lambda kind: b"",
        _jsonl_rows,
    ),
    Format(
        "text/csv",
        "text/csv; charset=utf-8; header=present",
        lambda kind: _csv_lines([kind.struct.__struct_fields__]),
        _csv_rows,
    ),
)
VARY = "Vary: Accept\r\n"


def negotiate(request: web.Request) -> Format:
    """Return the format that the client likes best (RFC 9110, 12.5.1). Problem 406."""
    if request.headers.get("Accept", "*/*") == "*/*":
        return FORMATS[0]
    accept = joined(request, "Accept")
    ranges = dict(_range(part) for part in accept.split(",") if part.strip())
    best = max(FORMATS, key=lambda form: _quality(form.media_type, ranges))
    if _quality(best.media_type, ranges) <= 0:
        names = ", ".join(form.media_type for form in FORMATS)
        raise Problem(406, f"A list comes as one of {names}.")
    return best


def _range(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media_range, min(float(value), 1.0)
            except ValueError:
                return media_range, 0.0
    return media_range, 1.0


def _quality(media_type: str, ranges: dict[str, float]) -> float:
    family = media_type.partition("/")[0]
    for media_range in (media_type, f"{family}/*", "*/*"):  # the most specific decides
        if media_range in ranges:
            return ranges[media_range]
    return 0.0


async def stream(
    request: web.Request,
    form: Format,
    kind: Kind,
    pages: AsyncIterator[db.Page],
) -> web.StreamResponse:
    """Send a list page by page, as fast as the client takes it."""
    headers = {"Content-Type": form.content_type, "Vary": "Accept"}
    headers["X-Request-Id"] = request[REQUEST_ID]
    response = web.StreamResponse(headers={**FIXED_HEADERS, **headers})
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    before = form.before(kind)
    async for page in pages:
        if page.size:
            await response.write(before + form.rows(kind, page.json))
            before = form.between
    await response.write_eof(form.after)
    return response
