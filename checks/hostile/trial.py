"""Sends cases to a server and judges its replies."""

import json
import sqlite3
from collections.abc import Iterable

from checks.hostile.case import (
    CUSTOMERS,
    MARK,
    MEMORY_LIMIT,
    OTHERS,
    PURCHASES,
    SECONDS_LIMIT,
    Case,
)
from checks.support.server_process import Reply, Server, call, exchange, request_bytes

COUNT = """
SELECT (SELECT count(*) FROM customer WHERE deleted IS NULL) + count(*)
FROM purchases WHERE NOT EXISTS (
    SELECT 1 FROM hidden WHERE hidden.customer_id = purchases.customer_id
        AND purchases.id BETWEEN first AND last)"""
SUM_UP = """
SELECT * FROM (SELECT count(*), total(version), count(deleted) FROM customer),
    (SELECT count(*), total(version), total(quantity) FROM purchases),
    (SELECT count(*), total(first), total(last) FROM hidden),
    (SELECT count(*), max(id), count(before), count(undoes) FROM history),
    (SELECT count(*), count(status) FROM idempotency)"""
"""No write leaves all of these as they are."""


class Trial:
    """A server, the rows it is known to hold, and the most memory a case took."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.lay_ground()
        database = f"{(server.folder / 'db.sqlite3').as_uri()}?mode=ro"
        self.database = sqlite3.connect(database, uri=True)
        self.logs = (server.out.open(), server.err.open())
        self.rows = self.count()
        self.peak = 0.0
        self.last = Reply(0)
        """The answer to the last case."""

    def lay_ground(self) -> None:
        """Add what the cases refer to: two customers with four purchases and one."""
        for name in "ab":
            call(self.server, "POST", CUSTOMERS, {"name": name, "address": name})
        for path in [PURCHASES] * 4 + [OTHERS]:
            self.honest(path)

    def honest(self, path: str = PURCHASES) -> Reply:
        """Send a proper request."""
        return call(self.server, "POST", path, {"purchase_name": "a", "quantity": 1})

    def count(self) -> int:
        """Return how many rows can be seen."""
        rows: int = self.database.execute(COUNT).fetchone()[0]
        return rows

    def write(
        self,
        method: str,
        path: str,
        value: object = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> Reply:
        """Send a proper request that the next cases need."""
        body = None if value is None else json.dumps(value).encode()
        request = request_bytes(method, path, body, headers)
        reply = exchange(self.server.port, request, method)
        self.rows = self.count()
        return reply

    def faults_of(self, case: Case) -> tuple[Reply, list[str]]:
        """Send a case and an honest request; return the answer and what is wrong."""
        self.server.reset_peak()
        before, sums = self.server.memory(), self.database.execute(SUM_UP).fetchone()
        reply = exchange(self.server.port, case.request, case.method, case.hang_up)
        self.last = reply
        grown = self.server.memory("VmHWM") - before
        self.peak = max(self.peak, grown)
        faults = answer_faults(case, reply) + self.stored_faults(case, reply)
        if reply.seconds > SECONDS_LIMIT:
            faults.append(f"it took {reply.seconds:.1f} s")
        if grown > MEMORY_LIMIT:
            faults.append(f"memory grew by {grown:.0f} MiB")
        rows, self.rows = self.rows + change(case, reply), self.count()
        if self.rows != rows:
            faults.append(f"{self.rows} rows, {rows} by the answers")
        wrote = self.database.execute(SUM_UP).fetchone() != sums
        if wrote != tells_of_change(reply):
            faults.append("written in silence" if wrote else "nothing was written")
        after = self.honest()
        self.rows += after.status == 201
        if after.status != 201:
            faults.append(f"the next honest request got {after.status} {after.body!r}")
        return reply, faults + self.log_faults()

    def stored_faults(self, case: Case, reply: Reply) -> list[str]:
        """Return how what can be read again differs from what was sent."""
        if case.field is None or reply.status != 201:
            return []
        key, value = case.field
        stored = value_of(call(self.server, "GET", reply.headers["Location"]), key)
        return [] if stored == value else [f"{key} is read again as {stored!r}"]

    def log_faults(self) -> list[str]:
        """Return what the logs have and must not have, since the last call."""
        new = "".join(log.read() for log in self.logs)
        return [f"{word} in the log" for word in (MARK, "Traceback") if word in new]


def answer_faults(case: Case, reply: Reply) -> list[str]:
    """Return what is wrong with an answer."""
    faults = [] if reply.status in case.right else [f"status {reply.status}"]
    if reply.status >= 400:
        faults += reply.problem_faults()
        if MARK in reply.body.decode(errors="replace"):
            faults.append("the marker in the body")
    if MARK in str(reply.headers):
        faults.append("the marker in a header")
    if reply.status == 422 and not case.pointers <= reply.pointers():
        faults.append(f"names {sorted(reply.pointers())}, not {set(case.pointers)}")
    if case.deleted is not None and change(case, reply) != -case.deleted:
        faults.append(f"deleted {-change(case, reply)}")
    if case.data is not None and data_of(reply) != case.data:
        faults.append(f"the data is not {case.data}")
    if case.field and value_of(reply, case.field[0]) != case.field[1]:
        faults.append(f"{case.field[0]} came back otherwise")
    return faults


def change(case: Case, reply: Reply) -> int:
    """Return by how much an answer says that the number of rows changed."""
    body = reply.json()
    if "Idempotency-Replayed" in reply.headers:
        return 0
    if case.rows is not None and reply.status in (200, 201):
        return case.rows
    if reply.status == 200 and case.method == "DELETE" and isinstance(body, dict):
        return -int(body.get("deleted_count", 0))
    return int(reply.status == 201)


def tells_of_change(reply: Reply) -> bool:
    """Return whether an answer says that something was written for it."""
    headers = reply.headers
    return "Change" in headers and "Idempotency-Replayed" not in headers


def data_of(reply: Reply) -> object:
    """Return the data of an answer, None without."""
    body = reply.json()
    return body.get("data") if isinstance(body, dict) else None


def value_of(reply: Reply, key: str) -> object:
    """Return a field of the data of an answer, None without."""
    data = data_of(reply)
    return data.get(key) if isinstance(data, dict) else None
