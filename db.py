"""What is true and stored: records, errors, schema, questions, and `connect(url)`.

A question is a generator that yields SQL with its parameters and is sent the rows
back. It holds the logic of one unit of work, for every engine. An engine runs a unit
whole or not at all, and may run it again from the start, so a question depends on
nothing but its arguments and the rows.
"""

from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Row = tuple[Any, ...]
Unit = Generator[tuple[str, Row], list[Row], T]


# Records


class Customer(NamedTuple):
    """A customer; `created_on` is UTC text as `now` writes it."""

    id: int
    name: str
    address: str | None
    created_on: str
    version: int


class Purchase(NamedTuple):
    """A purchase; `customer_id` is text because the API sends it so."""

    id: int
    purchase_name: str
    quantity: int
    purchased_on: str
    last_updated_on: str | None
    customer_id: str
    version: int


class Page(NamedTuple):
    """Rows in the order of their ids, and the id to go on after; None at the end."""

    rows: list[Row]
    after: int | None


def now() -> str:
    """Return the time in UTC, always with six fractional digits."""
    return datetime.now(UTC).isoformat(" ", "microseconds")


# Errors


class NotFoundError(Exception):
    """There is no such row: what it is and its id."""


class PreconditionFailedError(Exception):
    """The row is not at a version that the caller named."""


class UnavailableError(Exception):
    """The database cannot do it now; the text says why, for an operator."""


class OverloadedError(UnavailableError):
    """Too much waits already; the second argument is seconds until it may go."""


class DiskFullError(Exception):
    """There is no space for the write, and it was undone."""


class RefusedError(Exception):
    """The database is not one this server may open; one line says why."""


# Schema

APPLICATION_ID = 0x43505331  # "CPS1", sqlite.org/pragma.html#pragma_application_id

TABLES = """
CREATE TABLE customer (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    address TEXT,
    date_created TEXT NOT NULL
);
CREATE TABLE purchases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    purchase_name TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    customer_id INTEGER NOT NULL REFERENCES customer (id),
    date_created TEXT NOT NULL,
    last_updated TEXT
);
CREATE INDEX purchases_customer_id ON purchases (customer_id);
"""

# The tables of the described server may lack AUTOINCREMENT and may hold NULLs.
ADOPTION = (
    """
ALTER TABLE customer RENAME TO described_customer;
ALTER TABLE purchases RENAME TO described_purchases;
"""
    + TABLES
    + """
INSERT INTO customer (id, name, address, date_created)
SELECT id, coalesce(name, ''), address, canonical_time(date_created)
FROM described_customer;
INSERT INTO purchases
    (id, purchase_name, quantity, customer_id, date_created, last_updated)
SELECT id, coalesce(purchase_name, ''), coalesce(CAST(quantity AS INTEGER), 0),
    coalesce(CAST(customer_id AS INTEGER), 0), canonical_time(date_created),
    CASE WHEN last_updated IS NOT NULL THEN canonical_time(last_updated) END
FROM described_purchases;
DELETE FROM sqlite_sequence
WHERE 'described_' || name IN (SELECT name FROM sqlite_sequence);
UPDATE sqlite_sequence SET name = replace(name, 'described_', '');
DROP TABLE described_customer;
DROP TABLE described_purchases;
"""
)

MIGRATIONS = (TABLES,)
"""Script n takes a database from `user_version` n to n + 1."""

DESCRIBED_COLUMNS = {
    "customer": {"id", "name", "address", "date_created"},
    "purchases": {
        "id",
        "purchase_name",
        "quantity",
        "customer_id",
        "date_created",
        "last_updated",
    },
}


# Questions

INSERT_CUSTOMER = """
INSERT INTO customer (name, address, date_created) VALUES (?, ?, ?) RETURNING id"""
SELECT_CUSTOMER = """
SELECT id, name, address, date_created, 1 FROM customer WHERE id = ?"""
INSERT_PURCHASE = """
INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
SELECT ?, ?, id, ? FROM customer WHERE id = ? RETURNING id"""
PURCHASE_COLUMNS = """id, purchase_name, quantity, date_created, last_updated,
    CAST(customer_id AS TEXT)"""
SELECT_PURCHASES = f"""
SELECT {PURCHASE_COLUMNS} FROM purchases WHERE id > ? ORDER BY id LIMIT ?"""
SELECT_CUSTOMER_PURCHASES = """
SELECT p.id, p.purchase_name, p.quantity, p.date_created, p.last_updated,
    CAST(p.customer_id AS TEXT)
FROM customer c LEFT JOIN purchases p ON p.customer_id = c.id AND p.id > ?
WHERE c.id = ? ORDER BY p.id LIMIT ?"""
SELECT_PURCHASE = f"""
SELECT {PURCHASE_COLUMNS}, 1 FROM purchases WHERE id = ? AND customer_id = ?"""
UPDATE_PURCHASE = f"""
UPDATE purchases SET purchase_name = coalesce(?, purchase_name),
    quantity = coalesce(?, quantity), last_updated = ?
WHERE id = ? RETURNING {PURCHASE_COLUMNS}, 1"""
COUNT_PURCHASES = """
SELECT (SELECT count(*) FROM purchases p WHERE p.customer_id = c.id)
FROM customer c WHERE c.id = ?"""
DELETE_ALL_PURCHASES = """
DELETE FROM purchases WHERE customer_id = ?"""
DELETE_PURCHASES = """
DELETE FROM purchases
WHERE customer_id = ? AND id IN (SELECT value FROM json_each(?)) RETURNING id"""
SELECT_ONE = """
SELECT id FROM customer LIMIT 1"""


def add_customer(name: str, address: str, at: str) -> Unit[Customer]:
    """Record a customer."""
    rows = yield INSERT_CUSTOMER, (name, address, at)
    return Customer(rows[0][0], name, address, at, 1)


def read_customer(customer_id: int) -> Unit[Customer]:
    """Return one customer. NotFoundError."""
    rows = yield SELECT_CUSTOMER, (customer_id,)
    if not rows:
        raise NotFoundError("customer", customer_id)
    return Customer(*rows[0])


def add_purchase(
    customer_id: int, purchase_name: str, quantity: int, at: str
) -> Unit[Purchase]:
    """Record what a customer bought. NotFoundError when there is no such customer."""
    rows = yield INSERT_PURCHASE, (purchase_name, quantity, at, customer_id)
    if not rows:
        raise NotFoundError("customer", customer_id)
    return Purchase(rows[0][0], purchase_name, quantity, at, None, str(customer_id), 1)


def list_purchases(after: int, limit: int) -> Unit[Page]:
    """Return a page of everyone's purchases."""
    rows = yield SELECT_PURCHASES, (after, limit + 1)
    return _page(rows, limit)


def list_customer_purchases(customer_id: int, after: int, limit: int) -> Unit[Page]:
    """Return a page of one customer's purchases. NotFoundError."""
    rows = yield SELECT_CUSTOMER_PURCHASES, (after, customer_id, limit + 1)
    if not rows:
        raise NotFoundError("customer", customer_id)
    if rows[0][0] is None:  # the customer is there and has none
        return Page([], None)
    return _page(rows, limit)


def _page(rows: list[Row], limit: int) -> Page:
    if len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], rows[limit - 1][0])


def read_purchase(customer_id: int, purchase_id: int) -> Unit[Purchase]:
    """Return one purchase of one customer. NotFoundError."""
    rows = yield SELECT_PURCHASE, (purchase_id, customer_id)
    if not rows:
        raise NotFoundError("purchase", purchase_id)
    return Purchase(*rows[0])


def update_purchase(
    purchase_id: int, purchase_name: str | None, quantity: int | None, at: str
) -> Unit[Purchase]:
    """Change what is not None. NotFoundError."""
    rows = yield UPDATE_PURCHASE, (purchase_name, quantity, at, purchase_id)
    if not rows:
        raise NotFoundError("purchase", purchase_id)
    return Purchase(*rows[0])


def delete_all_purchases(customer_id: int) -> Unit[int]:
    """Delete a customer's purchases and return how many there were. NotFoundError."""
    rows = yield COUNT_PURCHASES, (customer_id,)
    if not rows:
        raise NotFoundError("customer", customer_id)
    yield DELETE_ALL_PURCHASES, (customer_id,)
    count: int = rows[0][0]
    return count


def delete_purchases(customer_id: int, purchase_ids: list[int]) -> Unit[int]:
    """Delete those of the purchases that are the customer's; return how many."""
    rows = yield SELECT_CUSTOMER, (customer_id,)
    if not rows:
        raise NotFoundError("customer", customer_id)
    rows = yield DELETE_PURCHASES, (customer_id, str(purchase_ids))
    return len(rows)


def read_anything() -> Unit[None]:
    """Touch the customer table."""
    yield SELECT_ONE, ()


# Engines


class Engine(Protocol):
    """Runs questions as units of work on one database."""

    name: str

    def read(self, question: Callable[[*Ts], Unit[T]], *args: *Ts) -> Awaitable[T]:
        """Run a question that changes nothing and is soon done."""
        ...

    def scan(self, question: Callable[[*Ts], Unit[T]], *args: *Ts) -> Awaitable[T]:
        """Run a question that changes nothing and may take long."""
        ...

    def write(self, question: Callable[[*Ts], Unit[T]], *args: *Ts) -> Awaitable[T]:
        """Run a question; once it returns, what it changed is on disk."""
        ...

    async def check(self) -> None:
        """Try the database. UnavailableError says what is wrong."""
        ...

    async def close(self) -> None:
        """Finish what was accepted and let the database go."""
        ...


async def connect(url: str) -> Engine:
    """Open the database that a URL names. RefusedError."""
    import sqlite

    return await sqlite.connect(sqlite.path_of(url))
