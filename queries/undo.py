"""Undo: the change that brings back what another change found.

The rules, each forced by a counter-example: a change is undone once, and what was
undone comes back by undoing the undo; a version never goes back, unless the row comes
back as it was; whether a row has changed since is told by the change that its content
comes from, which an undo sets back, and not by its version; a purchase comes back only
while its customer is there; a customer goes only when no purchase of it is left.
"""

import json
from collections.abc import Callable

from queries.blocks import widen_blocks
from queries.customer_purchases import copy_restored
from queries.dialects import dialects, of_customer
from queries.feed import refuse_pruned
from queries.hidden import PURGED, split_ranges
from queries.history import Author, next_change, record_rows
from queries.names import rename_all
from queries.records import (
    ConflictError,
    ErasedError,
    NotFoundError,
    PrunedError,
    Undone,
    Written,
)
from queries.undo_large import LARGE
from storage.engine import Statement, Unit

MAX_CONFLICTS = 100
"""How many rows that stand in the way an error names."""
COLUMNS = "id, action, customer_id, purchase_id, before"
CONTENT = """coalesce(content, CASE
        WHEN action IN ('purchase.updated', 'customer.updated')
        THEN coalesce(change, id) ELSE 0 END)"""
ROWS = f"""(
    SELECT {COLUMNS}, {CONTENT} AS content
    FROM history WHERE id = ?1 AND change IS NULL [AND customer_id]
    UNION ALL
    SELECT {COLUMNS}, {CONTENT} FROM history WHERE change = ?1 [AND customer_id]
)"""
"""The rows of a change, each with the change that its row's content then came from."""
CHANGE = f"WITH h AS {ROWS}"
OWNED = "p.customer_id = h.customer_id [AND p.customer_id]"
"""What a purchase must be beside its id: then its customer's shard alone is asked."""

SELECT_ACTIONS = dialects("""
SELECT action, count(*), min(at), sum(CASE
    WHEN action IN ('purchase.updated', 'purchase.deleted', 'customer.updated')
        AND before IS NULL THEN 1 ELSE 0 END), count(change),
    min(customer_id), max(customer_id)
FROM history
WHERE id IN (
    SELECT id FROM history WHERE id = ?1 AND change IS NULL
    UNION ALL SELECT id FROM history WHERE change = ?1
) GROUP BY action ORDER BY action""")
LOCK_CUSTOMER = dialects("""
SELECT id, deleted FROM customer WHERE id = ? {for_update}""")
OF_CHANGE = """FROM customer WHERE id IN (
    SELECT customer_id FROM history WHERE id = ?1 AND change IS NULL
    UNION SELECT customer_id FROM history WHERE change = ?1
)"""
LOCK_CUSTOMERS = dialects(f"SELECT id, deleted {OF_CHANGE} ORDER BY id {{for_update}}")
SELECT_CUSTOMERS = dialects(f"SELECT id, deleted {OF_CHANGE}")
# Rows of several shards cannot be locked by one statement.
SELECT_CITUS = Statement(
    postgres="""
SELECT relname FROM pg_class
WHERE oid = to_regclass('pg_catalog.pg_dist_partition')"""
)
LOCK_ALL_CUSTOMERS = Statement(postgres="LOCK TABLE customer IN EXCLUSIVE MODE")
COUNT_CUSTOMERS = Statement("""
SELECT count(DISTINCT customer_id) FROM history WHERE change = ?""")
SELECT_UNDOER = of_customer(
    "SELECT coalesce(change, id) FROM history WHERE undoes = ?1 [AND customer_id]", 1
)
MARK = of_customer(
    """
UPDATE history SET undoes = ?1 WHERE id = (
    SELECT min(id) FROM history WHERE change = ?2 [AND customer_id]
) [AND customer_id]""",
    2,
)
MARK_ALONE = Statement("UPDATE history SET undoes = ? WHERE id = ? AND customer_id = ?")
RESTORED = {
    "purchase.added": "purchase.restored",
    "customer.created": "customer.restored",
}
"""Actions that are undone as those that made the row."""

CHANGED_PURCHASES = of_customer(
    f"""{CHANGE}
SELECT h.purchase_id, p.id IS NULL
FROM h LEFT JOIN purchases p ON {OWNED} AND p.id = h.purchase_id
WHERE h.action IN ('purchase.added', 'purchase.updated', 'purchase.restored')
    AND (p.id IS NULL OR coalesce(p.change, 0) <> h.content OR NOT {{visible}})
ORDER BY h.id LIMIT {MAX_CONFLICTS + 1}""",
    1,
)
CHANGED_CUSTOMERS = of_customer(
    f"""{CHANGE}
SELECT c.id, c.deleted IS NOT NULL
FROM h JOIN customer c ON c.id = h.customer_id [AND c.id]
WHERE h.action IN ('customer.created', 'customer.updated', 'customer.restored')
    AND (c.deleted IS NOT NULL OR coalesce(c.change, 0) <> h.content)
ORDER BY h.id LIMIT {MAX_CONFLICTS + 1}""",
    1,
)
ABSENT_CUSTOMERS = of_customer(
    f"""{CHANGE}
SELECT DISTINCT c.id FROM h JOIN customer c ON c.id = h.customer_id [AND c.id]
WHERE h.action IN ('purchase.deleted', 'purchase.updated') AND c.deleted IS NOT NULL
ORDER BY c.id LIMIT {MAX_CONFLICTS + 1}""",
    1,
)
LEFT_PURCHASES = of_customer(
    f"""{CHANGE}
SELECT p.id FROM h JOIN purchases p ON {OWNED}
WHERE h.action IN ('customer.created', 'customer.restored') AND {{visible}}
ORDER BY p.id + 0 LIMIT {MAX_CONFLICTS + 1}""",  # + 0: not through all purchases
    1,
)

IMAGE_OF_PURCHASE = "p.customer_id, p.id AS purchase_id, {purchase_image} AS before"
IMAGE_OF_CUSTOMER = """c.id AS customer_id, CAST(NULL AS bigint) AS purchase_id,
    {customer_image} AS before"""
NO_CONTENT = "CAST(NULL AS bigint) AS content"
THEN = "coalesce({change}, 0) AS content"
WITH_PURCHASE = f"FROM {ROWS} AS h JOIN purchases p ON {OWNED} AND p.id = h.purchase_id"
WITH_CUSTOMER = f"FROM {ROWS} AS h JOIN customer c ON c.id = h.customer_id [AND c.id]"
STEPS = {
    action: (
        of_customer(record_rows(rows, "h"), 5),
        of_customer(change, 2 if "?2" in change else 1),
    )
    for action, (rows, change) in {
        "customer.deleted": (
            f"""'customer.restored' AS action, c.id AS customer_id,
    CAST(NULL AS bigint) AS purchase_id, CAST(NULL AS text) AS before,
    coalesce(c.change, 0) AS content {WITH_CUSTOMER}
WHERE h.action = 'customer.deleted'""",
            f"""{CHANGE}
UPDATE customer SET deleted = NULL WHERE id IN (
    SELECT customer_id FROM h WHERE action = 'customer.deleted') [AND id]""",
        ),
        "purchase.deleted": (
            f"""'purchase.restored' AS action, h.customer_id, h.purchase_id,
    CAST(NULL AS text) AS before, {THEN} FROM {ROWS} AS h
WHERE h.action = 'purchase.deleted'""",
            f"""
INSERT INTO purchases (id, purchase_name, quantity, customer_id, date_created,
    last_updated, version, change) {{with_ids}}
SELECT purchase_id, {{purchase_name}}, {{quantity}}, customer_id, {{purchased_on}},
    {{last_updated_on}}, {{version}}, {{change}}
FROM {ROWS} AS h WHERE action = 'purchase.deleted' ORDER BY id""",
        ),
        "purchase.updated": (
            f"""'purchase.updated' AS action, {IMAGE_OF_PURCHASE}, {THEN}
{WITH_PURCHASE} WHERE h.action = 'purchase.updated'""",
            # Shards read no time from a text in an UPDATE itself.
            f"""{CHANGE},
old AS MATERIALIZED (
    SELECT customer_id, purchase_id, {{purchase_name}} AS name,
        {{quantity}} AS quantity, {{last_updated_on}} AS at, {{change}} AS change
    FROM h WHERE action = 'purchase.updated'
)
UPDATE purchases SET purchase_name = old.name, quantity = old.quantity,
    last_updated = old.at, version = version + 1, change = old.change
FROM old WHERE purchases.customer_id = old.customer_id [AND purchases.customer_id]
    AND purchases.id = old.purchase_id""",
        ),
        "purchase.added": (
            f"""'purchase.deleted' AS action, {IMAGE_OF_PURCHASE}, {NO_CONTENT}
{WITH_PURCHASE} WHERE h.action IN ('purchase.added', 'purchase.restored')""",
            f"""{CHANGE}
DELETE FROM purchases WHERE id IN (
    SELECT purchase_id FROM h WHERE action IN ('purchase.added', 'purchase.restored'))
    [AND customer_id]""",
        ),
        "customer.updated": (
            f"""'customer.updated' AS action, {IMAGE_OF_CUSTOMER}, {THEN}
{WITH_CUSTOMER} WHERE h.action = 'customer.updated'""",
            f"""{CHANGE}
UPDATE customer SET name = {{name}}, name_folded = {{name_folded}},
    address = {{address}}, version = version + 1, change = {{change}}
FROM h WHERE h.customer_id = customer.id [AND customer.id]
    AND h.action = 'customer.updated'""",
        ),
        "customer.created": (
            f"""'customer.deleted' AS action, {IMAGE_OF_CUSTOMER}, {NO_CONTENT}
{WITH_CUSTOMER} WHERE h.action IN ('customer.created', 'customer.restored')""",
            f"""{CHANGE}
UPDATE customer SET deleted = ?2 WHERE id IN (
    SELECT customer_id FROM h WHERE action IN ('customer.created', 'customer.restored'))
    [AND id]""",
        ),
    }.items()
}
"""By the action that is undone: how it is recorded, and how it is done."""


def undo_change(
    change: int, author: Author, since: str, check: Callable[[], None] | None = None
) -> Unit[Written[Undone]]:
    """Undo a change that was made since a time.

    NotFoundError, PrunedError, ErasedError; ConflictError where rows have changed since
    or the change was undone already; errors of the check, if nothing else refuses it.
    """
    undone = yield from _undo(change, author, since)
    if check is not None:
        check()
    return Written(undone, undone.change)


def _undo(change: int, author: Author, since: str) -> Unit[Undone]:
    actions = yield SELECT_ACTIONS, (change,)
    if not actions:
        yield from refuse_pruned(change)
        raise NotFoundError("change", change)
    if any(row[2] < since for row in actions):
        raise PrunedError
    first, last = min(row[5] for row in actions), max(row[6] for row in actions)
    owner = (first,) if first == last else ()
    are_there = yield from _lock_customers(change, owner)
    yield from refuse_pruned(change)
    if not are_there:
        raise ErasedError
    if any(row[3] for row in actions):  # without an image
        raise PrunedError
    if undoer := (yield SELECT_UNDOER[len(owner)], (change, *owner)):
        raise ConflictError(f"It was undone already, by change {undoer[0][0]}.", [])
    names, rows = {row[0]: row[1] for row in actions}, sum(row[1] for row in actions)
    is_own_row = not any(row[4] for row in actions)
    if is_own_row and (undo := LARGE.get(*names)):
        number = yield from undo(change, first, author)
        yield MARK_ALONE, (change, number, first)
        return Undone(number, change, 1)
    yield from _refuse_changed(change, owner)
    number, ids = yield from next_change(rows)
    yield from _undo_rows(change, number, author, owner, names, ids)
    yield from _refuse_left(change, owner)
    yield from split_ranges(number, owner)
    yield from widen_blocks(number, owner)
    yield from copy_restored(number)
    if "customer.updated" in names:
        yield from rename_all(change)
    yield MARK[len(owner)], (change, number, *owner)
    return Undone(number, change, rows)


def _undo_rows(
    change: int,
    number: int,
    author: Author,
    owner: tuple[int, ...],
    counts: dict[str, int],
    ids: list[int] | None,
) -> Unit[None]:
    """Record what a change undoes, and do it, for each action of the other one."""
    for action, (record, undo_all) in STEPS.items():
        count = counts.get(action, 0)
        if action in RESTORED:
            count += counts.get(RESTORED[action], 0)
        if count:
            drawn, ids = ids and json.dumps(ids[:count]), ids and ids[count:]
            written = number, author.at, author.caller, drawn
            yield record[len(owner)], (change, *written, *owner)
            both = action == "customer.created"  # its rows hold the number
            numbers = (change, number) if both else (change,)
            yield undo_all[len(owner)], (*numbers, *owner)


def _lock_customers(change: int, owner: tuple[int, ...]) -> Unit[bool]:
    """Have nobody else write what is of the customers of a change.

    Returns whether none of them was erased.
    """
    wanted = 1
    if owner:
        locked = yield LOCK_CUSTOMER, owner
    else:
        [(wanted,)] = yield COUNT_CUSTOMERS, (change,)
        if (yield SELECT_CITUS, ()):
            yield LOCK_ALL_CUSTOMERS, ()
            locked = yield SELECT_CUSTOMERS, (change,)
        else:
            locked = yield LOCK_CUSTOMERS, (change,)
    return len(locked) == wanted and all(deleted != PURGED for _, deleted in locked)


def _refuse_changed(change: int, owner: tuple[int, ...]) -> Unit[None]:
    """Raise ConflictError where rows of a change are not as it left them."""
    found = []
    for noun, statement in (
        ("customer", CHANGED_CUSTOMERS),
        ("purchase", CHANGED_PURCHASES),
    ):
        rows = yield statement[len(owner)], (change, *owner)
        found += [
            (noun, number, "It is not there." if gone else "It has changed since.")
            for number, gone in rows
        ]
    if found:
        raise ConflictError("Rows have changed since.", found)


def _refuse_left(change: int, owner: tuple[int, ...]) -> Unit[None]:
    """Raise ConflictError for purchases whose customer is not there after the undo."""
    absent = yield ABSENT_CUSTOMERS[len(owner)], (change, *owner)
    left = yield LEFT_PURCHASES[len(owner)], (change, *owner)
    if absent or left:
        raise ConflictError(
            "A purchase cannot be without its customer.",
            [("customer", number, "It is not there.") for (number,) in absent]
            + [("purchase", number, "Its customer would go.") for (number,) in left],
        )
