"""Databases that files are imported into, the files, and what can be seen of both."""

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from checks.support.postgres_cluster import Cluster
from checks.support.server_process import (
    Reply,
    Server,
    call,
    exchange,
    request_bytes,
    serving,
)

CHANCE = random.Random()  # noqa: S311 - test data, no secret
CSV, JSONL = "text/csv", "application/jsonl"
ANSWER_SECONDS = 120.0
START = datetime(2023, 1, 1, tzinfo=UTC)
SPAN = timedelta(days=3 * 365)
"""When the purchases of a file were: within so long from the start."""
COUNT_CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""


@dataclass
class Engine:
    """A database engine: SQLite, or the PostgreSQL of a cluster."""

    name: str
    folder: Path
    cluster: Cluster | None = None

    def settings(self) -> tuple[Path, dict[str, str]]:
        """Return the folder and the environment of a server on an empty database."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        if self.cluster is None:
            return folder, {}
        return folder, {"DATABASE_URL": self.cluster.new_schema()}

    @contextmanager
    def serving(self) -> Iterator[Server]:
        """Run a server on an empty database for the length of a with block."""
        with serving(*self.settings()) as server:
            yield server

    def settle(self) -> None:
        """Wait until nobody works for a server that was killed. TimeoutError."""
        end = time.monotonic() + ANSWER_SECONDS
        while self.cluster is not None:
            if not int(self.cluster.sql(COUNT_CONNECTIONS)):
                return
            if time.monotonic() > end:
                raise TimeoutError("a connection of the killed server is still open")
            time.sleep(0.02)


@contextmanager
def engines() -> Iterator[list[Engine]]:
    """Have both engines, each waiting for its disk, for the length of a with block."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        folder = Path(place)
        folder.chmod(0o711)  # PostgreSQL may run as another user
        (folder / "data").mkdir()
        cluster = Cluster(folder / "data")
        cluster.create()
        try:
            cluster.start()
            yield [Engine("SQLite", folder), Engine("PostgreSQL", folder, cluster)]
        finally:
            cluster.kill()


# Files


def customers_file(names: Sequence[str]) -> bytes:
    """Return customers in CSV."""
    lines = (f"{name},1 Main Street\r\n" for name in names)
    return ("customer_name,customer_address\r\n" + "".join(lines)).encode()


def purchases_file(columns: str, owners: Sequence[str], rows: int) -> bytes:
    """Return purchases in CSV: the columns that name the customer, and its cells."""
    lines = [f"{columns},purchase_name,quantity,purchased_on\r\n"]
    for place in range(rows):
        owner = owners[place % len(owners)]
        at = START + CHANCE.random() * SPAN
        thing = f"thing {CHANCE.randrange(500)},{CHANCE.randrange(1, 100)}"
        lines.append(f"{owner},{thing},{at:%Y-%m-%dT%H:%M:%SZ}\r\n")
    return "".join(lines).encode()


def by_id(first: int, customers: int, rows: int) -> bytes:
    """Return purchases of customers with ids from the first on."""
    owners = [str(number) for number in range(first, first + customers)]
    return purchases_file("customer_id", owners, rows)


def by_pair(label: str, customers: int, rows: int) -> bytes:
    """Return purchases of customers by name and address."""
    owners = [f"{label} {number},{number} Main Street" for number in range(customers)]
    return purchases_file("customer_name,customer_address", owners, rows)


# Requests


def upload(
    server: Server, content: bytes, media_type: str = CSV, key: str = ""
) -> Reply:
    """Import a file, under an idempotency key if there is one. OSError."""
    headers = [("Content-Type", media_type), ("Idempotency-Key", key)]
    request = request_bytes("POST", "/api/v1/imports", content, headers)
    return exchange(server.port, request, "POST", timeout=ANSWER_SECONDS)


def imported(reply: Reply) -> tuple[int, int] | None:
    """Return how many customers and purchases an import added, None if it did not."""
    found = reply.json()
    if reply.status != 201 or not isinstance(found, dict):
        return None
    return found["data"]["customers"], found["data"]["purchases"]


def read(server: Server, path: str) -> Reply:
    """Return what a GET gives, and all of it. RuntimeError otherwise."""
    request = request_bytes("GET", path, None, [("Accept", f"{JSONL}, */*;q=0.5")])
    reply = exchange(server.port, request, timeout=ANSWER_SECONDS)
    if reply.status != 200 or not reply.whole:
        raise RuntimeError(f"GET {path}: {reply.status} {reply.body[-500:]!r}")
    return reply


def count(server: Server, of: str, filters: str = "") -> int:
    """Return the exact number of rows of a list, as a preference asks for it."""
    path = f"/api/v1/{of}.jsonl?limit=1{filters}"
    request = request_bytes("GET", path, None, [("Prefer", "count=exact")])
    reply = exchange(server.port, request, timeout=ANSWER_SECONDS)
    if reply.headers.get("Preference-Applied") != "count=exact":
        raise RuntimeError(f"no count of {path}: {reply.status}")
    return int(reply.headers["Total-Count"])


class Seen(NamedTuple):
    """How much there is in a database, and where its feed ends."""

    customers: int
    purchases: int
    cursor: str


def look(server: Server) -> Seen:
    """Return how much there is."""
    last: Any = call(server, "GET", "/api/v1/changes?order=desc&limit=1").json()
    cursor = last["data"][0]["cursor"] if last["data"] else "0"
    return Seen(count(server, "customers"), count(server, "purchases"), cursor)
