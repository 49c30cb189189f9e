"""The section of the benchmark that measures the import of a file."""

import csv
import io
import sqlite3
import time
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

from bench.peers.programs import OURS
from bench.peers.targets import start
from bench.sections import Run
from checks.support.report import print_table
from checks.support.server_process import exchange, request_bytes

ROWS, CUSTOMERS = 100_000, 1000
"""How many purchases a file has, and whose."""
TYPE = ("Content-Type", "text/csv")
TABLE = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE purchases (
    id INTEGER PRIMARY KEY,
    purchase_name TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    customer_id INTEGER NOT NULL,
    date_created TEXT NOT NULL
);
CREATE INDEX purchases_customer_id ON purchases (customer_id);
"""
INSERT = """
INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
VALUES (:purchase_name, :quantity, :customer_id, :purchased_on)"""


def make_file() -> bytes:
    """Return a file of purchases as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("customer_id", "purchase_name", "quantity", "purchased_on"))
    writer.writerows(
        (number % CUSTOMERS + 1, f"Green tea, {number} g", 4, "2026-11-01T09:30:00Z")
        for number in range(ROWS)
    )
    return text.getvalue().encode()


def plain_import(path: Path, file: bytes) -> float:
    """Return the seconds of a loop over csv, which checks and records nothing."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(TABLE)
        began = time.monotonic()
        with database:
            database.executemany(INSERT, csv.DictReader(io.StringIO(file.decode())))
        return time.monotonic() - began


def imports(run: Run) -> None:
    """Measure how long an import takes, beside a plain loop over the file."""
    file, ours, plain, refused = make_file(), [], [], 0
    request = request_bytes("POST", "/api/v1/imports", file, [TYPE])
    with ExitStack() as stack:
        server = start(stack, run.pinned, OURS, [0] * CUSTOMERS)
        for number in range(max(run.rounds, 3)):
            reply = exchange(server.port, request, "POST", timeout=60)
            refused += reply.status != 201
            ours.append(reply.seconds)
            plain.append(plain_import(server.folder / f"plain-{number}", file))
    run.goal("import: answered otherwise than 201", 0, refused)
    ratio = median(one / two for one, two in zip(plain, ours, strict=True))
    run.others |= {"import: rows a second": ROWS / median(ours)}
    run.others |= {"import: speed / that of a plain loop": ratio}
    columns = ("rows", "import, s", "a plain loop, s", "import / it")
    times = (f"{median(ours):.2f}", f"{median(plain):.2f}", f"{ratio:.2f}")
    print_table(columns, [(f"{ROWS:,}", *times)])
    print()
