"""Copy a SQLite database into PostgreSQL and hold the answers of both together.

    python -m checks.copying [--rows 20000] [--samples 400] [--seed 1]

A SQLite database is filled, `python server.py copy` copies it into a new PostgreSQL
one, and a server on each is asked the same things: what they answer must be the same,
byte for byte. Then both go on: replies to old idempotency keys, the next ids. Copies
that are refused or killed must leave nothing behind.
"""

import argparse
import hashlib
import http.client
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote

from checks.support.postgres_cluster import NO_FSYNC, Cluster, cluster
from checks.support.report import Figures
from checks.support.server_process import PROJECT, Server, serving
from storage.schema import fold_name

CHANCE = random.Random()  # noqa: S311 - a sample, no secret
EACH = 20
"""Purchases of a customer, on the average."""
TEXTS = (
    *("phone", "=1+1", 'a "quoted", thing', "naïve ẞ ß İ", "日本語", "😀\u202e"),
    *("%", "_", "\\", "'); DROP TABLE customer;--", "a\r\nb\tc", "\u0001\u007f"),
)
START = datetime(2022, 4, 9, 12, 43, 17, tzinfo=UTC)
COMPARED = ("ETag", "Link", "Location", "Content-Type", "Idempotency-Replayed")
FORMATS = ("application/json", "application/jsonl", "text/csv")
KEYS = 20
"""Purchases that are added under an idempotency key before the copy."""
COPY_SECONDS = 600.0

INSERT_CUSTOMER = """
INSERT INTO customer (id, name, address, date_created, version, name_folded)
VALUES (?, ?, ?, ?, ?, ?)"""
INSERT_PURCHASE = """
INSERT INTO purchases (id, purchase_name, quantity, customer_id, date_created,
    last_updated, version)
VALUES (?, ?, ?, ?, ?, ?, ?)"""


class Question(NamedTuple):
    """A request that both servers get."""

    kind: str
    method: str
    path: str
    headers: Mapping[str, str] = MappingProxyType({})
    body: str | None = None


class Answer(NamedTuple):
    """What is compared of a reply: a digest stands for the body, and its beginning."""

    status: int
    headers: tuple[str | None, ...]
    digest: str
    beginning: bytes


# The source


def time_of(number: int) -> str:
    """Return a time as the server stores it; every fifth without microseconds."""
    micro = 0 if number % 5 == 0 else number * 7919 % 1_000_000
    time = START + timedelta(seconds=number * 37, microseconds=micro)
    return time.isoformat(" ", "microseconds")


def customers(count: int) -> Iterator[tuple[object, ...]]:
    """Yield customers."""
    for number in range(1, count + 1):
        name = f"{TEXTS[number % len(TEXTS)]} {number}"
        address = None if number % 97 == 0 else TEXTS[number % 7] * (number % 9)
        version = 1 + number % 3
        yield number, name, address, time_of(number), version, fold_name(name)


def purchases(count: int, owners: int) -> Iterator[tuple[object, ...]]:
    """Yield purchases; as in the described server's files, some of nobody."""
    for number in range(1, count + 1):
        owner = owners + 100 if number % 4999 == 0 else CHANCE.randint(1, owners)
        updated = time_of(number + 1) if number % 3 == 0 else None
        name, version = f"{TEXTS[number % len(TEXTS)]} {number}", 1 + number % 4
        quantity = number * 104_729 % 2_147_483_647
        yield number, name, quantity, owner, time_of(number), updated, version


def fill(server: Server, rows: int) -> None:
    """Make the source: its tables by the server, most rows in SQL, the rest by HTTP.

    Rows with the last ids are gone again: those ids must never come back.
    """
    server.start()
    server.stop()
    owners = max(rows // EACH, 20)
    database = server.folder / "db.sqlite3"
    with closing(sqlite3.connect(database)) as file, file:
        file.executemany(INSERT_CUSTOMER, customers(owners + 3))
        file.executemany(INSERT_PURCHASE, purchases(rows, owners))
    server.start()
    try:
        for question in keyed(owners):
            assert ask(server, question).status == 201
    finally:
        server.stop()
    with closing(sqlite3.connect(database)) as file, file:
        file.execute("DELETE FROM purchases WHERE id > ?", (rows + KEYS - 3,))
        file.execute("DELETE FROM customer WHERE id > ?", (owners,))


def keyed(owners: int) -> list[Question]:
    """Return additions that carry an idempotency key."""
    body = json.dumps({"purchase_name": "kept", "quantity": 1})
    headers = {"Content-Type": "application/json"}
    return [
        Question(
            "reply to an old key",
            "POST",
            f"/api/v1/purchase/{number % owners + 1}",
            {**headers, "Idempotency-Key": f"key-{number}"},
            body,
        )
        for number in range(KEYS)
    ]


# Copying


def copy(source: str, destination: str) -> subprocess.Popen[str]:
    """Start `python server.py copy`."""
    command = [sys.executable, str(PROJECT / "server.py"), "copy", source, destination]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit status and what was written to stderr."""
    _, errors = process.communicate(timeout=COPY_SECONDS)
    return process.returncode, errors


def new_database(postgres: Cluster, name: str) -> str:
    """Return the URL of a new, empty database."""
    postgres.sql(f"CREATE DATABASE {name}")
    return f"{postgres.url.rpartition('/')[0]}/{name}"


def row_counts(postgres: Cluster, database: str) -> str:
    """Return how many rows the three tables hold, "none" without the tables."""

    def query(text: str) -> str:
        place = ("--host=127.0.0.1", f"--port={postgres.port}", "--username=postgres")
        options = ("--tuples-only", "--no-align", f"--dbname={database}", "--command")
        return postgres.run("psql", *place, *options, text).strip()

    if not query(r"\dt"):
        return "none"
    return query(
        "SELECT (SELECT count(*) FROM customer), (SELECT count(*) FROM purchases),"
        " (SELECT count(*) FROM idempotency)"
    )


def try_refused(source: Path, copied: str, postgres: Cluster, figures: Figures) -> None:
    """Try copies that must not be made."""
    before = row_counts(postgres, "copied")
    damaged = source.with_name("damaged.sqlite3")
    with closing(sqlite3.connect(source)) as file:
        file.execute("VACUUM INTO ?", (str(damaged),))
    with closing(sqlite3.connect(damaged)) as file, file:
        file.execute("UPDATE purchases SET date_created = 'x' WHERE id = 100")
    empty = new_database(postgres, "refused")
    for what, of, into in (
        ("into one that is not empty", source, copied),
        ("of a file that is not there", source.with_name("no"), empty),
        ("of a file with a time that is none", damaged, empty),
        ("into what is no PostgreSQL", source, "sqlite:///other.sqlite3"),
        ("into a server that is not there", source, "postgresql://127.0.0.1:1/x"),
    ):
        status, errors = outcome(copy(f"sqlite:///{of}", into))
        lines = errors.splitlines()
        clear = [line.startswith("server.py: ") for line in lines[-1:]] == [True]
        said = "one line" if clear and "Traceback" not in errors else lines[-3:]
        figures.judge_same(f"copy {what}", (1, "one line"), (status, said))
    figures.judge_same("rows after those", "none", row_counts(postgres, "refused"))
    same = row_counts(postgres, "copied")
    figures.judge_same("rows where it was not empty", before, same)


def try_killed(source: Path, postgres: Cluster, figures: Figures) -> None:
    """Kill a copy while rows are on their way."""
    status, name = 0, ""
    for attempt in range(10):  # it may be done before the kill comes
        name = f"killed{attempt}"
        process = copy(f"sqlite:///{source}", new_database(postgres, name))
        while process.poll() is None:
            if postgres.sql("SELECT pid FROM pg_stat_progress_copy").strip():
                process.kill()
                break
        status, _ = outcome(process)
        if status:
            break
    figures.judge_same("copy that is killed", -signal.SIGKILL, status)
    figures.judge_same("rows after it", "none", row_counts(postgres, name))


# Comparing


def ask(server: Server, question: Question) -> Answer:
    """Send a request and return what is compared of the reply."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    try:
        connection.request(
            question.method,
            question.path,
            question.body,
            {**question.headers, "X-Request-Id": "the-same"},
        )
        reply = connection.getresponse()
        digest, beginning = hashlib.sha256(), b""
        while piece := reply.read(1 << 16):
            digest.update(piece)
            beginning = beginning or piece[:300]
        headers = tuple(reply.headers.get(name) for name in COMPARED)
        return Answer(reply.status, headers, digest.hexdigest(), beginning)
    finally:
        connection.close()


def questions(rows: int, samples: int) -> Iterator[Question]:
    """Yield questions of every kind."""
    owners = max(rows // EACH, 20)
    one_customer, one_purchase = (
        "/api/v1/customer/{}",
        "/api/v1/customer/{}/purchase/{}",
    )
    for _ in range(samples):
        owner, purchase = CHANCE.randint(1, owners + 2), CHANCE.randint(1, rows + 30)
        accept = {"Accept": CHANCE.choice(FORMATS)}
        page = f"limit={CHANCE.randint(1, 1000)}&after={purchase}"
        tag = {"If-None-Match": f'"{CHANCE.randint(1, 4)}"'}
        name = quote(CHANCE.choice(TEXTS))
        yield Question("customer", "GET", one_customer.format(owner))
        yield Question("customer, by its tag", "GET", one_customer.format(owner), tag)
        yield Question("customer's list", "GET", f"/api/v1/purchase/{owner}", accept)
        yield Question("page of the list", "GET", f"/api/v1/customer?{page}", accept)
        yield Question("purchase", "GET", one_purchase.format(owner, purchase))
        after = f"limit=50&after={owner}"
        yield Question(
            "customers by name", "GET", f"/api/v1/customers?name={name}&{after}", accept
        )
    for form in FORMATS:
        accept = {"Accept": form}
        yield Question("whole list of purchases", "GET", "/api/v1/customer", accept)
        yield Question("whole list of customers", "GET", "/api/v1/customers", accept)


def owned(source: Path, samples: int) -> list[Question]:
    """Return questions for purchases that are there, by their owners."""
    select = "SELECT customer_id, id FROM purchases WHERE id % ? = 0 LIMIT ?"
    with closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as file:
        (most,) = file.execute("SELECT max(id) FROM purchases").fetchone()
        rows = file.execute(select, (max(most // samples, 1), samples)).fetchall()
    path = "/api/v1/customer/{}/purchase/{}"
    return [Question("purchase", "GET", path.format(*row)) for row in rows]


def compare(
    one: Server, two: Server, asked: Iterator[Question], figures: Figures
) -> None:
    """Ask both servers the same things."""
    same: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    statuses: dict[str, Counter[int]] = {}
    for question in asked:
        left, right = ask(one, question), ask(two, question)
        tried[question.kind] += 1
        statuses.setdefault(question.kind, Counter())[left.status] += 1
        same[question.kind] += left == right
        if left != right:
            figures.breaches.append(f"{question}: {left}, but copied {right}")
    for kind, number in tried.items():
        by_status = ", ".join(f"{n} of {s}" for s, n in sorted(statuses[kind].items()))
        figures.judge_same(
            f"{kind}: {by_status}", f"{number} same", f"{same[kind]} same"
        )


def additions(owners: int) -> Iterator[Question]:
    """Yield what adds rows: times differ then, so only Location is held together."""
    headers = {"Content-Type": "application/json"}
    customer = json.dumps({"name": "next", "address": ""})
    purchase = json.dumps({"purchase_name": "next", "quantity": 1})
    yield Question("next customer", "POST", "/api/v1/customer", headers, customer)
    path = f"/api/v1/purchase/{owners}"
    yield Question("next purchase", "POST", path, headers, purchase)


def go_on(one: Server, two: Server, rows: int, figures: Figures) -> None:
    """Add a row on both sides: its id must be the same, and new."""
    location = COMPARED.index("Location")
    for question in additions(max(rows // EACH, 20)):
        left, right = (ask(server, question) for server in (one, two))
        figures.judge_same(
            f"Location of the {question.kind}",
            (201, left.headers[location]),
            (right.status, right.headers[location]),
        )


# All of it


def timed(work: Callable[[], tuple[int, str]]) -> tuple[float, tuple[int, str]]:
    """Return the seconds that a copy took, and its outcome."""
    began = time.monotonic()
    result = work()
    return time.monotonic() - began, result


def run(folder: Path, postgres: Cluster, rows: int, samples: int) -> Figures:
    """Fill, copy and compare."""
    figures = Figures()
    source = Server(folder)
    fill(source, rows)
    file = folder / "db.sqlite3"
    url = new_database(postgres, "copied")
    seconds, (status, errors) = timed(lambda: outcome(copy(f"sqlite:///{file}", url)))
    figures.judge_same(f"copy of {rows:,} purchases, {seconds:.1f} s", 0, status)
    if status:
        figures.breaches.append(errors[-1000:])
        return figures
    other = folder / "copied"
    other.mkdir()
    env = {"DATABASE_URL": url, "ACCESS_LOG": "0"}
    source.env["ACCESS_LOG"] = "0"
    try:
        source.start()
        with serving(other, env) as copied:
            compare(source, copied, questions(rows, samples), figures)
            compare(source, copied, iter(owned(file, samples)), figures)
            compare(source, copied, iter(keyed(max(rows // EACH, 20))), figures)
            go_on(source, copied, rows, figures)
    finally:
        source.stop()
    try_refused(file, url, postgres, figures)
    try_killed(file, postgres, figures)
    return figures


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    CHANCE.seed(options.seed)
    with tempfile.TemporaryDirectory() as folder, cluster(NO_FSYNC) as postgres:
        figures = run(Path(folder), postgres, options.rows, options.samples)
    return figures.finish("what was tried")


if __name__ == "__main__":
    sys.exit(main())
