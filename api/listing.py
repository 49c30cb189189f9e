"""Lists: complete or in pages, as JSON, JSON Lines or CSV."""

import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from aiohttp import HttpVersion11, web
from msgspec import UNSET

import db
from api.conditional import joined_header, untagged_problem
from api.request_body import number
from api.responses import (
    ENCODER,
    FIXED_HEADERS,
    JSON,
    REQUEST_ID,
    VARY,
    ProblemError,
    RawResponse,
)
from api.schemas import MAX_ID

PAGE_ROWS = 500
"""How many rows of a list without `limit` one unit of work reads."""
FORMULA_STARTS = "=+@\uff1d\uff0b\uff0d\uff20\t\r\n-"
"""The beginnings of a cell that spreadsheets take for a formula; four full-width."""
GUARDED = re.compile(f"'*[{FORMULA_STARTS}]")
"""The beginning of a text whose cell has one `'` more. Those that begin like a guarded
one are among them, so no two texts have the same cell."""
QUOTED = re.compile(r"""[",;|\t\r\n]|\A['=+@\uff1d\uff0b\uff0d\uff20-]|\A\s|\s\Z""")
"""What a spreadsheet could take for a separator or a formula, or cut off."""
BOM = b"\xef\xbb\xbf"
"""Tells Excel that a file is UTF-8."""
NO_LINGER, RESET = struct.pack("ii", 0, 0), struct.pack("ii", 1, 0)
"""Values of SO_LINGER: closing sends what is left; closing resets (socket(7))."""

PageQuery = Callable[[int, int], db.Unit[db.Page]]
"""A query of a page: the id that it comes after, and the most rows."""
RunQuery = Callable[[PageQuery, int, int], Awaitable[db.Page]]
"""`read` or `scan` of an engine."""


class RowType(NamedTuple):
    """The struct of a list's rows, and the function that decodes a page of them."""

    struct: type[msgspec.Struct]
    decode: Callable[[str], Sequence[msgspec.Struct]]
    as_stored: bool
    """Whether a reply shows the JSON of the page as it is."""


class Format(NamedTuple):
    """A media type, and the pieces that a list is written with."""

    media_type: str
    content_type: str
    before: bytes | None
    """None or a BOM for the header of CSV, which depends on the type of the rows."""
    rows: Callable[[RowType, str], bytes]
    between: bytes = b""
    after: bytes = b""
    lines: str = VARY
    """Headers of the response."""

    def start(self, row_type: RowType) -> bytes:
        """Return the bytes before the first row."""
        if self.before is None:
            return _csv_lines([row_type.struct.__struct_fields__])
        if self.before == BOM:
            return BOM + _csv_lines([row_type.struct.__struct_fields__])
        return self.before


def _json_rows(row_type: RowType, json: str) -> bytes:
    if row_type.as_stored:
        return json[1:-1].encode()
    return ENCODER.encode(row_type.decode(json))[1:-1]


def _jsonl_rows(row_type: RowType, json: str) -> bytes:
    return ENCODER.encode_lines(row_type.decode(json))


def _csv_lines(lines: Iterable[Iterable[Any]]) -> bytes:
    return "".join([",".join(map(_csv_cell, line)) + "\r\n" for line in lines]).encode()


def _csv_cell(value: object) -> str:
    """Return a cell that no spreadsheet computes (owasp.org, CSV injection)."""
    if isinstance(value, msgspec.Struct):
        value = ENCODER.encode(value).decode()
    text = "" if value is None or value is UNSET else str(value)
    if GUARDED.match(text):
        text = f"'{text}"
    if QUOTED.search(text):  # RFC 4180
        return '"' + text.replace('"', '""') + '"'
    return text


def unguard(cell: str) -> str:
    """Return the text of a cell as it was before `_csv_cell` guarded it."""
    return cell[1:] if cell.startswith("'") and GUARDED.match(cell) else cell


def _csv_rows(row_type: RowType, json: str) -> bytes:
    return _csv_lines(map(msgspec.structs.astuple, row_type.decode(json)))


JSON_START = b'{"status":"ok","data":['
FORMATS = (
    Format("application/json", JSON, JSON_START, _json_rows, b",", b"]}"),
    Format("application/jsonl", "application/jsonl; charset=utf-8", b"", _jsonl_rows),
    Format("text/csv", "text/csv; charset=utf-8; header=present", None, _csv_rows),
)


def file_format(name: str) -> Format:
    """Return the format of a file to download, which ends in `.csv` or `.jsonl`."""
    lines = f'Content-Disposition: attachment; filename="{name}"\r\n'
    if name.endswith(".csv"):
        return FORMATS[2]._replace(before=BOM, lines=lines)
    return FORMATS[1]._replace(lines=lines)


ANYTHING = {"*/*": 1.0}


def negotiate(request: web.Request, formats: Sequence[Format] = FORMATS) -> Format:
    """Return the format that a client prefers (RFC 9110, 12.5.1). ProblemError 406."""
    if request.headers.get("Accept", "*/*") == "*/*":
        return formats[0]
    weights = qualities(request, *(form.media_type for form in formats))
    best = formats[weights.index(max(weights))]
    if max(weights) <= 0:
        names = ", ".join(form.media_type for form in formats)
        raise ProblemError(406, f"A list comes as one of {names}.")
    return best


def qualities(request: web.Request, *media_types: str) -> list[float]:
    """Return how much a client wants each media type; without Accept all alike."""
    accept = joined_header(request, "Accept") if "Accept" in request.headers else ""
    ranges = dict(_range(part) for part in accept.split(",") if part.strip())
    return [_quality(kind, ranges or ANYTHING) for kind in media_types]


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
    row_type: RowType,
    page: db.Page,
    scan: Callable[[int, int], Awaitable[db.Page]],
) -> web.StreamResponse:
    """Send a list from its first page on, as fast as the client takes it."""
    headers = dict(line.split(": ") for line in form.lines.splitlines())
    headers |= {"Content-Type": form.content_type, "X-Request-Id": request[REQUEST_ID]}
    response = web.StreamResponse(headers={**FIXED_HEADERS, **headers})
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    if request.version < HttpVersion11:  # nothing else says that the end is the end
        _linger(request, RESET)
    await response.write(form.start(row_type) + form.rows(row_type, page.json))
    between = form.between if page.size else b""
    while page.after is not None:
        page = await scan(page.after, PAGE_ROWS)
        if page.size:
            await response.write(between + form.rows(row_type, page.json))
            between = form.between
    await response.write_eof(form.after)
    if request.version < HttpVersion11:
        _linger(request, NO_LINGER)
    return response


def _linger(request: web.Request, value: bytes) -> None:
    """Set what closing the connection does, whoever closes it and why."""
    transport = request.transport
    if transport is not None and (pipe := transport.get_extra_info("socket")):
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)


async def respond(
    request: web.Request,
    row_type: RowType,
    read: RunQuery,
    query: PageQuery,
    scan_of: Callable[[web.Request], RunQuery],
    start: int = 0,
    formats: Sequence[Format] = FORMATS,
    count: Callable[[], Awaitable[int]] | None = None,
) -> web.StreamResponse:
    """Respond with all rows, or with `limit` of them, in the format asked for.

    `start` is what stands for the place before the first row. `count` is asked for the
    number of all rows where the client wants it; `scan_of` for what reads a long list.
    """
    form = _format_of(request, formats)
    lines, limit, after = form.lines, None, start
    if "?" in request.raw_path:
        limit = number(request, "limit", 1, 1000)
        found = number(request, "after", 0, MAX_ID)
        after = start if found is None else found
    if "Prefer" in request.headers and count is not None and _wants_count(request):
        lines += COUNTED.format(await count())
    page = await read(query, after, limit or PAGE_ROWS)
    if problem := untagged_problem(request):
        raise problem
    if page.cursor is not None:
        lines += f"Feed-Cursor: {page.cursor}\r\n"
    if page.after is not None:
        if limit is None:
            form, scan = form._replace(lines=lines), scan_of(request)
            return await stream(request, form, row_type, page, partial(scan, query))
        page = await _fill_page(read, query, page, limit)
        if await _has_more(read, query, page):
            next_page = urlencode({**request.query, "after": str(page.after)})
            path = request.rel_url.raw_path
            lines += f'Link: <{path}?{next_page}>; rel="next"\r\n'  # RFC 8288
    body = form.start(row_type) + form.rows(row_type, page.json) + form.after
    return RawResponse(200, body, lines, form.content_type)


def respond_whole(
    request: web.Request, row_type: RowType, page: db.Page
) -> web.StreamResponse:
    """Respond with the rows of the one page that there is, in the format asked for."""
    form = _format_of(request, FORMATS)
    if problem := untagged_problem(request):
        raise problem
    body = form.start(row_type) + form.rows(row_type, page.json) + form.after
    return RawResponse(200, body, form.lines, form.content_type)


def _format_of(request: web.Request, formats: Sequence[Format]) -> Format:
    if "format" in request.match_info:
        return file_format(request.path.rpartition("/")[2])
    return negotiate(request, formats)


COUNTED = "Preference-Applied: count=exact\r\nTotal-Count: {}\r\n"
COUNT_NAME = re.compile(r"count\s*(?:[=;]|\Z)", re.IGNORECASE)
COUNT = re.compile(r'count\s*=\s*(?:exact|"exact")\s*(?:;.*)?', re.IGNORECASE)


def _wants_count(request: web.Request) -> bool:
    """Return whether `Prefer` asks for the number of rows (RFC 7240, section 2)."""
    preferences = joined_header(request, "Prefer").split(",")
    # The first of several of one name holds.
    stripped = (text.strip() for text in preferences)
    counts = [text for text in stripped if COUNT_NAME.match(text)]
    return bool(counts) and COUNT.fullmatch(counts[0]) is not None


async def _fill_page(
    read: RunQuery, query: PageQuery, page: db.Page, limit: int
) -> db.Page:
    """Return a page of `limit` rows, if there are as many: a search may stop before."""
    while page.size < limit and page.after is not None:
        more = await read(query, page.after, limit - page.size)
        comma = "," if page.size and more.size else ""
        json = page.json[:-1] + comma + more.json[1:]
        page = db.Page(page.size + more.size, json, more.after, page.cursor)
    return page


async def _has_more(read: RunQuery, query: PageQuery, page: db.Page) -> bool:
    found = 0
    while page.after is not None and not found:
        page = await read(query, page.after, 1)
        found = page.size
    return found > 0
