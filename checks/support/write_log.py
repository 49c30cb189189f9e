"""What clients know of their writes, held against what the database holds.

Every write carries a UUID as the name of its row, and every other column of the row
follows from that name. A client notes what became of each write: acknowledged,
refused or unknown. So a row tells whose it is, whether it is whole, and whether it may
be there at all.
"""

import asyncio
import json
import random
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import aiohttp

Json = dict[str, object]

CHANCE = random.SystemRandom()


class Outcome(Enum):
    """What a client knows of a write."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Sent(NamedTuple):
    """A write and its answer; times of the monotonic clock, status 0 for no answer."""

    method: str
    began: float
    ended: float
    status: int
    name: str | None


class Answer(NamedTuple):
    """A whole reply."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(eq=False)
class Entry:
    """One row a client asked for: the names it may have now, None for not there."""

    customer: "Entry | None"
    names: list[str] = field(default_factory=list)
    may_be: set[str | None] = field(default_factory=lambda: {None})
    id: int = 0
    key: str | None = None
    first: Answer | None = None

    def new_name(self) -> str:
        """Return a name that no other write has."""
        self.names.append(str(uuid.uuid4()))
        return self.names[-1]

    def there(self) -> bool:
        """Return whether the row is certainly there."""
        return None not in self.may_be

    def known(self) -> str | None:
        """Return its name now, None for not there. ValueError where that is open."""
        [name] = self.may_be
        return name


@dataclass
class WriteLog:
    """All entries of one check, and every write that was sent."""

    entries: list[Entry] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    changes: dict[str, str | None] = field(default_factory=dict)
    """The changes of acknowledged writes, with the name that each gave a row."""
    together: list[dict[Entry, str | None]] = field(default_factory=list)
    """What writes of unknown end were to make of several rows, all or none."""

    def new_entry(self, customer: Entry | None) -> Entry:
        """Return the entry of a row that is about to be asked for."""
        self.entries.append(Entry(customer))
        return self.entries[-1]

    def note(self, entry: Entry, wish: str | None, outcome: Outcome) -> None:
        """Record what became of the write that was to make the row be `wish`."""
        if outcome is Outcome.ACKNOWLEDGED:
            entry.may_be = {wish}
        elif outcome is Outcome.UNKNOWN:
            entry.may_be.add(wish)

    def note_together(
        self, wishes: Mapping[Entry, str | None], outcome: Outcome
    ) -> None:
        """Record what became of a write of several rows, which is done whole or not."""
        if outcome is Outcome.UNKNOWN:
            changed = {e: wish for e, wish in wishes.items() if e.may_be != {wish}}
            self.together.append(changed)
        for entry, wish in wishes.items():
            self.note(entry, wish, outcome)

    def outcomes(self) -> Counter[Outcome]:
        """Return how many writes came to which end."""
        return Counter(outcome_of(sent.status) for sent in self.sent)

    def statuses(self) -> Counter[int]:
        """Return how many writes had which status."""
        return Counter(sent.status for sent in self.sent)


def outcome_of(status: int) -> Outcome:
    """Return what a status tells the client; after a 500 it knows nothing."""
    if 200 <= status < 300:
        return Outcome.ACKNOWLEDGED
    return Outcome.UNKNOWN if status in (0, 500) else Outcome.REFUSED


def address_of(name: str) -> str:
    """Return the address of the customer of a name."""
    return f"{name[::-1]} Street"


def quantity_of(name: str) -> int:
    """Return the quantity of the purchase of a name."""
    return int(name[:7], 16) + 1


class Client:
    """One client with customers and purchases of its own, one request at a time."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, log: WriteLog, keys: bool
    ) -> None:
        self.session = session
        self.url = f"{url}/api/v1"
        self.log = log
        self.keys = keys
        self.customers: list[Entry] = []
        self.purchases: list[Entry] = []

    async def send(
        self, method: str, path: str, body: Json, name: str | None, key: str | None
    ) -> Answer | None:
        """Send one write and note it; None when no whole answer came."""
        headers = {"Idempotency-Key": key} if key else {}
        began = time.monotonic()
        answer = None
        try:
            async with self.session.request(
                method, self.url + path, json=body, headers=headers
            ) as reply:
                content = await reply.read()
                answer = Answer(reply.status, dict(reply.headers), content)
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        status = answer.status if answer else 0
        if answer is not None and status < 300 and "Change" in answer.headers:
            self.log.changes[answer.headers["Change"]] = name
        self.log.sent.append(Sent(method, began, time.monotonic(), status, name))
        return answer

    async def add(self, customer: Entry | None) -> Outcome:
        """Add a customer, or a purchase of one."""
        entry = self.log.new_entry(customer)
        entry.new_name()
        if self.keys:
            entry.key = str(uuid.uuid4())
        outcome = await self.post(entry)
        if outcome is Outcome.ACKNOWLEDGED:
            (self.customers if customer is None else self.purchases).append(entry)
        return outcome

    async def post(self, entry: Entry) -> Outcome:
        """Send the request of an entry, the first time or again."""
        name = entry.names[0]
        body: Json = {"name": name, "address": address_of(name)}
        path = "/customer"
        if entry.customer is not None:
            body = {"purchase_name": name, "quantity": quantity_of(name)}
            path = f"/purchase/{entry.customer.id}"
        answer = await self.send("POST", path, body, name, entry.key)
        outcome = outcome_of(answer.status if answer else 0)
        self.log.note(entry, name, outcome)
        if answer is not None and outcome is Outcome.ACKNOWLEDGED:
            entry.first = entry.first or answer
            entry.id = int(str(self.data_of(answer, name).get("id", 0)))
        return outcome

    async def update(self, entry: Entry, method: str) -> Outcome:
        """Change name and quantity of a purchase: PATCH, PUT or the documented DELETE.

        An unknown end leaves the entry to the audit: the client touches it no more.
        """
        name = entry.new_name()
        body: Json = {"purchase_name": name, "quantity": quantity_of(name)}
        answer = await self.send(method, f"/purchase/{entry.id}", body, name, None)
        outcome = outcome_of(answer.status if answer else 0)
        self.log.note(entry, name, outcome)
        if answer is not None and outcome is Outcome.ACKNOWLEDGED:
            self.data_of(answer, name)
        if outcome is Outcome.UNKNOWN:
            self.purchases.remove(entry)
        return outcome

    async def delete(self, entries: list[Entry]) -> Outcome:
        """Delete purchases of one customer."""
        customer = entries[0].customer
        assert customer is not None
        body: Json = {"delete_all": False, "purchase_ids": [row.id for row in entries]}
        answer = await self.send("DELETE", f"/purchase/{customer.id}", body, None, None)
        outcome = outcome_of(answer.status if answer else 0)
        self.log.note_together(dict.fromkeys(entries), outcome)
        for entry in entries:
            if outcome is not Outcome.REFUSED:
                self.purchases.remove(entry)
        return outcome

    def data_of(self, answer: Answer, name: str) -> Json:
        """Return the `data` of an answer, and note when it tells of another write."""
        with_data = json.loads(answer.body)
        data: Json = with_data.get("data", {})
        if name not in (data.get("name"), data.get("purchase_name")):
            self.log.wrong.append(f"{name} was answered {answer.body!r}")
        return data

    async def step(self) -> Outcome:
        """Send one write of any kind."""
        if not self.customers or CHANCE.random() < 0.1:
            return await self.add(None)
        kind = CHANCE.random()
        if not self.purchases or kind < 0.5:
            return await self.add(CHANCE.choice(self.customers))
        entry = CHANCE.choice(self.purchases)
        if kind < 0.8:
            return await self.update(entry, CHANCE.choice(("PATCH", "PUT", "DELETE")))
        same = [row for row in self.purchases if row.customer is entry.customer]
        return await self.delete(same[: CHANCE.randint(1, 3)])

    async def run(self, stop: asyncio.Event, pause: float = 0.0) -> None:
        """Send writes until told to stop or until one is not answered; seconds."""
        while not stop.is_set():
            if await self.step() is Outcome.UNKNOWN:
                return
            if pause:
                await asyncio.sleep(pause)


def new_session(seconds: float = 30.0) -> aiohttp.ClientSession:
    """Return a session without a bound on its connections."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=seconds),
    )


@asynccontextmanager
async def writing(
    url: str,
    log: WriteLog,
    count: int,
    pause: float = 0.0,
    keys: bool = False,
    kind: type[Client] = Client,
) -> AsyncIterator[list[Client]]:
    """Let clients write for the length of a block, each with a customer; seconds."""
    stop = asyncio.Event()
    async with new_session() as session:
        clients = [kind(session, url, log, keys) for _ in range(count)]
        await asyncio.gather(*(client.add(None) for client in clients))
        if not clients[0].customers:
            raise RuntimeError(f"the first customer: {log.statuses()}")
        runs = [asyncio.create_task(client.run(stop, pause)) for client in clients]
        try:
            yield clients
        finally:
            stop.set()
            await asyncio.gather(*runs)


# The audit


@dataclass
class Audit:
    """What the database holds that the write log cannot explain, by promise."""

    lost: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    half: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    rows: int = 0
    unknown_there: int = 0

    def breaches(self) -> list[str]:
        """Return a line for each promise that was broken, with its first cases."""
        return [
            f"{len(found)} {what}: {found[:3]}"
            for what, found in (
                ("acknowledged lost", self.lost),
                ("refused or deleted there", self.refused),
                ("there twice", self.twice),
                ("half", self.half),
                ("of nobody", self.stray),
            )
            if found
        ]


Row = tuple[str, int, object, object]
"""Name, id, then address or quantity, and whose purchase it is."""

SELECT_CUSTOMERS = "SELECT name, id, address, NULL FROM customer WHERE deleted IS NULL"
SELECT_PURCHASES = """
SELECT purchase_name, id, quantity, customer_id FROM purchases p
WHERE NOT EXISTS (
    SELECT 1 FROM hidden h
    WHERE h.customer_id = p.customer_id AND h.first <= p.id AND h.last >= p.id)"""
SELECT_ORPHANS = """
SELECT purchase_name FROM purchases p LEFT JOIN customer c ON c.id = p.customer_id
WHERE c.id IS NULL OR (c.deleted IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM hidden h
    WHERE h.customer_id = p.customer_id AND h.first <= p.id AND h.last >= p.id))"""


def audit(log: WriteLog, database: Path) -> Audit:
    """Hold a SQLite file that nobody is writing against the write log, row by row.

    Entries that were open are settled by what is found.
    """
    rows, faults = read_file(database)
    result = Audit(half=faults, rows=len(rows))
    entries = {name: entry for entry in log.entries for name in entry.names}
    found: dict[Entry, list[str]] = {}
    for name, number, value, customer_id in rows:
        entry = entries.get(name)
        if entry is None:
            result.stray.append(name)
            continue
        found.setdefault(entry, []).append(name)
        entry.id = number
        if not is_whole(entry, name, value, customer_id):
            result.half.append(f"{name}: {value}, customer {customer_id}")
    for entry in log.entries:
        settle(entry, found.get(entry, []), result)
    for wishes in log.together:
        done = [entry for entry, wish in wishes.items() if entry.known() == wish]
        if 0 < len(done) < len(wishes):
            result.half.append(f"{len(done)} rows of {len(wishes)} of one write")
    log.together.clear()
    return result


def read_file(database: Path) -> tuple[list[Row], list[str]]:
    """Return the rows of a SQLite file, and what is wrong with it as a whole."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as file:
        rows = file.execute(SELECT_CUSTOMERS).fetchall()
        rows += file.execute(SELECT_PURCHASES).fetchall()
        faults = [f"orphan {row[0]}" for row in file.execute(SELECT_ORPHANS)]
        check = file.execute("PRAGMA integrity_check").fetchall()
    if check != [("ok",)]:
        faults.append(f"integrity_check: {check[:3]}")
    return rows, faults


def is_whole(entry: Entry, name: str, value: object, customer_id: object) -> bool:
    """Return whether all columns of a row belong to the same write."""
    if entry.customer is None:
        return value == address_of(name)
    return value == quantity_of(name) and customer_id == entry.customer.id


def settle(entry: Entry, names: list[str], result: Audit) -> None:
    """Judge one entry by the rows that bear one of its names."""
    now = names[0] if names else None
    if len(names) > 1:
        result.twice.append(names[0])
    elif now is None and entry.there():
        result.lost.append(entry.names[-1])
    elif now not in entry.may_be:
        # An older name where an update was acknowledged is that update lost.
        (result.lost if entry.there() else result.refused).append(str(now))
    elif now is not None and len(entry.may_be) > 1:
        result.unknown_there += 1
    entry.may_be = {now}
