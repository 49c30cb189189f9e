"""Erasure for good: of a customer by request, of whatever the history keeps no more.

What was deleted is hidden at first. What nobody may bring back is removed here, in
units so small that no other write waits long.
"""

from collections.abc import Callable

from queries import names
from queries.dialects import dialects
from queries.hidden import DELETE_RANGE, PURGED, hide, select_purchases
from queries.history import MAX_ID, Author, record
from queries.idempotency import forget_keys
from queries.records import NotFoundError, Written
from storage.engine import Statement, Unit
from storage.schema import digest_start, now

STEP_ROWS, MAX_KEYS = 500, 1000
"""The most rows, and the most idempotency keys, that one unit removes."""

LOCK_CUSTOMER = dialects("""
SELECT version, deleted FROM customer WHERE id = ? {for_update}""")
FORGET_RANGES = Statement("DELETE FROM hidden WHERE customer_id = ?")
BLANK_CUSTOMER = Statement("""
UPDATE customer SET name = '', name_folded = '', address = NULL, change = NULL,
    deleted = ? WHERE id = ?""")

SELECT_OWNER_OF_RANGE = Statement("""
SELECT customer_id FROM hidden WHERE change = ? LIMIT 1""")
LOCK_PURGED_RANGE = dialects("""
SELECT first, last FROM hidden WHERE customer_id = ? AND change = ?
LIMIT 1 {for_update}""")
DELETE_PURCHASES = dialects("""
DELETE FROM purchases WHERE customer_id = ?1 AND id IN (
    SELECT id FROM purchases
    WHERE customer_id = ?1 AND id >= ?2 AND id <= ?3 LIMIT ?4 + 0
) RETURNING id""")
SELECT_PURGED_CUSTOMER = Statement("SELECT id FROM customer WHERE deleted = ? LIMIT 1")
LOCK_PURGED_CUSTOMER = dialects("""
SELECT coalesce(change, 0) FROM customer WHERE id = ?1 AND deleted = ?2
    AND NOT EXISTS (SELECT 1 FROM hidden WHERE hidden.customer_id = ?1)
{for_update}""")
# Of a customer who is purged, `change` is the row up to which images are blanked.
SELECT_IMAGES_END = Statement("""
SELECT max(id), count(*) FROM (
    SELECT id FROM history
    WHERE customer_id = ? AND action <> 'purchase.added' AND id > ?
    ORDER BY id LIMIT ? + 0
) AS images""")
BLANK_IMAGES = dialects("""
UPDATE history SET before = CASE WHEN before IS NOT NULL AND action IN (
    'customer.deleted', 'customer.restored', 'purchases.cleared', 'purchases.restored'
) THEN {only_purchases} END
WHERE customer_id = ? AND action <> 'purchase.added' AND id > ? AND id <= ?""")
SET_BLANKED = Statement("UPDATE customer SET change = ? WHERE id = ?")
BLANK_KEYS = dialects("""
UPDATE idempotency SET fingerprint = ?1, response = ?1
WHERE digest IN (
    SELECT digest FROM idempotency
    WHERE (customer_id = ?2 OR digest >= ?3 AND digest < ?4) AND response <> ?1
    LIMIT ?5 + 0
) RETURNING created""")
"""Those of its creation, and those of its purchases."""
DELETE_CUSTOMER = Statement("DELETE FROM customer WHERE id = ?")

LOCK_HISTORY = dialects("SELECT pruned FROM history_start {for_update}")
SELECT_OLD_END = Statement("""
SELECT max(id), count(*) FROM (
    SELECT id, at FROM history ORDER BY id LIMIT ? + 0
) AS oldest WHERE at <= ?""")
SELECT_OLD_DELETIONS = Statement("""
SELECT customer_id, coalesce(change, id) FROM history
WHERE id <= ? AND action IN ('purchases.cleared', 'customer.deleted')
ORDER BY customer_id""")
PURGE_RANGES = Statement("""
UPDATE hidden SET change = ? WHERE customer_id = ? AND change = ?""")
DELETE_OLD = Statement("DELETE FROM history WHERE id <= ?")
SET_PRUNED = Statement("UPDATE history_start SET pruned = ?")


def purge_customer(
    customer_id: int, author: Author, check: Callable[[int], None] | None
) -> Unit[Written[int]]:
    """Hide a customer for good, also one that was deleted; `purge_step` does the rest.

    Returns how many purchases could be seen. NotFoundError, errors of the check.
    """
    rows = yield LOCK_CUSTOMER, (customer_id,)
    if not rows or rows[0][1] == PURGED:
        raise NotFoundError("customer", customer_id)
    if check is not None:
        check(rows[0][0])
    _, count = yield from select_purchases(customer_id)
    change = yield from record(author, "customer.erased", customer_id)
    yield from hide_for_good(customer_id)
    return Written(count, change)


def hide_for_good(customer_id: int) -> Unit[None]:
    """Hide a customer with all purchases, for nobody to bring back."""
    yield FORGET_RANGES, (customer_id,)
    yield from hide(customer_id, PURGED, [(1, MAX_ID)])
    yield BLANK_CUSTOMER, (PURGED, customer_id)
    yield from names.forget(customer_id)


def purge_step(customer_id: int = 0) -> Unit[bool]:
    """Remove some of what nobody can bring back; return whether there may be more.

    Of one customer, or of any.
    """
    if customer_id:
        return (yield from _purge_of(customer_id))
    for select in (SELECT_OWNER_OF_RANGE, SELECT_PURGED_CUSTOMER):
        for (number,) in (yield select, (PURGED,)):
            yield from _purge_of(number)
            return True
    return False


def _purge_of(customer_id: int) -> Unit[bool]:
    """Remove some of a customer; return whether there may be more."""
    for first, last in (yield LOCK_PURGED_RANGE, (customer_id, PURGED)):
        values = customer_id, first, last, STEP_ROWS
        removed = yield DELETE_PURCHASES, values
        if len(removed) < STEP_ROWS:
            yield DELETE_RANGE, (customer_id, last)
        return True
    for (blanked,) in (yield LOCK_PURGED_CUSTOMER, (customer_id, PURGED)):
        [(end, found)] = yield SELECT_IMAGES_END, (customer_id, blanked, STEP_ROWS)
        if found:
            yield BLANK_IMAGES, (customer_id, blanked, end)
            yield SET_BLANKED, (end, customer_id)
        scope = digest_start(customer_id), digest_start(customer_id + 1)
        keys = yield BLANK_KEYS, (b"", customer_id, *scope, STEP_ROWS)
        if not found and not keys:
            yield DELETE_CUSTOMER, (customer_id,)
            # the blank, if it was indexed meanwhile
            yield from names.forget(customer_id)
        return True
    return False


def forget_some(before: str) -> Unit[bool]:
    """Remove some of what is kept no longer; return whether there may be more.

    Of the history, and what it can bring back, that is all from before a time.
    """
    keys = yield from forget_keys(MAX_KEYS)
    more = yield from forget_history(before)
    more = (yield from purge_step()) or more
    return more or keys == MAX_KEYS


def forget_history(before: str) -> Unit[bool]:
    """Forget some rows from before a time; return whether there may be more.

    What they deleted can then not be brought back, and is removed like what is purged.
    """
    author = Author("", now(), keeps_images=False)
    yield LOCK_HISTORY, ()
    [(end, found)] = yield SELECT_OLD_END, (STEP_ROWS, before)
    if end is None:
        return False
    for customer_id, change in (yield SELECT_OLD_DELETIONS, (end,)):
        for _, deleted in (yield LOCK_CUSTOMER, (customer_id,)):
            yield PURGE_RANGES, (PURGED, customer_id, change)
            if deleted == change:
                yield from record(author, "customer.erased", customer_id)
                yield from hide_for_good(customer_id)
    yield DELETE_OLD, (end,)
    yield SET_PRUNED, (end,)
    return bool(found == STEP_ROWS)
