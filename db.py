"""What is true and stored: records, errors, questions, and `connect(url)`.

A question is a generator that yields SQL with its parameters and is sent the rows
back. It holds the logic of one unit of work, for every engine. An engine runs a unit
whole or not at all, and may run it again from the start, so a question depends on
nothing but its arguments and the rows.
"""

import re
from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime
from functools import lru_cache
from time import time_ns
from typing import Any, NamedTuple, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Row = tuple[Any, ...]
Unit = Generator[tuple[str, Row], list[Row], T]
Versions = tuple[int, ...] | None
"""The versions a caller allows a row to have, None for any."""


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
    """Rows in the order of their ids, as a JSON array of objects.

    `after` is the id to go on after, None at the end.
    """

    size: int
    json: str
    after: int | None


class Key(NamedTuple):
    """An idempotency key in its scope, with what identifies the request."""

    caller: str
    method: str
    path: str
    key: str
    fingerprint: str


class Answer(NamedTuple):
    """The first answer to a request with an idempotency key."""

    status: int
    location: str
    etag: str
    body: bytes
    customer_id: int
    replayed: bool = False


def now(seconds_ago: int = 0) -> str:
    """Return the time in UTC, always with six fractional digits."""
    second, micro = divmod(time_ns() // 1000, 1_000_000)
    return f"{_date_and_time(second - seconds_ago)}.{micro:06d}+00:00"


@lru_cache(2)
def _date_and_time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")


# Errors


class NotFoundError(Exception):
    """There is no such row: what it is and its id."""


class PreconditionFailedError(Exception):
    """The row is not at a version that the caller named."""


class KeyReusedError(Exception):
    """The idempotency key came before with another request."""


class UnavailableError(Exception):
    """The database cannot do it now; the text says why, for an operator."""


UNKNOWN = "it is not known whether this was stored"
"""Why a write is answered as if it had failed, where it may have been committed."""


class OverloadedError(UnavailableError):
    """Too much waits already; the second argument is seconds until it may go."""


class DiskFullError(Exception):
    """There is no space for the write, and it was undone."""


class RefusedError(Exception):
    """The database is not one this server may open; one line says why."""


# Questions about customers
#
# `LIMIT ? + 0`, since SQLite prepares a statement anew each time `LIMIT ?` is bound.
# Lists come as one text: at each row the driver would let the interpreter's lock go
# and wait to have it back, and the text goes into the reply as it is.

INSERT_CUSTOMER = """
INSERT INTO customer (name, address, date_created, name_folded)
VALUES (?, ?, ?, ?) RETURNING id"""
SELECT_CUSTOMER = """
SELECT id, name, address, date_created, version FROM customer WHERE id = ?"""
SELECT_CUSTOMER_VERSION = """
SELECT version FROM customer WHERE id = ?"""
UPDATE_CUSTOMER = """
UPDATE customer SET name = coalesce(?, name), name_folded = coalesce(?, name_folded),
    address = coalesce(?, address), version = version + 1
WHERE id = ? RETURNING id, name, address, date_created, version"""
DELETE_CUSTOMER = """
DELETE FROM customer WHERE id = ?"""
SELECT_SCAN_END = """
SELECT max(id), count(*)
FROM (SELECT id FROM customer WHERE id > ? ORDER BY id LIMIT ? + 0) AS scan"""
SELECT_CUSTOMERS = """
SELECT count(*), max(id), json_group_array(json_object(
    'id', id, 'name', name, 'address', address, 'created_on', created_on))
FROM (
    SELECT id, name, address, date_created AS created_on FROM customer
    WHERE id > ? AND id <= ? AND instr(name_folded, ?) > 0 ORDER BY id LIMIT ? + 0
) AS page"""

SCAN_ROWS = 20_000
"""The most customers that one unit looks at for a part of a name."""


def add_customer(name: str, address: str, at: str) -> Unit[Customer]:
    """Record a customer."""
    rows = yield INSERT_CUSTOMER, (name, address, at, name.casefold())
    return Customer(rows[0][0], name, address, at, 1)


def read_customer(customer_id: int) -> Unit[Customer]:
    """Return one customer. NotFoundError."""
    rows = yield SELECT_CUSTOMER, (customer_id,)
    if not rows:
        raise NotFoundError("customer", customer_id)
    return Customer(*rows[0])


def find_customers(folded: str, after: int, limit: int) -> Unit[Page]:
    """Return the customers whose case-folded name holds a text, a page of them."""
    ends = yield SELECT_SCAN_END, (after, SCAN_ROWS)
    end, looked_at = ends[0]
    rows = yield SELECT_CUSTOMERS, (after, end, folded, limit)
    size, last, json = rows[0]
    if size < limit:
        last = end if looked_at == SCAN_ROWS else None
    return Page(size, json, last)


def update_customer(
    customer_id: int, name: str | None, address: str | None, versions: Versions
) -> Unit[Customer]:
    """Change what is not None. NotFoundError, PreconditionFailedError."""
    yield from _expect(versions, SELECT_CUSTOMER_VERSION, "customer", customer_id)
    folded = None if name is None else name.casefold()
    rows = yield UPDATE_CUSTOMER, (name, folded, address, customer_id)
    if not rows:
        raise NotFoundError("customer", customer_id)
    return Customer(*rows[0])


def erase_customer(customer_id: int, versions: Versions) -> Unit[int]:
    """Delete a customer and all that refers to it; return how many purchases.

    NotFoundError, PreconditionFailedError.
    """
    yield from _expect(versions, SELECT_CUSTOMER_VERSION, "customer", customer_id)
    count = yield from delete_all_purchases(customer_id)
    yield DELETE_CUSTOMER_KEYS, (customer_id,)
    yield DELETE_CUSTOMER, (customer_id,)
    return count


def _expect(versions: Versions, select: str, what: str, number: int) -> Unit[None]:
    """Look at the version of a row, where the caller named any."""
    if versions is None:
        return
    rows = yield select, (number,)
    if not rows:
        raise NotFoundError(what, number)
    if rows[0][0] not in versions:
        raise PreconditionFailedError(what, number)


# Questions about purchases

PURCHASE_COLUMNS = """id, purchase_name, quantity, date_created, last_updated,
    CAST(customer_id AS TEXT)"""
INSERT_PURCHASE = """
INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
SELECT ?, ?, id, ? FROM customer WHERE id = ? RETURNING id"""
PAGE_OF_PURCHASES = """
SELECT count(*), max(purchase_id), json_group_array(json_object(
    'purchase_id', purchase_id, 'purchase_name', purchase_name, 'quantity', quantity,
    'purchased_on', purchased_on, 'last_updated_on', last_updated_on,
    'customer_id', customer))
FROM (
    SELECT id AS purchase_id, purchase_name, quantity, date_created AS purchased_on,
        last_updated AS last_updated_on, CAST(customer_id AS TEXT) AS customer
    FROM purchases WHERE {} ORDER BY id LIMIT ? + 0
) AS page"""
SELECT_PURCHASES = PAGE_OF_PURCHASES.format("id > ?")
SELECT_CUSTOMER_PURCHASES = PAGE_OF_PURCHASES.format("customer_id = ? AND id > ?")
SELECT_PURCHASE = f"""
SELECT {PURCHASE_COLUMNS}, version FROM purchases WHERE id = ? AND customer_id = ?"""
SELECT_PURCHASE_VERSION = """
SELECT version FROM purchases WHERE id = ?"""
UPDATE_PURCHASE = f"""
UPDATE purchases SET purchase_name = coalesce(?, purchase_name),
    quantity = coalesce(?, quantity), last_updated = ?, version = version + 1
WHERE id = ? RETURNING {PURCHASE_COLUMNS}, version"""
COUNT_PURCHASES = """
SELECT count(*) FROM purchases WHERE customer_id = ?"""
DELETE_ALL_PURCHASES = """
DELETE FROM purchases WHERE customer_id = ?"""
DELETE_PURCHASES = """
DELETE FROM purchases
WHERE customer_id = ? AND id IN (SELECT value FROM json_each(?)) RETURNING id"""


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
    rows = yield SELECT_PURCHASES, (after, limit)
    size, last, json = rows[0]
    return Page(size, json, last if size == limit else None)


def list_customer_purchases(customer_id: int, after: int, limit: int) -> Unit[Page]:
    """Return a page of one customer's purchases. NotFoundError."""
    rows = yield SELECT_CUSTOMER_PURCHASES, (customer_id, after, limit)
    size, last, json = rows[0]
    if not size and not (yield SELECT_CUSTOMER_VERSION, (customer_id,)):
        raise NotFoundError("customer", customer_id)
    return Page(size, json, last if size == limit else None)


def read_purchase(customer_id: int, purchase_id: int) -> Unit[Purchase]:
    """Return one purchase of one customer. NotFoundError."""
    rows = yield SELECT_PURCHASE, (purchase_id, customer_id)
    if not rows:
        raise NotFoundError("purchase", purchase_id)
    return Purchase(*rows[0])


def update_purchase(
    purchase_id: int,
    purchase_name: str | None,
    quantity: int | None,
    at: str,
    versions: Versions,
) -> Unit[Purchase]:
    """Change what is not None. NotFoundError, PreconditionFailedError."""
    yield from _expect(versions, SELECT_PURCHASE_VERSION, "purchase", purchase_id)
    rows = yield UPDATE_PURCHASE, (purchase_name, quantity, at, purchase_id)
    if not rows:
        raise NotFoundError("purchase", purchase_id)
    return Purchase(*rows[0])


def delete_all_purchases(customer_id: int) -> Unit[int]:
    """Delete a customer's purchases and return how many there were. NotFoundError."""
    rows = yield SELECT_CUSTOMER_VERSION, (customer_id,)
    if not rows:
        raise NotFoundError("customer", customer_id)
    rows = yield COUNT_PURCHASES, (customer_id,)
    yield DELETE_ALL_PURCHASES, (customer_id,)
    count: int = rows[0][0]
    return count


def delete_purchases(customer_id: int, purchase_ids: list[int]) -> Unit[int]:
    """Delete those of the purchases that are the customer's; return how many.

    NotFoundError when there is no such customer.
    """
    rows = yield SELECT_CUSTOMER_VERSION, (customer_id,)
    if not rows:
        raise NotFoundError("customer", customer_id)
    rows = yield DELETE_PURCHASES, (customer_id, str(purchase_ids))
    return len(rows)


# Questions about idempotency keys

SELECT_ANSWER = """
SELECT fingerprint, status, location, etag, body, customer_id FROM idempotency
WHERE caller = ? AND method = ? AND path = ? AND key = ? AND created > ?"""
CLAIM_KEY = """
INSERT INTO idempotency (caller, method, path, key, fingerprint, created)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (caller, method, path, key) DO UPDATE
SET fingerprint = excluded.fingerprint, created = excluded.created
WHERE idempotency.created <= ? RETURNING key"""
SAVE_ANSWER = """
UPDATE idempotency SET status = ?, location = ?, etag = ?, body = ?, customer_id = ?
WHERE caller = ? AND method = ? AND path = ? AND key = ?"""
DELETE_OLD_KEYS = """
DELETE FROM idempotency WHERE (caller, method, path, key) IN (
    SELECT caller, method, path, key FROM idempotency WHERE created <= ? LIMIT ?
) RETURNING key"""
DELETE_CUSTOMER_KEYS = """
DELETE FROM idempotency WHERE customer_id = ?"""

KEY_SECONDS = 24 * 3600


def once(
    key: Key,
    render: Callable[[T], Answer],
    question: Callable[[*Ts], Unit[T]],
    *args: *Ts,
) -> Unit[Answer]:
    """Run a unit and keep its answer with it; a later one with the key gets that.

    KeyReusedError, and what the question raises; nothing is kept of a refusal.
    """
    scope, at, since = key[:4], now(), now(KEY_SECONDS)
    rows = yield SELECT_ANSWER, (*scope, since)
    if not rows:
        claimed = yield CLAIM_KEY, (*key, at, since)
        if claimed:
            answer = render((yield from question(*args)))
            body = answer.body.decode()
            saved = (*answer[:3], body, answer.customer_id)
            yield SAVE_ANSWER, (*saved, *scope)
            return answer
        # Another process was quicker, and has committed: its answer is there now.
        rows = yield SELECT_ANSWER, (*scope, since)
    fingerprint, status, location, etag, text, customer_id = rows[0]
    if fingerprint != key.fingerprint:
        raise KeyReusedError(key.key)
    return Answer(status, location, etag, text.encode(), customer_id, replayed=True)


def forget_keys(limit: int) -> Unit[int]:
    """Delete idempotency keys that are older than a day; return how many."""
    rows = yield DELETE_OLD_KEYS, (now(KEY_SECONDS), limit)
    return len(rows)


def read_anything() -> Unit[None]:
    """Touch the customer table."""
    yield SELECT_SCAN_END, (0, 1)


# Engines


class Measures(NamedTuple):
    """What an engine has done and holds: units written, commits, queues, bytes."""

    units: int
    commits: int
    waiting: dict[str, int]
    size: int


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

    def measures(self) -> Measures:
        """Return what the metrics show."""
        ...

    async def check(self) -> None:
        """Try the database. UnavailableError says what is wrong."""
        ...

    async def close(self) -> None:
        """Finish what was accepted and let the database go."""
        ...


def is_postgres(url: str) -> bool:
    """Return whether a URL names a PostgreSQL database."""
    return url.startswith(("postgresql://", "postgres://"))


def without_password(url: str) -> str:
    """Return a database URL as a log may show it, without its user and its query.

    Whatever stands before the last @ may belong to a password, and whatever names no
    file may have one.
    """
    if url.startswith("sqlite:///"):
        return url
    return re.sub(r"//.*@", "//", url).partition("?")[0]


async def connect(url: str) -> Engine:
    """Open the database that a URL names. RefusedError."""
    if is_postgres(url):
        import postgres

        return await postgres.connect(url)
    import sqlite

    return await sqlite.connect(sqlite.path_of(url))
