"""The data-access module: records, one query for each unit of work, `connect(url)`.

A query is a generator function: called, it gives a unit of work, which yields
statements with their parameters, is sent their rows and returns a record. It holds the
logic of one unit of work, for every engine. An engine runs a unit whole or not at all,
and may run it again from the start, so a query depends on nothing but its arguments and
the rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from storage.engine import (
    DiskFullError as DiskFullError,
    Engine as Engine,
    OverloadedError as OverloadedError,
    Row,
    StartupError as StartupError,
    Statement,
    T as T,
    Ts as Ts,
    UnavailableError as UnavailableError,
    Unit as Unit,
    for_update,
    is_postgres,
    single,
    sqlite_path,
)
from storage.schema import fold_name, now as now
from storage.sqlite_engine import SqliteEngine

VersionCheck = Callable[[int], None]
"""Raises an error of the caller's for a version that a row must not have."""


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
    """Rows in the order of their ids, as a JSON array of objects."""

    size: int
    json: str
    after: int | None
    """The id that the next page comes after, None at the end."""


class IdempotencyKey(NamedTuple):
    """An idempotency key in its scope, with what identifies the request."""

    caller: str
    method: str
    path: str
    key: str
    fingerprint: str


class StoredResponse(NamedTuple):
    """The first response to a request with an idempotency key."""

    status: int
    location: str
    etag: str
    body: bytes
    customer_id: int
    replayed: bool = False


class NotFoundError(Exception):
    """There is no such row: what it is and its id."""


class ErasedError(Exception):
    """The idempotency key is of a customer who was erased since."""


class KeyReusedError(Exception):
    """The idempotency key came before with another request."""


# Queries of customers
#
# `LIMIT ? + 0`, since SQLite prepares a statement anew each time `LIMIT ?` is bound.
# A page comes as one JSON text, since the driver gives up the interpreter's lock and
# waits to have it back at each row; and the text goes into the reply as it is.

CUSTOMER_VALUES = """
INSERT INTO customer (name, address, date_created, name_folded) VALUES (?, ?, ?, ?)"""
INSERT_CUSTOMER = Statement(
    sqlite=CUSTOMER_VALUES, postgres=f"{CUSTOMER_VALUES} RETURNING id"
)
SELECT_CUSTOMER = Statement("""
SELECT id, name, address, date_created, version FROM customer WHERE id = ?""")
SELECT_CUSTOMER_VERSION = Statement("SELECT version FROM customer WHERE id = ?")
LOCK_CUSTOMER_VERSION = for_update("SELECT version FROM customer WHERE id = ?")
UPDATE_CUSTOMER = Statement("""
UPDATE customer SET name = coalesce(?, name), name_folded = coalesce(?, name_folded),
    address = coalesce(?, address), version = version + 1
WHERE id = ? RETURNING id, name, address, date_created, version""")
DELETE_CUSTOMER = Statement("DELETE FROM customer WHERE id = ?")
SELECT_SCAN_END = Statement("""
SELECT max(id), count(*)
FROM (SELECT id FROM customer WHERE id > ? ORDER BY id LIMIT ? + 0) AS scan""")
PG_TIME = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US"+00:00"')"""
PG_ROWS = "'[' || coalesce(string_agg(row_to_json(page)::text, ','), '') || ']'"
SELECT_CUSTOMERS = Statement(
    sqlite="""
SELECT count(*), max(id), json_group_array(json_object(
    'id', id, 'name', name, 'address', address, 'created_on', created_on))
FROM (
    SELECT id, name, address, date_created AS created_on FROM customer
    WHERE id > ? AND id <= ? AND instr(name_folded, ?) > 0 ORDER BY id LIMIT ? + 0
) AS page""",
    postgres=f"""
SELECT count(*), max(id), {PG_ROWS}
FROM (
    SELECT id, name, address, {PG_TIME.format("date_created")} AS created_on
    FROM customer
    WHERE id > ? AND id <= ? AND strpos(name_folded, ?) > 0 ORDER BY id LIMIT ? + 0
) AS page""",
)

SCAN_ROWS = 20_000
"""The most customers that one unit looks at for a part of a name."""


@single
def add_customer(name: str, address: str, at: str) -> Unit[Customer]:
    """Record a customer."""
    rows = yield INSERT_CUSTOMER, (name, address, at, fold_name(name))
    return Customer(rows[0][0], name, address, at, 1)


def read_customer(customer_id: int) -> Unit[Customer]:
    """Return one customer. NotFoundError."""
    row = yield from _fetch_one("customer", SELECT_CUSTOMER, customer_id)
    return Customer(*row)


def find_customers(part: str, after: int, limit: int) -> Unit[Page]:
    """Return a page of the customers whose name contains a part, caseless."""
    [(end, scanned)] = yield SELECT_SCAN_END, (after, SCAN_ROWS)
    [(size, last, json)] = yield SELECT_CUSTOMERS, (after, end, fold_name(part), limit)
    if size < limit:
        last = end if scanned == SCAN_ROWS else None
    return Page(size, json, last)


def update_customer(
    customer_id: int, name: str | None, address: str | None, check: VersionCheck | None
) -> Unit[Customer]:
    """Change what is not None. NotFoundError, errors of the check."""
    yield from _check_version(check, LOCK_CUSTOMER_VERSION, "customer", customer_id)
    folded = None if name is None else fold_name(name)
    values = name, folded, address, customer_id
    return Customer(*(yield from _fetch_one("customer", UPDATE_CUSTOMER, *values)))


def erase_customer(customer_id: int, check: VersionCheck | None) -> Unit[int]:
    """Delete a customer and its purchases, and count these. Errors as for an update."""
    yield from _check_version(check, LOCK_CUSTOMER_VERSION, "customer", customer_id)
    count = yield from delete_all_purchases(customer_id)
    yield BLANK_CUSTOMER_KEYS, (GONE, customer_id)
    yield DELETE_CUSTOMER, (customer_id,)
    return count


def _check_version(
    check: VersionCheck | None, select: Statement, noun: str, number: int
) -> Unit[None]:
    """Check the version of a row. NotFoundError, errors of the check."""
    if check is not None:
        row = yield from _fetch_one(noun, select, number)
        check(row[0])


def _fetch_one(noun: str, statement: Statement, *parameters: Any) -> Unit[Row]:
    """Return the row whose id is the last parameter. NotFoundError."""
    rows = yield statement, parameters
    if not rows:
        raise NotFoundError(noun, parameters[-1])
    return rows[0]


# Queries of purchases

PURCHASE_COLUMNS = """id, purchase_name, quantity, date_created, last_updated,
    CAST(customer_id AS TEXT)"""
INSERT_PURCHASE = Statement(
    sqlite="""
INSERT INTO purchases (purchase_name, quantity, date_created, customer_id)
VALUES (?, ?, ?, ?)""",
    # Waits for a transaction that deletes the customer, and then finds none.
    postgres="""
INSERT INTO purchases (purchase_name, quantity, date_created, customer_id)
SELECT ?, ?, ?, id FROM customer WHERE id = ? FOR KEY SHARE RETURNING id""",
)


def _select_page(where: str) -> Statement:
    """Return the SELECT of a page of purchases: its size, its last id, its JSON."""
    return Statement(
        sqlite=f"""
SELECT count(*), max(purchase_id), json_group_array(json_object(
    'purchase_id', purchase_id, 'purchase_name', purchase_name, 'quantity', quantity,
    'purchased_on', purchased_on, 'last_updated_on', last_updated_on,
    'customer_id', customer))
FROM (
    SELECT id AS purchase_id, purchase_name, quantity, date_created AS purchased_on,
        last_updated AS last_updated_on, CAST(customer_id AS TEXT) AS customer
    FROM purchases WHERE {where} ORDER BY id LIMIT ? + 0
) AS page""",
        postgres=f"""
SELECT count(*), max(purchase_id), {PG_ROWS}
FROM (
    SELECT id AS purchase_id, purchase_name, quantity,
        {PG_TIME.format("date_created")} AS purchased_on,
        {PG_TIME.format("last_updated")} AS last_updated_on,
        CAST(customer_id AS TEXT) AS customer_id
    FROM purchases WHERE {where} ORDER BY id LIMIT ? + 0
) AS page""",
    )


SELECT_PURCHASES = _select_page("id > ?")
SELECT_CUSTOMER_PURCHASES = _select_page("customer_id = ? AND id > ?")
SELECT_PURCHASE = Statement(f"""
SELECT {PURCHASE_COLUMNS}, version FROM purchases WHERE customer_id = ? AND id = ?""")
LOCK_PURCHASE_VERSION = for_update("SELECT version FROM purchases WHERE id = ?")
UPDATE_PURCHASE = Statement(f"""
UPDATE purchases SET purchase_name = coalesce(?, purchase_name),
    quantity = coalesce(?, quantity), last_updated = ?, version = version + 1
WHERE id = ? RETURNING {PURCHASE_COLUMNS}, version""")
COUNT_PURCHASES = Statement("SELECT count(*) FROM purchases WHERE customer_id = ?")
DELETE_ALL_PURCHASES = Statement("DELETE FROM purchases WHERE customer_id = ?")
CHOSEN = "DELETE FROM purchases WHERE customer_id = ? AND id IN ({}) RETURNING id"
DELETE_PURCHASES = Statement(
    sqlite=CHOSEN.format("SELECT value FROM json_each(?)"),
    postgres=CHOSEN.format("SELECT value::bigint FROM json_array_elements_text(?)"),
)


@single
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
    [(size, last, json)] = yield SELECT_PURCHASES, (after, limit)
    return Page(size, json, last if size == limit else None)


def list_customer_purchases(customer_id: int, after: int, limit: int) -> Unit[Page]:
    """Return a page of one customer's purchases. NotFoundError."""
    [(size, last, json)] = yield SELECT_CUSTOMER_PURCHASES, (customer_id, after, limit)
    if not size and not (yield SELECT_CUSTOMER_VERSION, (customer_id,)):
        raise NotFoundError("customer", customer_id)
    return Page(size, json, last if size == limit else None)


def read_purchase(customer_id: int, purchase_id: int) -> Unit[Purchase]:
    """Return one purchase of one customer. NotFoundError."""
    ids = customer_id, purchase_id
    return Purchase(*(yield from _fetch_one("purchase", SELECT_PURCHASE, *ids)))


def update_purchase(
    purchase_id: int,
    purchase_name: str | None,
    quantity: int | None,
    at: str,
    check: VersionCheck | None,
) -> Unit[Purchase]:
    """Change what is not None. NotFoundError, errors of the check."""
    yield from _check_version(check, LOCK_PURCHASE_VERSION, "purchase", purchase_id)
    values = purchase_name, quantity, at, purchase_id
    return Purchase(*(yield from _fetch_one("purchase", UPDATE_PURCHASE, *values)))


def delete_all_purchases(customer_id: int) -> Unit[int]:
    """Delete a customer's purchases and return how many there were. NotFoundError."""
    yield from _fetch_one("customer", LOCK_CUSTOMER_VERSION, customer_id)
    [(count,)] = yield COUNT_PURCHASES, (customer_id,)
    yield DELETE_ALL_PURCHASES, (customer_id,)
    return int(count)


def delete_purchases(customer_id: int, purchase_ids: list[int]) -> Unit[int]:
    """Delete the customer's among some purchases; return how many. NotFoundError."""
    yield from _fetch_one("customer", LOCK_CUSTOMER_VERSION, customer_id)
    rows = yield DELETE_PURCHASES, (customer_id, str(purchase_ids))
    return len(rows)


# Queries of idempotency keys

SELECT_RESPONSE = Statement("""
SELECT fingerprint, status, location, etag, body, customer_id FROM idempotency
WHERE caller = ? AND method = ? AND path = ? AND key = ? AND created > ?""")
CLAIM_KEY = Statement("""
INSERT INTO idempotency (caller, method, path, key, fingerprint, created)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (caller, method, path, key) DO UPDATE
SET fingerprint = excluded.fingerprint, created = excluded.created
WHERE idempotency.created <= ? RETURNING key""")
SAVE_RESPONSE = Statement("""
UPDATE idempotency SET status = ?, location = ?, etag = ?, body = ?, customer_id = ?
WHERE caller = ? AND method = ? AND path = ? AND key = ?""")
DELETE_OLD_KEYS = Statement("""
DELETE FROM idempotency WHERE (caller, method, path, key) IN (
    SELECT caller, method, path, key FROM idempotency WHERE created <= ? LIMIT ?
) RETURNING key""")
# The keys stay, so that a retry on its way creates nobody a second time.
BLANK_CUSTOMER_KEYS = Statement("""
UPDATE idempotency SET status = ?, fingerprint = '', location = '', etag = '', body = ''
WHERE customer_id = ?""")
GONE = 410

KEY_SECONDS = 24 * 3600


def run_idempotent(
    key: IdempotencyKey,
    render: Callable[[T], StoredResponse],
    query: Callable[[*Ts], Unit[T]],
    *args: *Ts,
) -> Unit[StoredResponse]:
    """Run a unit and store its response with it; return that to later ones of the key.

    KeyReusedError, ErasedError, every error of the query; no error is stored.
    """
    scope, at, since = key[:4], now(), now(KEY_SECONDS)
    rows = yield SELECT_RESPONSE, (*scope, since)
    if not rows:
        claimed = yield CLAIM_KEY, (*key, at, since)
        if claimed:
            response = render((yield from query(*args)))
            body = response.body.decode()
            saved = (*response[:3], body, response.customer_id)
            yield SAVE_RESPONSE, (*saved, *scope)
            return response
        # Another process was quicker and has committed: its response is there now.
        rows = yield SELECT_RESPONSE, (*scope, since)
    fingerprint, status, location, etag, text, customer_id = rows[0]
    if status == GONE:
        raise ErasedError
    if fingerprint != key.fingerprint:
        raise KeyReusedError(key.key)
    body = text.encode()
    return StoredResponse(status, location, etag, body, customer_id, replayed=True)


def forget_keys(limit: int) -> Unit[int]:
    """Delete idempotency keys that are older than a day; return how many."""
    rows = yield DELETE_OLD_KEYS, (now(KEY_SECONDS), limit)
    return len(rows)


async def connect(url: str) -> Engine:
    """Open the database that a URL names. StartupError."""
    if is_postgres(url):
        from storage.postgres_engine import PostgresEngine

        return await PostgresEngine.open(url)
    return await SqliteEngine.open(sqlite_path(url))
