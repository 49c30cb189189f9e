"""How a list is answered: in pages or whole, as JSON, JSON Lines or CSV."""

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from aiohttp import web

import bodies
import db
from conditions import joined
from replies import ENCODER, FIXED_HEADERS, JSON, REQUEST_ID, Problem, Reply

PAGE = 500
"""How many rows one hop to the database brings for a list without `limit`."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


Question = Callable[[int, int], db.Unit[db.Page]]
"""A question for a page of rows: after which id, and how many at the most."""
Ask = Callable[[Question, int, int], Awaitable[db.Page]]


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
    if not ranges:
        return FORMATS[0]
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


async def answer(
    request: web.Request, kind: Kind, ask: Ask, scan: Ask, question: Question
) -> web.StreamResponse:
    """Answer with all rows, or with `limit` of them, in the form that was asked for."""
    form = negotiate(request)
    limit, after = None, 0
    if "?" in request.raw_path:
        limit = bodies.number(request, "limit", 1, 1000)
        after = bodies.number(request, "after", 0, bodies.MAX_ID) or 0
    page = await ask(question, after, limit or PAGE)
    lines = VARY
    if page.after is not None:
        if limit is None:
            pages = _pages(scan, page, question)
            return await stream(request, form, kind, pages)
        page = await _filled(ask, question, page, limit)
        if await _more_follows(ask, question, page):
            lines += f"Link: {_next(request, page.after)}\r\n"
    return Reply(200, form.whole(kind, page.json), lines, form.content_type)


async def _filled(ask: Ask, question: Question, page: db.Page, limit: int) -> db.Page:
    """Return a page with as many rows as there are: a search may stop before."""
    while page.size < limit and page.after is not None:
        more = await ask(question, page.after, limit - page.size)
        comma = "," if page.size and more.size else ""
        json = page.json[:-1] + comma + more.json[1:]
        page = db.Page(page.size + more.size, json, more.after)
    return page


async def _more_follows(ask: Ask, question: Question, page: db.Page) -> bool:
    found = 0
    while page.after is not None and not found:
        page = await ask(question, page.after, 1)
        found = page.size
    return found > 0


def _next(request: web.Request, after: int | None) -> str:
    """Return the link to the page that follows (RFC 8288)."""
    query = urlencode({**request.query, "after": str(after)})
    return f'<{request.rel_url.raw_path}?{query}>; rel="next"'


async def _pages(
    scan: Ask, page: db.Page, question: Question
) -> AsyncIterator[db.Page]:
    yield page
    while page.after is not None:
        page = await scan(question, page.after, PAGE)
        yield page
