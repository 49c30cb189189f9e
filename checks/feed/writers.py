"""Clients that write all that can be written, to the same few customers."""

import asyncio
import json
import time
import uuid
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from checks.support.feed_model import FeedRow, Json
from checks.support.feed_reader import CHANCE, LOST

CUSTOMERS, PURCHASES, CHANGES = 25, 200, 100
"""How many of the latest the writers choose from: few, so that they meet."""
EXPECTED = {200, 201, 404, 409, 410, 503}
"""What a write may come to: a row may be gone, a change undone, by another writer."""


@dataclass
class Ack:
    """A write that was acknowledged."""

    kind: str
    rows: int
    """How many rows its change has."""
    customer_id: str | None = None
    purchase_ids: set[str] = field(default_factory=set)
    """Those that it may have touched."""
    content: Json | None = None
    """What it left of one row, as far as the answer says."""
    count: int | None = None
    undoes: str | None = None
    at: float = field(default_factory=time.monotonic)

    def faults(self, rows: Sequence[FeedRow]) -> list[str]:
        """Return how the rows of its change differ from it."""
        faults = []
        if len(rows) != self.rows:
            faults.append(f"{len(rows)} rows instead of {self.rows}")
        for row in rows:
            if self.kind != "undo" and row.action != self.kind:
                faults.append(f"{row.action} instead of {self.kind}")
            if self.customer_id not in (None, row.customer_id):
                faults.append(f"of customer {row.customer_id}")
            if self.purchase_ids and row.purchase_id not in self.purchase_ids:
                faults.append(f"of purchase {row.purchase_id}")
            if self.count is not None and row.purchases != self.count:
                faults.append(f"{row.purchases} purchases instead of {self.count}")
        return faults


class World:
    """What all writers know, and what became of their writes."""

    def __init__(self) -> None:
        self.customers: deque[str] = deque(maxlen=CUSTOMERS)
        self.kept = ""
        """The customer of whom nobody deletes all: somebody follows its list."""
        self.purchases: deque[tuple[str, str]] = deque(maxlen=PURCHASES)
        """Ids with those of their customers."""
        self.changes: deque[str] = deque(maxlen=CHANGES)
        self.acks: dict[str, Ack] = {}
        self.added: dict[str, set[str]] = {"customer": set(), "purchase": set()}
        """The ids of what was added."""
        self.counts: Counter[str] = Counter()
        self.unknown = 0
        self.faults: list[str] = []

    def any_customer(self) -> str:
        """Return one of the latest customers, or often the one that is kept."""
        return self.kept if CHANCE.random() < 0.15 else CHANCE.choice(self.customers)

    def note(self, change: str, ack: Ack) -> None:
        """Keep an acknowledged write. Each change has one."""
        if change in self.acks:
            self.faults.append(f"change {change} is of {ack} and {self.acks[change]}")
        self.acks[change] = ack
        self.changes.append(change)
        self.counts[ack.kind] += 1


class Answer:
    """A reply that came whole."""

    def __init__(self, reply: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = reply.status
        self.change = reply.headers.get("Change", "")
        self.replayed = "Idempotency-Replayed" in reply.headers
        self.body = body

    def json(self) -> Json:
        """Return the decoded body."""
        value: Json = json.loads(self.body)
        return value

    def data(self) -> Json:
        """Return what was written."""
        data: Json = self.json()["data"]
        return data


class Writer:
    """One client, which sends one write at a time, to one of several servers."""

    def __init__(
        self, session: aiohttp.ClientSession, urls: Sequence[str], world: World
    ) -> None:
        self.session = session
        self.urls = urls
        self.world = world

    async def run(self, stop: asyncio.Event) -> None:
        """Write until told to stop."""
        steps = {
            self.add_purchase: 45,
            self.update_purchase: 20,
            self.delete_purchases: 9,
            self.undo: 15,
            self.create_customer: 4,
            self.update_customer: 3,
            self.delete_all: 2,
            self.delete_customer: 2,
        }
        while not stop.is_set():
            [step] = CHANCE.choices([*steps], [*steps.values()])
            if step == self.update_purchase and not self.world.purchases:
                step = self.add_purchase
            await step()

    async def send(
        self, line: str, body: object = None, key: str | None = None
    ) -> Answer | None:
        """Send `METHOD path`; None when it was refused, or nobody knows."""
        method, _, path = line.partition(" ")
        headers = {"Idempotency-Key": key} if key else {}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self.session.request(
                method,
                f"{CHANCE.choice(self.urls)}/api/v1{path}",
                data=data,
                headers=headers,
            ) as reply:
                answer = Answer(reply, await reply.read())
        except LOST:
            self.world.unknown += 1
            return None
        self.world.counts[f"{answer.status}"] += 1
        if answer.status not in EXPECTED:
            self.world.faults.append(f"{line}: {answer.status} {answer.body[:300]!r}")
        if answer.status in (500, 503):  # it may have come to something
            self.world.unknown += 1
        return answer if answer.status < 300 else None

    async def send_once(self, line: str, body: object) -> Answer | None:
        """Send a POST, perhaps with a key, and then perhaps again or twice at once."""
        if CHANCE.random() < 0.5:
            return await self.send(line, body)
        key = str(uuid.uuid4())
        if CHANCE.random() < 0.8:
            return await self.send(line, body, key)
        if CHANCE.random() < 0.5:
            answers = [await self.send(line, body, key) for _ in range(2)]
        else:
            both = (self.send(line, body, key) for _ in range(2))
            answers = [*await asyncio.gather(*both)]
        found = [answer for answer in answers if answer is not None]
        self.world.counts["replayed"] += sum(answer.replayed for answer in found)
        if len({(answer.change, answer.body) for answer in found}) > 1:
            told = [(answer.change, answer.body) for answer in found]
            self.world.faults.append(f"{line}, twice with its key: {told}")
        if len(found) == 2 and sum(answer.replayed for answer in found) != 1:
            self.world.faults.append(f"{line}, twice with its key: not replayed once")
        return found[0] if found else None

    async def create_customer(self) -> None:
        """Create a customer."""
        body = {"name": str(uuid.uuid4()), "address": "Amsterdam"}
        answer = await self.send_once("POST /customer", body)
        if answer is not None:
            number = str(answer.data()["id"])
            ack = Ack("customer.created", 1, number, content=body)
            self.world.note(answer.change, ack)
            self.world.customers.append(number)
            self.world.added["customer"].add(number)

    async def update_customer(self) -> None:
        """Change a customer's name."""
        number = self.world.any_customer()
        body = {"name": str(uuid.uuid4())}
        answer = await self.send(f"PATCH /customer/{number}", body)
        if answer is not None:
            content = {name: answer.data()[name] for name in ("name", "address")}
            ack = Ack("customer.updated", 1, number, content=content)
            self.world.note(answer.change, ack)

    async def delete_customer(self) -> None:
        """Delete a customer with all its purchases."""
        number = CHANCE.choice(self.world.customers)
        answer = await self.send(f"DELETE /customer/{number}")
        if answer is not None:
            count = answer.json()["deleted_count"]
            ack = Ack("customer.deleted", 1, number, count=count)
            self.world.note(answer.change, ack)

    async def add_purchase(self) -> None:
        """Add a purchase."""
        number = self.world.any_customer()
        body: Json = {"purchase_name": str(uuid.uuid4())}
        body["quantity"] = CHANCE.randint(1, 1000)
        answer = await self.send_once(f"POST /purchase/{number}", body)
        if answer is not None:
            purchase = str(answer.data()["id"])
            content = {**body, "customer_id": number, "last_updated_on": None}
            ack = Ack("purchase.added", 1, number, {purchase}, content)
            self.world.note(answer.change, ack)
            self.world.purchases.append((purchase, number))
            self.world.added["purchase"].add(purchase)

    async def update_purchase(self) -> None:
        """Change a purchase."""
        purchase, number = CHANCE.choice(self.world.purchases)
        body = {"purchase_name": str(uuid.uuid4())}
        answer = await self.send(f"PATCH /purchase/{purchase}", body)
        if answer is not None:
            content = purchase_content({**answer.data(), "customer_id": number})
            ack = Ack("purchase.updated", 1, number, {purchase}, content)
            self.world.note(answer.change, ack)

    async def delete_purchases(self) -> None:
        """Delete some purchases of a customer."""
        number = self.world.any_customer()
        owned = [one for one, owner in self.world.purchases if owner == number]
        chosen = CHANCE.sample(owned, min(len(owned), CHANCE.randint(1, 6)))
        body = {"delete_all": False, "purchase_ids": [int(one) for one in chosen]}
        answer = await self.send(f"DELETE /purchase/{number}", body)
        if answer is None:
            return
        count = answer.json()["deleted_count"]
        if count:
            ack = Ack("purchase.deleted", count, number, {*chosen})
            self.world.note(answer.change, ack)
        elif answer.change:
            self.world.faults.append(f"change {answer.change} deleted nothing")

    async def delete_all(self) -> None:
        """Delete all purchases of a customer."""
        number = CHANCE.choice(self.world.customers)
        body = {"delete_all": True}
        answer = await self.send(f"DELETE /purchase/{number}", body)
        if answer is not None:
            count = answer.json()["deleted_count"]
            ack = Ack("purchases.cleared", 1, number, count=count)
            self.world.note(answer.change, ack)

    async def undo(self) -> None:
        """Undo a change, of whomever."""
        if not self.world.changes:
            return
        change = CHANCE.choice(self.world.changes)
        answer = await self.send_once(f"POST /changes/{change}/undo", None)
        if answer is not None:
            data = answer.data()
            if (data["change"], data["undoes"]) != (answer.change, change):
                self.world.faults.append(f"undo of {change}: {data}")
            self.world.note(answer.change, Ack("undo", data["rows"], undoes=change))


def purchase_content(data: Json) -> Json:
    """Return a purchase of a reply as the feed shows it."""
    content: dict[str, Any] = {
        name: data[name] for name in ("purchase_name", "quantity", "customer_id")
    }
    for name in ("purchased_on", "last_updated_on"):
        time_text = data[name]
        content[name] = time_text and f"{time_text[:10]}T{time_text[11:26]}Z"
    return content
