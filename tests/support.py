"""The client of the tests, their sample data, and what several of them use."""

import asyncio
import gc
import json
import os
import re
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp.test_utils import TestClient, TestServer
from multidict import CIMultiDict
from yarl import URL

import db
from api.connections import Runner
from checks.support.server_process import exchange, request_bytes
from storage import sqlite_connection
from storage.engine import Statement
from storage.sqlite_connection import driver

PROJECT = Path(__file__).resolve().parents[1]


ENGINES = ("sqlite", "postgresql")


POSTGRES, POSTGRES_POOL = "storage.postgres_engine", "storage.postgres_pool"


one_engine = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Marks a test that needs no second engine."""


several_processes = pytest.mark.skipif(
    not sqlite_connection.WAL_RESET_FIXED,
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
    409: "Conflict",
    410: "Gone",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}
"""The titles of RFC 9110 and RFC 4918."""


class ClientReply(NamedTuple):
    """A reply, with the line of its request."""

    request: str
    status: int
    headers: CIMultiDict[str]
    text: str

    def __str__(self) -> str:
        """Return all of it as text."""
        head = "".join(f"{name}: {text}\n" for name, text in self.headers.items())
        return f"{self.request}\n{self.status}\n{head}\n{self.text}"

    @property
    def json(self) -> Any:
        """Return the decoded body."""
        return json.loads(self.text)

    @property
    def data(self) -> Any:
        """Return the data of a success."""
        assert self.json == {"status": "ok", "data": self.json.get("data")}, str(self)
        return self.json["data"]

    @property
    def pointers(self) -> list[str]:
        """Return the places that a 422 names."""
        return sorted(error["pointer"] for error in self.json["errors"])


def check_reply(reply: ClientReply, status: int) -> ClientReply:
    """Return a reply after checking its status, and what every such reply has."""
    headers = reply.headers
    assert reply.status == status, str(reply)
    assert headers.get("X-Request-Id") == REQUEST_ID, str(reply)
    assert headers.get("X-Content-Type-Options") == "nosniff", str(reply)
    wanted = {401: "WWW-Authenticate", 405: "Allow", 503: "Retry-After"}
    assert status not in wanted or headers.get(wanted[status]), str(reply)
    if status >= 400 and not reply.request.startswith("HEAD"):
        assert headers["Content-Type"] == "application/problem+json", str(reply)
        problem = {
            "type": "about:blank",
            "title": TITLES[status],
            "status": status,
            "detail": Like(r"[ -~]{5,200}"),
            "request_id": headers["X-Request-Id"],
        }
        if status == 422 or (status == 409 and "errors" in reply.json):
            error = {"pointer": Like("(/.*)?"), "detail": Like(".+")}
            problem["errors"] = [error] * max(len(reply.json.get("errors", "")), 1)
        found = reply.json
        for one in found.get("errors", []):  # of a file, the line too
            assert one.pop("line", 1) > 0, str(reply)
        assert found == problem, str(reply)
    return reply


class ApiClient:
    """Sends requests to one server, and checks its replies."""

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
    ) -> ClientReply:
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
            found = ClientReply(line, reply.status, CIMultiDict(reply.headers), text)
        return check_reply(found, status)

    async def raw(
        self,
        request: bytes | list[bytes],
        status: int,
        hang_up: bool = False,
        pause: float = 0.0,
    ) -> ClientReply:
        """Send bytes on a connection of their own, piece by piece."""
        pieces = [request] if isinstance(request, bytes) else request

        def slowly() -> Iterator[bytes]:
            for piece in pieces:
                yield piece
                time.sleep(pause)

        reply = await asyncio.to_thread(exchange, self.port, slowly(), hang_up=hang_up)
        headers = CIMultiDict(reply.headers.items())
        line = pieces[0][:200].decode("latin-1")
        return check_reply(
            ClientReply(line, reply.status, headers, reply.body.decode()), status
        )


class LimitedServer(TestServer):
    """Serves as `python server.py` does, with its limits on connections."""

    max_connections = 1000

    async def _make_runner(self, **_: Any) -> Runner:
        return Runner(self.app, self.max_connections, shutdown_timeout=0.5)


Opener = Callable[..., Awaitable[ApiClient]]


Main = Callable[..., tuple[int | str | None, str, str]]


def add_many(customer: int, number: int) -> db.Unit[None]:
    """Add purchases in one unit of work."""
    at = db.now()
    for turn in range(number):
        yield db.INSERT_PURCHASE, (f"thing {turn}", 1, at, customer, at, "")


def author(caller: str = "") -> db.Author:
    """Return somebody who writes now."""
    return db.Author(caller, db.now(), keeps_images=True)


def by(caller: str = "") -> tuple[str, str]:
    """Return who adds something now, and when."""
    return caller, db.now()


def count(table: str) -> db.Unit[int]:
    """Return how many rows a table has."""
    rows = yield Statement(f"SELECT count(*) FROM {table}"), ()
    number: int = rows[0][0]
    return number


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Return whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def count_connections(api: ApiClient) -> int:
    """Return how many connections the server under test has open."""
    runner = api.client.server.runner
    assert runner is not None
    assert runner.server is not None
    return len(runner.server.connections)


async def list_ids(api: ApiClient) -> list[int]:
    """Return the ids of all purchases."""
    listed = await api("GET /api/v1/customer")
    return [row["purchase_id"] for row in listed.data]


async def list_names(api: ApiClient) -> list[str]:
    """Return the names of all customers."""
    return [row["name"] for row in (await api("GET /api/v1/customers")).data]


NAME, QUANTITY, ALL, IDS = "/purchase_name", "/quantity", "/delete_all", "/purchase_ids"


HOST = b"Host: 127.0.0.1\r\n"


CSV, JSONL, JSON = "text/csv", "application/jsonl", "application/json"


COLUMNS = [
    *("purchase_id", "purchase_name", "quantity", "purchased_on", "last_updated_on"),
    "customer_id",
]


async def walk(
    api: ApiClient, path: str, between: Callable[[], Awaitable[None]] | None = None
) -> list[int]:
    """Return the ids on all the pages of a list, doing something between them."""
    ids: list[int] = []
    while path:
        reply = await api(f"GET {path}")
        ids += [row.get("purchase_id") or row["id"] for row in reply.data]
        link = re.fullmatch(r'<(.*)>; rel="next"', reply.headers.get("Link", "<>"))
        path = link[1] if link else ""
        if between is not None:
            await between()
    return ids


def digest(token: str) -> str:
    """Return what stands in the token file for a token."""
    return sha256(token.encode()).hexdigest()


GUARDED = [
    ("PATCH", "/api/v1/customer/1", {"name": "x"}),
    ("PATCH", "/api/v1/purchase/1", {"quantity": 9}),
    ("PUT", "/api/v1/purchase/1", {**PHONE, "quantity": 9}),
    ("PATCH", "/api/v1/customer/1/purchase/1", {"quantity": 9}),
    ("DELETE", "/api/v1/customer/1", None),
]


SETTINGS = {
    *("HOST", "PORT", "DATABASE_URL", "READ_DATABASE_URL", "WORKERS"),
    "API_TOKENS_FILE",
    *("ALLOW_ANONYMOUS", "CORS_ORIGINS", "LOG_LEVEL", "ACCESS_LOG"),
    *("ALLOWED_HOSTS", "LOG_FORMAT", "HISTORY_DAYS"),
}


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


def post(path: str, body: object) -> bytes:
    """Return a POST as bytes."""
    return request_bytes("POST", path, json.dumps(body).encode())


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
