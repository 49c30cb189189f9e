"""How a list is written: JSON, JSON Lines or CSV, whole or as a stream of pages."""

import csv
import io
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from replies import ENCODER, FIXED_HEADERS, JSON, REQUEST_ID, Problem

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


Rows = Sequence[msgspec.Struct]
Kind = type[msgspec.Struct]


class Format(NamedTuple):
    """A media type, and what writes a list of structs: whole, or piece by piece."""

    media_type: str
    content_type: str
    whole: Callable[[Kind, Rows], bytes]
    before: Callable[[Kind], bytes]
    rows: Callable[[Rows], bytes]
    between: bytes = b""
    after: bytes = b""


def _json_whole(kind: Kind, rows: Rows) -> bytes:
    return ENCODER.encode({"status": "ok", "data": rows})


def _json_rows(rows: Rows) -> bytes:
    return ENCODER.encode(rows)[1:-1]


def _csv_lines(lines: list[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)  # RFC 4180: CRLF, quotes doubled
    return text.getvalue().encode()


def _csv_cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _csv_rows(rows: Rows) -> bytes:
    return _csv_lines(
        [[_csv_cell(value) for value in msgspec.structs.astuple(row)] for row in rows]
    )


FORMATS = (
    Format(
        "application/json",
        JSON,
        _json_whole,
        lambda kind: b'{"status":"ok","data":[',
        _json_rows,
        b",",
        b"]}",
    ),
    Format(
        "application/jsonl",
        "application/jsonl; charset=utf-8",
        lambda kind, rows: ENCODER.encode_lines(rows),
        lambda kind: b"",
        ENCODER.encode_lines,
    ),
    Format(
        "text/csv",
        "text/csv; charset=utf-8; header=present",
        lambda kind, rows: _csv_lines([kind.__struct_fields__]) + _csv_rows(rows),
        lambda kind: _csv_lines([kind.__struct_fields__]),
        _csv_rows,
    ),
)
VARY = "Vary: Accept\r\n"


def negotiate(request: web.Request) -> Format:
    """Return the format that the client likes best (RFC 9110, 12.5.1). Problem 406."""
    if request.headers.get("Accept", "*/*") == "*/*":
        return FORMATS[0]
    accept = ",".join(request.headers.getall("Accept"))
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
    pages: AsyncIterator[Rows],
) -> web.StreamResponse:
    """Send a list page by page, as fast as the client takes it."""
    headers = {"Content-Type": form.content_type, "Vary": "Accept"}
    headers["X-Request-Id"] = request[REQUEST_ID]
    response = web.StreamResponse(headers={**FIXED_HEADERS, **headers})
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    before = form.before(kind)
    async for rows in pages:
        if rows:
            await response.write(before + form.rows(rows))
            before = form.between
    await response.write_eof(form.after)
    return response
