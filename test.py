"""What clients and operators may rely on, in the order of the README."""

import argparse
import asyncio
import csv
import errno
import gc
import http.client
import importlib
import io
import itertools
import json
import logging
import os
import re
import select
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

import aiohttp
import openapi_spec_validator
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck
from hypothesis import settings as bounds
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    multiple,
    rule,
    run_state_machine_as_test,
)
from multidict import CIMultiDict
from prometheus_client.parser import text_string_to_metric_families
from pytest_aiohttp import AiohttpClient
from serving import Server, exchange, free_port, request_bytes, serving, visitor_of
from yarl import URL

import bodies
import connections
import db
import handlers
import lists
import schema
import server
import sqlite
import sqlite_file
import sqlite_lane
import telemetry
import workers
from access import Door, read_tokens
from connections import Runner
from settings import Settings
from sqlite_lane import driver
from workers import Worker

PROJECT = Path(__file__).resolve().parent
ENGINES = ("sqlite", "postgresql")
one_engine = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Marks a test of what the database has no part in, or of SQLite alone."""

several_processes = pytest.mark.skipif(
    not sqlite_lane.WAL_RESET_FIXED,
    reason="this SQLite is older than the fix of sqlite.org/wal.html#walresetbug",
)
"""Marks a test of what the server does only where two connections may write."""

JOHN = {"name": "John Doe", "address": "Amsterdam, NL"}
PHONE = {"purchase_name": "Iphone 10 Pro", "quantity": 4}
MAX_ID = 2**63 - 1
MAX_BODY = 256 * 1024


class Like:
    """Equals every text of a shape."""

    def __init__(self, shape: str) -> None:
        self.shape = shape

    def __eq__(self, other: object) -> bool:
        """Return whether the other is text, and all of it has the shape."""
        return isinstance(other, str) and bool(re.fullmatch(self.shape, other))

    def __repr__(self) -> str:
        """Return the shape, for a failed comparison to show."""
        return f"<like {self.shape}>"


MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
SHORT = Like(rf"({MONTHS}) \d\d \d{{4}} \d\d:\d\d:\d\d")
LONG = Like(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00:00")
REQUEST_ID = Like(r"[A-Za-z0-9._-]{1,64}")


TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    422: "Unprocessable Content",
    500: "Internal Server Error",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}
"""What RFC 9110 and RFC 4918 call them."""


class Answer(NamedTuple):
    """A reply, with the request that it answers."""

    request: str
    status: int
    headers: CIMultiDict[str]
    text: str

    def __str__(self) -> str:
        """Show all of it."""
        head = "".join(f"{name}: {text}\n" for name, text in self.headers.items())
        return f"{self.request}\n{self.status}\n{head}\n{self.text}"

    @property
    def json(self) -> Any:
        """Return the decoded body."""
        return json.loads(self.text)

    @property
    def data(self) -> Any:
        """Return what a success answers."""
        assert self.json == {"status": "ok", "data": self.json.get("data")}, str(self)
        return self.json["data"]

    @property
    def pointers(self) -> list[str]:
        """Return the places that a 422 names."""
        return sorted(error["pointer"] for error in self.json["errors"])


def judge(answer: Answer, status: int) -> Answer:
    """Return a reply that has the status, and whatever every reply of it has."""
    headers = answer.headers
    assert answer.status == status, str(answer)
    assert headers.get("X-Request-Id") == REQUEST_ID, str(answer)
    assert headers.get("X-Content-Type-Options") == "nosniff", str(answer)
    wanted = {401: "WWW-Authenticate", 405: "Allow", 503: "Retry-After"}
    assert status not in wanted or headers.get(wanted[status]), str(answer)
    if status >= 400 and not answer.request.startswith("HEAD"):
        assert headers["Content-Type"] == "application/problem+json", str(answer)
        problem = {
            "type": "about:blank",
            "title": TITLES[status],
            "status": status,
            "detail": Like(r"[ -~]{5,200}"),
            "request_id": headers["X-Request-Id"],
        }
        if status == 422:
            error = {"pointer": Like("(/.*)?"), "detail": Like(".+")}
            problem["errors"] = [error] * max(len(answer.json.get("errors", "")), 1)
        assert answer.json == problem, str(answer)
    return answer


class Ask:
    """Sends requests to one server, and judges what it answers."""

    def __init__(self, client: TestClient[Any, Any]) -> None:
        self.client = client

    @property
    def port(self) -> int:
        """Return the port that the server listens on."""
        port = self.client.port
        assert port is not None
        return port

    async def __call__(
        self, line: str, body: object = None, status: int = 200, /, **headers: str
    ) -> Answer:
        """Send `METHOD path`, a body (bytes as they are), and headers (_ for -)."""
        method, _, path = line.partition(" ")
        fields = {name.replace("_", "-"): text for name, text in headers.items()}
        if body is not None:
            fields = {"Content-Type": "application/json"} | fields
        async with self.client.request(
            method,
            URL(path, encoded=True),
            data=body if isinstance(body, bytes | None) else json.dumps(body),
            headers=fields,
            skip_auto_headers=("Content-Type",),
        ) as reply:
            text = await reply.text()
            found = Answer(line, reply.status, CIMultiDict(reply.headers), text)
        return judge(found, status)

    async def raw(
        self,
        request: bytes | list[bytes],
        status: int,
        hang_up: bool = False,
        pause: float = 0.0,
    ) -> Answer:
        """Send bytes on a connection of their own, piece by piece."""
        pieces = [request] if isinstance(request, bytes) else request

        def slowly() -> Iterator[bytes]:
            for piece in pieces:
                yield piece
                time.sleep(pause)

        reply = await asyncio.to_thread(exchange, self.port, slowly(), hang_up=hang_up)
        headers = CIMultiDict(reply.headers.items())
        line = pieces[0][:200].decode("latin-1")
        return judge(Answer(line, reply.status, headers, reply.body.decode()), status)


class OurServer(TestServer):
    """Serves as `python server.py` does, with its limits on connections."""

    most = 1000

    async def _make_runner(self, **_: Any) -> Runner:
        return Runner(self.app, self.most, shutdown_timeout=0.5)


# Fixtures

Opener = Callable[..., Awaitable[Ask]]
Main = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    """Return where a database file is to be."""
    return tmp_path / "db.sqlite3"


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[Any]:
    """Run a PostgreSQL server of our own, for the session."""
    postgresql = importlib.import_module("postgresql")
    with postgresql.cluster(postgresql.NO_FSYNC) as cluster:
        yield cluster


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, sqlite_path: Path) -> str:
    """Return the URL of a database of the test's own, not made yet or empty."""
    if request.param == "sqlite":
        return f"sqlite:///{sqlite_path}"
    url: str = request.getfixturevalue("postgresql_cluster").new_schema()
    return url


@pytest.fixture
def opened(database_url: str, aiohttp_client: AiohttpClient) -> Opener:
    """Return what serves the database and returns how to ask it."""

    async def serve(
        door: Door | None = None, most: int = 1000, access_log: bool = False
    ) -> Ask:
        await asyncio.to_thread(server.try_make_db, database_url)
        settings = Settings(database_url=database_url, access_log=access_log)
        app = server.init_app(settings, door)
        ours = OurServer(app)
        ours.most = most
        return Ask(await aiohttp_client(ours))

    return serve


@pytest.fixture
async def ask(opened: Opener) -> Ask:
    """Return how to ask a server that has an empty database."""
    return await opened()


@pytest.fixture
def engine(ask: Ask) -> Any:
    """Return the engine under the server; of SQLite's, tests know the lanes."""
    served = ask.client.server
    assert isinstance(served, OurServer)
    return served.app[handlers.DATABASE]


@pytest.fixture
async def customer(ask: Ask) -> int:
    """Return the id of a customer."""
    number: int = (await ask("POST /api/v1/customer", JOHN, 201)).data["id"]
    return number


@pytest.fixture
async def purchase(ask: Ask, customer: int) -> int:
    """Return the id of a purchase of the customer."""
    added = await ask(f"POST /api/v1/purchase/{customer}", PHONE, 201)
    number: int = added.data["id"]
    return number


def add_many(customer: int, number: int) -> db.Unit[None]:
    """Add purchases in one unit of work."""
    for turn in range(number):
        yield db.INSERT_PURCHASE, (f"thing {turn}", 1, db.now(), customer)


def count(table: str) -> db.Unit[int]:
    """Return how many rows a table has."""
    rows = yield f"SELECT count(*) FROM {table}", ()  # noqa: S608 - the tests' own
    number: int = rows[0][0]
    return number


def soon(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Return whether a condition comes true, asked again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def count_connections(ask: Ask) -> int:
    """Return how many connections the server under test has open."""
    runner = ask.client.server.runner
    assert runner is not None
    assert runner.server is not None
    return len(runner.server.connections)


async def list_ids(ask: Ask) -> list[int]:
    """Return the ids of all purchases."""
    listed = await ask("GET /api/v1/customer")
    return [row["purchase_id"] for row in listed.data]


async def list_names(ask: Ask) -> list[str]:
    """Return the names of all customers."""
    return [row["name"] for row in (await ask("GET /api/v1/customers")).data]


# The description's five examples, word for word


async def test_described_requests(ask: Ask) -> None:
    john = {"id": 1, "name": "John Doe", "address": "Amsterdam, NL"}
    reply = await ask("POST /api/v1/customer", JOHN, 201)
    assert reply.json == {"status": "ok", "data": john | {"created_on": SHORT}}

    await ask("POST /api/v1/purchase/1", PHONE, 201)
    phone = {"purchase_name": "Iphone 12", "quantity": 4}
    added = {"id": 2, **phone, "customer_id": "1", "purchased_on": SHORT}
    reply = await ask("POST /api/v1/purchase/1", phone, 201)
    assert reply.json == {"status": "ok", "data": added}

    better = {"purchase_name": "Iphone 12 Pro", "quantity": 40}
    times = {"purchased_on": LONG, "last_updated_on": LONG}
    reply = await ask("DELETE /api/v1/purchase/2", better)
    assert reply.json == {"status": "ok", "data": {"id": "2", **better, **times}}
    assert reply.headers["Deprecation"] == "@1775001600"
    assert reply.headers["Link"] == '</docs>; rel="deprecation"'

    first = {"purchase_id": 1, **PHONE, **times, "last_updated_on": None}
    second = {"purchase_id": 2, **better, **times}
    rows = [row | {"customer_id": "1"} for row in (first, second)]
    for path in ("/api/v1/customer", "/api/v1/purchase/1"):
        reply = await ask(f"GET {path}")
        assert reply.json == {"status": "ok", "data": rows}

    for _ in range(4):
        await ask("POST /api/v1/purchase/1", PHONE, 201)
    chosen = {"delete_all": False, "purchase_ids": [3, 6]}
    reply = await ask("DELETE /api/v1/purchase/1", chosen)
    assert reply.json == {"status": "ok", "deleted_count": 2}
    assert "Deprecation" not in reply.headers
    assert await list_ids(ask) == [1, 2, 4, 5]


# Customers


async def test_customer_routes(ask: Ask) -> None:
    reply = await ask("POST /api/v1/customer", JOHN, 201)
    assert reply.headers["Location"] == "/api/v1/customer/1"
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.headers["Cache-Control"] == "private, no-cache"
    john = {"id": 1, **JOHN, "created_on": SHORT}
    assert (await ask("GET /api/v1/customer/1")).data == john
    reply = await ask("PATCH /api/v1/customer/1", {"name": "Jane"})
    assert reply.data == john | {"name": "Jane"}
    reply = await ask("PATCH /api/v1/customer/1", {"address": ""})
    assert reply.data == john | {"name": "Jane", "address": ""}
    assert (await ask("GET /api/v1/customers")).data == [reply.data]
    await ask("GET /api/v1/customer/2", None, 404)
    await ask("PATCH /api/v1/customer/2", {"name": "Jane"}, 404)


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("", ["Straße", "STRASSE 9", "Пётр", "100% _x_", "O'Neil \\", "Ünal"]),
        ("SS", ["Straße", "STRASSE 9"]),
        ("ß", ["Straße", "STRASSE 9"]),
        ("пЁТ", ["Пётр"]),
        ("%", ["100% _x_"]),
        ("_", ["100% _x_"]),
        ("'", ["O'Neil \\"]),
        ("\\", ["O'Neil \\"]),
        ("üN", ["Ünal"]),
        ("nobody", []),
    ],
)
async def test_find_customers(ask: Ask, part: str, found: list[str]) -> None:
    for name in ("Straße", "STRASSE 9", "Пётр", "100% _x_", "O'Neil \\", "Ünal"):
        await ask("POST /api/v1/customer", {"name": name, "address": ""}, 201)
    reply = await ask(f"GET /api/v1/customers?name={quote(part)}")
    assert [row["name"] for row in reply.data] == found


async def test_find_renamed_customer(ask: Ask, customer: int) -> None:
    await ask(f"PATCH /api/v1/customer/{customer}", {"name": "Ζωή"})
    assert (await ask(f"GET /api/v1/customers?name={quote('ΖΩ')}")).data
    assert not (await ask("GET /api/v1/customers?name=john")).data


async def test_find_in_bounded_steps(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit looks at few rows; the answer is whole all the same."""
    monkeypatch.setattr(db, "SCAN_ROWS", 3)
    for number in range(12):
        name = "rare" if number in (5, 10) else "frequent"
        await ask("POST /api/v1/customer", {"name": name, "address": ""}, 201)
    everyone = [row["id"] for row in (await ask("GET /api/v1/customers")).data]
    for line in ("GET /api/v1/customers?name=RARE", "GET /api/v1/customers?name=ra"):
        reply = await ask(line)
        assert [row["id"] for row in reply.data] == [everyone[5], everyone[10]]
    reply = await ask("GET /api/v1/customers?name=rare&limit=1")
    assert [row["id"] for row in reply.data] == [everyone[5]]
    assert 'rel="next"' in reply.headers["Link"]


async def test_erase_customer(ask: Ask, engine: Any, purchase: int) -> None:
    await ask("POST /api/v1/customer", {"name": "Eve", "address": "x"}, 201)
    for path, body in (("purchase/1", PHONE), ("purchase/2", PHONE)):
        await ask(f"POST /api/v1/{path}", body, 201, Idempotency_Key="k")
    reply = await ask("DELETE /api/v1/customer/1")
    assert reply.json == {"status": "ok", "deleted_count": 2}
    assert await engine.read(count, "idempotency") == 1
    assert await list_ids(ask) == [3]
    for line in ("GET /api/v1/customer/1", "GET /api/v1/purchase/1"):
        await ask(line, None, 404)
    await ask("DELETE /api/v1/customer/1", None, 404)
    reply = await ask("POST /api/v1/customer", JOHN, 201)
    assert reply.data["id"] == 3, "an id was used again"


# Purchases


async def test_purchase_routes(ask: Ask, customer: int) -> None:
    reply = await ask("POST /api/v1/purchase/1", PHONE, 201)
    assert reply.headers["Location"] == "/api/v1/customer/1/purchase/1"
    alone = {"id": "1", **PHONE, "purchased_on": LONG, "last_updated_on": None}
    assert (await ask("GET /api/v1/customer/1/purchase/1")).data == alone
    changed = alone | {"last_updated_on": LONG}
    reply = await ask("PATCH /api/v1/purchase/1", {"quantity": 7})
    assert reply.data == changed | {"quantity": 7}
    reply = await ask("PATCH /api/v1/purchase/1", {"purchase_name": "Case"})
    assert reply.data == changed | {"quantity": 7, "purchase_name": "Case"}
    reply = await ask("PUT /api/v1/purchase/1", PHONE)
    assert reply.data == changed
    assert (await ask("GET /api/v1/customer/1/purchase/1")).data == reply.data


async def test_list_shows_every_update(ask: Ask, purchase: int) -> None:
    seen = set()
    for _ in range(3):
        await ask("PATCH /api/v1/purchase/1", {"quantity": 5})
        seen.add((await ask("GET /api/v1/customer")).data[0]["last_updated_on"])
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("GET /api/v1/purchase/2", None),
        ("GET /api/v1/customer?customer_id=2", None),
        ("GET /api/v1/customer/2/purchase/1", None),
        ("GET /api/v1/customer/1/purchase/2", None),
        ("POST /api/v1/purchase/2", PHONE),
        ("PATCH /api/v1/purchase/2", PHONE),
        ("PUT /api/v1/purchase/2", PHONE),
        ("DELETE /api/v1/purchase/2", PHONE),
        ("DELETE /api/v1/purchase/2", {"delete_all": True}),
        ("DELETE /api/v1/purchase/2", {"purchase_ids": [1]}),
        ("DELETE /api/v1/customer/2", None),
    ],
)
async def test_unknown_row(
    ask: Ask, purchase: int, line: str, body: dict[str, Any] | None
) -> None:
    await ask(line, body, 404)
    assert await list_ids(ask) == [1]


async def test_one_customer_list(ask: Ask, purchase: int) -> None:
    await ask("POST /api/v1/customer", JOHN, 201)
    for path in ("/api/v1/purchase/2", "/api/v1/customer?customer_id=2"):
        reply = await ask(f"GET {path}")
        assert reply.json == {"status": "ok", "data": []}
    both = [await ask("GET /api/v1/purchase/1"), await ask("GET /api/v1/customer")]
    assert both[0].data == both[1].data


@one_engine
@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns"])
async def test_times_are_utc(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        created = (await ask("POST /api/v1/customer", JOHN, 201)).data["created_on"]
        await ask("POST /api/v1/purchase/1", PHONE, 201)
        listed = (await ask("GET /api/v1/customer")).data[0]["purchased_on"]
    finally:
        monkeypatch.undo()
        time.tzset()
    short = datetime.strptime(created, "%b %d %Y %H:%M:%S").replace(tzinfo=UTC)
    for moment in (short, datetime.fromisoformat(listed)):
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)


@pytest.mark.parametrize(("number", "month"), [*enumerate(MONTHS.split("|"), 1)])
def test_months_are_english(number: int, month: str) -> None:
    """The text is put together without strftime, which would ask the locale."""
    stored = f"2022-{number:02}-09 12:43:17.237526+00:00"
    assert handlers.short_time(stored) == f"{month} 09 2022 12:43:17"


# Deleting purchases


@pytest.fixture
async def four_purchases(ask: Ask) -> list[int]:
    """Return the ids of purchases: three of customer 1, one of customer 2."""
    for owner, number in ((1, 3), (2, 1)):
        await ask("POST /api/v1/customer", JOHN, 201)
        for _ in range(number):
            await ask(f"POST /api/v1/purchase/{owner}", PHONE, 201)
    return await list_ids(ask)


@pytest.mark.parametrize(
    ("query", "body", "left"),
    [
        ("", {"delete_all": True}, [4]),
        ("", {"delete_all": True, "purchase_ids": []}, [4]),
        ("", {"delete_all": True, "purchase_ids": [1]}, [4]),
        ("", {"delete_all": True, "purchase_ids": "whatever"}, [4]),
        ("", {"delete_all": False, "purchase_ids": [1, 3]}, [2, 4]),
        ("", {"purchase_ids": [2, 2, 2]}, [1, 3, 4]),
        ("", {"purchase_ids": [1, 4, 99, MAX_ID]}, [2, 3, 4]),
        ("", {"purchase_ids": []}, [1, 2, 3, 4]),
        ("", {"purchase_ids": [3] * 10_000}, [1, 2, 4]),
        ("?delete_all=true", None, [4]),
        ("?delete_all=true&purchase_id=1", None, [4]),
        ("?purchase_id=1&purchase_id=3", None, [2, 4]),
        ("?delete_all=false&purchase_id=2", None, [1, 3, 4]),
        ("?purchase_id=2", b"", [1, 3, 4]),
    ],
)
async def test_delete_purchases(
    ask: Ask, four_purchases: list[int], query: str, body: object, left: list[int]
) -> None:
    reply = await ask(f"DELETE /api/v1/purchase/1{query}", body)
    assert reply.json == {"status": "ok", "deleted_count": 4 - len(left)}
    assert await list_ids(ask) == left
    reply = await ask("POST /api/v1/purchase/1", PHONE, 201)
    assert reply.data["id"] == 5, "an id was used again"


NAME, QUANTITY, ALL, IDS = "/purchase_name", "/quantity", "/delete_all", "/purchase_ids"


@pytest.mark.parametrize(
    ("query", "body", "pointers"),
    [
        ("", None, [""]),
        ("", {}, [""]),
        ("", {"delete_all": False}, [""]),
        ("?delete_all=false", None, [""]),
        ("", {"delete_all": "true"}, [ALL]),
        ("", {"delete_all": None, "purchase_ids": [1]}, [ALL]),
        ("", {"delete_all": 1}, [ALL]),
        ("", {"purchase_ids": None}, [IDS]),
        ("", {"purchase_ids": 1}, [IDS]),
        ("", {"purchase_ids": [1] * 10_001}, [IDS]),
        *(
            ("", {"purchase_ids": [1, wrong]}, [f"{IDS}/1"])
            for wrong in (0, -1, "1", 1.5, 1.0, True, None, 2**63, 10**4000)
        ),
        ("", {"delete_all": "x", "purchase_ids": [0]}, [ALL, f"{IDS}/0"]),
        ("", {"purchase_ids": [0, 1, "a", True]}, [f"{IDS}/{n}" for n in (0, 2, 3)]),
        ("", {"purchase_ids": ["a", [1]]}, [f"{IDS}/0", f"{IDS}/1"]),
        ("", {"delete_all": False, "purchase_ids": [1], "x": 1}, ["/x"]),
        ("?delete_all=1", None, [ALL]),
        ("?delete_all=true&delete_all=true", None, [ALL]),
        ("?purchase_id=x", None, ["/purchase_id"]),
        ("?purchase_id=", None, ["/purchase_id"]),
        ("?purchase_id=0", None, ["/purchase_id"]),
        (f"?purchase_id={MAX_ID + 1}", None, ["/purchase_id"]),
        ("?purchase_id=00000000000000000003", None, ["/purchase_id"]),
        ("?purchase_id=1&purchase_id=x", None, ["/purchase_id"]),
        ("?purchase_ids=1", None, [IDS]),
        ("?delete_all=true", {"purchase_ids": [1]}, [""]),
        # neither a deletion nor the documented update
        ("", {**PHONE, "delete_all": True}, [NAME, QUANTITY]),
        ("", {**PHONE, "purchase_ids": [1]}, [NAME, QUANTITY]),
        ("", {"purchase_name": "x", "delete_all": True}, [NAME]),
        ("", {"quantity": 1, "purchase_ids": []}, [QUANTITY]),
        (
            "",
            {"quantity": 1, "purchase_ids": [0], "x": 1},
            [f"{IDS}/0", QUANTITY, "/x"],
        ),
        ("", {"purchase_name": "x"}, [QUANTITY]),
        ("", {"quantity": 0}, [NAME, QUANTITY]),
        ("", {**PHONE, "x": 1}, ["/x"]),
        ("?purchase_id=1", PHONE, [""]),
    ],
)
async def test_delete_refused(
    ask: Ask, four_purchases: list[int], query: str, body: object, pointers: list[str]
) -> None:
    before = await ask("GET /api/v1/customer")
    reply = await ask(f"DELETE /api/v1/purchase/1{query}", body, 422)
    assert reply.pointers == pointers
    assert (await ask("GET /api/v1/customer")).json == before.json


async def test_delete_with_many_faults(ask: Ask, four_purchases: list[int]) -> None:
    """So many as a reply can take are named, those of known fields first."""
    unknown = dict.fromkeys(map(str, range(2000)))
    body = {**unknown, "purchase_ids": [0] * 500}
    reply = await ask("DELETE /api/v1/purchase/1", body, 422)
    named = [
        *(f"{IDS}/{number}" for number in range(500)),
        *map("/{}".format, range(500)),
    ]
    assert reply.pointers == sorted(named)
    assert "1000 of 2500" in reply.json["detail"]


@one_engine
@pytest.mark.parametrize(("query", "status"), [("", 422), ("?delete_all=true", 200)])
@pytest.mark.parametrize("pause", [0, 0.1])
async def test_delete_with_an_empty_body(
    ask: Ask, four_purchases: list[int], query: str, status: int, pause: float
) -> None:
    """It is no body, also where that turns out after the head has come."""
    head = f"DELETE /api/v1/purchase/1{query} HTTP/1.1\r\nHost: x\r\n"
    pieces = [head.encode() + b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n"]
    await ask.raw(pieces, status, pause=pause)


# Methods and paths

NO_ID = [
    *("0", "-1", "+1", "01", "1.0", "1e3", "0x1", "a", "%201", "1%00", "1%0A", "%zz"),
    *("%D9%A1", str(2**63), str(2**64), "9" * 5000, "1/", "1/2", "1;2", "1%2F2"),
]
ALLOW = {
    "/": "GET, HEAD, OPTIONS",
    "/livez": "GET, HEAD, OPTIONS",
    "/readyz": "GET, HEAD, OPTIONS",
    "/metrics": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
    "/docs": "GET, HEAD, OPTIONS",
    "/api/v1/customer": "GET, HEAD, OPTIONS, POST",
    "/api/v1/customers": "GET, HEAD, OPTIONS",
    "/api/v1/customer/1": "DELETE, GET, HEAD, OPTIONS, PATCH",
    "/api/v1/customer/1/purchase/1": "GET, HEAD, OPTIONS",
    "/api/v1/purchase/1": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
}


@one_engine
@pytest.mark.parametrize("number", NO_ID)
async def test_no_id(ask: Ask, purchase: int, number: str) -> None:
    for line, body in (
        (f"GET /api/v1/customer/{number}", None),
        (f"GET /api/v1/purchase/{number}", None),
        (f"GET /api/v1/customer/1/purchase/{number}", None),
        (f"POST /api/v1/purchase/{number}", PHONE),
        (f"PATCH /api/v1/purchase/{number}", PHONE),
        (f"OPTIONS /api/v1/purchase/{number}", None),
    ):
        await ask(line, body, 404)


async def test_largest_id(ask: Ask) -> None:
    await ask(f"GET /api/v1/customer/{MAX_ID}", None, 404)
    await ask(f"PATCH /api/v1/purchase/{MAX_ID}", PHONE, 404)


@one_engine
@pytest.mark.parametrize(("path", "allow"), [*ALLOW.items()])
async def test_methods(ask: Ask, purchase: int, path: str, allow: str) -> None:
    reply = await ask(f"OPTIONS {path}", None, 204)
    assert (reply.headers["Allow"], reply.text) == (allow, "")
    for method in {"DELETE", "FOO", "PATCH", "POST", "PUT", "TRACE"} - {
        *allow.split(", ")
    }:
        reply = await ask(f"{method} {path}", None, 405)
        assert reply.headers["Allow"] == allow, str(reply)
    got = await ask(f"GET {path}")
    head = await ask(f"HEAD {path}")
    assert head.text == ""
    for name in ("Content-Type", "Content-Length", "ETag", "Cache-Control"):
        assert head.headers.get(name) == got.headers.get(name) or path == "/metrics"


@one_engine
async def test_head_of_a_problem(ask: Ask) -> None:
    reply = await ask("HEAD /api/v1/customer/1", None, 404)
    assert reply.text == ""


@one_engine
@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/api/v1", "/api/v1/customer/", "/api/v1/customer%2F1", "/docs%2Fx"],
)
async def test_nowhere(ask: Ask, path: str) -> None:
    for method in ("GET", "POST", "DELETE", "OPTIONS", "FOO"):
        await ask(f"{method} {path}?some=query", None, 404)


def test_every_route_is_routed() -> None:
    """ROUTES and the router name the same methods and paths."""
    routed = {
        (route.method, re.sub(r"\{(\w+)[^/]*", r"{\1}", route.resource.canonical))
        for route in server.init_app().router.routes()
        if route.resource is not None and route.method != "*"
    }
    table = {(route.method, route.path) for route in handlers.ROUTES}
    assert len(table) == len(handlers.ROUTES)
    assert routed == table | {("HEAD", path) for way, path in table if way == "GET"}


# Values

TEXTS = [
    *("x", " x ", "x" * 200, "😀" * 200, "\u202eright to left", "e\u0301 combining"),
    *("'); DROP TABLE purchases;--", "%", "_", "<script>", "\ufeff", "\x7f", "\\u0000"),
    *("tab\tand\nline", '"', "=1+1", "\u200b", "中文", "\U0010ffff"),
]
BLANKS = ["", " ", "\t\r\n", "\u00a0\u2003\u3000", "\x1c\x1f\x85"]
NO_TEXTS: list[object] = [
    *BLANKS,
    "x" * 201,
    "😀" * 201,
    "a\0b",
    "\0",
    "a\ud800",
    "\udfff",
    5,
    None,
    [],
]
NO_QUANTITIES: list[object] = [
    *(True, "4", " 4 ", None, [], {}, 1.0, 1e0, -1, 0, 2**31, 2**63, 2**64, 10**4000),
]
EVERYWHERE = [
    ("POST", "/api/v1/purchase/1"),
    ("PUT", "/api/v1/purchase/1"),
    ("PATCH", "/api/v1/purchase/1"),
    ("DELETE", "/api/v1/purchase/1"),
]


@pytest.mark.parametrize("text", TEXTS)
async def test_text_comes_back(ask: Ask, text: str) -> None:
    """It is stored and returned as it was sent, whatever it holds."""
    john = {"name": text, "address": text * 2}
    reply = await ask("POST /api/v1/customer", john, 201)
    assert reply.data == {"id": 1, **john, "created_on": SHORT}
    assert (await ask("GET /api/v1/customer/1")).data == reply.data
    phone = {"purchase_name": text, "quantity": 2**31 - 1}
    await ask("POST /api/v1/purchase/1", phone, 201)
    row = (await ask("GET /api/v1/purchase/1")).data[0]
    assert row | phone == row


async def test_surrogate_pair(ask: Ask) -> None:
    body = rb'{"name": "\ud83d\ude00", "address": "\u0041"}'
    reply = await ask("POST /api/v1/customer", body, 201)
    assert (reply.data["name"], reply.data["address"]) == ("😀", "A")


@pytest.mark.parametrize("size", [0, 500])
async def test_address_limits(ask: Ask, customer: int, size: int) -> None:
    body = {"name": "x", "address": "\u00e9" * size}
    for line, status in (
        ("POST /api/v1/customer", 201),
        ("PATCH /api/v1/customer/1", 200),
    ):
        assert (await ask(line, body, status)).data["address"] == body["address"]


@one_engine
@pytest.mark.parametrize("wrong", NO_TEXTS)
async def test_text_refused(ask: Ask, purchase: int, wrong: object) -> None:
    before = await ask("GET /api/v1/customer")
    for method, path in EVERYWHERE:
        body = {"purchase_name": wrong, "quantity": 1}
        reply = await ask(f"{method} {path}", body, 422)
        assert reply.pointers == [NAME]
    for line in ("POST /api/v1/customer", "PATCH /api/v1/customer/1"):
        reply = await ask(line, {"name": wrong, "address": ""}, 422)
        assert reply.pointers == ["/name"]
    assert (await ask("GET /api/v1/customer")).json == before.json
    assert await list_names(ask) == ["John Doe"]


@one_engine
@pytest.mark.parametrize("wrong", ["x" * 501, "a\0", "\ud800", None, 5])
async def test_address_refused(ask: Ask, customer: int, wrong: object) -> None:
    for line in ("POST /api/v1/customer", "PATCH /api/v1/customer/1"):
        reply = await ask(line, {"name": "x", "address": wrong}, 422)
        assert reply.pointers == ["/address"]
    assert (await ask("GET /api/v1/customer/1")).data["address"] == JOHN["address"]


@one_engine
@pytest.mark.parametrize("wrong", NO_QUANTITIES)
async def test_quantity_refused(ask: Ask, purchase: int, wrong: object) -> None:
    before = await ask("GET /api/v1/customer")
    for method, path in EVERYWHERE:
        body = {"purchase_name": "x", "quantity": wrong}
        reply = await ask(f"{method} {path}", body, 422)
        assert reply.pointers == [QUANTITY]
    assert (await ask("GET /api/v1/customer")).json == before.json


@one_engine
@pytest.mark.parametrize(
    ("line", "body", "pointers"),
    [
        ("POST /api/v1/customer", {}, ["/address", "/name"]),
        ("POST /api/v1/customer", {"name": "", "x": 1}, ["/address", "/name", "/x"]),
        ("POST /api/v1/customer", {**JOHN, "id": 7}, ["/id"]),
        ("POST /api/v1/customer", {**JOHN, "__proto__": {}}, ["/__proto__"]),
        ("POST /api/v1/customer", {**JOHN, "a/b~c": 1}, ["/a~1b~0c"]),
        ("POST /api/v1/customer", {**JOHN, "\ud800": 1}, ["/?"]),
        ("POST /api/v1/customer", {**JOHN, "Name": "x"}, ["/Name"]),
        ("POST /api/v1/purchase/1", {}, [NAME, QUANTITY]),
        ("POST /api/v1/purchase/1", {"quantity": 0, "x": 1}, [NAME, QUANTITY, "/x"]),
        ("POST /api/v1/purchase/1", {**PHONE, "customer_id": "2"}, ["/customer_id"]),
        ("PUT /api/v1/purchase/1", {"quantity": 1}, [NAME]),
        ("PATCH /api/v1/purchase/1", {}, [""]),
        ("PATCH /api/v1/purchase/1", {"x": 1}, ["/x"]),
        (
            "PATCH /api/v1/purchase/1",
            {"purchase_name": "", "quantity": 0},
            [NAME, QUANTITY],
        ),
        ("PATCH /api/v1/customer/1", {}, [""]),
        ("PATCH /api/v1/customer/1", {"name": "", "address": 0}, ["/address", "/name"]),
        ("POST /api/v1/customer", None, None),
    ],
)
async def test_all_faults_at_once(
    ask: Ask, purchase: int, line: str, body: object, pointers: list[str] | None
) -> None:
    if pointers is None:
        await ask(line, body, 415)
    else:
        assert (await ask(line, body, 422)).pointers == pointers
    assert await list_names(ask) == ["John Doe"]


@one_engine
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"{}x", 400),
        (b"{'name': 1}", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 40_000, 400),
        (b'\xef\xbb\xbf{"name": "x", "address": ""}', 400),
        (b'{"name": "\xff", "address": ""}', 400),
        ('{"name": "x", "address": ""}'.encode("utf-16"), 400),
        (b'{"name": "x", "address": NaN}', 400),
        (b'{"name": "x", "address": -Infinity}', 400),
        (b'{"name": "raw\x01control", "address": ""}', 400),
        (b"null", 422),
        (b"[]", 422),
        (b'"x"', 422),
        (b"5", 422),
        (b'{"name": "x", "address": 1e400}', 422),
        (b'{"name": "x", "address": ""}' + b" " * MAX_BODY, 413),
        (b'{"name": "' + b"x" * MAX_BODY + b'", "address": ""}', 413),
    ],
)
async def test_no_json(ask: Ask, body: bytes, status: int) -> None:
    reply = await ask("POST /api/v1/customer", body, status)
    assert len(reply.text) < 500, "an echo of the body"
    assert await list_names(ask) == []


@one_engine
async def test_largest_body(ask: Ask) -> None:
    text = json.dumps(JOHN).encode()
    body = text + b" " * (MAX_BODY - len(text))
    await ask("POST /api/v1/customer", body, 201)
    await ask("POST /api/v1/customer", body + b" ", 413)

    async def chunks(size: int) -> Any:
        yield text
        for _ in range(size // 4096):
            yield b" " * 4096

    for size, status in ((MAX_BODY // 2, 201), (MAX_BODY, 413)):
        async with ask.client.post(
            "/api/v1/customer",
            data=chunks(size),
            headers={"Content-Type": "application/json"},
        ) as reply:
            assert reply.status == status, await reply.text()


@one_engine
@pytest.mark.parametrize(
    ("written", "status"),
    [
        ("application/json", 201),
        ("Application/JSON", 201),
        ("application/json; charset=utf-8", 201),
        ('application/json;charset="UTF-8"', 201),
        ("application/json; charset=utf-8;", 201),
        ("application/json; profile=x", 201),
        ("application/json; profile=x; charset=utf-16", 415),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=latin-1", 415),
        ("application/json; charset=utf-8; charset=utf-16", 415),
        ("application/json; charset='utf-8'", 415),
        ("application/json; charset=", 415),
        ("application/json; charset", 415),
        ("application/merge-patch+json", 415),
        ("text/plain", 415),
        ("text/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("nonsense", 415),
        ("", 415),
    ],
)
async def test_content_type(ask: Ask, written: str, status: int) -> None:
    await ask("POST /api/v1/customer", JOHN, status, Content_Type=written)
    assert await list_names(ask) == ["John Doe"][: status == 201]


@one_engine
async def test_merge_patch(ask: Ask, purchase: int) -> None:
    kind = "application/merge-patch+json"
    for path, body in (("customer/1", {"name": "x"}), ("purchase/1", {"quantity": 2})):
        await ask(f"PATCH /api/v1/{path}", body, Content_Type=kind)
    await ask("PUT /api/v1/purchase/1", PHONE, 415, Content_Type=kind)
    await ask("DELETE /api/v1/purchase/1", PHONE, 415, Content_Type=kind)


@one_engine
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity", "x"])
async def test_content_encoding(ask: Ask, coding: str) -> None:
    head = request_bytes(
        "POST",
        "/api/v1/customer",
        json.dumps(JOHN).encode(),
        [("Content-Encoding", coding)],
    )
    await ask.raw(head, 415)
    assert await list_names(ask) == []


@one_engine
async def test_content_encoding_without_a_body(ask: Ask, purchase: int) -> None:
    for line in (
        "GET /api/v1/customer",
        "DELETE /api/v1/customer/1",
        "DELETE /api/v1/purchase/1?delete_all=true",
    ):
        await ask(line, None, 415, Content_Encoding="gzip")
    assert await list_ids(ask) == [1]


@one_engine
@pytest.mark.parametrize(
    ("path", "pointers"),
    [
        ("/api/v1/customer/1?x=1", ["/x"]),
        ("/api/v1/customer?x=1&limit=1&y=", ["/x", "/y"]),
        ("/api/v1/customer?name=x", ["/name"]),
        ("/api/v1/purchase/1?customer_id=1", ["/customer_id"]),
        ("/api/v1/customers?customer_id=1", ["/customer_id"]),
        ("/?x", ["/x"]),
        *(
            (f"/api/v1/customer?limit={wrong}", ["/limit"])
            for wrong in ("0", "1001", "-1", "+1", "1e2", "abc", "", "1.0", "9" * 5000)
        ),
        ("/api/v1/customer?limit=1&limit=2", ["/limit"]),
        *(
            (f"/api/v1/purchase/1?after={wrong}", ["/after"])
            for wrong in ("-1", "abc", "", str(2**63), "%D9%A1")
        ),
        *(
            (f"/api/v1/customer?customer_id={wrong}", ["/customer_id"])
            for wrong in ("0", "-1", "abc", "", str(2**63))
        ),
        ("/api/v1/customers?name=a&name=b", ["/name"]),
        ("/api/v1/customers?name=" + "x" * 201, ["/name"]),
        ("/api/v1/customers?name=a%00b", ["/name"]),
    ],
)
async def test_query_refused(
    ask: Ask, customer: int, path: str, pointers: list[str]
) -> None:
    assert (await ask(f"GET {path}", None, 422)).pointers == pointers


@one_engine
async def test_unknown_parameter_of_a_write(ask: Ask, purchase: int) -> None:
    for line, body in (
        ("POST /api/v1/customer?dry_run=1", JOHN),
        ("POST /api/v1/purchase/1?dry_run=1", PHONE),
        ("PATCH /api/v1/purchase/1?dry_run=1", PHONE),
        ("DELETE /api/v1/customer/1?dry_run=1", None),
        ("DELETE /api/v1/purchase/1?delete_all=true&dry_run=1", None),
    ):
        assert (await ask(line, body, 422)).pointers == ["/dry_run"]
    assert await list_ids(ask) == [1]


# Errors

HOST = b"Host: 127.0.0.1\r\n"
SIZED = b"POST /api/v1/customer HTTP/1.1\r\n" + HOST
CHUNKED = (
    SIZED + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)
UNREADABLE = (
    b"GET http://xn--/",
    b"GET http://xn--a:80/livez?a=marker",
    b"HEAD https://a.xn--a-.example/livez",
    b"GET http://xn--\xc3\xbc/",
    b"GET http://[::1/",
    b"GET http://a:99999/",
    b"GET http://a:marker/",
    b"GET http:livez",
    b"CONNECT xn--a:443",
    b"CONNECT a:99999",
    b"CONNECT a:b",
)
"""Begin requests whose target no parser, or not every one, can take to pieces."""


@one_engine
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/3.9\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400),
        (b"GET /\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: one\r\nHost: two\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"No colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: \0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"x" * 9000 + b"\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 200 + b"\r\n", 400),
        (SIZED + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
        (SIZED + b"Content-Length: -1\r\n\r\n", 400),
        (SIZED + b"Content-Length: 1x\r\n\r\nx", 400),
        (
            SIZED + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (CHUNKED + b"marker\r\n\r\n", 400),
        ([CHUNKED, b"marker\r\n\r\n"], 400),
        ([CHUNKED, b"2\r\n{}marker\r\n"], 400),
        ([CHUNKED, b"2\r\n{}\r\n", b"FFFFFFFFFFFFFFFFF\r\n"], 400),
        (b"FOO /api/v1/customer/5 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        *((line + b" HTTP/1.1\r\n" + HOST + b"\r\n", 400) for line in UNREADABLE),
    ],
)
async def test_not_http(
    ask: Ask,
    caplog: pytest.LogCaptureFixture,
    request_: bytes | list[bytes],
    status: int,
) -> None:
    """What aiohttp's parser refuses is a problem like any other, without an echo."""
    began = time.monotonic()
    reply = await ask.raw(request_, status, pause=0.05)
    assert time.monotonic() - began < bodies.BODY_SECONDS / 2
    assert "marker" not in reply.text
    assert not caplog.records, caplog.text
    assert (await ask("GET /")).json["healthy"] is True


@one_engine
async def test_unreadable_targets_hold_nothing(ask: Ask) -> None:
    """Their connections are closed, whether their clients stay, hang up or go."""
    await ask("GET /livez")
    before = count_connections(ask)
    opens = []
    for number in range(300):
        reader, writer = await asyncio.open_connection("127.0.0.1", ask.port)
        line = UNREADABLE[number % len(UNREADABLE)]
        writer.write(line + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        if number % 3 == 0:
            writer.close()
        elif number % 3 == 1:
            writer.write_eof()
        opens.append((reader, writer))
    for reader, writer in opens:
        if not writer.is_closing():
            reply = await asyncio.wait_for(reader.read(), 10)
            assert reply.startswith(b"HTTP/1.1 400 "), reply
            writer.close()
    assert await asyncio.to_thread(soon, lambda: count_connections(ask) == before, 5)
    await ask("GET /livez")


@one_engine
async def test_answers_before_an_unreadable_target(ask: Ask) -> None:
    """What came before it on the connection is answered, and it has its own id."""
    body = json.dumps(JOHN).encode()
    keep = [("Connection", "keep-alive"), ("X-Request-Id", "first")]
    whole = request_bytes("POST", "/api/v1/customer", body, keep)
    bad = UNREADABLE[0] + b" HTTP/1.1\r\n" + HOST + b"X-Request-Id: second\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", ask.port)
    writer.write(whole + bad + whole)
    replies = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    found = re.findall(r"HTTP/1.1 (\d+)|X-Request-Id: (\w+)", replies)
    assert found == [("201", ""), ("", "first"), ("400", ""), ("", "second")], replies
    assert await list_names(ask) == ["John Doe"]


@one_engine
async def test_task_that_dies(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever ends the task of a connection, the connection is closed and it is told.

    aiohttp makes the writer of an answer outside of everything that catches.
    """
    monkeypatch.setattr("aiohttp.web_protocol.StreamWriter", None)
    reader, writer = await asyncio.open_connection("127.0.0.1", ask.port)
    writer.write(request_bytes("GET", "/livez"))
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    monkeypatch.undo()
    assert [record.getMessage() for record in caplog.records] == [
        "a connection broke off: 'NoneType' object is not callable"
    ]
    await ask("GET /livez")


@one_engine
@pytest.mark.parametrize(
    ("expect", "status"),
    [("100-continue", 201), ("100-Continue", 201), ("a miracle", 417), ("\xe9", 417)],
)
async def test_expect(ask: Ask, expect: str, status: int) -> None:
    """A body that waits for leave to come is asked for; what else is, is refused."""
    whole = request_bytes("POST", "/api/v1/customer", json.dumps(JOHN).encode())
    head, _, body = whole.partition(b"\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", ask.port)
    writer.write(head + f"\r\nExpect: {expect}\r\n\r\n".encode("latin-1"))
    first = (await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)).split()
    if status == 201:
        assert first[1:] == [b"100", b"Continue"]
        assert await reader.readuntil(b"\r\n") == b"\r\n"
        writer.write(body)
        first = (await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)).split()
    assert int(first[1]) == status
    assert "miracle" not in (await reader.read()).decode()
    writer.close()
    assert await list_names(ask) == ["John Doe"][: status == 201]


@one_engine
async def test_half_a_body(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    request = request_bytes("POST", "/api/v1/customer", json.dumps(JOHN).encode())
    with suppress(AssertionError):  # whether it is answered is left open
        await ask.raw(request[:-5], 400, hang_up=True)
    await ask("GET /livez")
    assert not caplog.records, caplog.text
    assert await list_names(ask) == []


@one_engine
async def test_half_closed_client(ask: Ask) -> None:
    """A client that says it sends nothing more still gets its answer."""
    request = request_bytes("POST", "/api/v1/customer", json.dumps(JOHN).encode())
    reply = await ask.raw(request, 201, hang_up=True)
    assert reply.data["id"] == 1


@one_engine
async def test_http_1_0(ask: Ask) -> None:
    line = b"GET / HTTP/1.0\r\n"
    closed = await ask.raw(line + b"\r\n", 200)
    kept = await ask.raw(line + b"Connection: keep-alive\r\n\r\n", 200)
    assert closed.json == kept.json == (await ask("GET /")).json
    assert (closed.headers["Connection"], kept.headers["Connection"]) == (
        "close",
        "keep-alive",
    )


@one_engine
async def test_slow_body(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    request = request_bytes("POST", "/api/v1/customer", json.dumps(JOHN).encode())
    reply = await ask.raw(request[:-5], 408)
    assert reply.headers["Connection"] == "close"
    assert await list_names(ask) == []


@one_engine
async def test_slow_head(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", ask.port)
    writer.write(b"GET / HTTP/1.1\r\nHost:")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    assert (await ask("GET /")).json["healthy"] is True


@one_engine
async def test_client_that_never_reads(
    ask: Ask, engine: Any, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut off, however much it asked for."""
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.1)
    await engine.write(add_many, customer, 5000)
    before = count_connections(ask)
    kept = request_bytes(
        "GET", "/api/v1/customer", None, [("Connection", "keep-alive")]
    )
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", ask.port))
        stuck.sendall(kept * 20)
        await asyncio.sleep(0.5)
        assert count_connections(ask) == before + 1
        # less than the session keeps its own connection
        assert await asyncio.to_thread(
            soon, lambda: count_connections(ask) == before, 8
        )
    await ask("GET /")


@one_engine
async def test_too_many_connections(opened: Opener) -> None:
    ask = await opened(most=2)
    opens = [await asyncio.open_connection("127.0.0.1", ask.port) for _ in range(2)]
    reply = await ask.raw(request_bytes("GET", "/livez"), 503)
    assert reply.headers["Connection"] == "close"
    for _, writer in opens:
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.1)
    await ask.raw(request_bytes("GET", "/livez"), 200)


@one_engine
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.B_9-", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("é", False),
    ],
)
async def test_request_id(ask: Ask, given: str, kept: bool) -> None:
    """It comes back where it is one, also from what no handler has seen."""
    for line, status in (("GET /livez", 200), ("GET /nowhere", 404), ("FOO /", 405)):
        reply = await ask(line, None, status, X_Request_Id=given)
        assert (reply.headers["X-Request-Id"] == given) is kept
    reply = await ask("GET /", None, 417, X_Request_Id=given, Expect="x")
    assert (reply.headers["X-Request-Id"] == given) is kept
    ids = {(await ask("GET /livez")).headers["X-Request-Id"] for _ in range(5)}
    assert len(ids) == 5


async def test_unknown_fault(
    ask: Ask,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(customer_id: int) -> db.Unit[db.Customer]:
        yield db.SELECT_CUSTOMER, (customer_id,)
        raise RuntimeError("the marker")

    monkeypatch.setattr(db, "read_customer", broken)
    reply = await ask("GET /api/v1/customer/1", None, 500, X_Request_Id="mine")
    assert "marker" not in reply.text
    [record] = caplog.records
    assert vars(record)["request_id"] == "mine"
    line = json.loads(telemetry.JSONLines().format(record))
    assert line == {
        "time": Like(r"\d{4}-\d\d-\d\dT.*Z"),
        "level": "error",
        "message": "unknown fault",
        "id": "mine",
        "traceback": Like(r"(?s)Traceback .*RuntimeError: the marker\n"),
    }
    monkeypatch.undo()
    await ask("GET /api/v1/customer/1")


# Lists, pages and formats

CSV, JSONL, JSON = "text/csv", "application/jsonl", "application/json"
COLUMNS = [
    *("purchase_id", "purchase_name", "quantity", "purchased_on", "last_updated_on"),
    "customer_id",
]


async def walk(
    ask: Ask, path: str, between: Callable[[], Awaitable[None]] | None = None
) -> list[int]:
    """Return the ids on all the pages of a list, doing something between them."""
    ids: list[int] = []
    while path:
        reply = await ask(f"GET {path}")
        ids += [row.get("purchase_id") or row["id"] for row in reply.data]
        link = re.fullmatch(r'<(.*)>; rel="next"', reply.headers.get("Link", "<>"))
        path = link[1] if link else ""
        if between is not None:
            await between()
    return ids


@pytest.mark.parametrize("path", ["/api/v1/customer", "/api/v1/purchase/1"])
async def test_pages(ask: Ask, engine: Any, customer: int, path: str) -> None:
    await engine.write(add_many, customer, 7)
    reply = await ask(f"GET {path}?limit=3")
    assert [row["purchase_id"] for row in reply.data] == [1, 2, 3]
    assert reply.headers["Link"] == f'<{path}?limit=3&after=3>; rel="next"'
    for query in ("?limit=7", "?limit=1000", "?limit=4&after=3", ""):
        assert "Link" not in (await ask(f"GET {path}{query}")).headers
    for after, number in ((0, 7), (6, 1), (7, 0), (MAX_ID, 0)):
        assert len((await ask(f"GET {path}?after={after}")).data) == number
    assert await walk(ask, f"{path}?limit=2") == [*range(1, 8)]


async def test_pages_of_found_customers(ask: Ask) -> None:
    for number in range(5):
        name = "Ünal & Söhne" if number % 2 == 0 else "x"
        await ask("POST /api/v1/customer", {"name": name, "address": ""}, 201)
    path = f"/api/v1/customers?limit=2&name={quote('l & S')}"
    reply = await ask(f"GET {path}")
    assert [row["id"] for row in reply.data] == [1, 3]
    follow = reply.headers["Link"].partition(">")[0].removeprefix("<")
    reply = await ask(f"GET {follow}")
    assert [row["id"] for row in reply.data] == [5]
    assert "Link" not in reply.headers


async def test_pages_while_rows_change(ask: Ask, engine: Any, customer: int) -> None:
    """What was there throughout is seen once, whatever comes and goes meanwhile."""
    await engine.write(add_many, customer, 60)
    doomed = iter(range(1, 61, 3))

    async def change() -> None:
        gone = {"purchase_ids": [next(doomed), next(doomed)]}
        await ask("DELETE /api/v1/purchase/1", gone)
        await ask("POST /api/v1/purchase/1", PHONE, 201)

    seen = await walk(ask, "/api/v1/customer?limit=7", change)
    assert seen == sorted(set(seen))
    assert {number for number in range(1, 61) if number % 3 != 1} <= set(seen)


@pytest.mark.parametrize("accept", [JSON, JSONL, CSV])
async def test_long_list(ask: Ask, engine: Any, customer: int, accept: str) -> None:
    """A list of more than one hop to the database is streamed, whole."""
    number = 2 * lists.PAGE + 1
    await engine.write(add_many, customer, number)
    reply = await ask("GET /api/v1/customer", Accept=accept)
    assert reply.headers["Transfer-Encoding"] == "chunked"
    assert "Server" not in reply.headers
    assert reply.headers["Vary"] == "Accept"
    assert reply.headers["Cache-Control"] == "private, no-cache"
    limited = await ask("GET /api/v1/purchase/1?limit=1000", Accept=accept)
    assert reply.text.startswith(limited.text.rstrip("]}"))
    if accept == CSV:
        ids = [row["purchase_id"] for row in csv.DictReader(io.StringIO(reply.text))]
    elif accept == JSONL:
        ids = [json.loads(row)["purchase_id"] for row in reply.text.splitlines()]
    else:
        ids = [row["purchase_id"] for row in reply.data]
    assert [int(text) for text in ids] == [*range(1, number + 1)]
    head = await ask("HEAD /api/v1/customer", Accept=accept)
    assert head.headers["Content-Type"] == reply.headers["Content-Type"]


@pytest.mark.parametrize("rows", [3, 4, 6])
async def test_list_of_whole_hops(
    ask: Ask, engine: Any, customer: int, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(lists, "PAGE", 3)
    await engine.write(add_many, customer, rows)
    assert await list_ids(ask) == [*range(1, rows + 1)]


async def test_list_breaks_off_visibly(
    ask: Ask,
    engine: Any,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(lists, "PAGE", 3)
    await engine.write(add_many, customer, 9)

    async def broken(*_: object) -> db.Page:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(engine, "scan", broken)
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask("GET /api/v1/customer")
    [record] = caplog.records
    assert record.getMessage().startswith("a list broke off")
    monkeypatch.undo()
    assert len(await list_ids(ask)) == 9


async def test_csv(ask: Ask) -> None:
    names = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", 'a "b", c', "1\n2", "x=1"]
    guarded = [f"'{name}" for name in names[:6]] + names[6:]
    for name in names:
        await ask("POST /api/v1/customer", {"name": name, "address": name}, 201)
    await ask("POST /api/v1/purchase/1", {"purchase_name": "=A1", "quantity": 4}, 201)
    reply = await ask("GET /api/v1/customers", Accept=CSV)
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    head, *rows = csv.reader(io.StringIO(reply.text, newline=""))
    assert head == ["id", "name", "address", "created_on"]
    assert [row[1] for row in rows] == [row[2] for row in rows] == guarded
    reply = await ask("GET /api/v1/customer", Accept=CSV)
    lines = reply.text.split("\r\n")
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1:] == [Like(rf"1,'=A1,4,{LONG.shape},,1"), ""]


async def test_jsonl(ask: Ask, purchase: int) -> None:
    await ask("POST /api/v1/purchase/1", PHONE, 201)
    rows = (await ask("GET /api/v1/customer")).data
    reply = await ask("GET /api/v1/customer", Accept=JSONL)
    assert reply.headers["Content-Type"] == "application/jsonl; charset=utf-8"
    assert [json.loads(line) for line in reply.text.split("\n")[:-1]] == rows


@pytest.mark.parametrize("path", ["/api/v1/customer", "/api/v1/customers?name=none"])
@pytest.mark.parametrize(("accept", "lines"), [(CSV, 1), (JSONL, 0), (JSON, 1)])
async def test_empty_list(ask: Ask, path: str, accept: str, lines: int) -> None:
    reply = await ask(f"GET {path}", Accept=accept)
    assert len(reply.text.splitlines()) == lines
    assert reply.headers["Content-Type"].startswith(accept)
    assert accept != JSON or reply.data == []


@one_engine
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/*", CSV),
        ("TEXT/CSV", CSV),
        ("text/csv, application/json", JSON),
        ("text/csv;q=0.5, application/json;q=0.4", CSV),
        ("text/csv;q=0.5, application/jsonl;q=0.6, */*;q=0.1", JSONL),
        ("application/json;q=0, */*", JSONL),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        ("text/csv; header=present; q=0.9, application/json;q=0.8", CSV),
        ("text/html", None),
        ("text/csv;q=0", None),
        ("application/json;q=0.0, image/*", None),
        ("*/*;q=0", None),
        ("text/csv;q=often", None),
    ],
)
async def test_accept(ask: Ask, purchase: int, accept: str, kind: str | None) -> None:
    reply = await ask("GET /api/v1/customer", None, 200 if kind else 406, Accept=accept)
    written = reply.headers["Content-Type"].partition(";")[0]
    assert written == (kind or "application/problem+json")
    await ask("GET /api/v1/purchase/7", None, 404 if kind else 406, Accept=accept)


# Idempotency keys


async def test_replay_is_the_first_answer(ask: Ask) -> None:
    """Whatever happened to the row since, the answer is the one that was given."""
    for line, body in (
        ("POST /api/v1/customer", JOHN),
        ("POST /api/v1/purchase/1", PHONE),
    ):
        first = await ask(line, body, 201, Idempotency_Key="k")
        assert "Idempotency-Replayed" not in first.headers
        await ask("PATCH /api/v1/customer/1", {"name": "Jane"})
        if "purchase" in line:
            await ask("PATCH /api/v1/purchase/1", {"quantity": 9})
        again = await ask(
            line, dict(reversed(body.items())), 201, Idempotency_Key='"k"'
        )
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.text == first.text
        for name in ("Location", "ETag", "Content-Type"):
            assert again.headers[name] == first.headers[name]
    await ask("DELETE /api/v1/purchase/1?delete_all=true")
    again = await ask("POST /api/v1/purchase/1", PHONE, 201, Idempotency_Key="k")
    assert again.text == first.text
    assert (await list_ids(ask), await list_names(ask)) == ([], ["Jane"])


async def test_same_key_at_once(ask: Ask, customer: int) -> None:
    for line, body in (
        ("POST /api/v1/purchase/1", PHONE),
        ("POST /api/v1/customer", JOHN),
    ):
        asked = (ask(line, body, 201, Idempotency_Key="once") for _ in range(64))
        replies = await asyncio.gather(*asked)
        replayed = [reply.headers.get("Idempotency-Replayed") for reply in replies]
        assert sorted(map(str, replayed)) == ["None"] + ["true"] * 63
        assert len({(reply.text, reply.headers["ETag"]) for reply in replies}) == 1
    assert (await list_ids(ask), len(await list_names(ask))) == ([1], 2)


async def test_key_with_another_request(ask: Ask, customer: int) -> None:
    await ask("POST /api/v1/purchase/1", PHONE, 201, Idempotency_Key="k")
    for body in ({**PHONE, "quantity": 5}, {**PHONE, "purchase_name": "x"}):
        reply = await ask("POST /api/v1/purchase/1", body, 422, Idempotency_Key="k")
        assert "Idempotency-Key" in reply.text
    assert await list_ids(ask) == [1]


async def test_scope_of_a_key(opened: Opener, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"ann {digest('a')} write\nbob {digest('b')} write\n")
    ask = await opened(Door(read_tokens(file)))
    for who in ("a", "b"):
        for line, body in (
            ("POST /api/v1/customer", JOHN),
            ("POST /api/v1/purchase/1", PHONE),
            ("POST /api/v1/purchase/2", PHONE),
        ):
            if who == "b" or not line.endswith("2"):
                headers = {"Authorization": f"Bearer {who}", "Idempotency_Key": "k"}
                await ask(line, body, 201, **headers)
    reply = await ask("GET /api/v1/customer", Authorization="Bearer a")
    assert [row["customer_id"] for row in reply.data] == ["1", "1", "2"]


def digest(token: str) -> str:
    """Return what stands in the token file for a token."""
    return sha256(token.encode()).hexdigest()


async def test_refusal_is_not_remembered(ask: Ask) -> None:
    line = "POST /api/v1/purchase/1"
    await ask(line, PHONE, 404, Idempotency_Key="k")
    await ask(line, {**PHONE, "quantity": 0}, 422, Idempotency_Key="k")
    await ask("POST /api/v1/customer", JOHN, 201)
    reply = await ask(line, PHONE, 201, Idempotency_Key="k")
    assert "Idempotency-Replayed" not in reply.headers


async def test_key_expires(
    ask: Ask, engine: Any, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, today = "POST /api/v1/purchase/1", db.now

    def later(hours: float) -> None:
        monkeypatch.setattr(db, "now", lambda ago=0: today(ago - hours * 3600))

    await ask(line, PHONE, 201, Idempotency_Key="k")
    await ask(line, PHONE, 201, Idempotency_Key="other")
    later(hours=23.9)
    assert await engine.write(db.forget_keys, 1000) == 0
    reply = await ask(line, PHONE, 201, Idempotency_Key="k")
    assert reply.data["id"] == 1
    later(hours=24.1)
    more = {**PHONE, "quantity": 5}
    reply = await ask(line, more, 201, Idempotency_Key="k")
    assert (reply.data["id"], reply.data["quantity"]) == (3, 5)
    reply = await ask(line, more, 201, Idempotency_Key="k")
    assert (reply.data["id"], reply.headers["Idempotency-Replayed"]) == (3, "true")
    assert await engine.write(db.forget_keys, 1000) == 1
    assert await engine.read(count, "idempotency") == 1


async def test_old_keys_are_forgotten(
    ask: Ask, engine: Any, opened: Opener, customer: int
) -> None:
    """A server that starts deletes them, in units of a bounded size."""

    def fill() -> db.Unit[None]:
        for turn in range(1100):
            key = ("", "POST", "/api/v1/customer", str(turn), "x")
            yield db.CLAIM_KEY, (*key, db.now(25 * 3600), db.now(0))

    await engine.write(fill)
    await ask("POST /api/v1/customer", JOHN, 201, Idempotency_Key="fresh")
    again = await opened()
    for _ in range(100):
        await asyncio.sleep(0.05)
        if await engine.read(count, "idempotency") == 1:
            break
    assert await engine.read(count, "idempotency") == 1
    reply = await again("POST /api/v1/customer", JOHN, 201, Idempotency_Key="fresh")
    assert reply.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    "key",
    [
        *("k", '"k"', "x" * 255, '"' + "x" * 255 + '"', "a b", r'"a\"b"', 'a"b', "\\"),
        "~!#$%&'()*,/:;<=>?@[]^_`{|}",
    ],
)
async def test_good_key(ask: Ask, key: str) -> None:
    for _ in range(2):
        reply = await ask("POST /api/v1/customer", JOHN, 201, Idempotency_Key=key)
    assert reply.headers["Idempotency-Replayed"] == "true"


@one_engine
@pytest.mark.parametrize(
    "key", ["", '""', "x" * 256, '"' + "x" * 256 + '"', "é", "a\tb", '"k']
)
async def test_bad_key(ask: Ask, customer: int, key: str) -> None:
    for line, body in (
        ("POST /api/v1/customer", JOHN),
        ("POST /api/v1/purchase/1", PHONE),
    ):
        await ask(line, body, 422, Idempotency_Key=key)
    assert (await list_ids(ask), await list_names(ask)) == ([], ["John Doe"])


# Entity tags and races


async def test_tag_changes_with_the_row(ask: Ask) -> None:
    tags = []
    for line, body, status in (
        ("POST /api/v1/customer", JOHN, 201),
        ("GET /api/v1/customer/1", None, 200),
        ("PATCH /api/v1/customer/1", {"name": "x"}, 200),
        ("GET /api/v1/customer/1", None, 200),
        ("POST /api/v1/purchase/1", PHONE, 201),
        ("GET /api/v1/customer/1/purchase/1", None, 200),
        ("PATCH /api/v1/purchase/1", PHONE, 200),
        ("PUT /api/v1/purchase/1", PHONE, 200),
        ("DELETE /api/v1/purchase/1", PHONE, 200),
        ("GET /api/v1/customer/1/purchase/1", None, 200),
    ):
        tags.append((await ask(line, body, status)).headers["ETag"])
    assert all(re.fullmatch(r'"[!#-~]+"', tag) for tag in tags), tags
    same = [earlier == later for earlier, later in itertools.pairwise(tags)]
    assert same[:3] == [True, False, True]
    assert same[4:] == [True, False, False, False, True]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/v1/customer/1", {"name": "x"}), ("/api/v1/customer/1/purchase/1", PHONE)],
)
async def test_if_none_match(
    ask: Ask, purchase: int, path: str, body: dict[str, Any]
) -> None:
    tag = (await ask(f"GET {path}")).headers["ETag"]
    for named in (tag, f'"x", {tag}', f"W/{tag}", f'{tag},"x"', "*"):
        for method in ("GET", "HEAD"):
            reply = await ask(f"{method} {path}", None, 304, If_None_Match=named)
            assert (reply.text, reply.headers["ETag"]) == ("", tag)
    for named in (
        *('"x"', tag.strip('"'), f'"x{tag}"', "", '""', f"x{tag}", f"w/{tag}"),
        *(f'"x" {tag}', f"*, {tag}", f"{tag} x"),
    ):
        await ask(f"GET {path}", None, 200, If_None_Match=named)
    short = path.replace("/customer/1/purchase", "/purchase")
    await ask(f"PATCH {short}", body)
    assert (await ask(f"GET {path}", If_None_Match=tag)).headers["ETag"] != tag


GUARDED = [
    ("PATCH", "/api/v1/customer/1", {"name": "x"}),
    ("PATCH", "/api/v1/purchase/1", {"quantity": 9}),
    ("PUT", "/api/v1/purchase/1", {**PHONE, "quantity": 9}),
    ("DELETE", "/api/v1/customer/1", None),
]


@pytest.mark.parametrize(("method", "path", "body"), GUARDED)
async def test_if_match(
    ask: Ask, purchase: int, method: str, path: str, body: object
) -> None:
    full = path.replace("/purchase", "/customer/1/purchase")
    tag = (await ask(f"GET {full}")).headers["ETag"]
    for wrong in ('"x"', f"W/{tag}", tag.strip('"'), "", '"9"', f'"{"9" * 30}"', '"0"'):
        await ask(f"{method} {path}", body, 412, If_Match=wrong)
    assert (await ask(f"GET {full}")).headers["ETag"] == tag
    await ask(f"{method} {path[:-1]}7", body, 404, If_Match=tag)
    await ask(f"{method} {path}", body, If_Match=f'"x" , {tag}')
    if body is not None:
        await ask(f"{method} {path}", body, 412, If_Match=tag)
        await ask(f"{method} {path}", body, If_Match="*")
    else:
        await ask(f"{method} {path}", body, 404, If_Match="*")


@pytest.mark.parametrize(("method", "path", "body"), GUARDED[:3])
async def test_race_with_one_tag(
    ask: Ask, purchase: int, method: str, path: str, body: object
) -> None:
    full = path.replace("/purchase", "/customer/1/purchase")
    tag = (await ask(f"GET {full}")).headers["ETag"]

    async def update() -> int:
        url = ask.client.make_url(path)
        headers = {"If-Match": tag}
        async with ask.client.session.request(
            method, url, json=body, headers=headers
        ) as reply:
            return reply.status

    statuses = await asyncio.gather(*(update() for _ in range(32)))
    assert sorted(statuses) == [200] + [412] * 31


async def test_adding_at_once(ask: Ask, engine: Any, customer: int) -> None:
    """Every 201 is one row, and many rows share a commit."""
    before = engine.measures()
    asked = (ask("POST /api/v1/purchase/1", PHONE, 201) for _ in range(64))
    ids = [reply.data["id"] for reply in await asyncio.gather(*asked)]
    after = engine.measures()
    assert sorted(ids) == await list_ids(ask)
    assert after.units - before.units == 64
    assert after.commits > before.commits
    if isinstance(engine, sqlite.Engine):
        assert after.commits - before.commits < 64


# A unit of work runs whole or not at all


def fails(changes: bool) -> db.Unit[None]:
    """Fail, with or without having changed something."""
    yield db.SELECT_CUSTOMER, (1,)
    if changes:
        yield db.INSERT_CUSTOMER, ("half", "", db.now(), "half")
    raise ValueError("it fails")


@pytest.mark.parametrize("changes", [False, True])
async def test_failed_unit_among_others(ask: Ask, engine: Any, changes: bool) -> None:
    names = [f"c{number}" for number in range(20)]
    units = [engine.write(db.add_customer, name, "", db.now()) for name in names]
    units[10:10] = [engine.write(fails, changes)]
    outcomes = await asyncio.gather(*units, return_exceptions=True)
    assert isinstance(outcomes.pop(10), ValueError)
    assert [getattr(outcome, "name", outcome) for outcome in outcomes] == names
    assert sorted(await list_names(ask)) == sorted(names)


async def test_statement_refused_among_others(ask: Ask, engine: Any) -> None:
    def wrong() -> db.Unit[None]:
        yield db.INSERT_CUSTOMER, (None, "", db.now(), "")

    units = [engine.write(db.add_customer, "a", "", db.now()), engine.write(wrong)]
    outcomes = await asyncio.gather(*units, return_exceptions=True)
    assert isinstance(outcomes[1], Exception)
    assert await list_names(ask) == ["a"]


async def test_refusals_among_others(ask: Ask, customer: int) -> None:
    async def add(owner: int) -> int:
        status = 201 if owner == 1 else 404
        return (await ask(f"POST /api/v1/purchase/{owner}", PHONE, status)).status

    await asyncio.gather(*(add(1 + number % 2) for number in range(64)))
    assert len(await list_ids(ask)) == 32


async def test_clients_that_go_away(ask: Ask, engine: Any, customer: int) -> None:
    """300 leave at any moment: a row is whole, with its key, or not there."""
    body = json.dumps(PHONE).encode()

    async def leave(number: int) -> None:
        key = [("Idempotency-Key", f"k{number}")]
        request = request_bytes("POST", "/api/v1/purchase/1", body, key)
        _, writer = await asyncio.open_connection("127.0.0.1", ask.port)
        cut = len(request) if number % 3 else len(request) * number // 300
        writer.write(request[:cut])
        await asyncio.sleep(number % 50 / 5000)
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()

    for wave in range(6):
        await asyncio.gather(*(leave(number) for number in range(wave, 300, 6)))
    for _ in range(500):
        if not any(engine.measures().waiting.values()):
            break
        await asyncio.sleep(0.01)
    await ask("POST /api/v1/purchase/1", PHONE, 201)
    rows = (await ask("GET /api/v1/customer")).data
    assert 1 < len(rows) <= 201
    assert all(row | PHONE == row for row in rows)
    assert await engine.read(count, "idempotency") == len(rows) - 1
    if isinstance(engine, sqlite.Engine):
        assert not engine.writer.in_transaction


async def test_callers_that_are_cancelled(ask: Ask, engine: Any) -> None:
    async def add(number: int) -> None:
        await engine.write(db.add_customer, f"c{number}", "", db.now())

    tasks = [asyncio.create_task(add(number)) for number in range(300)]
    for number, task in enumerate(tasks):
        if number % 2:
            await asyncio.sleep(0 if number % 20 > 1 else 0.001)
            task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    done = {f"c{number}" for number in range(300) if outcomes[number] is None}
    names = await list_names(ask)
    assert len(done) >= 150
    assert done <= set(names)
    assert len(names) == len(set(names))
    await ask("POST /api/v1/customer", JOHN, 201)


# Who may come in

ROUTE_LINES = [
    (route, f"{route.method} {re.sub(r'{[a-z]+_id}', '1', route.path)}")
    for route in handlers.ROUTES
    if "{asset}" not in route.path
]
PUBLIC = {"/", "/livez", "/readyz", "/openapi.json", "/docs", "/docs/{asset}"}


@pytest.fixture
async def guarded(opened: Opener, tmp_path: Path) -> Ask:
    """Return how to ask a server that wants the token `may-read` or `may-write`."""
    file = tmp_path / "tokens"
    lines = [f"{name} {digest(f'may-{name}')} {name}" for name in ("read", "write")]
    file.write_text("\n".join(["# who may come in", "", *lines]))
    return await opened(Door(read_tokens(file)))


def test_public_routes() -> None:
    public = {route.path for route in handlers.ROUTES if route.access == "public"}
    assert public == PUBLIC
    for route in handlers.ROUTES:
        may = "read" if route.method == "GET" else "write"
        assert route.access == ("public" if route.path in PUBLIC else may)


@one_engine
async def test_tokens(guarded: Ask) -> None:
    """Each route wants a token that may do what the route does."""
    for route, line in ROUTE_LINES:
        for token, allowed in (
            ("", route.access == "public"),
            ("Bearer may-read", route.access != "write"),
            ("bearer  may-write", True),
        ):
            if not allowed:
                status = 403 if token else 401
                await guarded(line, None, status, Authorization=token)
            else:
                method, path = line.split()
                async with guarded.client.request(
                    method, path, headers={"Authorization": token}
                ) as reply:
                    assert reply.status not in (401, 403), line


@one_engine
@pytest.mark.parametrize(
    "given",
    [
        *("may-read", "Basic may-read", "Bearer", "Bearer x", "Bearer may-read x"),
        *("Bearer MAY-READ", "Bearer é", f"Bearer {digest('may-read')}", "Bearer may-"),
    ],
)
async def test_no_token(guarded: Ask, given: str) -> None:
    for path in ("/api/v1/customer", "/api/v1/customer/1", "/metrics", "/nowhere"):
        reply = await guarded(f"GET {path}", None, 401, Authorization=given)
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        assert "may-" not in reply.text


@one_engine
async def test_head_and_options_with_tokens(guarded: Ask) -> None:
    await guarded("HEAD /api/v1/customer", None, 401)
    await guarded("HEAD /api/v1/customer", None, 200, Authorization="Bearer may-read")
    await guarded("OPTIONS /api/v1/customer", None, 204)


@one_engine
async def test_methods_of_public_paths_with_tokens(guarded: Ask) -> None:
    """Who may know a path may know its methods; of the others nothing is said."""
    for path in PUBLIC - {"/docs/{asset}"} | {"/docs/index.css"}:
        reply = await guarded(f"POST {path}", None, 405)
        assert reply.headers["Allow"] == "GET, HEAD, OPTIONS"
    for path in ("/metrics", "/api/v1/customers", "/nowhere"):
        await guarded(f"POST {path}", None, 401)


@one_engine
async def test_cors(opened: Opener) -> None:
    ask = await opened(Door(None, ("https://a.example",)))
    for line, status in (
        ("GET /api/v1/customer", 200),
        ("GET /api/v1/customer/7", 404),
        ("OPTIONS /api/v1/customer", 204),
    ):
        reply = await ask(line, None, status, Origin="https://a.example")
        assert reply.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert "ETag" in reply.headers["Access-Control-Expose-Headers"]
        assert "Origin" in ",".join(reply.headers.getall("Vary"))
        for origin in ("https://b.example", "null"):
            reply = await ask(line, None, status, Origin=origin)
            assert "Access-Control-Allow-Origin" not in reply.headers
    reply = await ask(
        "OPTIONS /api/v1/purchase/1",
        None,
        204,
        Origin="https://a.example",
        Access_Control_Request_Method="PATCH",
    )
    assert "PATCH" in reply.headers["Access-Control-Allow-Methods"]
    assert "If-Match" in reply.headers["Access-Control-Allow-Headers"]


@one_engine
async def test_cors_of_a_stream(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "PAGE", 1)
    ask = await opened(Door(None, ("https://a.example",)))
    await ask("POST /api/v1/customer", JOHN, 201)
    for _ in range(2):
        await ask("POST /api/v1/purchase/1", PHONE, 201)
    reply = await ask("GET /api/v1/customer", Origin="https://a.example")
    assert reply.headers["Transfer-Encoding"] == "chunked"
    assert reply.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert sorted(reply.headers.getall("Vary")) == ["Accept", "Origin"]


@one_engine
async def test_cors_is_off(ask: Ask) -> None:
    reply = await ask("GET /api/v1/customer", Origin="https://a.example")
    assert not [name for name in reply.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        (b"ann", "line 1"),
        (b"# fine\n\nann 12ab read\n", "line 3"),
        (f"ann {'0' * 64} admin".encode(), "line 1"),
        (f"a b {'0' * 64} read".encode(), "line 1"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_token_file_refused(tmp_path: Path, text: bytes | None, reason: str) -> None:
    file = tmp_path / "tokens"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(db.RefusedError, match=reason) as caught:
        read_tokens(file)
    assert "\n" not in str(caught.value)


# Running it: settings, start, stop, backup

SETTINGS = {
    *("HOST", "PORT", "DATABASE_URL", "WORKERS", "API_TOKENS_FILE"),
    *("ALLOW_ANONYMOUS", "CORS_ORIGINS", "LOG_LEVEL", "ACCESS_LOG"),
}


@pytest.fixture
def main(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Main:
    """Return what runs `python server.py` here, in an empty folder.

    It returns the exit status, stdout and stderr.
    """
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, **environment: str) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["server.py", *arguments])
        for name, text in environment.items():
            monkeypatch.setenv(name, text)
        status: int | str | None = 0
        # One that serves, and should not, must end too.
        end = threading.Timer(30, os.kill, (os.getpid(), signal.SIGTERM))
        end.start()
        try:
            server.main()
        except SystemExit as exc:
            status = exc.code
        finally:
            end.cancel()
        return status, *capfd.readouterr()

    return run


def test_help(main: Main) -> None:
    status, out, _ = main("--help")
    assert status == 0
    for name in SETTINGS:
        assert f"--{name.lower().replace('_', '-')}" in out
    for default in ("127.0.0.1", "8080", "sqlite:///db.sqlite3", "info", "backup"):
        assert default in out


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        ([], {"PORT": "abc"}, "PORT: 'abc'"),
        (["--port", "65536"], {}, "PORT: '65536'"),
        (["--port", "-1"], {}, "PORT"),
        (["--port", "٨"], {}, "PORT"),
        ([], {"WORKERS": "0"}, "WORKERS"),
        ([], {"WORKERS": "many"}, "WORKERS"),
        ([], {"ALLOW_ANONYMOUS": "yes"}, "ALLOW_ANONYMOUS: 'yes'"),
        ([], {"ACCESS_LOG": "2"}, "'2'"),
        ([], {"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ([], {"CORS_ORIGINS": "*"}, "CORS_ORIGINS: '\\*'"),
        ([], {"CORS_ORIGINS": "https://a.example b.example"}, "'b.example'"),
        ([], {"CORS_ORIGINS": "https://a.example/"}, "'https://a.example/'"),
        ([], {"DATABASE_URL": "mysql://host/name"}, "DATABASE_URL"),
        ([], {"DATABASE_URL": "postgresql://host:abc/name"}, "DATABASE_URL"),
        ([], {"DATABASE_URL": "postgresql://a:1,[::1/name"}, "DATABASE_URL"),
        ([], {"DATABASE_URL": "postgresql://127.0.0.1:99999/name"}, "DATABASE_URL"),
        (
            [],
            {"DATABASE_URL": "sqlite:///missing/name"},
            "DATABASE_URL.* no such folder",
        ),
        (
            ["--host", "a..b"],
            {"ALLOW_ANONYMOUS": "1"},
            "HOST: 'a..b'",
        ),
        ([], {"DATABASE_URL": "sqlite:///"}, "DATABASE_URL"),
        ([], {"DATABASE_URL": "sqlite:///:memory:"}, "DATABASE_URL"),
        ([], {"DATABASE_URL": f"sqlite:///{'x' * 300}/y"}, "DATABASE_URL.* too long"),
        ([], {"DATABASE_URL": "sqlite:///by\udcfft"}, "DATABASE_URL"),
        ([], {"API_TOKENS_FILE": "missing"}, "API_TOKENS_FILE missing: No such file"),
        (["--host", "0.0.0.0"], {}, "ALLOW_ANONYMOUS=1"),  # noqa: S104 - refused
        (["--host", "::"], {}, "ALLOW_ANONYMOUS=1"),
        (["--host", "example.org"], {}, "ALLOW_ANONYMOUS=1"),
        (["--unknown"], {}, "--unknown"),
        (["restore"], {}, "restore"),
        (["backup"], {}, "backup"),
        (["token", "two words"], {}, "a name is"),
    ],
)
def test_bad_setting(
    main: Main,
    tmp_path: Path,
    arguments: list[str],
    environment: dict[str, str],
    reason: str,
) -> None:
    status, out, err = main(*arguments, **environment)
    assert (status, out) == (2, ""), err
    assert re.fullmatch(rf"server\.py: .*({reason}).*\n", err), err
    assert list(tmp_path.iterdir()) == []


def test_token_file_as_people_write_it(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    hexes = [digest("a"), digest("b").upper()]
    text = f"\ufeff# who\r\n  # may\n\nann\t{hexes[0]}  read \n bob {hexes[1]} write"
    file.write_text(text, "utf-8")
    tokens = read_tokens(file)
    assert [(token.caller, token.access) for token in tokens] == [
        ("ann", "read"),
        ("bob", "write"),
    ]
    assert [token.digest.hex() for token in tokens] == [digest("a"), digest("b")]


def test_token_command(main: Main, tmp_path: Path) -> None:
    file, tokens = tmp_path / "tokens", []
    for arguments, may in ((["ann"], "write"), (["bob", "--read"], "read")):
        status, out, err = main("token", *arguments)
        assert (status, err) == (0, "")
        token, line = out.splitlines()
        assert line == f"{arguments[0]} {digest(token)} {may}"
        with file.open("a") as lines:
            lines.write(line + "\n")
        tokens.append(token)
    assert len(set(tokens)) == 2
    assert min(map(len, tokens)) >= 40
    assert [token.caller for token in read_tokens(file)] == ["ann", "bob"]


@contextmanager
def visiting(visit: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Call from another thread, then send SIGTERM here; yield what it raised."""
    faults: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            visit()
        except BaseException as exc:
            faults.append(exc)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run)
    thresholds = gc.get_threshold()
    thread.start()
    yield faults
    ended.set()
    thread.join()
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_serving(main: Main, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It serves, reads its tokens again on SIGHUP, and stops on SIGTERM."""
    caplog.set_level(logging.INFO)
    ours = Server(tmp_path)
    file = tmp_path / "tokens"
    file.write_text(f"ann {digest('first')} write\n")

    def status_with(token: str) -> int:
        headers = [("Authorization", f"Bearer {token}")]
        line = request_bytes("GET", "/api/v1/customer", headers=headers)
        return exchange(ours.port, line).status

    def reload(text: str, message: str) -> None:
        file.write_text(text)
        os.kill(os.getpid(), signal.SIGHUP)
        end = time.monotonic() + 10
        while message not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)

    def visit() -> None:
        ours.wait_ready()
        assert (status_with("first"), status_with("second")) == (200, 401)
        reload(f"bob {digest('second')} read\n", "1 tokens read")
        assert (status_with("first"), status_with("second")) == (401, 200)
        reload("nonsense\n", "tokens kept as they were")
        assert (status_with("first"), status_with("second")) == (401, 200)

    with visiting(visit) as faults:
        status, out, _ = main("--port", str(ours.port), API_TOKENS_FILE=str(file))
    assert (status, faults) == (0, [])
    start = f"serving http://127.0.0.1:{ours.port} on sqlite:///db.sqlite3, SQLite 3."
    assert start in caplog.text
    assert "first" not in caplog.text + out
    assert (tmp_path / "db.sqlite3").exists()


def test_sighup_without_tokens(main: Main, tmp_path: Path) -> None:
    ours = Server(tmp_path)

    def visit() -> None:
        ours.wait_ready()
        os.kill(os.getpid(), signal.SIGHUP)
        assert ours.status_of("/readyz") == 200

    with visiting(visit) as faults:
        status, out, _ = main(
            *("--access-log", "0", "--allow-anonymous"),
            PORT=str(ours.port),
            HOST="localhost",
            LOG_LEVEL="INFO",
        )
    assert (status, out, faults) == (0, "", [])


def test_old_sqlite(
    main: Main,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It serves, with one warning."""
    monkeypatch.setattr(sqlite_lane, "WAL_RESET_FIXED", False)
    ours = Server(tmp_path)

    def visit() -> None:
        ours.wait_ready()

    with visiting(visit) as faults:
        status, _, _ = main("--port", str(ours.port))
    assert (status, faults) == (0, [])
    warnings = [line for line in caplog.records if line.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "walresetbug" in warnings[0].getMessage()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:zy/xw@127.0.0.1:1/shop",
        "postgresql://ann:zy?xw@127.0.0.1:1/shop",
        "postgresql://ann:zy#xw@127.0.0.1:1/shop",
        "postgresql://ann:zy@xw@127.0.0.1:1/shop",
        "postgresql://ann:zy\u2100xw@127.0.0.1:1/shop",
        "postgresql://ann:zyxw@127.0.0.1:1/shop",
        "postgresql://127.0.0.1:1/shop?user=ann&password=zyxw",
        "postgresql+asyncpg://ann:zyxw@127.0.0.1:1/shop",
        " postgresql://ann:zyxw@127.0.0.1:1/shop",
    ],
)
def test_password_is_kept_secret(main: Main, url: str) -> None:
    for arguments in (
        ("--database-url", url),
        ("--database-url", url, "backup", "copy"),
        ("copy", url, "sqlite:///db.sqlite3"),
    ):
        status, out, err = main(*arguments)
        assert status in (1, 2)
        assert (out, err.count("\n")) == ("", 1)
        assert "zy" not in err
        assert "xw" not in err


def test_asyncpg_missing(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    for name in ("postgres", "postgres_session"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    status, out, err = main("--database-url", "postgresql://127.0.0.1:1/shop")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "pip install asyncpg==" in err


def test_port_in_use(main: Main) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, err = main("--port", str(taken.getsockname()[1]))
    assert status == 1
    assert re.fullmatch(r"server\.py: .*in use.*\n", err), err


@several_processes
def test_workers(tmp_path: Path) -> None:
    """Two processes share the port, the database and the metrics; both stop."""
    counted = r'(?m)^http_.*_count\{.*"POST".*"201".*\} (\S+)$'
    sent: list[str] = []
    with serving(tmp_path, {"WORKERS": "2"}) as ours:

        def both_have_answered() -> bool:
            reply = exchange(ours.port, post("/api/v1/customer", JOHN))
            assert reply.status == 201
            sent.append(reply.headers["X-Request-Id"])
            return len({number.partition("-")[0] for number in sent}) == 2

        def all_are_counted() -> bool:
            reply = exchange(ours.port, request_bytes("GET", "/metrics"))
            return re.findall(counted, reply.body.decode()) == [f"{len(sent)}.0"]

        assert soon(both_have_answered)
        assert soon(all_are_counted)
        assert ours.stop() == 0, ours.log()
    lines = [json.loads(line) for line in ours.out.read_text().splitlines()]
    posts = [line["id"] for line in lines if line["method"] == "POST"]
    assert sorted(posts) == sorted(sent)


@several_processes
def test_worker_that_dies(tmp_path: Path) -> None:
    """Another takes its place, and knows the tokens of now, not those of the start."""
    file = tmp_path / "tokens"
    file.write_text(f"ann {digest('old')} read\n")

    def statuses(token: str) -> list[int]:
        headers = [("Authorization", f"Bearer {token}")]
        line = request_bytes("GET", "/api/v1/customer", headers=headers)
        return [exchange(ours.port, line).status for _ in range(6)]

    def children() -> set[int]:
        found = Path(f"/proc/{ours.pid}/task/{ours.pid}/children").read_text().split()
        return set(map(int, found))

    environment = {"WORKERS": "2", "API_TOKENS_FILE": str(file)}
    with serving(tmp_path, environment) as ours:
        before = children()
        assert len(before) == 2
        file.write_text(f"bob {digest('new')} read\n")
        os.kill(ours.pid, signal.SIGHUP)
        assert soon(lambda: statuses("old") == [401] * 6)
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        assert soon(lambda: len(children() - before) == 2)
        ours.wait_ready()
        assert (statuses("old"), statuses("new")) == ([401] * 6, [200] * 6)
        assert ours.stop() == 0, ours.log()


@pytest.mark.parametrize(
    ("end", "status"),
    [("kill(15)", 0), ("kill(9)", 1), ("_exit(3)", 1), ("_exit(0)", 0)],
)
def test_how_workers_end(end: str, status: int) -> None:
    """A stop is clean also where a signal came to all, and twice to some."""
    call = end.replace("kill(", "kill(os.getpid(), ")
    command = [sys.executable, "-c", f"import os; os.{call}"]
    ended = subprocess.Popen(command)  # noqa: S603 - a program of the test's own
    parent = workers.Parent(1, lambda: None)
    parent.running = {ended.pid: 0}
    parent.stopping = True

    def is_buried() -> bool:
        parent._bury()
        return not parent.running

    assert soon(is_buried)
    assert parent.status == status
    ended.wait()


def test_workers_refused(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes would damage the file with an old SQLite."""
    monkeypatch.setattr(sqlite_lane, "WAL_RESET_FIXED", False)
    status, out, err = main("--workers", "2")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "WORKERS must be 1" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_answers_what_was_begun(tmp_path: Path, number: int) -> None:
    request = request_bytes("POST", "/api/v1/customer", json.dumps(JOHN).encode())
    with serving(tmp_path) as ours:

        def slowly() -> Iterator[bytes]:
            yield request[:-9]
            time.sleep(0.3)
            assert ours.process is not None
            ours.process.send_signal(number)
            time.sleep(0.3)
            yield request[-9:]

        reply = exchange(ours.port, slowly())
        assert (reply.status, reply.whole) == (201, True), ours.log()
        assert ours.stop(number) == 0, ours.log()
        with pytest.raises(ConnectionRefusedError):
            exchange(ours.port, request)
    messages = [json.loads(line) for line in ours.err.read_text().splitlines()]
    told = [line["message"].split()[0] for line in messages if line["level"] == "info"]
    assert told == ["serving", "stopping"]
    lines = [json.loads(line) for line in ours.out.read_text().splitlines()]
    assert lines[-1]["status"] == 201, lines
    assert not (tmp_path / "db.sqlite3-wal").exists(), "not checkpointed"


def test_backup_of_a_served_database(tmp_path: Path) -> None:
    """The README's way: a copy beside the running server, put in another's place."""
    copy = tmp_path / "copy" / "db.sqlite3"
    copy.parent.mkdir()
    with serving(tmp_path) as ours:
        exchange(ours.port, post("/api/v1/customer", JOHN))
        exchange(ours.port, post("/api/v1/purchase/1", PHONE))
        tool = Server(tmp_path)
        tool.command += ["backup", str(copy)]
        assert tool.refused() == (0, "")
        listed = exchange(ours.port, request_bytes("GET", "/api/v1/customer"))
        exchange(ours.port, post("/api/v1/purchase/1", PHONE))
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with serving(copy.parent) as ours:
        restored = exchange(ours.port, request_bytes("GET", "/api/v1/customer"))
        assert ours.stop() == 0, ours.log()
    assert restored.json() == listed.json() is not None


def post(path: str, body: object) -> bytes:
    """Return a POST as bytes."""
    return request_bytes("POST", path, json.dumps(body).encode())


def test_without_hard_links(sqlite_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    sqlite_file.make(sqlite_path)
    copy = sqlite_path.with_name("copy")
    sqlite_file.backup(sqlite_path, copy)
    with closing(driver.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert {file.name for file in copy.parent.iterdir()} >= {"db.sqlite3", "copy"}


def test_backup_is_stopped(
    main: Main, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal ends it, and nothing of it is left."""
    sqlite_file.make(sqlite_path)
    run_sql(
        sqlite_path,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) "
        "INSERT INTO customer (name, date_created) SELECT i, '' FROM n",
    )

    class Signalled(threading.Event):
        def is_set(self) -> bool:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().is_set()

    monkeypatch.setattr(sqlite_file, "Event", Signalled)
    status, out, err = main("backup", "copy")
    reason = "server.py: db.sqlite3 to copy: interrupted\n"
    assert (status, out, err) == (1, "", reason)
    left = {file.name for file in sqlite_path.parent.iterdir()}
    assert {name for name in left if "copy" in name} == set()


def test_backup_refused(main: Main, sqlite_path: Path, tmp_path: Path) -> None:
    for expected in ("not a database of this server", ""):
        status, out, err = main("backup", "copy")
        assert (status, out) == (1 if expected else 0, ""), err
        assert expected in err
        server.try_make_db(f"sqlite:///{sqlite_path}")
    before = (tmp_path / "copy").read_bytes()
    for destination, reason in (
        ("copy", "already there"),
        ("missing/copy", "No such file"),
        ("db.sqlite3", "already there"),
    ):
        status, out, err = main("backup", destination)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert reason in err
    assert (tmp_path / "copy").read_bytes() == before
    whole = sqlite_path.read_bytes()
    for damaged in (b"garbage", whole[:3000], whole[:100] + b"x" * len(whole)):
        sqlite_path.write_bytes(damaged)
        status, out, err = main("backup", "other")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "db.sqlite3" in err
    assert not [file for file in tmp_path.iterdir() if "other" in file.name]


# Storage: making, adopting, migrating, refusing

DESCRIBED = """
CREATE TABLE purchases (id INTEGER PRIMARY KEY AUTOINCREMENT,
    purchase_name TEXT NOT NULL, quantity INTEGER DEFAULT 0,
    customer_id INTEGER NOT NULL, date_created TEXT NOT NULL, last_updated TEXT);
CREATE TABLE customer (id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL, address TEXT, date_created TEXT NOT NULL);
INSERT INTO customer VALUES
    (1, 'Ada', NULL, '2022-04-09 12:43:17'),
    (4, 'Straße', '', '2022-04-09 12:43:17.237526+00:00'),
    (5, 'Bob', '', 'yesterday'),
    (9, 'gone', '', '2022-04-09 12:43:17');
INSERT INTO purchases VALUES
    (1, 'x', 0, 1, '2022-04-09 12:43:22', NULL),
    (2, 'y', 4, 9, '2022-04-09T14:43:28.321654+02:00', '2022-04-09 12:43:56.924416'),
    (8, 'gone', 1, 1, '2022-04-09 12:43:22', NULL),
    (5, 'z', 3, 4, 'yesterday', NULL);
DELETE FROM customer WHERE id = 9;
DELETE FROM purchases WHERE id = 8;
"""
OTHERS = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);"


def run_sql(path: Path, script: str) -> None:
    """Run SQL in a database file of any kind."""
    with closing(driver.connect(path)) as connection:
        connection.executescript(script)
        connection.commit()


def test_make(sqlite_path: Path) -> None:
    url = f"sqlite:///{sqlite_path}"
    server.try_make_db(url)
    assert stat.S_IMODE(sqlite_path.stat().st_mode) == 0o600
    assert list(sqlite_path.parent.iterdir()) == [sqlite_path]
    made = sqlite_path.read_bytes()
    server.try_make_db(url)
    assert sqlite_path.read_bytes() == made
    with closing(driver.connect(sqlite_path)) as connection:
        for table, columns in schema.DESCRIBED_COLUMNS.items():
            rows = connection.execute(f"SELECT * FROM {table}").description  # noqa: S608
            assert columns <= {column[0] for column in rows}


def test_make_by_default(main: Main, tmp_path: Path) -> None:
    server.try_make_db()
    assert (tmp_path / "db.sqlite3").exists()


@one_engine
async def test_described_database(sqlite_path: Path, opened: Opener) -> None:
    run_sql(sqlite_path, DESCRIBED)
    ask = await opened()
    at = "2022-04-09 12:43:"
    rows = [
        (1, "x", 0, f"{at}22.000000+00:00", None, "1"),
        (2, "y", 4, f"{at}28.321654+00:00", f"{at}56.924416+00:00", "9"),
        (5, "z", 3, "yesterday", None, "4"),
    ]
    listed = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    assert (await ask("GET /api/v1/customer")).data == listed
    people = (await ask("GET /api/v1/customers")).data
    short = "Apr 09 2022 12:43:17"
    assert people == [
        {"id": 1, "name": "Ada", "address": None, "created_on": short},
        {"id": 4, "name": "Straße", "address": "", "created_on": short},
        {"id": 5, "name": "Bob", "address": "", "created_on": "yesterday"},
    ]
    assert (await ask("GET /api/v1/customers?name=STRASSE")).data == people[1:2]
    assert (await ask("GET /api/v1/customers", Accept=CSV)).text.count(",,") == 3
    for number, owner in ((1, 1), (2, 9), (5, 4)):
        await ask(f"GET /api/v1/customer/{owner}/purchase/{number}")
        reply = await ask(f"PATCH /api/v1/purchase/{number}", {"purchase_name": "new"})
        row = next(row for row in rows if row[0] == number)
        assert (reply.data["quantity"], reply.data["purchased_on"]) == row[2:4]
    reply = await ask("PATCH /api/v1/customer/1", {"name": "Ida"})
    assert reply.data == {**people[0], "name": "Ida"}
    assert (await ask("POST /api/v1/customer", JOHN, 201)).data["id"] == 10
    assert (await ask("POST /api/v1/purchase/1", PHONE, 201)).data["id"] == 9
    assert (await ask("DELETE /api/v1/customer/1")).json["deleted_count"] == 2


@one_engine
async def test_ids_of_customers_who_are_gone(sqlite_path: Path, opened: Opener) -> None:
    """Nobody inherits what they bought."""
    run_sql(sqlite_path, DESCRIBED.replace(" AUTOINCREMENT", ""))
    run_sql(sqlite_path, "UPDATE purchases SET customer_id = ~(1 << 63) WHERE id = 1")
    ask = await opened()
    assert (await ask("POST /api/v1/customer", JOHN, 201)).data["id"] == 10
    assert (await ask("GET /api/v1/purchase/10")).data == []


ODD = """
UPDATE customer SET address = CAST(X'610062' AS TEXT);
CREATE INDEX purchases_customer_id ON purchases (customer_id);
CREATE INDEX by_name ON customer (name);
UPDATE customer SET name = CAST(X'61FF62' AS TEXT),
    date_created = 'Apr 09 2022 12:43:17';
UPDATE purchases SET purchase_name = X'C39F', last_updated = '', quantity = 'many',
    date_created = '0001-01-01 00:00:00+14:00';
ANALYZE;
"""


@one_engine
async def test_odd_described_database(sqlite_path: Path, opened: Opener) -> None:
    """Text that is none, times that are none, and what an operator may have added."""
    run_sql(sqlite_path, DESCRIBED + ODD)
    ask = await opened()
    person = (await ask("GET /api/v1/customers?limit=1")).data[0]
    assert (person["name"], person["address"]) == ("a\ufffdb", "a\0b")
    assert person["created_on"] == "Apr 09 2022 12:43:17"
    row = (await ask("GET /api/v1/customer?limit=1")).data[0]
    assert (row["purchase_name"], row["quantity"]) == ("ß", 0)
    assert row["purchased_on"] == "0001-01-01 00:00:00+14:00"
    assert row["last_updated_on"] is None


@one_engine
async def test_described_database_in_use(sqlite_path: Path, opened: Opener) -> None:
    """It is known for ours from then on, also while only its WAL says so."""
    run_sql(sqlite_path, f"PRAGMA journal_mode = WAL; {DESCRIBED}")
    with closing(driver.connect(sqlite_path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM customer").fetchall()
        ask = await opened()
        await ask("POST /api/v1/customer", JOHN, 201)
        copy = sqlite_path.with_name("copy.sqlite3")
        for end in ("", "-wal"):
            file = sqlite_path.with_name(f"{sqlite_path.name}{end}")
            copy.with_name(f"{copy.name}{end}").write_bytes(file.read_bytes())
    sqlite_file.make(copy)
    with closing(driver.connect(copy)) as connection:
        names = connection.execute("SELECT name FROM customer").fetchall()
    assert ("John Doe",) in names


def test_migrated_by_two(sqlite_path: Path) -> None:
    """The one who comes second finds nothing left to do."""
    run_sql(sqlite_path, DESCRIBED)
    sqlite_file.make(sqlite_path)
    made = sqlite_path.read_bytes()
    sqlite_file._migrate(sqlite_path, described=True)
    assert sqlite_path.read_bytes() == made


HALF = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.executescript("PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN EXCLUSIVE")
database.execute("DROP TABLE purchases")
for number in range(100, 2000):
    database.execute("INSERT INTO customer VALUES (?, ?, '', '')", (number, "x" * 99))
os._exit(0)
"""


@pytest.mark.parametrize(
    ("script", "application_id", "ours"),
    [
        (DESCRIBED, 0, True),
        (DESCRIBED, schema.APPLICATION_ID, True),
        (OTHERS, 0, False),
    ],
)
def test_hot_journal(
    sqlite_path: Path, script: str, application_id: int, ours: bool
) -> None:
    """What a program left half done is undone in a file of ours, and only there.

    Also where what it left is that the file is ours by now.
    """
    run_sql(sqlite_path, DESCRIBED.split("INS")[0] + script.replace(DESCRIBED, ""))
    command = [sys.executable, "-c", HALF, str(sqlite_path)]
    subprocess.run(command, check=True)  # noqa: S603 - a program of the test's own
    left = sqlite_path.read_bytes()
    sqlite_path.write_bytes(left[:68] + application_id.to_bytes(4, "big") + left[72:])
    files = {file: file.read_bytes() for file in sqlite_path.parent.iterdir()}
    assert len(files) == 2, "no hot journal"
    if ours:
        sqlite_file.make(sqlite_path)
        with closing(driver.connect(sqlite_path)) as connection:
            assert connection.execute("SELECT count(*) FROM customer").fetchone() == (
                0,
            )
    else:
        with pytest.raises(db.RefusedError, match="another program"):
            sqlite_file.make(sqlite_path)
        assert {f: f.read_bytes() for f in sqlite_path.parent.iterdir()} == files


@one_engine
async def test_symbolic_link(sqlite_path: Path, opened: Opener) -> None:
    folder = sqlite_path.with_name("real")
    await asyncio.to_thread(folder.mkdir)
    sqlite_file.make(folder / "file")
    await asyncio.to_thread(sqlite_path.symlink_to, folder / "file")
    ask = await opened()
    await ask("POST /api/v1/customer", JOHN, 201)
    assert await list_names(ask) == ["John Doe"]


def test_start_while_locked(main: Main, sqlite_path: Path) -> None:
    sqlite_file.make(sqlite_path)
    with closing(driver.connect(sqlite_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, out, err = main("--port", str(free_port()))
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert "locked by another process" in err


def test_described_database_without_rows(sqlite_path: Path) -> None:
    """Nor does every table of it have to keep its ids from being used again."""
    plain = DESCRIBED.split("INSERT")[0].replace(" AUTOINCREMENT", "")
    run_sql(sqlite_path, plain.replace(" NOT NULL", ""))
    run_sql(sqlite_path, "INSERT INTO purchases (quantity) VALUES (NULL)")
    server.try_make_db(f"sqlite:///{sqlite_path}")
    with closing(driver.connect(sqlite_path)) as connection:
        rows = connection.execute("SELECT * FROM purchases").fetchall()
    assert rows == [(1, "", 0, 0, "1970-01-01 00:00:00.000000+00:00", None, 1)]


@one_engine
@pytest.mark.parametrize("version", [*range(1, len(schema.MIGRATIONS))])
async def test_earlier_version_of_ours(
    sqlite_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:version])
    sqlite_file.make(sqlite_path)
    monkeypatch.undo()
    run_sql(
        sqlite_path,
        """INSERT INTO customer (id, name, address, date_created)
        VALUES (3, 'Straße', 'x', '2022-04-09 12:43:17.000000+00:00');
        INSERT INTO purchases (id, purchase_name, quantity, customer_id, date_created)
        VALUES (7, 'y', 4, 3, '2022-04-09 12:43:17.000000+00:00');
        DELETE FROM purchases;
        INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
        VALUES ('y', 4, 3, '2022-04-09 12:43:17.000000+00:00')""",
    )
    ask = await opened()
    assert (await ask("GET /api/v1/customers?name=sse")).data[0]["id"] == 3
    assert await list_ids(ask) == [8]
    tag = (await ask("GET /api/v1/customer/3/purchase/8")).headers["ETag"]
    await ask("PATCH /api/v1/purchase/8", {"quantity": 5}, If_Match=tag)
    await ask("POST /api/v1/purchase/3", PHONE, 201, Idempotency_Key="k")


def not_ours(script: str) -> Callable[[Path], None]:
    """Return what makes a database of another program."""
    return lambda path: run_sql(path, script)


def cut(path: Path) -> None:
    """Leave half of a database of ours."""
    sqlite_file.make(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    """Damage the schema of a database of ours."""
    sqlite_file.make(path)
    made = path.read_bytes()
    path.write_bytes(made[:100] + b"\xa5" * 1000 + made[1100:])


def newer(path: Path) -> None:
    """Make a database as the next version of this server may."""
    sqlite_file.make(path)
    run_sql(path, f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")


OTHER_COLUMN = DESCRIBED.replace("address TEXT", "address TEXT, phone TEXT").split(
    "INS"
)[0]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b"garbage\n" * 100), "not a SQLite database"),
        (lambda path: path.write_bytes(b""), "not a SQLite database"),
        (
            lambda path: path.write_bytes(b"SQLite format 3\0" * 3),
            "not a SQLite database",
        ),
        (
            lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 999),
            "damaged",
        ),
        (lambda path: path.mkdir(), "not a file"),
        (lambda path: path.symlink_to("nowhere"), "not a file"),
        (not_ours(OTHERS), "another program"),
        (not_ours(OTHERS + "PRAGMA user_version = 2"), "another program"),
        (not_ours(OTHERS + "PRAGMA application_id = 7"), "another program"),
        (not_ours("PRAGMA user_version = 0; VACUUM"), "another program"),
        (not_ours(DESCRIBED + OTHERS), "another program"),
        (not_ours(DESCRIBED + "PRAGMA user_version = 1"), "another program"),
        (not_ours(DESCRIBED + "CREATE VIEW v AS SELECT 1"), "another program"),
        (not_ours(OTHER_COLUMN), "another program"),
        (newer, "newer version"),
        (cut, "damaged"),
        (overwritten, "damaged"),
    ],
)
def test_file_refused(
    main: Main, sqlite_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    """It is left untouched, byte for byte, and nothing is put beside it."""
    make(sqlite_path)
    before = sqlite_path.read_bytes() if sqlite_path.is_file() else b""
    files = sorted(sqlite_path.parent.iterdir())
    status, out, err = main("--port", str(free_port()))
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert reason in err
    assert sorted(sqlite_path.parent.iterdir()) == files
    assert (sqlite_path.read_bytes() if sqlite_path.is_file() else b"") == before


# Storage: faults of the disk and the file


class Faulty:
    """A connection of the driver, one kind of statement of which fails."""

    def __init__(self, connection: Any, begins: str, code: int) -> None:
        self.connection = connection
        self.begins = begins
        self.code = code

    def execute(self, sql: str, *parameters: object) -> Any:
        """Fail as the driver does, or run the statement."""
        if sql.lstrip().startswith(self.begins):
            raise fault(self.code)
        return self.connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        """Return what the connection has by a name."""
        return getattr(self.connection, name)


def fault(code: int) -> Exception:
    """Return an error of the driver, with a result code of SQLite."""
    error: Exception = driver.OperationalError("injected")
    vars(error)["sqlite_errorcode"] = code
    return error


@contextmanager
def failing(lane: sqlite_lane.Lane, begins: str, code: int) -> Iterator[None]:
    """Let one kind of statement fail on a lane."""
    connection: Any = lane._connection
    faulty: Any = Faulty(connection, begins, code)
    lane._connection = faulty
    yield
    if lane._connection is faulty:
        lane._connection = connection


async def becoming(engine: sqlite.Engine, trouble: str | None) -> None:
    """Wait until the engine knows of a trouble, or that there is none any more."""
    health = engine.writer.health
    assert await asyncio.to_thread(soon, lambda: health.trouble == trouble)


async def well_again(engine: sqlite.Engine) -> None:
    """Wait until the engine has checked its database."""
    await becoming(engine, None)


def move_away(path: Path) -> None:
    """Take a file from its place."""
    path.rename(path.with_name("elsewhere"))


@contextmanager
def held(engine: sqlite.Engine) -> Iterator[list[asyncio.Future[None]]]:
    """Keep the writing lane busy for the length of a with block."""
    release = threading.Event()

    def hold() -> db.Unit[None]:
        yield "SELECT 1", ()
        release.wait(20)

    futures = [engine.write(hold)]
    try:
        yield futures
    finally:
        release.set()


@one_engine
@pytest.mark.parametrize(
    ("begins", "code", "status"),
    [
        ("COMMIT", sqlite_lane.IOERR, 503),
        ("COMMIT", sqlite_lane.FULL, 507),
        ("COMMIT", sqlite_lane.BUSY, 503),
        ("COMMIT", sqlite_lane.CORRUPT, 503),
        ("COMMIT", sqlite_lane.READONLY, 503),
        ("COMMIT", 1, 500),
        ("BEGIN", sqlite_lane.BUSY, 503),
        ("INSERT INTO purchases", sqlite_lane.FULL, 507),
        ("INSERT INTO purchases", sqlite_lane.IOERR, 503),
        ("INSERT INTO purchases", 1, 500),
    ],
)
async def test_failed_commit(
    ask: Ask,
    engine: sqlite.Engine,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    begins: str,
    code: int,
    status: int,
) -> None:
    """No unit of the batch is acknowledged, none is there, and the next one is."""
    monkeypatch.setattr(sqlite, "RECHECK_SECONDS", 0)
    with failing(engine.writer, begins, code):
        reply = await ask("POST /api/v1/purchase/1", PHONE, status)
    # of a commit that the disk failed, nobody can say what became of it
    unknown = begins == "COMMIT" and code in sqlite_lane.UNCERTAIN
    assert (db.UNKNOWN in reply.json["detail"]) is unknown
    await well_again(engine)
    await ask("POST /api/v1/purchase/1", PHONE, 201)
    with failing(engine.writer, begins, code):
        units = [engine.write(db.add_purchase, 1, "x", 1, db.now()) for _ in range(8)]
        outcomes = await asyncio.gather(*units, return_exceptions=True)
    assert all(isinstance(outcome, Exception) for outcome in outcomes), outcomes
    assert not engine.writer.in_transaction
    assert await list_ids(ask) == [1]
    await well_again(engine)
    await ask("POST /api/v1/purchase/1", PHONE, 201)
    assert await list_ids(ask) == [1, 2]


async def visit(path: Path) -> None:
    """Look into a database from another process."""
    visitor = await asyncio.create_subprocess_exec(*visitor_of(path))
    assert await visitor.wait() == 0


@several_processes
@one_engine
async def test_checkpoints_beside_commits(
    opened: Opener, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The WAL is copied without a commit doing it; a fault there is no secret."""
    monkeypatch.setattr(sqlite, "CARE_SECONDS", 0.01)
    monkeypatch.setattr(sqlite, "CHECKPOINT_UNITS", 1)
    ask = await opened()
    served = ask.client.server
    assert isinstance(served, OurServer)
    engine: Any = served.app[handlers.DATABASE]

    def size() -> int:
        return sqlite_path.stat().st_size

    before = size()
    await ask("POST /api/v1/customer", JOHN, 201)
    await engine.write(add_many, 1, 2000)
    assert await asyncio.to_thread(soon, lambda: size() > before)
    await visit(sqlite_path)
    await ask("POST /api/v1/customer", JOHN, 201)
    monkeypatch.setattr(sqlite, "WAL_PAGES", 0)
    monkeypatch.setattr(sqlite, "LITTLE_SECONDS", 60)
    wal = sqlite_path.with_name(f"{sqlite_path.name}-wal")

    def header() -> bytes:
        return wal.read_bytes()[:32]

    # a WAL that begins anew has another salt (sqlite.org/fileformat.html, 4.1)
    first = header()
    for _ in range(200):
        await ask("POST /api/v1/purchase/1", PHONE, 201)
        if header() != first:
            break
        await asyncio.sleep(0.01)
    assert header() != first
    for trouble in (
        failing(engine.caretaker, "PRAGMA wal_checkpoint", sqlite_lane.IOERR),
        failing_sync(monkeypatch),
    ):
        with trouble:
            with suppress(AssertionError):  # it may have failed already
                await ask("POST /api/v1/purchase/1", PHONE, 201)
            await becoming(engine, "the disk failed to read or write")
        await well_again(engine)
        await ask("POST /api/v1/purchase/1", PHONE, 201)


@contextmanager
def failing_sync(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the disk fail to take what was written."""

    def refuse(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        yield


@one_engine
@pytest.mark.parametrize("code", [sqlite_lane.FULL, sqlite_lane.IOERR])
async def test_failed_checkpoint_after_a_commit(
    ask: Ask,
    engine: sqlite.Engine,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    """What was committed is acknowledged all the same."""
    monkeypatch.setattr(sqlite, "RECHECK_SECONDS", 0)
    with failing(engine.writer, "PRAGMA wal_checkpoint", code):
        engine.writer.rewinding = True
        await ask("POST /api/v1/purchase/1", PHONE, 201)
    assert not engine.writer.rewinding
    await well_again(engine)
    await ask("POST /api/v1/purchase/1", PHONE, 201)
    assert await list_ids(ask) == [1, 2]


@several_processes
@one_engine
async def test_caretaker_goes_on(
    ask: Ask, engine: sqlite.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it comes upon."""
    monkeypatch.setattr(sqlite, "CARE_SECONDS", 0.01)
    monkeypatch.setattr(sqlite, "CHECKPOINT_UNITS", 1)
    seen: list[object] = []

    def broken(writer: object) -> None:
        seen.append(writer)
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(engine.caretaker, "checkpoint", broken)
    for _ in range(2):
        seen.clear()
        await ask("POST /api/v1/customer", JOHN, 201)
        assert await asyncio.to_thread(soon, lambda: bool(seen))


@one_engine
async def test_promises_of_the_lanes(ask: Ask, engine: sqlite.Engine) -> None:
    """Commits reach the disk, references hold, and readers cannot write."""

    def value(pragma: str) -> db.Unit[Any]:
        rows = yield f"PRAGMA {pragma}", ()
        return rows[0][0]

    for run, pragma, expected in (
        (engine.write, "synchronous", 2),
        (engine.write, "journal_mode", "wal"),
        (engine.write, "foreign_keys", 1),
        (engine.write, "trusted_schema", 0),
        (engine.read, "query_only", 1),
        (engine.scan, "query_only", 1),
    ):
        assert await run(value, pragma) == expected, pragma


@one_engine
async def test_no_write_until_checked(
    ask: Ask, engine: sqlite.Engine, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error of the disk the file is opened and checked anew."""
    monkeypatch.setattr(sqlite, "RECHECK_SECONDS", 0)

    def refuse(path: Path) -> None:
        raise fault(sqlite_lane.CANTOPEN)

    monkeypatch.setattr(engine.caretaker, "open", refuse)
    opened = engine.writer._connection
    with failing(engine.writer, "COMMIT", sqlite_lane.IOERR):
        await ask("POST /api/v1/purchase/1", PHONE, 503)
    await becoming(engine, "the database file cannot be opened")
    for line, body in (("POST /api/v1/purchase/1", PHONE), ("GET /readyz", None)):
        reply = await ask(line, body, 503)
        assert "cannot be opened" in reply.json["detail"]
    assert await list_ids(ask) == []
    monkeypatch.undo()
    await well_again(engine)
    assert (await ask("GET /readyz")).json["database"].startswith("SQLite 3.")
    await ask("POST /api/v1/purchase/1", PHONE, 201)
    assert engine.writer._connection is not opened
    assert await list_ids(ask) == [1]


@one_engine
@pytest.mark.parametrize("replaced", [False, True])
async def test_checked_file_is_the_same(
    ask: Ask,
    engine: sqlite.Engine,
    customer: int,
    sqlite_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replaced: bool,
) -> None:
    """What lies in the place of the file by then is not taken for it, nor made."""
    monkeypatch.setattr(sqlite, "RECHECK_SECONDS", 0)
    with failing(engine.writer, "COMMIT", sqlite_lane.IOERR):
        await ask("POST /api/v1/purchase/1", PHONE, 503)
        move_away(sqlite_path)
        if replaced:
            sqlite_file.make(sqlite_path)
    await becoming(engine, sqlite.GONE)
    for line, body in (("POST /api/v1/customer", JOHN), ("GET /readyz", None)):
        await ask(line, body, 503)
    assert await asyncio.to_thread(sqlite_path.exists) is replaced
    sqlite_path.with_name("elsewhere").replace(sqlite_path)
    await well_again(engine)
    await ask("POST /api/v1/purchase/1", PHONE, 201)
    assert await list_ids(ask) == [1]


@one_engine
async def test_no_other_writer_comes_between(
    ask: Ask, engine: sqlite.Engine, customer: int, sqlite_path: Path
) -> None:
    """What a unit has read stays so until it has written."""
    outcomes = []

    def read_and_write() -> db.Unit[None]:
        yield db.SELECT_CUSTOMER, (1,)
        with closing(driver.connect(sqlite_path, timeout=0)) as other:
            try:
                other.execute("UPDATE customer SET name = 'other'")
                other.commit()
            except driver.OperationalError as exc:
                outcomes.append(sqlite_lane.code_of(exc))
        yield db.UPDATE_CUSTOMER, ("ours", "ours", None, 1)

    await engine.write(read_and_write)
    assert outcomes == [sqlite_lane.BUSY]
    assert await list_names(ask) == ["ours"]


@one_engine
async def test_disk_full(ask: Ask, engine: sqlite.Engine, customer: int) -> None:
    connection: Any = engine.writer._conn
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    large = {"name": "x", "address": "x" * 500}
    for _ in range(20):
        with suppress(AssertionError):
            await ask("POST /api/v1/customer", large, 201)
    reply = await ask("POST /api/v1/customer", large, 507)
    assert "space" in reply.json["detail"]
    number = len(await list_names(ask))
    connection.execute("PRAGMA max_page_count = 1000000")
    await ask("POST /api/v1/customer", large, 201)
    assert len(await list_names(ask)) == number + 1


@one_engine
async def test_locked(ask: Ask, engine: sqlite.Engine, sqlite_path: Path) -> None:
    with closing(driver.connect(sqlite_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        reply = await ask("POST /api/v1/customer", JOHN, 503)
        assert "locked" in reply.json["detail"]
        assert sqlite_lane.BUSY_SECONDS - 1 < time.monotonic() - began < 10
        assert await list_names(ask) == []
        other.execute("ROLLBACK")
    await ask("POST /api/v1/customer", JOHN, 201)


@one_engine
@pytest.mark.parametrize("replaced", [False, True])
async def test_file_gone(
    ask: Ask, engine: sqlite.Engine, customer: int, sqlite_path: Path, replaced: bool
) -> None:
    move_away(sqlite_path)
    if replaced:
        sqlite_file.make(sqlite_path)
    for line, body in (("POST /api/v1/customer", JOHN), ("GET /readyz", None)):
        reply = await ask(line, body, 503)
        assert "deleted or replaced" in reply.json["detail"]
    await ask("GET /livez")
    sqlite_path.with_name("elsewhere").replace(sqlite_path)
    assert await list_names(ask) == ["John Doe"], "what was refused is there"
    assert (await ask("POST /api/v1/customer", JOHN, 201)).data["id"] == 2


@one_engine
@pytest.mark.parametrize("end", ["-wal", "-shm"])
async def test_file_beside_it_gone(
    ask: Ask, customer: int, sqlite_path: Path, end: str
) -> None:
    move_away(sqlite_path.with_name(f"{sqlite_path.name}{end}"))
    await ask("POST /api/v1/customer", JOHN, 503)
    await ask("GET /readyz", None, 503)
    assert await list_names(ask) == ["John Doe"]


@one_engine
async def test_file_gone_while_committing(
    ask: Ask, engine: sqlite.Engine, customer: int, sqlite_path: Path
) -> None:
    class Slow(Faulty):
        def execute(self, sql: str, *parameters: object) -> Any:
            done = self.connection.execute(sql, *parameters)
            if sql == "COMMIT":
                move_away(sqlite_path)
            return done

    slow: Any = Slow(engine.writer._connection, "", 0)
    engine.writer._connection = slow
    reply = await ask("POST /api/v1/customer", JOHN, 503)
    assert db.UNKNOWN in reply.json["detail"]


@one_engine
async def test_file_gone_in_the_middle(
    ask: Ask, engine: sqlite.Engine, sqlite_path: Path
) -> None:
    with held(engine) as futures:
        futures.append(engine.write(db.add_customer, "x", "", db.now()))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        move_away(sqlite_path)
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [db.UnavailableError] * 2


@one_engine
async def test_overload(ask: Ask, engine: sqlite.Engine) -> None:
    with held(engine):
        await asyncio.sleep(0.05)
        engine.writer.batch_seconds = 2.5
        waiting = asyncio.create_task(ask("POST /api/v1/customer", JOHN, 201))
        await asyncio.sleep(0.1)
        assert engine.measures().waiting["write"] == 1
        reply = await ask("POST /api/v1/customer", JOHN, 503)
        assert int(reply.headers["Retry-After"]) >= 2
        await ask("GET /api/v1/customers")
    assert (await waiting).data["id"] == 1
    assert await list_names(ask) == ["John Doe"]


@one_engine
async def test_late_unit_is_dropped(
    ask: Ask, engine: sqlite.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_lane, "TURN_SECONDS", 0.1)
    with held(engine):
        await asyncio.sleep(0.05)
        late = asyncio.create_task(ask("POST /api/v1/customer", JOHN, 503))
        await asyncio.sleep(0.3)
    assert "too long" in (await late).json["detail"]
    assert await list_names(ask) == []


@one_engine
async def test_endless_unit_is_interrupted(
    ask: Ask, engine: sqlite.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless() -> db.Unit[None]:
        yield (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
            "SELECT count(*) FROM n",
            (),
        )

    monkeypatch.setattr(sqlite_lane, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(sqlite_lane, "BATCH_SECONDS", 0.1)
    for run in (engine.read, engine.write):
        with pytest.raises(db.UnavailableError, match="longer than"):
            await run(endless)
    monkeypatch.undo()
    await ask("POST /api/v1/customer", JOHN, 201)


@one_engine
async def test_disk_that_hangs(
    ask: Ask, engine: sqlite.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits is told so in time, and what comes after it is written."""
    limits = {"WATCH": 0.02, "TURN": 0.2, "BATCH": 0.1, "HANG": 0.1}
    for name, seconds in limits.items():
        monkeypatch.setattr(sqlite_lane, f"{name}_SECONDS", seconds)
    with held(engine) as futures:
        await asyncio.sleep(0.05)
        reply = await ask("POST /api/v1/customer", JOHN, 503)
        assert "too long for its turn" in reply.json["detail"]
        with pytest.raises(db.UnavailableError, match=db.UNKNOWN):
            await futures[0]
        await ask("GET /api/v1/customers")
    monkeypatch.undo()
    await ask("POST /api/v1/customer", JOHN, 201)
    assert await list_names(ask) == ["John Doe"]


def damage(path: Path) -> None:
    """Make a database of 2,000 purchases, and overwrite two pages in its middle."""
    sqlite_file.make(path)
    run_sql(
        path,
        """INSERT INTO customer (name, date_created) VALUES ('x', '2022-04-09');
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000)
        INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
        SELECT 'thing ' || i, 1, 1, '2022-04-09 12:43:17.000000+00:00' FROM n""",
    )
    pages = bytearray(path.read_bytes())
    middle = len(pages) // 2 // 4096 * 4096
    pages[middle : middle + 8192] = b"\xa5" * 8192
    path.write_bytes(pages)


@one_engine
async def test_damaged_page(sqlite_path: Path, opened: Opener) -> None:
    """Who reads it is told so, and writing ends: nothing is answered from it."""
    damage(sqlite_path)
    ask = await opened()
    await ask("GET /readyz")
    with suppress(aiohttp.ClientPayloadError):  # it may have begun
        await ask("GET /api/v1/customer", None, 503)
    for line, body in (("GET /readyz", None), ("POST /api/v1/customer", JOHN)):
        reply = await ask(line, body, 503)
        assert "damaged" in reply.json["detail"]
    await ask("GET /api/v1/customer/1")


@pytest.fixture
def postgresql_url(postgresql_cluster: Any) -> str:
    """Return the URL of an empty schema."""
    url: str = postgresql_cluster.new_schema()
    return url


async def test_commits_of_postgresql_reach_its_disk(
    postgresql_cluster: Any, postgresql_url: str
) -> None:
    """Whatever the server or the role says, and only then are they acknowledged."""
    postgres = importlib.import_module("postgres")

    def setting(name: str) -> db.Unit[str]:
        rows = yield f"SELECT current_setting('{name}')", ()
        text: str = rows[0][0]
        return text

    for given, kept in (("off", "on"), ("local", "local"), ("remote_apply",) * 2):
        query = f"&options=-csynchronous_commit%3D{given}"
        engine = await postgres.connect(postgresql_url + query)
        try:
            assert await engine.write(setting, "synchronous_commit") == kept
            assert await engine.write(setting, "client_min_messages") == "warning"
        finally:
            await engine.close()


async def test_commit_that_nobody_vouches_for(postgresql_url: str) -> None:
    """A 201 would promise too much; from other warnings nothing follows."""
    postgres = importlib.import_module("postgres")
    engine = await postgres.connect(postgresql_url)
    [session] = engine.writer.idle
    try:
        async with session.committing():
            await session.connection.execute("DO $$ BEGIN RAISE WARNING 'x'; END $$")
        with pytest.raises(db.UnavailableError, match=db.UNKNOWN):
            async with session.committing():
                session._hear(None, SyncRepWarning())
        with pytest.raises(db.UnavailableError, match=db.UNKNOWN):
            async with session.committing():
                raise ConnectionResetError("cut off in the middle of it")
    finally:
        await engine.close()


async def test_connections_that_are_let_in_no_more(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are there do the work."""
    await asyncio.to_thread(server.try_make_db, postgresql_url)
    engine = await importlib.import_module("postgres").connect(postgresql_url)
    asyncpg = importlib.import_module("asyncpg")

    async def refuse() -> None:
        raise asyncpg.TooManyConnectionsError("too many clients")

    monkeypatch.setattr(engine.hosts, "connect", refuse)
    try:
        units = [engine.write(db.add_customer, "x", "", db.now()) for _ in range(6)]
        rows = await asyncio.gather(*units)
        assert sorted(row.id for row in rows) == [1, 2, 3, 4, 5, 6]
    finally:
        await engine.close()


async def test_ready_for_reading_alone(postgresql_url: str) -> None:
    query = "&target_session_attrs=any&options=-cdefault_transaction_read_only%3Don"
    engine = await importlib.import_module("postgres").connect(postgresql_url + query)
    try:
        with pytest.raises(db.UnavailableError, match="read-only"):
            await engine.check()
    finally:
        await engine.close()


def test_ids_come_to_an_end() -> None:
    """It is told as on SQLite."""
    session = importlib.import_module("postgres_session")
    limit = importlib.import_module("asyncpg").SequenceGeneratorLimitExceededError
    assert isinstance(session.translated(limit("nextval")), db.DiskFullError)


@pytest.mark.parametrize("year", ["0001-01-01", "9999-12-31"])
def test_time_that_cannot_be_copied(year: str) -> None:
    """The driver would take it for infinity."""
    transfer = importlib.import_module("transfer")
    with pytest.raises(ValueError, match=f"{year}.* is too far"):
        transfer._weigh("time", f"{year} 00:00:00.000000+00:00")


class SyncRepWarning(NamedTuple):
    """What PostgreSQL says when it no longer waits for a standby."""

    server_source_function: str = "SyncRepWaitForLSN"


async def test_ready(ask: Ask, engine: Any) -> None:
    assert (await ask("GET /livez")).json["status"] == "ok"
    reply = await ask("GET /readyz")
    assert reply.json == {"status": "ok", "database": engine.name}
    assert (await ask("GET /")).json == {
        "name": "customer purchase server",
        "version": handlers.VERSION,
        "healthy": True,
        "docs": "/docs",
    }


# The description page, metrics and logs


@one_engine
async def test_openapi(ask: Ask) -> None:
    """The description is a valid one, and of the routes that there are."""
    description = (await ask("GET /openapi.json")).json
    openapi_spec_validator.validate(description)
    assert description["openapi"].startswith("3.1")
    described = {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path))
        for path, methods in description["paths"].items()
        for method in methods.keys() & {"get", "post", "put", "patch", "delete"}
    }
    assert described == {
        (route.method, re.sub(r"\{\w+\}", "{}", route.path))
        for route in handlers.ROUTES
    }


@one_engine
async def test_query_is_described(ask: Ask) -> None:
    """What the query of a search may hold is described as it is checked."""
    operation = (await ask("GET /openapi.json")).json["paths"]["/api/v1/customers"]
    schemas = {part["name"]: part["schema"] for part in operation["get"]["parameters"]}
    for text, status in (("x" * 200, 200), ("x" * 201, 422), ("a\0b", 422)):
        fits = len(text) <= schemas["name"]["maxLength"]
        fits = fits and re.search(schemas["name"]["pattern"], text) is not None
        assert fits == (status == 200)
        await ask(f"GET /api/v1/customers?name={quote(text)}", None, status)


@one_engine
async def test_docs_page(ask: Ask) -> None:
    page = await ask("GET /docs")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) >= 2
    for asset in assets:
        url = ask.client.make_url("/docs").join(URL(asset))
        async with ask.client.session.get(url) as reply:
            assert reply.status == 200, asset
            tag = reply.headers["ETag"]
        async with ask.client.session.get(url, headers={"If-None-Match": tag}) as reply:
            assert reply.status == 304, asset
    await ask("GET /docs/nothing.js", None, 404)


async def test_metrics(ask: Ask, engine: Any, purchase: int) -> None:
    await ask("GET /api/v1/customer/7", None, 404)
    await ask("GET /nowhere", None, 404)
    reply = await ask("GET /metrics")
    assert reply.headers["Content-Type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }
    counted = "http_server_request_duration_seconds_count"
    for labels in (
        ("POST", "/api/v1/customer", "201"),
        ("POST", "/api/v1/purchase/{customer_id}", "201"),
        ("GET", "/api/v1/customer/{customer_id}", "404"),
        ("GET", "unmatched", "404"),
    ):
        assert samples[counted, *sorted(labels)] == 1, reply.text
    assert samples["http_server_active_requests",] == 1
    assert samples["database_units_written_total",] >= 2
    assert samples["database_commits_total",] >= 2
    assert samples["database_size_bytes",] > 0 or not isinstance(engine, sqlite.Engine)
    assert samples["database_units_waiting", "write"] == 0


@one_engine
async def test_access_log(opened: Opener, capfd: pytest.CaptureFixture[str]) -> None:
    ask = await opened(access_log=True)
    secret = {"name": "marker", "address": "marker"}
    await ask("POST /api/v1/customer", secret, 201, X_Request_Id="a")
    await ask("GET /api/v1/customers?name=marker", X_Request_Id="b")
    await ask("GET /marker", None, 404, X_Request_Id="c", Authorization="Bearer marker")
    out = ""
    end = time.monotonic() + 10
    while out.count("\n") < 3 and time.monotonic() < end:
        await asyncio.sleep(0.05)
        out += capfd.readouterr().out
    assert "marker" not in out
    lines = [json.loads(line) for line in out.splitlines()]
    whole = {"time": Like(r"\d{4}-\d\d-\d\dT.*Z"), "caller": ""}
    expected = [
        ("a", "POST", "/api/v1/customer", 201),
        ("b", "GET", "/api/v1/customers", 200),
        ("c", "GET", "unmatched", 404),
    ]
    for line, values in zip(lines, expected, strict=True):
        assert 0 <= line.pop("duration") < 10
        names = ("id", "method", "route", "status")
        assert line == whole | dict(zip(names, values, strict=True))


async def test_stdout_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are dropped and counted; serving goes on."""
    monkeypatch.setattr(telemetry, "MAX_BATCHES", 1)
    log = telemetry.Telemetry("1", access_log=True)
    with (tmp_path / "read-only").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        os.close(out.fileno())
        log.start()
        for _ in range(3):
            log.note((0.0, "id", "GET", "/", 200, 0.1, ""))
            log.flush()
        log.close()
        monkeypatch.undo()
        with suppress(OSError):
            out.close()
    assert log.dropped == 3
    assert b"access_log_lines_dropped_total 3.0" in log.text()


def test_lines_of_workers_stay_whole() -> None:
    """One write takes whole lines, and no more than a pipe takes in one piece."""
    log = telemetry.Telemetry("1", access_log=True)
    requests = [(0.0, f"id-{n}", "GET", "/", 200, 0.1, "") for n in range(200)]
    lines = telemetry.access_lines(requests)
    assert log._part(lines) == lines
    log.worker = Worker(0, True, workers.Board(2), 0)
    written = b""
    while part := log._part(lines[len(written) :]):
        assert part.endswith(b"\n")
        assert len(part) <= select.PIPE_BUF
        written += part
    assert written == lines


@one_engine
async def test_measures_of_a_lost_file(ask: Ask, sqlite_path: Path) -> None:
    move_away(sqlite_path)
    reply = await ask("GET /metrics")
    assert "database_size_bytes" in reply.text


# The README


class Curl(argparse.ArgumentParser):
    """Reads the options of curl that the README uses."""

    def __init__(self) -> None:
        super().__init__(prog="curl", add_help=False)
        self.add_argument("-s", action="store_true")
        self.add_argument("-i", action="store_true")
        self.add_argument("-X", default=None)
        self.add_argument("-H", action="append", default=[])
        self.add_argument("-d", default=None)
        self.add_argument("url")


def readme_examples() -> list[tuple[str, str]]:
    """Return the curl lines of the README, each with the reply that it shows."""
    text = (PROJECT / "README.md").read_text("utf-8")
    examples = []
    for block in re.findall(r"(?ms)^```console\n(.*?)^```", text):
        for part in re.split(r"(?m)^\$ ", block.replace("\\\n", ""))[1:]:
            command, _, reply = part.partition("\n")
            if command.startswith("curl "):
                examples.append((command, reply))
    return examples


def send(port: int, command: str) -> str:
    """Do what a curl line does; return what it prints."""
    options = Curl().parse_args(shlex.split(command)[1:])
    url = URL(options.url if "://" in options.url else f"http://{options.url}")
    headers = dict(re.split(r":\s*", line, maxsplit=1) for line in options.H)
    if options.d is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    method = options.X or ("GET" if options.d is None else "POST")
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as peer:
        body = None if options.d is None else options.d.encode()
        peer.request(method, url.raw_path_qs, body, headers)
        reply = peer.getresponse()
        text = reply.read().decode()
    if options.i:
        lines = [f"HTTP/1.1 {reply.status} {reply.reason}"]
        lines += [f"{name}: {value}" for name, value in reply.getheaders()]
        text = "\n".join([*lines, "", text])
    return text


def masked(reply: str) -> list[str]:
    """Return the lines of a reply without what differs from run to run."""
    for pattern in (SHORT.shape, LONG.shape, r"(?m)^Date: .*$"):
        reply = re.sub(pattern, "<time>", reply)
    pattern = r'("request_id": ?"|X-Request-Id: )[\w.-]+'
    reply = re.sub(pattern, r"\1<id>", reply)
    return [line.rstrip() for line in reply.rstrip().splitlines()]


def test_readme(tmp_path: Path) -> None:
    """Its requests, in order, against an empty database, give its replies."""
    examples = readme_examples()
    assert len(examples) >= 5, "the README shows the five documented requests"
    with serving(tmp_path) as ours:
        for command, reply in examples:
            assert masked(send(ours.port, command)) == masked(reply), command


# The API against dictionaries


@contextmanager
def in_thread(url: str) -> Iterator[int]:
    """Serve a database from another thread; yield the port."""
    server.try_make_db(url)
    port, stop = free_port(), threading.Event()
    started = threading.Event()

    async def serve() -> None:
        app = server.init_app(Settings(database_url=url, access_log=False))
        runner = Runner(app, 100, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        started.set()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(20)
        yield port
    finally:
        stop.set()
        thread.join()


letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
names = st.text(letters | st.sampled_from("aAßsSéЯя%_ "), min_size=1, max_size=5)
names = names.filter(str.strip)
quantities = st.integers(1, 2**31 - 1)
keys = st.none() | st.sampled_from(["k", "l"])
tags = st.sampled_from([None, "current", "*", '"x"', 'W/"1"'])


class Shop(RuleBasedStateMachine):
    """Holds the API against dictionaries that do the same."""

    port: ClassVar[int]
    customers = Bundle("customers")
    purchases = Bundle("purchases")

    def __init__(self) -> None:
        super().__init__()
        self.peer = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        self.people: dict[int, dict[str, Any]] = {}
        self.bought: dict[int, dict[str, Any]] = {}
        self.tags: dict[str, str] = {}
        self.first: dict[tuple[str, str], tuple[int, object, str]] = {}

    def ask(
        self, line: str, status: int = 200, body: object = None, **headers: str | None
    ) -> Answer:
        """Send a request and judge its reply."""
        method, _, path = line.partition(" ")
        fields = {k.replace("_", "-"): v for k, v in headers.items() if v is not None}
        text = None
        if body is not None:
            fields["Content-Type"], text = "application/json", json.dumps(body)
        self.peer.request(method, path, text, fields)
        reply = self.peer.getresponse()
        found = CIMultiDict(reply.getheaders())
        return judge(Answer(line, reply.status, found, reply.read().decode()), status)

    def add(self, path: str, body: object, key: str | None, known: bool) -> Any:
        """Post once for each key; return what was added, None for nothing."""
        line = f"POST {path}"
        _, before, text = self.first.get((path, key or ""), (0, None, ""))
        if before is not None and before != body:
            self.ask(line, 422, body, Idempotency_Key=key)
            return None
        status = 201 if known or before is not None else 404
        reply = self.ask(line, status, body, Idempotency_Key=key)
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
    ) -> Answer | None:
        """Update with a precondition; return the reply when it was done."""
        current = self.tags.get(path, '"0"')
        match = current if tag == "current" else tag
        met = match in (None, "*", current)
        status = 404 if not known else 200 if met else 412
        reply = self.ask(line, status, body, If_Match=match)
        if status != 200:
            return None
        if "ETag" in reply.headers:
            assert reply.headers["ETag"] != current
            self.tags[path] = reply.headers["ETag"]
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

    @rule(target=purchases, owner=customers, name=names, quantity=quantities, key=keys)
    def add_purchase(
        self, owner: int, name: str, quantity: int, key: str | None
    ) -> Any:
        """Add a purchase."""
        body = {"purchase_name": name, "quantity": quantity}
        path = f"/api/v1/purchase/{owner}"
        added = self.add(path, body, key, owner in self.people)
        if added is None:
            return multiple()
        number = added["id"]
        times = {"purchased_on": SHORT, "customer_id": str(owner)}
        assert added == {"id": number, **body, **times}
        assert number > max(self.bought, default=0)
        times |= {"purchased_on": LONG, "last_updated_on": None}
        self.bought[number] = {"purchase_id": number, **body, **times}
        return number

    @rule(
        number=purchases,
        name=st.none() | names,
        quantity=quantities,
        method=st.sampled_from(["PATCH", "PUT", "DELETE"]),
        tag=tags,
    )
    def update_purchase(
        self, number: int, name: str | None, quantity: int, method: str, tag: str | None
    ) -> None:
        """Update a purchase in each of the ways."""
        body: dict[str, Any] = {"quantity": quantity}
        if name is not None or method != "PATCH":
            body["purchase_name"] = name or "x"
        row = self.bought.get(number, {"customer_id": "0"})
        path = f"/api/v1/customer/{row['customer_id']}/purchase/{number}"
        tag = None if method == "DELETE" else tag
        line = f"{method} /api/v1/purchase/{number}"
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
            self.first = {k: v for k, v in self.first.items() if v[0] != number}

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
        reply = self.ask(line, 200 if known else 404, body)
        if known:
            gone = len(self.drop(owner, numbers))
            assert reply.json == {"status": "ok", "deleted_count": gone}

    @rule(number=purchases)
    def read_purchase(self, number: int) -> None:
        """Read a purchase alone, with and without its tag."""
        row = self.bought.get(number)
        owner = row["customer_id"] if row else 1
        path = f"/api/v1/customer/{owner}/purchase/{number}"
        reply = self.ask(f"GET {path}", 200 if row else 404)
        if row:
            shown = {k: v for k, v in row.items() if "_id" not in k}
            assert reply.data == {"id": str(number), **shown}
            assert reply.headers["ETag"] == self.tags[path]
            self.ask(f"GET {path}", 304, If_None_Match=self.tags[path])

    @rule(number=customers)
    def read_customer(self, number: int) -> None:
        """Read a customer and its purchases."""
        path = f"/api/v1/customer/{number}"
        known = number in self.people
        reply = self.ask(f"GET {path}", 200 if known else 404)
        bought = self.ask(f"GET /api/v1/purchase/{number}", 200 if known else 404)
        if known:
            assert reply.data == self.people[number]
            assert reply.headers["ETag"] == self.tags[path]
            rows = self.bought.values()
            mine = [row for row in rows if row["customer_id"] == str(number)]
            assert bought.data == mine

    @rule(part=names)
    def find_customers(self, part: str) -> None:
        """Find customers by a part of their names."""
        folded = part.casefold()
        people = self.people.values()
        found = [person for person in people if folded in person["name"].casefold()]
        path = f"/api/v1/customers?name={quote(part, safe='')}"
        assert self.ask(f"GET {path}").data == found

    @rule(limit=st.integers(1, 4))
    def walk(self, limit: int) -> None:
        """Walk the pages of all purchases."""
        rows, path = [], f"/api/v1/customer?limit={limit}"
        while path:
            reply = self.ask(f"GET {path}")
            rows += reply.data
            path = reply.headers.get("Link", "<>").partition(">")[0].lstrip("<")
        assert rows == [*self.bought.values()]

    def teardown(self) -> None:
        """Compare everything, and leave an empty database."""
        assert self.ask("GET /api/v1/customer").data == [*self.bought.values()]
        assert self.ask("GET /api/v1/customers").data == [*self.people.values()]
        for number in self.people:
            self.ask(f"DELETE /api/v1/customer/{number}")
        self.peer.close()


def test_api_against_dictionaries(database_url: str) -> None:
    bounded = bounds(
        max_examples=40,
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    with in_thread(database_url) as Shop.port:
        run_state_machine_as_test(Shop, settings=bounded)
