"""The data-access module: queries of customers and purchases, `connect(url)`.

A query is a generator function: called, it gives a unit of work, which yields
statements with their parameters, is sent their rows and returns a record. It holds the
logic of one unit of work, for every engine. An engine runs a unit whole or not at all,
and may run it again from the start, so a query depends on nothing but its arguments and
the rows.

Every write records its change in the history. Queries of the history, of undo, of
erasure and of idempotency keys stand in `queries`, and have their names here too.
"""

import json
from collections.abc import Callable
from typing import Any

from queries import names
from queries.blocks import fill_blocks as fill_blocks, is_fillable as is_fillable
from queries.customer_lists import (
    count_customers as count_customers,
    find_customers as find_customers,
)
from queries.customer_purchases import (
    COPIED_ROWS as COPIED_ROWS,
    copy_purchases as copy_purchases,
    read_copy_state as read_copy_state,
)
from queries.dialects import calls, dialects, horizon
from queries.erasure import (
    forget_some as forget_some,
    hide_for_good,
    purge_customer as purge_customer,
    purge_step as purge_step,
)
from queries.feed import (
    Filters as Filters,
    catch_up as catch_up,
    follow_changes as follow_changes,
    read_change as read_change,
    read_changes as read_changes,
)
from queries.hidden import PURGED, hide, select_purchases
from queries.history import RECORD_DELETED, Author as Author, next_change, record
from queries.idempotency import (
    find_response as find_response,
    forget_keys as forget_keys,
    run_idempotent as run_idempotent,
)
from queries.imports import (
    CHUNK_ROWS as CHUNK_ROWS,
    ImportRows as ImportRows,
    NewCustomers as NewCustomers,
    find_missing_customers as find_missing_customers,
    find_pairs as find_pairs,
    import_rows as import_rows,
    read_tip as read_tip,
    stage_rows as stage_rows,
)
from queries.lists import (
    list_customer_purchases as list_customer_purchases,
    list_purchases as list_purchases,
)
from queries.names import (
    INDEX_ROWS as INDEX_ROWS,
    count_unindexed as count_unindexed,
    index_names as index_names,
)
from queries.purchase_search import (
    MAX_KEYS as MAX_KEYS,
    PurchaseFilters as PurchaseFilters,
    count_purchases as count_purchases,
    search_purchases as search_purchases,
    summarize_purchases as summarize_purchases,
)
from queries.records import (
    ConflictError as ConflictError,
    Customer as Customer,
    ErasedError as ErasedError,
    IdempotencyKey as IdempotencyKey,
    Imported as Imported,
    KeyReusedError as KeyReusedError,
    NotFoundError as NotFoundError,
    Page as Page,
    PrunedError as PrunedError,
    Purchase as Purchase,
    StaleError as StaleError,
    StoredResponse as StoredResponse,
    Undone as Undone,
    Written as Written,
)
from queries.undo import undo_change as undo_change
from storage.engine import (
    CACHE_MIB,
    READING as READING,
    DiskFullError as DiskFullError,
    Engine as Engine,
    OverloadedError as OverloadedError,
    Reading as Reading,
    RecordedInsert,
    Row,
    StartupError as StartupError,
    Statement,
    T as T,
    Ts as Ts,
    UnavailableError as UnavailableError,
    Unit as Unit,
    is_postgres,
    single,
    sqlite_path,
)
from storage.schema import fold_name as fold_name, now as now
from storage.sqlite_engine import SqliteEngine

VersionCheck = Callable[[int], None]
"""Raises an error of the caller's for a version that a row must not have."""

# Queries of customers

INSERT_CUSTOMER = RecordedInsert(
    sqlite="""
INSERT INTO customer (name, address, date_created, name_folded) VALUES (?, ?, ?, ?)""",
    record="""
INSERT INTO history (at, caller, action, customer_id)
SELECT ?, nullif(?, ''), 'customer.created', id FROM customer WHERE id BETWEEN ? AND ?
ORDER BY id""",
    **calls(
        "add_customer", "text text timestamptz text timestamptz text", "customer_id"
    ),
)
CUSTOMER_COLUMNS = "id, name, address, date_created, version"
SELECT_CUSTOMER = Statement(f"""
SELECT {CUSTOMER_COLUMNS} FROM customer WHERE id = ? AND deleted IS NULL""")
LOCK_CUSTOMER = dialects("""
SELECT c.version, {customer_image} FROM customer c
WHERE c.id = ? AND c.deleted IS NULL {for_update}""")
UPDATE_CUSTOMER = Statement(f"""
UPDATE customer SET name = coalesce(?, name),
    name_folded = coalesce(?, name_folded), address = coalesce(?, address),
    version = version + 1, change = ?
WHERE id = ? RETURNING {CUSTOMER_COLUMNS}""")
DELETE_CUSTOMER = Statement("UPDATE customer SET deleted = ? WHERE id = ?")


@single
def add_customer(
    name: str, address: str, caller: str, at: str
) -> Unit[Written[Customer]]:
    """Record a customer."""
    values = name, address, at, fold_name(name), at, caller
    [(number, change)] = yield INSERT_CUSTOMER, values
    return Written(Customer(number, name, address, at, 1), change)


def read_customer(customer_id: int) -> Unit[Customer]:
    """Return one customer. NotFoundError."""
    row = yield from _fetch_one("customer", SELECT_CUSTOMER, customer_id)
    return Customer(*row)


def update_customer(
    customer_id: int,
    name: str | None,
    address: str | None,
    author: Author,
    check: VersionCheck | None,
) -> Unit[Written[Customer]]:
    """Change what is not None. NotFoundError, errors of the check."""
    image = yield from _lock_customer(customer_id, check)
    before = image if author.keeps_images else None
    change = yield from record(author, "customer.updated", customer_id, None, before)
    folded = None if name is None else fold_name(name)
    values = name, folded, address, change, customer_id
    row = yield from _fetch_one("customer", UPDATE_CUSTOMER, *values)
    if folded is not None:
        yield from names.rename(customer_id, folded)
    return Written(Customer(*row), change)


def delete_customer(
    customer_id: int, author: Author, check: VersionCheck | None
) -> Unit[Written[int]]:
    """Hide a customer and its purchases, and count these. Errors as for an update."""
    image = yield from _lock_customer(customer_id, check)
    ranges, count = yield from select_purchases(customer_id)
    kept = json.loads(image) if author.keeps_images else {}
    before = json.dumps(kept | {"purchases": count}, ensure_ascii=False)
    change = yield from record(author, "customer.deleted", customer_id, None, before)
    if author.keeps_images:
        yield from hide(customer_id, change, ranges)
        yield DELETE_CUSTOMER, (change, customer_id)
    else:
        yield from hide_for_good(customer_id)
    return Written(count, change)


def _lock_customer(customer_id: int, check: VersionCheck | None = None) -> Unit[str]:
    """Return the image of a customer that nobody else can write until the unit ends.

    NotFoundError, errors of the check.
    """
    version, image = yield from _fetch_one("customer", LOCK_CUSTOMER, customer_id)
    if check is not None:
        check(version)
    return str(image)


def _fetch_one(noun: str, statement: Statement, *parameters: Any) -> Unit[Row]:
    """Return the row whose id is the last parameter. NotFoundError."""
    rows = yield statement, parameters
    if not rows:
        raise NotFoundError(noun, parameters[-1])
    return rows[0]


# Queries of purchases

PURCHASE_COLUMNS = """id, purchase_name, quantity, date_created, last_updated,
    CAST(customer_id AS TEXT), version"""
INSERT_PURCHASE = RecordedInsert(
    sqlite="""
INSERT INTO purchases (purchase_name, quantity, date_created, customer_id)
VALUES (?, ?, ?, ?)""",
    # A foreign key does not see that a customer is deleted.
    record="""
INSERT INTO history (at, caller, action, customer_id, purchase_id)
SELECT ?, nullif(?, ''), 'purchase.added', p.customer_id, p.id
FROM purchases p CROSS JOIN customer c ON c.id = p.customer_id
WHERE p.id BETWEEN ? AND ? AND c.deleted IS NULL ORDER BY p.id""",
    **calls(
        "add_purchase", "text bigint timestamptz bigint timestamptz text", "purchase_id"
    ),
)


SELECT_PURCHASE = dialects(
    f"""
SELECT {PURCHASE_COLUMNS} FROM purchases p
WHERE p.customer_id = ?1 AND p.id = ?2 AND {{visible}}""",
    owner="?1",
)
SELECT_OWNER = Statement("SELECT customer_id FROM purchases WHERE id = ?")
LOCK_OWNER = Statement(postgres="SELECT id FROM customer WHERE id = ? FOR KEY SHARE")
LOCK_PURCHASE = dialects(
    """
SELECT p.version, {purchase_image} FROM purchases p
WHERE p.customer_id = ?1 AND p.id = ?2 AND {visible} {for_update}""",
    owner="?1",
)
UPDATE_PURCHASE = Statement(f"""
UPDATE purchases SET purchase_name = coalesce(?, purchase_name),
    quantity = coalesce(?, quantity), last_updated = ?, version = version + 1,
    change = ?
WHERE customer_id = ? AND id = ? RETURNING {PURCHASE_COLUMNS}""")
SELECT_CHOSEN = dialects(
    """
SELECT p.id FROM purchases p
WHERE p.customer_id = ? AND p.id IN ({ids}) AND {visible}""",
    owner="?",
)
DELETE_CHOSEN = dialects("""
DELETE FROM purchases WHERE customer_id = ? AND id IN ({ids})""")


@single
def add_purchase(
    customer_id: int,
    purchase_name: str,
    quantity: int,
    purchased_on: str | None,
    caller: str,
    at: str,
) -> Unit[Written[Purchase]]:
    """Record what a customer bought, as of now without a time. NotFoundError."""
    time = purchased_on or at
    values = purchase_name, quantity, time, customer_id, at, caller
    rows = yield INSERT_PURCHASE, values
    if not rows:
        raise NotFoundError("customer", customer_id)
    [(number, change)] = rows
    row = Purchase(number, purchase_name, quantity, time, None, str(customer_id), 1)
    return Written(row, change)


def read_purchase(customer_id: int, purchase_id: int) -> Unit[Purchase]:
    """Return one purchase of one customer. NotFoundError."""
    ids = customer_id, purchase_id
    return Purchase(*(yield from _fetch_one("purchase", SELECT_PURCHASE, *ids)))


def update_purchase(
    customer_id: int | None,
    purchase_id: int,
    purchase_name: str | None,
    quantity: int | None,
    author: Author,
    check: VersionCheck | None,
) -> Unit[Written[Purchase]]:
    """Change what is not None, of a customer's, or of anyone's for None.

    NotFoundError, errors of the check.
    """
    if customer_id is None:
        [customer_id] = yield from _fetch_one("purchase", SELECT_OWNER, purchase_id)
    yield LOCK_OWNER, (customer_id,)  # who deletes the customer's does not come between
    ids = customer_id, purchase_id
    version, image = yield from _fetch_one("purchase", LOCK_PURCHASE, *ids)
    if check is not None:
        check(version)
    before = image if author.keeps_images else None
    change = yield from record(author, "purchase.updated", *ids, before)
    values = purchase_name, quantity, author.at, change, *ids
    changed = yield from _fetch_one("purchase", UPDATE_PURCHASE, *values)
    return Written(Purchase(*changed), change)


def delete_all_purchases(customer_id: int, author: Author) -> Unit[Written[int]]:
    """Hide a customer's purchases and return how many there were. NotFoundError."""
    yield from _lock_customer(customer_id)
    ranges, count = yield from select_purchases(customer_id)
    before = json.dumps({"purchases": count})
    change = yield from record(author, "purchases.cleared", customer_id, None, before)
    yield from hide(customer_id, change if author.keeps_images else PURGED, ranges)
    return Written(count, change)


def delete_purchases(
    customer_id: int, purchase_ids: list[int], author: Author
) -> Unit[Written[int]]:
    """Delete the customer's among some purchases; return how many. NotFoundError."""
    yield from _lock_customer(customer_id)
    wanted = customer_id, json.dumps(purchase_ids), customer_id
    rows = yield SELECT_CHOSEN, wanted
    if not rows:
        return Written(0, None)
    chosen = json.dumps([number for (number,) in rows])
    change, ids = yield from next_change(len(rows))
    written = change, author.at, author.caller, ids and json.dumps(ids)
    yield RECORD_DELETED, (customer_id, *written, author.keeps_images, chosen)
    yield DELETE_CHOSEN, (customer_id, chosen)
    return Written(len(rows), change)


TABLES = ("history", "customer", "purchases")
"""The tables whose ids lists and the feed go by."""


def check_replica(url: str, replica_url: str | None) -> None:
    """Raise StartupError for a replica of what can have none."""
    if replica_url is not None and not (is_postgres(url) and is_postgres(replica_url)):
        raise StartupError(
            "READ_DATABASE_URL: it and DATABASE_URL must both name PostgreSQL"
        )


async def connect(
    url: str, replica_url: str | None = None, cache_mib: int = CACHE_MIB
) -> Engine:
    """Open the database that a URL names, and a replica of it. StartupError."""
    check_replica(url, replica_url)
    if replica_url is not None:
        from storage.replica_reads import ReplicatedEngine

        horizons = {table: horizon(table) for table in TABLES}
        return await ReplicatedEngine.open(url, replica_url, horizons)
    if is_postgres(url):
        from storage.postgres_engine import PostgresEngine

        return await PostgresEngine.open(url)
    return await SqliteEngine.open(sqlite_path(url), cache_mib)
