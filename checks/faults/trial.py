"""A database to try a fault on, and the findings about it."""

import asyncio
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from checks.support.server_process import Reply, Server, serving
from checks.support.write_log import Sent, WriteLog, address_of, audit, quantity_of

BUSY_SECONDS = 2.0
"""The server's busy_timeout."""
SLACK_SECONDS = 0.5
GONE_SECONDS = 1.0
"""How soon a file that was deleted or replaced must be noticed."""
STOP_SECONDS = 10.0
CUSTOMERS = "/api/v1/customer"
PURCHASES = "/api/v1/purchase"


class NotRunError(Exception):
    """This machine cannot make the fault; the text says why."""


class Size(NamedTuple):
    """How long and how often."""

    lock_seconds: float
    leavers: int
    cancelled: int
    clients: int
    purchases: int
    cut_backups: int
    visitors: int


SHORT = Size(5.0, 60, 300, 500, 20_000, 4, 60)
LONG = Size(30.0, 1000, 3000, 2000, 200_000, 40, 400)


@dataclass
class Finding:
    """What one fault led to."""

    figures: str = ""
    breaches: list[str] = field(default_factory=list)

    def expect(self, held: bool, breach: str) -> None:
        """Note a breach unless the promise held."""
        if not held:
            self.breaches.append(breach)

    def audit(self, log: WriteLog, folder: Path) -> int:
        """Audit the database of a folder against a write log; return its rows."""
        found = audit(log, folder / "db.sqlite3")
        self.breaches += found.breaches() + log.wrong
        return found.rows


Fault = Callable[[Path, Size], Finding]


def on_server(fault: Callable[[Server, Size], Coroutine[Any, Any, Finding]]) -> Fault:
    """Return a fault that is made to a running server as one of its folder."""

    def make(folder: Path, size: Size) -> Finding:
        with serving(folder) as server:
            return asyncio.run(fault(server, size))

    return make


def rows_of(reply: Reply) -> int:
    """Return how many rows a list has, -1 when it is not a whole list."""
    body = reply.json() if reply.whole and reply.status == 200 else None
    data = body.get("data") if isinstance(body, dict) else None
    return len(data) if isinstance(data, list) else -1


def text_of(statuses: Iterable[int]) -> str:
    """Return statuses and how often each came; 0 is no answer."""
    counts = sorted(Counter(statuses).items())
    return ", ".join(f"{count} x {status}" for status, count in counts) or "none"


def statuses_of(sent: Iterable[Sent]) -> list[int]:
    """Return the statuses of some writes."""
    return [write.status for write in sent]


@cache
def new_database() -> bytes:
    """Return the file that a server made and closed."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        server.stop()
        return (server.folder / "db.sqlite3").read_bytes()


def fill(database: Path, purchases: int) -> WriteLog:
    """Make a database of ours of customers with 1,000 purchases each."""
    database.write_bytes(new_database())
    log, at = WriteLog(), "2022-04-09 12:43:22.237526+00:00"
    with closing(sqlite3.connect(database)) as file:
        for number in range(1, purchases // 1000 + 1):
            customer = log.new_entry(None)
            entries = [log.new_entry(customer) for _ in range(1000)]
            for entry in (customer, *entries):
                entry.may_be = {entry.new_name()}
            customer.id, name = number, customer.names[0]
            file.execute(
                "INSERT INTO customer (id, name, address, date_created)"
                " VALUES (?, ?, ?, ?)",
                (number, name, address_of(name), at),
            )
            file.executemany(
                "INSERT INTO purchases"
                " (purchase_name, quantity, customer_id, date_created)"
                " VALUES (?, ?, ?, ?)",
                [
                    (entry.names[0], quantity_of(entry.names[0]), number, at)
                    for entry in entries
                ],
            )
        file.commit()
    return log


def first_acknowledged(sent: Iterable[Sent], since: float) -> float:
    """Return the seconds until the first write that was acknowledged, or infinity."""
    ends = [write.ended for write in sent if write.status in (200, 201)]
    return min((end - since for end in ends if end > since), default=float("inf"))


def detail_of(reply: Reply) -> str:
    """Return what a problem says."""
    body = reply.json()
    return str(body.get("detail")) if isinstance(body, dict) else repr(reply.body[:99])
