"""The API against dictionaries: customers and purchases, one at a time."""

import asyncio
import csv
import http.client
import io
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

from aiohttp import web
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule
from multidict import CIMultiDict

import server
from api.connections import Runner
from api.database import DATABASE
from checks.support.server_process import free_port
from runtime.settings import Settings
from storage.schema import fold_name
from tests.support import LONG, MONTHS, SHORT, ClientReply, check_reply


class Served(NamedTuple):
    """A server in another thread: its port, and what runs a query there."""

    port: int
    write: Callable[..., Any]


@contextmanager
def in_thread(url: str) -> Iterator[Served]:
    """Serve a database from another thread."""
    server.try_make_db(url)
    port, stop = free_port(), threading.Event()
    started = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    app = server.init_app(Settings(database_url=url, access_log=False))

    async def serve() -> None:
        runner = Runner(app, 100, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        loops.append(asyncio.get_running_loop())
        started.set()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()

    async def run(query: Any, *args: Any) -> Any:
        return await app[DATABASE].write(query, *args)

    def write(query: Any, *args: Any) -> Any:
        ended = asyncio.run_coroutine_threadsafe(run(query, *args), loops[0])
        return ended.result(20)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(20)
        yield Served(port, write)
    finally:
        stop.set()
        thread.join()


letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


names = st.text(letters | st.sampled_from("aAßsSée\u0301Яя%_ "), min_size=1, max_size=5)


names = names.filter(str.strip)


quantities = st.integers(1, 2**31 - 1)


keys = st.none() | st.sampled_from(["k", "l"])


class Time(NamedTuple):
    """A time as a client writes it, and as a list shows it."""

    text: str
    stored: str

    @property
    def short(self) -> str:
        """Return the time as the reply to adding shows it."""
        year, month, day = self.stored[:10].split("-")
        return f"{MONTHS.split('|')[int(month) - 1]} {day} {year} {self.stored[11:19]}"


def time_with_zone(local: datetime, zone: str, more: str, between: str) -> Time:
    """Return a time of RFC 3339; digits past the sixth count for nothing."""
    text = f"{local.isoformat(between, 'microseconds')}{more}{zone}"
    stored = local
    if zone not in "Zz":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:]))
        stored = local + offset if zone[0] == "-" else local - offset
    return Time(text, f"{stored.isoformat(' ', 'microseconds')}+00:00")


moments = st.datetimes(datetime(1, 1, 4), datetime(2026, 1, 1))
moments |= st.datetimes(datetime(2025, 12, 28), datetime(2026, 1, 1))


zones = st.sampled_from(["Z", "z", "+00:00", "-00:00", "+05:45", "-23:59", "+14:00"])


times = st.builds(
    time_with_zone, moments, zones, st.sampled_from(["", "9"]), st.sampled_from("Tt ")
)


tags = st.sampled_from([None, "current", "*", '"x"', 'W/"1"'])


GUARDED = re.compile("'*[=+@\uff1d\uff0b\uff0d\uff20\t\r\n-]")
"""What an export puts one more `'` before."""


class Pair(NamedTuple):
    """The name and the address of a customer, with the columns for them."""

    customer_name: str
    customer_address: str


class Line(NamedTuple):
    """A purchase in a file, by the place of its customer in a list."""

    place: int
    purchase_name: str
    quantity: int
    purchased_on: Time | None


dates = st.dates().filter(lambda day: (1, 1, 1) < day.timetuple()[:3] < (2026, 1, 1))
file_times = st.none() | times | dates.map(lambda day: Time(f"{day}", midnight(day)))


def midnight(day: object) -> str:
    """Return a date as a list shows it."""
    return f"{day} 00:00:00.000000+00:00"


lines = st.builds(Line, st.integers(0, 5), names, quantities, file_times)


def cell(value: object) -> str:
    """Return the text of a cell as an export has it."""
    text = "" if value is None else str(value)
    return f"'{text}" if GUARDED.match(text) else text


def write_file(rows: list[dict[str, Any]], form: str) -> tuple[bytes, list[int]]:
    """Return a file of rows, and the line in which each begins."""
    if form == "jsonl":
        texts = [json.dumps(row) for row in rows]
        return "\n".join(texts).encode(), [*range(1, len(rows) + 1)]
    text, begins = io.StringIO(), []
    writer = csv.writer(text, delimiter=form, lineterminator="\r\n")
    writer.writerow(rows[0])
    for row in rows:
        begins.append(1 + len(re.findall("\r\n|\r|\n", text.getvalue())))
        writer.writerow(map(cell, row.values()))
    return text.getvalue().encode(), begins


class Shop(RuleBasedStateMachine):
    """Holds the API against dictionaries that do the same."""

    served: ClassVar[Served]
    runs: ClassVar[Iterator[int]] = count()
    customers = Bundle("customers")
    purchases = Bundle("purchases")

    def __init__(self) -> None:
        super().__init__()
        self.peer = http.client.HTTPConnection(
            "127.0.0.1", self.served.port, timeout=20
        )
        self.people: dict[int, dict[str, Any]] = {}
        self.bought: dict[int, dict[str, Any]] = {}
        self.tags: dict[str, str] = {}
        self.first: dict[tuple[str, str], tuple[int, object, str]] = {}
        self.updates = Counter[str]()
        """How often the row of each path was changed."""
        self.run = next(self.runs)

    def send(
        self, line: str, status: int = 200, body: object = None, **headers: str | None
    ) -> ClientReply:
        """Send a request and check its reply."""
        method, _, path = line.partition(" ")
        fields = {k.replace("_", "-"): v for k, v in headers.items() if v is not None}
        if "Idempotency-Key" in fields:  # those of erased customers stay for a day
            fields["Idempotency-Key"] += f" of run {self.run}"
        text: bytes | None = None
        if isinstance(body, bytes):
            text = body
        elif body is not None:
            fields["Content-Type"], text = "application/json", json.dumps(body).encode()
        self.peer.request(method, path, text, fields)
        reply = self.peer.getresponse()
        found = CIMultiDict(reply.getheaders())
        return check_reply(
            ClientReply(line, reply.status, found, reply.read().decode()), status
        )

    def add(self, path: str, body: object, key: str | None, known: bool) -> Any:
        """Post once for each key; return what was added, None for nothing."""
        line = f"POST {path}"
        owner, before, text = self.first.get((path, key or ""), (0, None, ""))
        if owner and owner not in self.people:
            self.send(line, 410, body, Idempotency_Key=key)
            return None
        if before is not None and before != body:
            self.send(line, 422, body, Idempotency_Key=key)
            return None
        status = 201 if known or before is not None else 404
        reply = self.send(line, status, body, Idempotency_Key=key)
        assert (reply.headers.get("Idempotency-Replayed") == "true") is bool(before)
        if status == 404 or before is not None:
            assert status == 404 or reply.text == text
            return None
        self.tags[reply.headers["Location"]] = reply.headers["ETag"]
        if key is not None:
            owner = int(reply.data.get("customer_id", reply.data["id"]))
            self.first[path, key] = (owner, body, reply.text)
        return reply.data

    def change(
        self, line: str, path: str, body: object, tag: str | None, known: bool
    ) -> ClientReply | None:
        """Update with a precondition; return the reply when it was done."""
        current = self.tags.get(path, '"0"')
        match = current if tag == "current" else tag
        met = match in (None, "*", current)
        status = 404 if not known else 200 if met else 412
        reply = self.send(line, status, body, If_Match=match)
        if status != 200:
            return None
        if "ETag" in reply.headers:
            assert reply.headers["ETag"] != current
            self.tags[path] = reply.headers["ETag"]
            self.updates[path] += 1
        return reply

    @rule(target=customers, name=names, address=names, key=keys)
    def add_customer(self, name: str, address: str, key: str | None) -> Any:
        """Add a customer."""
        body = {"name": name, "address": address}
        added = self.add("/api/v1/customer", body, key, known=True)
        if added is None:
            return multiple()
        assert added == {"id": added["id"], **body, "created_on": SHORT}
        assert added["id"] > max(self.people, default=0)
        self.people[added["id"]] = added
        return added["id"]

    @rule(
        target=purchases,
        owner=customers,
        name=names,
        quantity=quantities,
        time=st.none() | times,
        key=keys,
    )
    def add_purchase(
        self, owner: int, name: str, quantity: int, time: Time | None, key: str | None
    ) -> Any:
        """Add a purchase, of now or of a time."""
        values = {"purchase_name": name, "quantity": quantity}
        body = values | ({"purchased_on": time.text} if time else {})
        path = f"/api/v1/purchase/{owner}"
        added = self.add(path, body, key, owner in self.people)
        if added is None:
            return multiple()
        number = added["id"]
        rest: dict[str, Any] = {"purchased_on": time.short if time else SHORT}
        rest |= {"customer_id": str(owner)}
        assert added == {"id": number, **values, **rest}
        assert number > max(self.bought, default=0)
        path = f"/api/v1/customer/{owner}/purchase/{number}"
        on = self.send(f"GET {path}").data["purchased_on"]
        assert on == (time.stored if time else LONG)
        rest |= {"purchased_on": on, "last_updated_on": None}
        self.bought[number] = {"purchase_id": number, **values, **rest}
        return number

    @rule(owner=customers, minutes=st.integers(1, 10**6), zone=zones)
    def add_purchase_to_come(self, owner: int, minutes: int, zone: str) -> None:
        """Add a purchase of a time to come: it is refused."""
        at = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=2, minutes=minutes)
        time = time_with_zone(at, zone, "", "T")
        body = {"purchase_name": "x", "quantity": 1, "purchased_on": time.text}
        reply = self.send(f"POST /api/v1/purchase/{owner}", 422, body)
        assert reply.pointers == ["/purchased_on"]

    @rule(
        number=purchases,
        name=st.none() | names,
        quantity=quantities,
        way=st.sampled_from(["PATCH", "PUT", "DELETE", "PATCH of", "PUT of"]),
        tag=tags,
    )
    def update_purchase(
        self, number: int, name: str | None, quantity: int, way: str, tag: str | None
    ) -> None:
        """Update a purchase in each of the ways, at its customer's path too."""
        method, _, of_customer = way.partition(" ")
        body: dict[str, Any] = {"quantity": quantity}
        if name is not None or method != "PATCH":
            body["purchase_name"] = name or "x"
        row = self.bought.get(number, {"customer_id": "0"})
        path = f"/api/v1/customer/{row['customer_id']}/purchase/{number}"
        tag = None if method == "DELETE" else tag
        line = f"{method} {path if of_customer else f'/api/v1/purchase/{number}'}"
        reply = self.change(line, path, body, tag, number in self.bought)
        if reply is not None:
            assert reply.data["last_updated_on"] == LONG
            row |= body | {"last_updated_on": reply.data["last_updated_on"]}
            self.read_purchase(number)

    @rule(number=customers, name=names, tag=tags)
    def rename_customer(self, number: int, name: str, tag: str | None) -> None:
        """Correct a customer."""
        path = f"/api/v1/customer/{number}"
        line, known = f"PATCH {path}", number in self.people
        reply = self.change(line, path, {"name": name}, tag, known)
        if reply is not None:
            self.people[number]["name"] = name
            assert reply.data == self.people[number]

    @rule(number=consumes(customers), tag=tags)
    def erase_customer(self, number: int, tag: str | None) -> None:
        """Erase a customer with everything that refers to it."""
        path = f"/api/v1/customer/{number}"
        known = number in self.people
        reply = self.change(f"DELETE {path}", path, None, tag, known)
        if reply is not None:
            assert reply.json["deleted_count"] == len(self.drop(number, None))
            del self.people[number]

    def drop(self, owner: int, numbers: list[int] | None) -> list[int]:
        """Delete purchases of a customer from the model; return which."""
        gone = [
            number
            for number, row in self.bought.items()
            if row["customer_id"] == str(owner)
            and (numbers is None or number in numbers)
        ]
        for number in gone:
            del self.bought[number]
        return gone

    @rule(owner=customers, numbers=st.none() | st.lists(purchases, max_size=3))
    def delete_purchases(self, owner: int, numbers: list[int] | None) -> None:
        """Delete all or some purchases of a customer."""
        body = {"delete_all": numbers is None, "purchase_ids": numbers or []}
        known = owner in self.people
        line = f"DELETE /api/v1/purchase/{owner}"
        reply = self.send(line, 200 if known else 404, body)
        if known:
            gone = len(self.drop(owner, numbers))
            assert reply.json == {"status": "ok", "deleted_count": gone}

    @rule(number=purchases)
    def read_purchase(self, number: int) -> None:
        """Read a purchase alone, with and without its tag."""
        row = self.bought.get(number)
        owner = row["customer_id"] if row else 1
        path = f"/api/v1/customer/{owner}/purchase/{number}"
        reply = self.send(f"GET {path}", 200 if row else 404)
        if row:
            shown = {k: v for k, v in row.items() if "_id" not in k}
            assert reply.data == {"id": str(number), **shown}
            assert reply.headers["ETag"] == self.tags[path]
            self.send(f"GET {path}", 304, If_None_Match=self.tags[path])

    @rule(number=customers)
    def read_customer(self, number: int) -> None:
        """Read a customer and its purchases."""
        path = f"/api/v1/customer/{number}"
        known = number in self.people
        reply = self.send(f"GET {path}", 200 if known else 404)
        bought = self.send(f"GET /api/v1/purchase/{number}", 200 if known else 404)
        if known:
            assert reply.data == self.people[number]
            assert reply.headers["ETag"] == self.tags[path]
            rows = self.bought.values()
            mine = [row for row in rows if row["customer_id"] == str(number)]
            assert bought.data == mine

    @rule(part=names)
    def find_customers(self, part: str) -> None:
        """Find customers by a part of their names."""
        folded = fold_name(part)
        people = self.people.values()
        found = [person for person in people if folded in fold_name(person["name"])]
        path = f"/api/v1/customers?name={quote(part, safe='')}"
        assert self.send(f"GET {path}").data == found

    @rule(limit=st.integers(1, 4))
    def walk(self, limit: int) -> None:
        """Walk the pages of all purchases."""
        rows, path = [], f"/api/v1/customer?limit={limit}"
        while path:
            reply = self.send(f"GET {path}")
            rows += reply.data
            path = reply.headers.get("Link", "<>").partition(">")[0].lstrip("<")
        assert rows == [*self.bought.values()]

    def teardown(self) -> None:
        """Compare everything, and leave an empty database."""
        assert self.send("GET /api/v1/customer").data == [*self.bought.values()]
        assert self.send("GET /api/v1/customers").data == [*self.people.values()]
        for number in self.people:
            self.send(f"DELETE /api/v1/customer/{number}")
        self.peer.close()
