"""Measure how many bytes an idempotency key takes in a SQLite file.

    python -m checks.keys [--rows 100000]

Keys are stored by the queries that store them for a request, on several days one after
the other, each minute as many as are forgotten in it. The bytes are the pages that are
free once all keys are deleted, those of the rows and of all their indexes with what was
free before, for each key of the last day.
"""

import argparse
import random
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import db
from api import replies
from checks.support.report import print_table
from queries import idempotency
from storage import sqlite_file
from storage.batch_queue import run_unit
from storage.schema import microseconds
from storage.sqlite_connection import driver

TYPICAL_BYTES = 250
"""What a key of a purchase may take: a UUID, a token's name, and the reply."""
LONGEST_BYTES = 4500
"""What any key may take: all that a client chooses is as long as it may be."""
DAYS, MINUTES = 3, 24 * 60
CUSTOMERS = 1000

BY = ("shop-till", db.now())
Add = Callable[[Any, int], None]
"""Store a key, of a number that no other has, on a connection."""


def _key(number: int, caller: str, path: str, key: str) -> db.IdempotencyKey:
    fingerprint = sha256(str(number).encode()).digest()[:16]
    return db.IdempotencyKey(caller, "POST", path, key, fingerprint)


def add_typical(raw: Any, number: int) -> None:
    """Store the key of a purchase of any customer, as shops send them."""
    key = str(uuid.uuid5(uuid.NAMESPACE_URL, str(number)))
    customer = 1 + number * 7919 % CUSTOMERS
    run_unit(
        raw,
        db.run_idempotent(
            _key(number, "shop-till", f"/api/v1/purchase/{customer}", key),
            replies.added_response,
            db.add_purchase,
            *(customer, "Iphone 12 Pro", 4, None, *BY),
        ),
    )


def add_longest(raw: Any, number: int) -> None:
    """Store the longest key of the longest customer, whose text has nothing in common.

    Characters that JSON escapes take more bytes, but no more of them once packed.
    """
    draw = random.Random(number)  # noqa: S311 - no secret
    text = "".join(chr(draw.randrange(0x10000, 0x110000)) for _ in range(700))
    run_unit(
        raw,
        db.run_idempotent(
            _key(number, "n" * 64, "/api/v1/customer", f"{number:0>255}"),
            replies.created_response,
            db.add_customer,
            *(text[:200], text[200:], *BY),
        ),
    )


def bytes_of_a_key(folder: Path, add: Add, rows: int, days: int = DAYS) -> int:
    """Return how many bytes a key takes, where so many come in a day."""
    path = folder / f"{add.__name__}-{days}"
    sqlite_file.create_or_migrate(path)
    with closing(driver.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("BEGIN")
        for _ in range(CUSTOMERS):
            run_unit(raw, db.add_customer("John Doe", "", *BY))
        raw.execute("COMMIT")
        add_days(raw, add, rows, days)
        (kept,) = raw.execute("SELECT count(*) FROM idempotency").fetchone()
        raw.execute("DELETE FROM idempotency")
        free: int = raw.execute("PRAGMA freelist_count").fetchone()[0]
        page: int = raw.execute("PRAGMA page_size").fetchone()[0]
    return round(free * page / int(kept))


def add_days(raw: Any, add: Add, rows: int, days: int) -> None:
    """Store keys minute after minute, and forget those that are older than a day."""
    number = 0
    for minute in range(days * MINUTES):
        time = minute * 60 - days * MINUTES * 60
        with mock.patch.object(
            idempotency, "microseconds", lambda ago=0, t=time: microseconds(ago - t)
        ):
            raw.execute("BEGIN")
            while run_unit(raw, db.forget_keys(1000)):
                pass
            while number * MINUTES < minute * rows:
                add(raw, number)
                number += 1
            raw.execute("COMMIT")


def main() -> None:
    """Print the sizes; exit 1 where one is more than it may be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="keys of a day")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        first = bytes_of_a_key(Path(folder), add_typical, rows, days=1)
        typical = bytes_of_a_key(Path(folder), add_typical, rows)
        longest = bytes_of_a_key(Path(folder), add_longest, rows // 20)
    print_table(
        ("key", "bytes", "at most"),
        [
            ("of a purchase, on the first day", first, TYPICAL_BYTES),
            ("of a purchase, after days of forgetting", typical, TYPICAL_BYTES),
            ("the longest, likewise", longest, LONGEST_BYTES),
        ],
    )
    sys.exit(max(first, typical) > TYPICAL_BYTES or longest > LONGEST_BYTES)


if __name__ == "__main__":
    main()
