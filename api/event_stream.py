"""Server-sent events: the feed for all that listen, from one reading of the database.

html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic

from aiohttp import HttpVersion11, web

import db
from api.conditional import untagged_problem
from api.listing import Format, RunQuery
from api.middleware import METRICS
from api.replies import change_replies
from api.request_body import NUMBER, number
from api.responses import (
    ENCODER,
    FIXED_HEADERS,
    REQUEST_ID,
    FieldError,
    invalid,
    invalid_field,
)
from api.schemas import MAX_ID, ChangeReply

LOG = logging.getLogger("server")

POLL_SECONDS = 0.1
"""How often to look for new rows, which gathers those of that time into one piece."""
RETRY_SECONDS = 1.0
"""How long to wait after the database could not be read."""
LOOK_SECONDS = 1.0
"""How often to look for listeners that have gone."""
COMMENT_SECONDS = 15.0
"""How often a comment keeps proxies from closing a quiet stream."""
PAGE_ROWS = 500
UNREAD_BYTES = 256 * 1024
"""What a listener may leave unread; then it is cut, and resumes."""
SEND_BUFFER = 64 * 1024
"""What the kernel buffers for a listener: else one that stalls shows much later."""

START = b"retry: 1000\n\n"
COMMENT = b":\n\n"
EVENTS = Format("text/event-stream", "text/event-stream", START, lambda *_: b"")

FollowQuery = Callable[[int, int], db.Unit[db.Page]]
Read = Callable[[FollowQuery, int, int], Awaitable[db.Page]]


def event(row: ChangeReply) -> bytes:
    """Return a row as an event; its JSON has no line feed."""
    head = f"id: {row.cursor}\nevent: {row.action}\ndata: ".encode()
    return head + ENCODER.encode(row) + b"\n\n"


def fits(row: ChangeReply, filters: db.Filters) -> bool:
    """Return whether a row is of those that filters let through."""
    return all(
        value is None or str(value) == getattr(row, name)
        for name, value in zip(filters._fields, filters, strict=True)
    )


class Listener:
    """A client that follows the feed, and what it was sent last."""

    __slots__ = ("chunked", "cursor", "ended", "is_behind", "transport")

    def __init__(self, request: web.Request) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        self.transport = transport
        self.chunked = request.version >= HttpVersion11
        self.cursor = 0
        self.ended = asyncio.get_running_loop().create_future()
        self.is_behind = False
        """Whether it had not read all when that was looked at last."""

    def send(self, data: bytes, chunk: bytes) -> None:
        """Send events, as they are or as a chunk; cut a listener that does not read."""
        if self.transport.is_closing():
            self.end()
        elif self.transport.get_write_buffer_size() > UNREAD_BYTES:
            self.cut()
        else:
            self.transport.write(chunk if self.chunked else data)

    def end(self) -> None:
        """Let the handler of its request go on."""
        if not self.ended.done():
            self.ended.set_result(None)

    def cut(self) -> None:
        """Close its connection without waiting for it to read."""
        self.transport.abort()
        self.end()

    def look_after(self) -> None:
        """Send a comment; cut one that is behind as it was the last time."""
        is_behind = self.transport.get_write_buffer_size() > 0
        if is_behind and self.is_behind:
            self.cut()
        self.is_behind = is_behind
        self.send(COMMENT, chunk_of(COMMENT))


def chunk_of(data: bytes) -> bytes:
    """Return a chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Broadcast:
    """Reads the feed once for all listeners, while there are any."""

    def __init__(self) -> None:
        self.listeners: dict[db.Filters, set[Listener]] = {}
        """All listeners by what they listen to."""
        self.cursor = 0
        """The last row that all of them were sent."""
        self.is_closed = False
        self._task: asyncio.Task[None] | None = None

    def join(
        self, listener: Listener, filters: db.Filters, tip: int, read: Read
    ) -> bool:
        """Take in a listener that was sent all up to `tip`; False if more has come."""
        if self._task is None:
            self.cursor = tip
            self._task = asyncio.create_task(self._run(read))
        elif tip < self.cursor:
            return False
        listener.cursor = max(listener.cursor, tip)
        self.listeners.setdefault(filters, set()).add(listener)
        if self.is_closed:
            listener.end()
        return True

    def leave(self, listener: Listener, filters: db.Filters) -> None:
        """Forget a listener."""
        group = self.listeners.get(filters, set())
        group.discard(listener)
        if not group:
            self.listeners.pop(filters, None)

    async def _run(self, read: Read) -> None:
        looked_at = commented_at = monotonic()
        while self.listeners:
            pause = POLL_SECONDS
            try:
                page = await read(db.follow_changes, self.cursor, PAGE_ROWS)
                self._publish(page)
                if page.after is not None:
                    pause = 0.0
            except db.UnavailableError:
                pause = RETRY_SECONDS  # every request says so already
            except Exception:
                LOG.exception("the feed cannot be read")
                self.end_all()  # they learn more when they come again
                pause = RETRY_SECONDS
            now = monotonic()
            if now - commented_at > COMMENT_SECONDS:
                commented_at = now
                for listener in self._all():
                    listener.look_after()
            if now - looked_at > LOOK_SECONDS:
                looked_at = now
                for listener in self._all():
                    if listener.transport.is_closing():
                        listener.end()
            await asyncio.sleep(pause)
        self._task = None

    def _all(self) -> list[Listener]:
        return [one for group in self.listeners.values() for one in group]

    def _publish(self, page: db.Page) -> None:
        """Send the rows of a page to whoever listens to such."""
        start = self.cursor
        if page.after is not None:
            self.cursor = page.after
        elif page.cursor is not None:
            self.cursor = max(start, page.cursor)
        rows = change_replies(page.json) if page.size else []
        events = [(row, int(row.cursor), event(row)) for row in rows]
        for filters, group in self.listeners.items():
            wanted = [(at, text) for row, at, text in events if fits(row, filters)]
            if not wanted:
                continue
            data = b"".join(text for _, text in wanted)
            chunk = chunk_of(data)
            for listener in [*group]:
                if listener.cursor <= start:
                    listener.send(data, chunk)
                elif own := b"".join(
                    text for at, text in wanted if at > listener.cursor
                ):
                    listener.send(own, chunk_of(own))

    def end_all(self) -> None:
        """End all streams; their clients come again after `retry`."""
        for listener in self._all():
            listener.end()

    async def close(self, _: web.Application) -> None:
        """End all streams, and those that still come."""
        self.is_closed = True
        self.end_all()


BROADCAST: web.AppKey[Broadcast] = web.AppKey("broadcast", Broadcast)


def cursor_of(request: web.Request) -> int:
    """Return what a client has seen last, -1 for nothing. ProblemError 422.

    That is Last-Event-ID, else `after`.
    """
    if unfit := request.query.keys() & {"limit", "order"}:
        detail = "Not for a stream, which has no end."
        raise invalid(*(FieldError(f"/{name}", detail) for name in sorted(unfit)))
    text = request.headers.get("Last-Event-ID", "")
    if not text:
        after = number(request, "after", 0, MAX_ID)
        return -1 if after is None else after
    if not NUMBER.fullmatch(text) or int(text) > MAX_ID:
        raise invalid_field("", "Last-Event-ID is no cursor of this server.")
    return int(text)


async def stream(
    request: web.Request, scan: RunQuery, read: Read, filters: db.Filters
) -> web.StreamResponse:
    """Send the rows after one, then every row that comes, until either side ends.

    The errors of the first page come as problems.
    """
    query = partial(db.catch_up, filters)
    after = cursor_of(request)
    page = await scan(query, after, PAGE_ROWS)
    if problem := untagged_problem(request):
        raise problem
    response = await _begin(request)
    if request.method == "HEAD":
        return response
    broadcast, listener = request.app[BROADCAST], Listener(request)
    listener.cursor = max(after, 0)
    metrics = request.app[METRICS]
    metrics.listeners += 1
    try:
        while True:
            if page.size:
                await response.write(b"".join(map(event, change_replies(page.json))))
            last = page.after
            if last is None:
                last = page.cursor or 0
                if broadcast.join(listener, filters, last, read):
                    break
            page = await scan(query, last, PAGE_ROWS)
        await listener.ended
    finally:
        metrics.listeners -= 1
        broadcast.leave(listener, filters)
    if listener.transport.is_closing():
        raise ConnectionResetError("the client has gone")
    await response.write_eof()
    return response


async def _begin(request: web.Request) -> web.StreamResponse:
    """Send the head of a stream, and how soon a client may come again."""
    response = web.StreamResponse(
        headers={
            **FIXED_HEADERS,
            "Content-Type": EVENTS.content_type,
            "Vary": "Accept",
            "X-Accel-Buffering": "no",  # nginx would gather events
            "X-Request-Id": request[REQUEST_ID],
        }
    )
    await response.prepare(request)
    if request.method != "HEAD":
        transport = request.transport
        if transport is not None and (pipe := transport.get_extra_info("socket")):
            pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        await response.write(START)
    return response
