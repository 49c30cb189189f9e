"""Whether a SQLite file is whole, and what is in it, told without a change to it."""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from storage import search_index
from storage.engine import StartupError
from storage.schema import MIGRATIONS
from storage.sqlite_file import startup_errors
from storage.sqlite_identity import (
    check_schema,
    is_described,
    open_unchanged,
    read_identity,
)

HISTORY_VERSION = 5
"""The first schema with a history. Of those before it 1.0.0 made the second; the third
and the fourth are of no release."""
NO_HISTORY = "no history: made by 1.0.0"
DESCRIBED = "no history: made by the server that this API was first described for"
MAX_FAULT = 300
"""The most characters that are shown of what SQLite says of a damage."""

COUNT_ALL_CUSTOMERS = "SELECT count(*) FROM customer"
COUNT_ALL_PURCHASES = "SELECT count(*) FROM purchases"
# As lists show them: neither what is deleted nor what is being erased.
COUNT_CUSTOMERS = "SELECT count(*) FROM customer WHERE deleted IS NULL"
COUNT_PURCHASES = """
SELECT (SELECT count(*) FROM purchases) - (
    SELECT count(*) FROM hidden CROSS JOIN purchases AS p
    ON p.customer_id = hidden.customer_id AND p.id BETWEEN first AND last)"""
SELECT_NEWEST = """
SELECT coalesce(change, id), at FROM history ORDER BY id DESC LIMIT 1"""
SELECT_PRUNED = "SELECT max(pruned) FROM history_start"

# What PRAGMA foreign_key_check finds, but for what the described server left: purchases
# of customers who were gone. These are taken over: they come before all that this
# server added, and their customers are ids that nobody gets again.
SELECT_LOST = """
SELECT count(*), min(CASE WHEN {added} OR p.customer_id > (
    SELECT seq FROM sqlite_sequence WHERE name = 'customer'
) AND p.customer_id < 1 << 62 THEN p.id END)
FROM purchases AS p
WHERE NOT EXISTS (SELECT 1 FROM customer AS c WHERE c.id = p.customer_id)"""
ADDED = """p.id >= (
    SELECT min(purchase_id) FROM history WHERE action = 'purchase.added')"""

# A row that the index has must be there; one below its last must be in it, but for
# those that are being erased (`deleted` is 0).
SELECT_MISNAMED = """
SELECT id FROM customer_names_content AS n
WHERE c0 IS NOT (SELECT name_folded FROM customer AS c WHERE c.id = n.id)
UNION ALL
SELECT id FROM customer AS c
WHERE id <= (SELECT max(id) FROM customer_names_content) AND deleted IS NOT 0
    AND NOT EXISTS (SELECT 1 FROM customer_names_content AS n WHERE n.id = c.id)
LIMIT 1"""
# A block has 4,096 ids: BLOCK_IDS of queries/blocks.py.
SELECT_MISDATED = """
SELECT p.id FROM purchases AS p LEFT JOIN purchase_blocks AS b ON b.block = p.id / 4096
WHERE p.id BETWEEN 0 AND (SELECT max(block) FROM purchase_blocks) * 4096 + 4095
    AND (oldest <= p.date_created AND newest >= p.date_created) IS NOT 1
LIMIT 1"""

# The copy for lists has every purchase up to its end, as it is, and nothing else.
SELECT_MISCOPIED = """
SELECT c.id FROM customer_purchases AS c LEFT JOIN purchases AS p ON p.id = c.id
WHERE c.id > (SELECT last FROM customer_purchases_end) OR (
    p.customer_id, p.purchase_name, p.quantity, p.date_created, p.last_updated
) IS NOT (c.customer_id, c.purchase_name, c.quantity, c.date_created, c.last_updated)
UNION ALL
SELECT last FROM customer_purchases_end WHERE (SELECT count(*) FROM customer_purchases)
    <> (SELECT count(*) FROM purchases WHERE id <= last)
UNION ALL
SELECT 0 WHERE (SELECT count(*) FROM customer_purchases_end) <> 1
LIMIT 1"""


class Contents(NamedTuple):
    """What is in a database: rows as lists show them, and the end of the history."""

    bytes: int
    customers: int
    purchases: int
    lost: int
    """How many purchases are of customers who are gone, from the described server."""
    newest: str
    """The newest change with its time, or why there is none."""

    def __str__(self) -> str:
        """Return all of it as a part of a line."""
        lost = f" ({self.lost:,} of customers who are gone)" if self.lost else ""
        return (
            f"{_size(self.bytes)}, {plural(self.customers, 'customer')}, "
            f"{plural(self.purchases, 'purchase')}{lost}, {self.newest}"
        )


def plural(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _size(count: int) -> str:
    if count < 1_000_000:
        return f"{count // 1000} kB"
    unit, name = (1e9, "GB") if count >= 1e9 else (1e6, "MB")
    return f"{count / unit:.1f} {name}"


def verify(path: Path) -> str:
    """Return a line on a database that is whole, and has nothing strange. StartupError.

    Nothing is changed, neither the file nor what is beside it. One that is being
    served is read as of one moment, with its WAL.
    """
    with (
        startup_errors(path),
        stoppable() as stop,
        _undisturbed(path),
        open_unchanged(path, shm_too=True) as connection,
    ):
        connection.set_progress_handler(stop.is_set, 10_000)
        connection.execute("BEGIN")
        is_described(path, connection)  # refuses what is not for us to judge
        check_pages(path, connection)
        lost = check_meaning(path, connection)
        return f"{path}: whole, {read_contents(path, connection, lost)}"


@contextmanager
def stoppable() -> Iterator[Event]:
    """Let SIGTERM and SIGINT set an event, and end a block in which they did. OSError.

    The event is for the progress handlers of connections.
    """
    stop = Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.is_set():  # between two statements
        raise InterruptedError(errno.EINTR, "interrupted")


@contextmanager
def _undisturbed(path: Path) -> Iterator[None]:
    """Let nobody begin to write a database that is read without locks. StartupError."""
    # That is how `open_unchanged` reads one that nothing has open.
    before = _state(path)
    try:
        yield
    finally:
        if before[1:] == [None, None] and _state(path) != before:
            raise StartupError(f"{path}: changed while it was read: verify it again")


def _state(path: Path) -> list[tuple[int, int, int] | None]:
    """Return what tells whether a database, its WAL and its journal were changed."""
    state: list[tuple[int, int, int] | None] = []
    for suffix in ("", "-wal", "-journal"):
        found = None
        with suppress(OSError):
            stat = Path(f"{path.resolve()}{suffix}").stat()
            found = stat.st_ino, stat.st_size, stat.st_mtime_ns
        state.append(found)
    return state


def check_pages(path: Path, connection: Any) -> None:
    """Look at every page of a database, and at its indexes. StartupError."""
    # quick_check takes a third of the time (0.5 s of 1.5 for 1,000,000 purchases), but
    # does not see an index that lacks a row, which VACUUM copies as it is.
    connection.execute("PRAGMA cell_size_check = ON")
    accepted = {"ok"}
    if search_index.is_emptied(connection):  # FTS5 takes that for a damage
        accepted |= _faults(connection, f"PRAGMA integrity_check({search_index.NAME})")
    for found in _faults(connection, "PRAGMA integrity_check(2)") - accepted:
        fault = " ".join(found.removeprefix("*** in database main ***").split())
        raise StartupError(f"{path}: the database is damaged: {fault[:MAX_FAULT]}")


def _faults(connection: Any, pragma: str) -> set[str]:
    return {found for (found,) in connection.execute(pragma)}


def check_meaning(path: Path, connection: Any) -> int:
    """Hold the schema and the rows against what this server makes. StartupError.

    Return how many purchases of ours are of customers who are gone.
    """
    if is_described(path, connection):
        return 0
    check_schema(path, connection)
    version = read_identity(connection)[1]
    select_lost = SELECT_LOST.format(
        added=ADDED if version >= HISTORY_VERSION else "false"
    )
    lost, wrong = connection.execute(select_lost).fetchone()
    if wrong is not None:
        raise StartupError(
            f"{path}: purchase {wrong} is of a customer who is not there"
        )
    if version == len(MIGRATIONS):
        _check_indexes(path, connection)
    return int(lost)


def _check_indexes(path: Path, connection: Any) -> None:
    """Hold the indexes that are tables of ours against the rows. StartupError."""
    if connection.execute(search_index.SELECT_TABLE).fetchone():
        for (number,) in connection.execute(SELECT_MISNAMED).fetchall():
            raise StartupError(
                f"{path}: the index for search is wrong about customer {number}"
            )
    for (number,) in connection.execute(SELECT_MISDATED).fetchall():
        raise StartupError(
            f"{path}: the index by date is wrong about purchase {number}"
        )
    for (number,) in connection.execute(SELECT_MISCOPIED).fetchall():
        raise StartupError(
            f"{path}: what customers are listed from is wrong about purchase {number}"
        )


def read_contents(path: Path, connection: Any, lost: int) -> Contents:
    """Return what is in a database of ours or the described server's. StartupError."""

    def one(sql: str) -> int:
        found: int = connection.execute(sql).fetchone()[0]
        return found

    described = is_described(path, connection)
    version = read_identity(connection)[1]
    has_history = version >= HISTORY_VERSION
    return Contents(
        one("PRAGMA page_count") * one("PRAGMA page_size"),
        one(COUNT_CUSTOMERS if has_history else COUNT_ALL_CUSTOMERS),
        one(COUNT_PURCHASES if has_history else COUNT_ALL_PURCHASES),
        lost,
        _newest(connection) if has_history else DESCRIBED if described else NO_HISTORY,
    )


def _newest(connection: Any) -> str:
    """Return the newest change of the history, with its time."""
    found = connection.execute(SELECT_NEWEST).fetchone()
    if found:
        change, at = found
        return f"newest change {change} at {at[:19].replace(' ', 'T')}Z"
    pruned = connection.execute(SELECT_PRUNED).fetchone()[0]
    return f"changes forgotten up to {pruned}" if pruned else "no change yet"
