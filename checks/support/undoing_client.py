"""A client that also deletes much at once, and undoes what it did."""

import asyncio
import uuid
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp

from checks.support.write_log import (
    CHANCE,
    Answer,
    Client,
    Entry,
    Json,
    Outcome,
    WriteLog,
    outcome_of,
)

LATEST = 12
"""How many of its last changes a client chooses from to undo one."""


class Done(NamedTuple):
    """A change of this client, and what the rows were before it."""

    change: str
    before: Mapping[Entry, str | None]


class UndoingClient(Client):
    """A client that clears and deletes customers too, and undoes its changes."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, log: WriteLog, keys: bool
    ) -> None:
        super().__init__(session, url, log, keys)
        self.done: list[Done] = []
        self.change: str | None = None
        """That of the last answer."""

    async def send(
        self, method: str, path: str, body: Json, name: str | None, key: str | None
    ) -> Answer | None:
        """Send one write, and note its change."""
        answer = await super().send(method, path, body, name, key)
        self.change = None
        if answer is not None and answer.status < 300:
            self.change = answer.headers.get("Change")
            if self.change is None and method != "DELETE":
                self.log.wrong.append(f"{method} {path} was answered without Change")
        return answer

    def keep(self, before: Mapping[Entry, str | None], outcome: Outcome) -> Outcome:
        """Keep an acknowledged change, to undo it perhaps."""
        if outcome is Outcome.ACKNOWLEDGED and self.change is not None:
            self.done = [*self.done[1 - LATEST :], Done(self.change, before)]
        return outcome

    async def add(self, customer: Entry | None) -> Outcome:
        """Add a customer, or a purchase of one."""
        outcome = await super().add(customer)
        if outcome is Outcome.ACKNOWLEDGED:
            added = self.customers[-1] if customer is None else self.purchases[-1]
            self.keep({added: None}, outcome)
        return outcome

    async def update(self, entry: Entry, method: str) -> Outcome:
        """Change a purchase."""
        before = {entry: entry.known()}
        return self.keep(before, await super().update(entry, method))

    async def delete(self, entries: list[Entry]) -> Outcome:
        """Delete purchases of one customer."""
        before = {entry: entry.known() for entry in entries}
        return self.keep(before, await super().delete(entries))

    async def delete_all(self, customer: Entry, with_customer: bool) -> Outcome:
        """Delete all purchases of a customer, perhaps with the customer."""
        gone = [entry for entry in self.purchases if entry.customer is customer]
        count, path, body = len(gone), f"/purchase/{customer.id}", {"delete_all": True}
        if with_customer:
            gone, path = [*gone, customer], f"/customer/{customer.id}"
        before = {entry: entry.known() for entry in gone}
        sent: Json = {} if with_customer else {**body}
        answer = await self.send("DELETE", path, sent, None, None)
        outcome = outcome_of(answer.status if answer else 0)
        if answer is not None and outcome is Outcome.ACKNOWLEDGED:
            told = f'"deleted_count":{count}}}'.encode()
            if not answer.body.endswith(told):
                self.log.wrong.append(f"{path}: {answer.body!r} instead of {count}")
        self.become(dict.fromkeys(gone), outcome)
        return self.keep(before, outcome)

    async def undo(self, done: Done) -> Outcome:
        """Undo a change; 409 where that cannot be."""
        before = {entry: entry.known() for entry in done.before}
        path, key = f"/changes/{done.change}/undo", None
        if self.keys and CHANCE.random() < 0.5:
            key = str(uuid.uuid4())
        answer = await self.send("POST", path, {}, None, key)
        outcome = outcome_of(answer.status if answer else 0)
        self.become(done.before, outcome)
        return self.keep(before, outcome)

    def become(self, wishes: Mapping[Entry, str | None], outcome: Outcome) -> None:
        """Note what a write was to make of rows, and which are there to write to."""
        self.log.note_together(wishes, outcome)
        if outcome is not Outcome.ACKNOWLEDGED:
            return  # after an unknown end it writes no more
        for entry, name in wishes.items():
            mine = self.customers if entry.customer is None else self.purchases
            if name is None and entry in mine:
                mine.remove(entry)
            elif name is not None and entry not in mine:
                mine.append(entry)

    async def step(self) -> Outcome:
        """Send one write of any kind."""
        kind = CHANCE.random()
        if self.done and kind < 0.2:
            return await self.undo(CHANCE.choice(self.done))
        if self.customers and kind < 0.25:
            customer = CHANCE.choice(self.customers)
            return await self.delete_all(customer, CHANCE.random() < 0.5)
        if self.customers and CHANCE.random() < 0.1:
            mine = [row for row in self.purchases if row.customer is self.customers[0]]
            if mine:
                return await self.delete(mine[:8])
        return await super().step()

    async def run(self, stop: asyncio.Event, pause: float = 0.0) -> None:
        """Send writes until told to stop or until one is not answered; seconds."""
        await super().run(stop, pause)
        self.done.clear()
