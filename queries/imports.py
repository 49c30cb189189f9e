"""Imports: many customers and purchases in one change, all of them or none.

Rows come as JSON arrays of up to some thousand, as a file had them. On SQLite, which
has one writer at a time, they are staged first, in small units between the writes of
others; the unit that then writes them copies a table of its own connection, which takes
a third of the time that reading JSON does. PostgreSQL has others write meanwhile.
"""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from queries.dialects import LAST_ID, dialects, lock
from queries.history import HORIZON, Author, next_change
from queries.import_stage import (
    COUNT_STAGED,
    clear_stage as clear_stage,
    create_stage,
    stage_rows as stage_rows,
)
from queries.records import Imported, StaleError, Written
from storage.engine import Statement, UnavailableError, Unit

CHUNK_ROWS = 2000
"""How many rows a chunk has, but for the last."""
MAX_KEPT_ID = 2**53 - 1
"""The largest id of a file that is kept: JSON has no larger numbers that every client
can read (RFC 8259, section 6), and the ids after it are not used up."""

Pair = tuple[str, str]
"""The name and the address of a customer."""


class NewCustomers(NamedTuple):
    """Customers to create: as rows `[name, folded name, address, created_on, id]`."""

    chunks: Sequence[str]
    size: int
    pairs: frozenset[Pair]


class ImportRows(NamedTuple):
    """What a file holds, after a look at the database.

    `owners` has an id for each purchase; with `pairs` an index of that, and those are
    the ids of customers who are there, None for the new ones in their order.
    """

    tip: int
    """The last row of the history before that look."""
    customers: NewCustomers
    chunks: Sequence[str]
    """Purchases as `[customer, name, quantity, purchased_on, last_updated_on, id]`."""
    owners: Sequence[int]
    pairs: Sequence[int | None] | None
    has_ids: bool
    least_id: int
    greatest_id: int


# Before the write

FIND_PAIRS = Statement(
    # One text for both: SQLite indexes one of two, perhaps that which all share.
    sqlite="""
WITH pairs AS MATERIALIZED (
    SELECT key, json_extract(value, '$[0]') || char(0)
        || coalesce(json_extract(value, '$[1]'), '') AS pair
    FROM json_each(?)
)
SELECT json_group_array(json_array(key, id)) FROM (
    SELECT pairs.key, min(c.id) AS id FROM customer c CROSS JOIN pairs
    ON pairs.pair = c.name || char(0) || coalesce(c.address, '')
    WHERE c.deleted IS NULL GROUP BY pairs.key
) AS found""",
    postgres="""
SELECT coalesce(json_agg(json_build_array(key, id)), '[]') FROM (
    SELECT pairs.n - 1 AS key, min(c.id) AS id
    FROM json_array_elements(?) WITH ORDINALITY AS pairs (value, n)
    JOIN customer c ON c.name = pairs.value->>0
        AND coalesce(c.address, '') = coalesce(pairs.value->>1, '')
    WHERE c.deleted IS NULL GROUP BY pairs.n
) AS found""",
)
FIND_MISSING = Statement(
    sqlite="""
SELECT json_group_array(value) FROM json_each(?) AS wanted WHERE NOT EXISTS (
    SELECT 1 FROM customer WHERE id = wanted.value AND deleted IS NULL)""",
    postgres="""
SELECT coalesce(json_agg(value::bigint), '[]')
FROM json_array_elements_text($1) AS wanted (value) WHERE value::bigint NOT IN (
    SELECT id FROM customer WHERE deleted IS NULL
        AND id IN (SELECT value::bigint FROM json_array_elements_text($1)))""",
)


def read_tip() -> Unit[int]:
    """Return the last row of the history before which none can still come."""
    [(tip, _)] = yield HORIZON, ()
    return int(tip)


def find_pairs(rows: str) -> Unit[dict[int, int]]:
    """Return the ids of customers who are there, by the places of their pairs.

    Of several customers with one name and address, it is the first.
    """
    [(found,)] = yield FIND_PAIRS, (rows,)
    return dict(json.loads(found))


def find_missing_customers(ids: str) -> Unit[list[int]]:
    """Return those of some ids that no customer has."""
    [(found,)] = yield FIND_MISSING, (ids,)
    return list(json.loads(found))


# The write

LOCK_IMPORTS = Statement(postgres="SELECT pg_advisory_xact_lock(1129337649, 2)")
"""One import at a time, or two could create the same customer."""
LOCK_IDS = Statement(
    postgres=f"SELECT {lock('customer')}, {lock('purchases')}, {lock('history')}"
)
LOCK_TABLE = {
    table: Statement(postgres=f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
    for table in ("customer", "purchases")
}
SELECT_LAST_ID = {
    table: Statement(
        sqlite=f"""
SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = '{table}'""",
        postgres=f"SELECT {LAST_ID} FROM {table}_id_seq",
    )
    for table in ("customer", "purchases")
}
SET_LAST_ID = {
    table: Statement(postgres=f"SELECT setval('{table}_id_seq', ?)")
    for table in ("customer", "purchases")
}
DRAW_IDS = {
    table: Statement(
        postgres=f"""
SELECT coalesce(json_agg(nextval('{table}_id_seq')), '[]')
FROM generate_series(1, ?)"""
    )
    for table in ("customer", "purchases")
}
SELECT_CHANGED = Statement("""
SELECT c.name, coalesce(c.address, '') FROM customer c
WHERE c.deleted IS NULL AND c.id IN (
    SELECT customer_id FROM history WHERE id > ? AND action LIKE 'customer.%')""")
COUNT_OWNERS = dialects("""
SELECT count(*) FROM customer c WHERE c.id IN ({ids}) AND c.deleted IS NULL""")
COUNT_CORRECTED = dialects("""
SELECT count(*) FROM history h
WHERE h.id > ? AND h.action LIKE 'customer.%' AND h.action <> 'customer.created'
    AND h.customer_id IN ({ids})""")
COUNT_HIDDEN_SINCE = dialects("""
SELECT count(*) FROM history h
WHERE h.id > ? AND (h.action LIKE 'customer.%' OR h.action LIKE 'purchases.%')
    AND h.action NOT IN ('customer.created', 'customer.updated')
    AND h.customer_id IN ({ids})""")
COUNT_HIDDEN_OVER = dialects("""
SELECT count(*) FROM hidden WHERE last >= ? AND customer_id IN ({ids})""")
ADD_CUSTOMERS = Statement(
    sqlite="""
WITH ids AS MATERIALIZED (SELECT key, value FROM json_each(?2))
INSERT INTO customer (id, name, name_folded, address, date_created)
SELECT i.value, json_extract(r.value, '$[0]'), json_extract(r.value, '$[1]'),
    json_extract(r.value, '$[2]'), coalesce(json_extract(r.value, '$[3]'), ?3)
FROM json_each(?1) AS r CROSS JOIN ids AS i ON i.key = r.key""",
    postgres="""
INSERT INTO customer (id, name, name_folded, address, date_created)
OVERRIDING SYSTEM VALUE
SELECT i.value::bigint, r.value->>0, r.value->>1, r.value->>2,
    coalesce((r.value->>3)::timestamptz, $3)
FROM json_array_elements($1) WITH ORDINALITY AS r (value, n)
JOIN json_array_elements_text($2) WITH ORDINALITY AS i (value, n) USING (n)
ORDER BY n""",
)
RECORD_CUSTOMERS = dialects("""
INSERT INTO history (change, at, caller, action, customer_id)
SELECT ?, ?, nullif(?, ''), 'customer.created', value FROM ({ids}) AS added""")
SET_OWNERS = Statement(
    sqlite="INSERT INTO temp.import_owners SELECT key, value FROM json_each(?)"
)
COPY_STAGED = """
INSERT INTO purchases
    (id, purchase_name, quantity, customer_id, date_created, last_updated)
SELECT CASE WHEN ? THEN r.id ELSE ? + r.place END, r.purchase_name, r.quantity,
    {0}, coalesce(r.purchased_on, ?), r.last_updated_on
FROM temp.import_rows AS r{1} ORDER BY r.place"""
ADD_STAGED = Statement(sqlite=COPY_STAGED.format("r.customer", ""))
ADD_STAGED_OF_PAIRS = Statement(
    sqlite=COPY_STAGED.format(
        "o.id", " CROSS JOIN temp.import_owners AS o ON o.place = r.customer"
    )
)
RECORD_STAGED = Statement(
    sqlite="""
INSERT INTO history (change, at, caller, action, customer_id, purchase_id)
SELECT ?, ?, nullif(?, ''), 'purchase.added', customer_id, id
FROM purchases WHERE id BETWEEN ? AND ? ORDER BY id"""
)
RECORD_KEPT = Statement(
    sqlite="""
INSERT INTO history (change, at, caller, action, customer_id, purchase_id)
SELECT ?, ?, nullif(?, ''), 'purchase.added', p.customer_id, p.id
FROM temp.import_rows AS r CROSS JOIN purchases AS p ON p.id = r.id ORDER BY r.place"""
)
"""For ids of a file, which may come in any order."""
ADD_CHUNK = Statement(
    postgres="""
WITH file AS MATERIALIZED (
    SELECT n, r.value, o.value::bigint AS owner, i.value::bigint AS id
    FROM json_array_elements(?1) WITH ORDINALITY AS r (value, n)
    JOIN json_array_elements_text(?2) WITH ORDINALITY AS o (value, n) USING (n)
    JOIN json_array_elements_text(?3) WITH ORDINALITY AS i (value, n) USING (n)
),
added AS (
    INSERT INTO purchases
        (id, purchase_name, quantity, customer_id, date_created, last_updated)
    OVERRIDING SYSTEM VALUE
    SELECT id, value->>1, (value->>2)::bigint, owner,
        coalesce((value->>3)::timestamptz, ?5), (value->>4)::timestamptz
    FROM file ORDER BY n
)
INSERT INTO history (change, at, caller, action, customer_id, purchase_id)
SELECT ?4, ?5, nullif(?6, ''), 'purchase.added', owner, id FROM file
ORDER BY n""".replace("?", "$")
)


def import_rows(
    rows: ImportRows, author: Author, check: Callable[[], None] | None = None
) -> Unit[Written[Imported]]:
    """Add the rows of a file as one change, none where there is nothing to add.

    Ids of the file are kept where all of them are larger than any that was ever given.
    StaleError if the look is out of date, UnavailableError, errors of the check.
    """
    new, number = rows.customers, len(rows.owners)
    yield LOCK_IMPORTS, ()
    yield from _check(rows)
    if check is not None:
        check()
    if not new.size and not number:
        return Written(Imported(None, 0, 0), None)
    yield LOCK_IDS, ()  # before any id is taken
    keeps = False
    if rows.has_ids:
        table = "purchases" if number else "customer"
        keeps = yield from _reserve(table, rows.least_id, rows.greatest_id)
    change, _ = yield from next_change(0)
    created: Sequence[int]
    if keeps and not number:
        created = _ids_of(new.chunks)
    else:
        created = yield from _draw("customer", new.size)
    yield from _add_customers(new.chunks, created, change, author)
    if number:
        least = yield from _add_purchases(rows, created, change, author, keeps)
        yield from _check_added(rows, least)
    return Written(Imported(change, new.size, number), change)


def _check(rows: ImportRows) -> Unit[None]:
    """Raise StaleError where customers were changed so that another file would come."""
    if rows.customers.pairs:
        changed = yield SELECT_CHANGED, (rows.tip,)
        if rows.customers.pairs & {(name, address) for name, address in changed}:
            raise StaleError
    ids = yield from _check_owners(rows)
    if rows.pairs is not None:
        [(corrected,)] = yield COUNT_CORRECTED, (rows.tip, ids)
        if corrected:
            raise StaleError


def _check_owners(rows: ImportRows) -> Unit[str]:
    """Return the ids of the customers who were there, as JSON. StaleError."""
    if rows.pairs is None:
        owners = set(rows.owners)
    else:
        owners = {number for number in rows.pairs if number is not None}
    ids = json.dumps([*owners])
    [(there,)] = yield COUNT_OWNERS, (ids,)
    if there < len(owners):
        raise StaleError
    return ids


def _check_added(rows: ImportRows, least: int) -> Unit[None]:
    """Raise StaleError if what was added may be hidden, or its customers are deleted.

    On PostgreSQL the customers are not locked before the purchases refer to them:
    whoever deletes some in between is seen here, and whoever comes later waits. `least`
    is the least id that was added.
    """
    ids = yield from _check_owners(rows)
    [(hidden,)] = yield COUNT_HIDDEN_OVER, (least, ids)
    [(since,)] = yield COUNT_HIDDEN_SINCE, (rows.tip, ids)
    if hidden or since:
        raise StaleError


def _reserve(table: str, least: int, greatest: int) -> Unit[bool]:
    """Return whether ids of a file can be kept, and see to it that none is given."""
    yield LOCK_TABLE[table], ()
    [(last,)] = yield SELECT_LAST_ID[table], ()
    if least <= last or greatest > MAX_KEPT_ID:
        return False
    yield SET_LAST_ID[table], (greatest,)
    return True


def _draw(table: str, count: int) -> Unit[Sequence[int]]:
    """Return so many ids that were never given."""
    for (drawn,) in (yield DRAW_IDS[table], (count,)):
        return list(json.loads(drawn))
    [(last,)] = yield SELECT_LAST_ID[table], ()  # on SQLite, those after it are free
    return range(last + 1, last + count + 1)


def _ids_of(chunks: Sequence[str]) -> list[int]:
    """Return the ids that the rows of a file have."""
    return [row[-1] for chunk in chunks for row in json.loads(chunk)]


def _add_customers(
    chunks: Sequence[str], ids: Sequence[int], change: int, author: Author
) -> Unit[None]:
    for place, chunk in enumerate(chunks):
        numbers = _slice(ids, place)
        yield ADD_CUSTOMERS, (chunk, numbers, author.at)
        yield RECORD_CUSTOMERS, (change, author.at, author.caller, numbers)


def _slice(values: Sequence[int], chunk: int) -> str:
    """Return what belongs to the rows of a chunk, as JSON."""
    return json.dumps([*values[chunk * CHUNK_ROWS : (chunk + 1) * CHUNK_ROWS]])


def _add_purchases(
    rows: ImportRows,
    created: Sequence[int],
    change: int,
    author: Author,
    keeps_ids: bool,
) -> Unit[int]:
    """Add the purchases: what is staged, on SQLite, or the chunks. UnavailableError.

    Returns the least id.
    """
    number, new = len(rows.owners), iter(created)
    yield from create_stage()
    ids = [next(new) if known is None else known for known in rows.pairs or ()]
    yield SET_OWNERS, (json.dumps(ids),)
    drawn: Sequence[int] = ()
    if not keeps_ids:
        drawn = yield from _draw("purchases", number)
    written = change, author.at, author.caller
    if staged := (yield COUNT_STAGED, ()):
        if staged != [(number,)]:
            raise UnavailableError("what was staged is gone: send the file again")
        add_staged = ADD_STAGED if rows.pairs is None else ADD_STAGED_OF_PAIRS
        yield add_staged, (keeps_ids, drawn[0] if drawn else 0, author.at)
        if keeps_ids:
            yield RECORD_KEPT, written
        else:
            yield RECORD_STAGED, (*written, drawn[0], drawn[-1])
        yield from clear_stage()
        return rows.least_id if keeps_ids else drawn[0]
    owners = rows.owners if rows.pairs is None else [ids[at] for at in rows.owners]
    for place, chunk in enumerate(rows.chunks):
        numbers = _slice(drawn, place)
        if keeps_ids:
            numbers = json.dumps(_ids_of([chunk]))
        yield ADD_CHUNK, (chunk, _slice(owners, place), numbers, *written)
    return rows.least_id if keeps_ids else min(drawn)
