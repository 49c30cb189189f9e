"""Clients that read lists while others write.

Some follow a list by `after` and must miss nothing that was added and stays. Others
read a list whole and remember where the feed goes on from there.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from checks.feed.writers import World, purchase_content
from checks.support.feed_model import Json
from checks.support.feed_reader import CHANCE, LOST

LOOK_SECONDS = 0.002
"""How long who follows a list waits after an empty page: what is passed by is passed by
within the time of a commit."""

Row = dict[str, Any]


class ListFollower:
    """Follows a list by `after`, to its end and on as it grows."""

    def __init__(self, urls: Sequence[str], path: str, id_name: str) -> None:
        self.urls = urls
        self.path = path
        self.id_name = id_name
        self.ids: list[int] = []
        self.pages = 0
        self.faults: list[str] = []

    async def run(self, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        """Follow the list until told to stop, and then to its end."""
        while True:
            is_last = stop.is_set()
            after = self.ids[-1] if self.ids else 0
            limit = CHANCE.choice((1, 5, 20, 100, 1000))
            url = f"{CHANCE.choice(self.urls)}{self.path}?limit={limit}&after={after}"
            async with session.get(url) as reply:
                if reply.status not in (200, 404):  # 404: its customer is gone
                    self.faults.append(f"{url}: {reply.status}")
                    return
                rows = (await reply.json())["data"] if reply.status == 200 else []
            found = [row[self.id_name] for row in rows]
            if found != sorted({*found}) or (found and found[0] <= after):
                self.faults.append(f"{url}: {found}")
            self.ids += found
            self.pages += 1
            if not rows:
                if is_last:
                    return
                await asyncio.sleep(LOOK_SECONDS)


class Snapshot(NamedTuple):
    """A whole list, and where the feed goes on from it."""

    kind: str
    customer_id: str | None
    """Whose purchases they are, None for everyone's."""
    cursor: str
    rows: dict[str, Json]


class SnapshotReader:
    """Reads whole lists, at once or in pages, now and then."""

    def __init__(self, urls: Sequence[str], world: World) -> None:
        self.urls = urls
        self.world = world
        self.snapshots: list[Snapshot] = []
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    async def run(self, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        """Read lists until told to stop."""
        while not stop.is_set():
            await asyncio.sleep(CHANCE.uniform(0.0, 0.2))
            kind, customer_id, path = "purchase", None, "/api/v1/customer"
            lot = CHANCE.random()
            if self.world.customers and lot < 0.8:
                customer_id = CHANCE.choice(self.world.customers)
                path = f"/api/v1/purchase/{customer_id}"
            elif lot > 0.9:
                kind, path = "customer", "/api/v1/customers"
            await self.read(session, kind, customer_id, path)

    async def read(
        self,
        session: aiohttp.ClientSession,
        kind: str,
        customer_id: str | None,
        path: str,
    ) -> None:
        """Read one list whole; the place in the feed is that of its first page."""
        limit = CHANCE.choice((0, 0, 20, 100, 1000))
        url = URL(f"{CHANCE.choice(self.urls)}{path}")
        link: URL | str | None = url % {"limit": limit} if limit else url
        cursor, rows = "", dict[str, Json]()
        while link:
            try:
                async with session.get(link) as reply:
                    self.counts[f"{reply.status}"] += 1
                    if reply.status != 200:  # its customer is gone
                        return
                    data = (await reply.json())["data"]
                    cursor = cursor or reply.headers["Feed-Cursor"]
                    link = reply.links["next"]["url"] if "next" in reply.links else None
            except LOST as exc:
                self.faults.append(f"{link}: {exc!r}")
                return
            rows.update(content_of(kind, row) for row in data)
        self.snapshots.append(Snapshot(kind, customer_id, cursor, rows))


def content_of(kind: str, row: Row) -> tuple[str, Json]:
    """Return the id and the content of a row of a list."""
    if kind == "customer":
        return str(row["id"]), {name: row[name] for name in ("name", "address")}
    return str(row["purchase_id"]), purchase_content(row)
