"""Measure how many bytes an idempotency key takes in a SQLite file.

    python -m checks.keys [--rows 100000]

Keys are stored by the queries that store them for a request. The bytes are the pages
that are free once all keys are deleted: those of the rows and of all their indexes.
"""

import argparse
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import db
from api import replies
from checks.support.report import print_table
from storage import sqlite_file
from storage.batch_queue import run_unit
from storage.sqlite_connection import driver

TYPICAL_BYTES = 600
"""What a key of a purchase may take: a UUID, a token's name, and the reply."""
LONGEST_BYTES = 6000
"""What any key may take: all that a client chooses is as long as it may be."""

BY = ("shop-till", db.now())
Add = Callable[[Any, int], None]
"""Store a key, of a number that no other has, on a connection."""


def _key(number: int, caller: str, path: str, key: str) -> db.IdempotencyKey:
    fingerprint = sha256(str(number).encode()).hexdigest()
    return db.IdempotencyKey(caller, "POST", path, key, fingerprint)


def add_typical(raw: Any, number: int) -> None:
    """Store the key of a purchase, as shops send them."""
    key = str(uuid.uuid5(uuid.NAMESPACE_URL, str(number)))
    run_unit(
        raw,
        db.run_idempotent(
            _key(number, "shop-till", "/api/v1/purchase/1", key),
            replies.added_response,
            db.add_purchase,
            *(1, "Iphone 12 Pro", 4, None, *BY),
        ),
    )


def add_longest(raw: Any, number: int) -> None:
    """Store the longest key of the longest customer, each character escaped in JSON."""
    name, address = "\1" * 200, "\1" * 500
    run_unit(
        raw,
        db.run_idempotent(
            _key(number, "n" * 64, "/api/v1/customer", f"{number:0>255}"),
            replies.created_response,
            db.add_customer,
            *(name, address, *BY),
        ),
    )


def bytes_of_a_key(folder: Path, add: Add, rows: int) -> int:
    """Return how many bytes of a database file a key takes."""
    path = folder / add.__name__
    sqlite_file.create_or_migrate(path)
    with closing(driver.connect(path, isolation_level=None)) as raw:
        raw.execute("BEGIN")
        run_unit(raw, db.add_customer("John Doe", "", *BY))
        for number in range(rows):
            add(raw, number)
        raw.execute("COMMIT")
        raw.execute("DELETE FROM idempotency")
        free: int = raw.execute("PRAGMA freelist_count").fetchone()[0]
        page: int = raw.execute("PRAGMA page_size").fetchone()[0]
    return round(free * page / rows)


def main() -> None:
    """Print both sizes; exit 1 where one is more than it may be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        typical = bytes_of_a_key(Path(folder), add_typical, rows)
        longest = bytes_of_a_key(Path(folder), add_longest, rows // 20)
    print_table(
        ("key", "bytes", "at most"),
        [
            ("of a purchase", typical, TYPICAL_BYTES),
            ("the longest", longest, LONGEST_BYTES),
        ],
    )
    sys.exit(typical > TYPICAL_BYTES or longest > LONGEST_BYTES)


if __name__ == "__main__":
    main()
