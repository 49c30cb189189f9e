"""Clients that follow the feed, lose their connection and go on where they were.

Two transports: pages of `GET /api/v1/changes`, and server-sent events as they are
specified (html.spec.whatwg.org/multipage/server-sent-events.html).
"""

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import aiohttp

from checks.support.feed_model import FeedRow

CHANCE = random.SystemRandom()

LOST = (aiohttp.ClientError, ConnectionError, TimeoutError)
"""What a client sees of a connection that is gone."""
LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")
"""A carriage return at the end may be the first half of CR LF."""
STREAM_SECONDS = 0.5
"""How long a stream is left alone, on average."""
STALL_SECONDS = 2.0
"""How long a reader does not read that is to be cut."""
END_SECONDS = 20.0
"""How long a stream may take until it has brought the last change."""
CATCH_UP_SECONDS = 120.0
"""How long all that there is may take while nobody writes."""
PAUSE_SECONDS = 0.02
"""How long a reader waits after an empty page."""


class Event(NamedTuple):
    """A server-sent event."""

    id: str
    name: str
    data: str


class EventParser:
    """Takes bytes apart into events; what is not whole yet is kept."""

    def __init__(self, last_id: str) -> None:
        self.last_id = last_id
        self.retry: int | None = None
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self._id = last_id

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that end in these bytes."""
        *lines, self._rest = LINE_END.split(self._rest + data)
        for line in lines:
            event = self._take(line.decode())
            if event is not None:
                yield event

    def _take(self, line: str) -> Event | None:
        if not line:
            self.last_id = self._id
            event = Event(self.last_id, self._name, "\n".join(self._data))
            is_whole, self._name, self._data = bool(self._data), "", []
            return event if is_whole else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id" and "\0" not in value:
            self._id = value
        elif name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif name == "retry" and value.isdecimal():
            self.retry = int(value)
        return None


class FeedReader:
    """Reads the whole feed, from one of several servers at a time."""

    def __init__(
        self, urls: Sequence[str], transport: str = "pages", drops: float = 0.3
    ) -> None:
        self.urls = [f"{url}/api/v1/changes" for url in urls]
        self.transport = transport
        self.drops = drops
        """How often a connection is dropped in the middle."""
        self.rows: list[FeedRow] = []
        self.cursor = ""
        self.seen_at: dict[str, float] = {}
        """By change, when its first row came; of the monotonic clock."""
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    async def run(
        self,
        session: aiohttp.ClientSession,
        stop: asyncio.Event,
        last: list[str] | None = None,
    ) -> None:
        """Read until told to stop, and then all up to the last change, if one is given.

        None where nobody answers any more.
        """
        if self.transport == "sse":
            await self._follow(session, stop, last)
            return
        stopped = False
        while not stopped:
            is_last = stop.is_set()
            size = await self.read_page(session)
            stopped = is_last and (size == 0 or last is None)
            if not size and not stopped:
                await asyncio.sleep(PAUSE_SECONDS)

    async def read_page(self, session: aiohttp.ClientSession) -> int | None:
        """Read one page, perhaps not to its end; None if that is not known."""
        params = {"after": self.cursor} if self.cursor else {}
        if CHANCE.random() < 0.95:
            params["limit"] = str(CHANCE.choice((1, 7, 50, 300, 1000)))
        by_line = CHANCE.random() < 0.5
        accept = "application/jsonl" if by_line else "application/json"
        bound = self._bound()
        body, whole = b"", False
        try:
            async with session.get(
                CHANCE.choice(self.urls), params=params, headers={"Accept": accept}
            ) as reply:
                self.counts[f"{reply.status}"] += 1
                while chunk := await reply.content.readany():
                    body += chunk
                    if bound is not None and len(body) > bound:
                        body = body[:bound]
                        reply.close()
                        self.counts["dropped"] += 1
                        break
                else:
                    whole = True
        except LOST:
            self.counts["lost"] += 1
        else:
            if reply.status != 200:
                self._refused(reply.status, body)
                return None
        if not whole and not by_line:
            return None
        rows = self._decode(body, by_line)
        for row in rows:
            self._take(row)
        return len(rows) if whole else None

    async def catch_up(self, session: aiohttp.ClientSession) -> None:
        """Read all that there is. RuntimeError when that cannot be read."""
        end = time.monotonic() + CATCH_UP_SECONDS
        while await self.read_page(session) != 0:
            if self.faults or time.monotonic() > end:
                raise RuntimeError(f"the feed cannot be read: {self.faults[:1]}")

    def _bound(self) -> int | None:
        """Return after how many bytes to drop the connection, if at all."""
        if CHANCE.random() >= self.drops:
            return None
        return int(10 ** CHANCE.uniform(0, 5))

    def _refused(self, status: int, body: bytes) -> None:
        if status != 503:
            self.faults.append(f"after={self.cursor}: {status} {body[:200]!r}")

    def _decode(self, body: bytes, by_line: bool) -> list[FeedRow]:
        if by_line:  # what comes after the last line feed is not whole
            decoded = [json.loads(line) for line in body.split(b"\n")[:-1]]
        else:
            decoded = json.loads(body)["data"]
        return [FeedRow.of(row) for row in decoded]

    def _take(self, row: FeedRow) -> None:
        self.rows.append(row)
        self.cursor = row.cursor
        self.seen_at.setdefault(row.change, time.monotonic())

    async def _follow(
        self,
        session: aiohttp.ClientSession,
        stop: asyncio.Event,
        last: list[str] | None,
    ) -> None:
        """Follow streams, one after the other."""
        end = None
        while True:
            if stop.is_set():
                end = end or time.monotonic() + END_SECONDS
                if last is None or any(change in self.seen_at for change in last):
                    return
                if time.monotonic() > end:
                    self.faults.append("a stream has not brought the last change")
                    return
            headers = {"Accept": "text/event-stream"}
            params = {}
            if self.cursor and CHANCE.random() < 0.5:
                headers["Last-Event-ID"] = self.cursor
            elif self.cursor:
                params["after"] = self.cursor
            try:
                async with session.get(
                    CHANCE.choice(self.urls), params=params, headers=headers
                ) as reply:
                    self.counts[f"{reply.status}"] += 1
                    if reply.status != 200:
                        self._refused(reply.status, await reply.read())
                        await asyncio.sleep(PAUSE_SECONDS)
                    else:
                        await self._read_stream(reply)
                        reply.close()
            except LOST:
                self.counts["lost"] += 1
                await asyncio.sleep(PAUSE_SECONDS)

    async def _read_stream(self, reply: aiohttp.ClientResponse) -> None:
        """Read events until a moment by chance; drop what came of the next."""
        parser = EventParser(self.cursor)
        is_dropped = CHANCE.random() < self.drops
        end = time.monotonic() + CHANCE.expovariate(1 / STREAM_SECONDS)
        if CHANCE.random() < self.drops / 20:  # the server cuts who does not read
            self.counts["stalled"] += 1
            await asyncio.sleep(STALL_SECONDS)
        while (left := end - time.monotonic()) > 0:
            try:
                chunk = await asyncio.wait_for(reply.content.readany(), left)
            except TimeoutError:
                break
            if not chunk:
                break
            if is_dropped and CHANCE.random() < self.drops:
                chunk, end = chunk[: CHANCE.randint(0, len(chunk))], 0.0
                self.counts["dropped"] += 1
            for event in parser.feed(chunk):
                self._take_event(event)
            if parser.retry not in (None, 1000):
                self.faults.append(f"retry: {parser.retry}")

    def _take_event(self, event: Event) -> None:
        row = FeedRow.of(json.loads(event.data))
        if (event.id, event.name) != (row.cursor, row.action):
            self.faults.append(f"{event} says other than its data")
        self._take(row)


async def read_all(session: aiohttp.ClientSession, url: str) -> list[FeedRow]:
    """Return the whole feed, while nobody writes."""
    reader = FeedReader([url], drops=0.0)
    await reader.catch_up(session)
    return reader.rows
