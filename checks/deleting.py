"""Delete all of a customer's many purchases, and undo that, while others add.

    python -m checks.deleting [--rows 100000]

On SQLite and on PostgreSQL: a customer with so many purchases is cleared, deleted and
brought back, each several times, and erased in the end. How long the answers take, and
how long the adds of others wait meanwhile, is held against the same for a customer
with ten purchases.
"""

import argparse
import http.client
import json
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

from checks.support.postgres_cluster import Cluster
from checks.support.report import print_table
from checks.support.server_process import Server, call, serving

BOUND, FACTOR = 0.2, 20.0
"""The most seconds that an answer, or an add beside it, may take; on a slow machine, so
many times what it takes with ten purchases."""
FEW, ROUNDS, ADDERS = 10, 3, 4
ADD = json.dumps({"purchase_name": "Iphone 12 Pro", "quantity": 4})
VALUES = "SELECT 'thing ' || value, 1, {0}, '2026-11-01 09:30:00.123456+00:00' FROM "
FILL = "INSERT INTO purchases (purchase_name, quantity, customer_id, date_created) "
NUMBERS = """
WITH RECURSIVE numbers (value) AS (
    SELECT 1 UNION ALL SELECT value + 1 FROM numbers WHERE value < {1}
) """
Fill = Callable[[int, int], object]
"""Give a customer so many purchases."""


class Adders:
    """Clients that add purchases of another customer, and how long each add took."""

    def __init__(self, server: Server, customer: int) -> None:
        self.server = server
        self.path = f"/api/v1/purchase/{customer}"
        self.took: list[float] = []
        self.refused = 0
        self.stopped = False
        self.threads = [threading.Thread(target=self.add) for _ in range(ADDERS)]

    def add(self) -> None:
        """Add purchases until told to stop."""
        peer = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        headers = {"Content-Type": "application/json"}
        while not self.stopped:
            began = time.monotonic()
            peer.request("POST", self.path, ADD, headers)
            reply = peer.getresponse()
            reply.read()
            self.refused += reply.status != 201
            self.took.append(time.monotonic() - began)
            time.sleep(0.002)
        peer.close()

    def __enter__(self) -> "Adders":
        """Begin."""
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.stopped = True
        for thread in self.threads:
            thread.join()


class Trial:
    """What was seen of one engine and one number of purchases."""

    def __init__(self, server: Server, adders: Adders) -> None:
        self.server = server
        self.adders = adders
        self.seconds: list[float] = []
        self.waited: list[float] = []
        self.wrong: list[str] = []

    def send(self, line: str, status: int, rows: int | None = None) -> str:
        """Send a write, wait a moment, and return the number of its change."""
        self.adders.took.clear()
        began = time.monotonic()
        reply = call(self.server, *line.split())
        self.seconds.append(time.monotonic() - began)
        time.sleep(0.2)
        self.waited.append(max(self.adders.took, default=0.0))
        count = reply.json()
        deleted = count.get("deleted_count") if isinstance(count, dict) else None
        if reply.status != status or (rows is not None and deleted != rows):
            self.wrong.append(f"{line}: {reply.status} {reply.body[:200]!r}")
        return reply.headers.get("Change", "")

    def run(self, customer: int, rows: int) -> None:
        """Delete and undo, and look whether all is gone and all is back."""
        listed = f"/api/v1/purchase/{customer}?limit=1"
        for _ in range(ROUNDS):
            for line in (
                f"DELETE /api/v1/purchase/{customer}?delete_all=true",
                f"DELETE /api/v1/customer/{customer}",
            ):
                change = self.send(line, 200, rows)
                for turn in range(3):
                    gone = call(self.server, "GET", listed)
                    there = b'"purchase_id"' in gone.body
                    if there is (turn % 2 == 0):
                        self.wrong.append(f"{line}, undone {turn} times: {gone.body!r}")
                    change = self.send(f"POST /api/v1/changes/{change}/undo", 201)
        if self.adders.refused:
            self.wrong.append(f"{self.adders.refused} adds of others were refused")


def try_engine(server: Server, fill: Fill, rows: int) -> tuple[list[object], list[str]]:
    """Return a line of figures, and what was wrong."""
    for _ in range(3):
        person = {"name": "John Doe", "address": ""}
        call(server, "POST", "/api/v1/customer", person)
    fill(1, FEW)
    fill(2, rows)
    with Adders(server, 3) as adders:
        few, many = Trial(server, adders), Trial(server, adders)
        few.run(1, FEW)
        many.run(2, rows)
        adders.took.clear()
        began = time.monotonic()
        call(server, "DELETE", "/api/v1/customer/2?purge=true")
        erased, waited = time.monotonic() - began, max(adders.took)
    wrong = few.wrong + many.wrong
    for what, seen, bound in (
        ("an answer took", many.seconds, FACTOR * median(few.seconds)),
        ("an add of others took", many.waited, FACTOR * median(few.waited)),
        ("an add beside the erasure took", [waited], FACTOR * median(few.waited)),
    ):
        if max(seen) > max(bound, BOUND):
            wrong.append(f"{what} {max(seen):.3f} s")
    figures = (max(many.seconds), median(many.seconds), median(few.seconds))
    waits = (max(many.waited), max(few.waited), waited)
    shown = [f"{1000 * figure:.0f}" for figure in (*figures, *waits)]
    return [*shown, f"{erased:.1f}"], wrong


@contextmanager
def on_sqlite(folder: Path) -> Iterator[tuple[Server, Fill]]:
    """Serve a SQLite file."""

    def fill(customer: int, rows: int) -> None:
        with closing(sqlite3.connect(folder / "db.sqlite3")) as file, file:
            sql = (NUMBERS + FILL + VALUES + "numbers").format(customer, rows)
            file.execute(sql)

    with serving(folder) as server:
        yield server, fill


@contextmanager
def on_postgresql(folder: Path) -> Iterator[tuple[Server, Fill]]:
    """Serve a PostgreSQL database that waits for its disk."""
    data, work = folder / "data", folder / "work"
    data.mkdir()
    work.mkdir()
    cluster = Cluster(data)
    cluster.create()
    try:
        cluster.start()
        url = cluster.new_schema()
        schema = url.rpartition("=")[2]

        def fill(customer: int, rows: int) -> None:
            values = VALUES.replace("FROM", "::timestamptz FROM").format(customer)
            numbers = f"generate_series(1, {rows}) AS numbers (value)"
            table = FILL.replace("INTO ", f"INTO {schema}.")
            cluster.sql(f"{table}{values}{numbers}; ANALYZE {schema}.purchases")

        with serving(work, {"DATABASE_URL": url}) as server:
            yield server, fill
    finally:
        cluster.kill()


def main() -> int:
    """Run the check; 1 on a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    table, wrong = [], []
    for name, opened in (("SQLite", on_sqlite), ("PostgreSQL", on_postgresql)):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
            folder = Path(place)
            folder.chmod(0o711)  # PostgreSQL may run as another user
            with opened(folder) as (server, fill):
                figures, faults = try_engine(server, fill, rows)
        table.append((name, *figures))
        wrong += [f"{name}: {fault}" for fault in faults]
    columns = ("answer at most, ms", "median", f"with {FEW}", "adds of others at most")
    more = (f"beside {FEW}", "beside the erasure", "erased after, s")
    print_table((f"{rows:,} purchases", *columns, *more), table)
    for fault in wrong:
        print(f"\nfault: {fault}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
