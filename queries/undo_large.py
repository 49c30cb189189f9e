"""Undo of what hid or showed many purchases at once: ranges, whatever they hold."""

import json
from collections.abc import Callable

from queries.dialects import dialects
from queries.hidden import (
    SELECT_HIDDEN_BY,
    SHOW,
    Range,
    count_purchases,
    hide,
    select_gaps,
)
from queries.history import Author, record
from queries.records import ConflictError, PrunedError
from storage.engine import Statement, Unit

SELECT_CUSTOMER = dialects("""
SELECT c.deleted, coalesce(c.change, 0), {customer_image} FROM customer c
WHERE c.id = ?""")
SELECT_ROW = Statement("""
SELECT before, content FROM history WHERE id = ? AND customer_id = ?""")
SET_DELETED = Statement("UPDATE customer SET deleted = ? WHERE id = ?")
SET_CONTENT = Statement("""
UPDATE history SET content = ? WHERE id = ? AND customer_id = ?""")
# The first row of each purchase since, and whether that was another then; those that
# were added since have higher ids.
CHANGED_SINCE = dialects("""
SELECT first.purchase_id FROM (
    SELECT purchase_id, min(id) AS id FROM history
    WHERE customer_id = ?1 AND id > ?2 AND purchase_id <= ?3
        AND action <> 'purchase.added'
    GROUP BY purchase_id
) AS first
JOIN history h ON h.customer_id = ?1 AND h.id = first.id
LEFT JOIN purchases p ON p.customer_id = ?1 AND p.id = first.purchase_id
WHERE CASE
    WHEN h.action = 'purchase.restored' THEN p.id IS NOT NULL
    ELSE p.id IS NULL OR coalesce(p.change, 0) <> coalesce({change}, 0) END
ORDER BY first.purchase_id LIMIT 101""")
SELECT_OVERLAP = Statement("""
SELECT change FROM hidden WHERE customer_id = ? AND last >= ? AND first <= ? LIMIT 1""")

UndoLarge = Callable[[int, int, Author], Unit[int]]

NOT_THERE, CHANGED = "It is not there.", "Rows have changed since."


def _refuse(
    customer_id: int, why: str, reason: str = "Rows have changed since."
) -> None:
    """Raise ConflictError that names a customer."""
    raise ConflictError(reason, [("customer", customer_id, why)])


def _check_customer(customer_id: int) -> Unit[None]:
    """Raise ConflictError where there is no such customer."""
    [(deleted, _, _)] = yield SELECT_CUSTOMER, (customer_id,)
    if deleted is not None:
        reason = "A purchase cannot be without its customer."
        _refuse(customer_id, NOT_THERE, reason)


def _undo_clear(change: int, customer_id: int, author: Author) -> Unit[int]:
    """Show again the purchases that a change hid."""
    yield from _check_customer(customer_id)
    before = yield from _show(change, customer_id)
    return (yield from record(author, "purchases.restored", customer_id, None, before))


def _undo_deletion(change: int, customer_id: int, author: Author) -> Unit[int]:
    """Show a customer again, with what was deleted with it."""
    [(_, content, _)] = yield SELECT_CUSTOMER, (customer_id,)
    before = yield from _show(change, customer_id)
    yield SET_DELETED, (None, customer_id)
    number = yield from record(author, "customer.restored", customer_id, None, before)
    yield SET_CONTENT, (content, number, customer_id)
    return number


def _show(change: int, customer_id: int) -> Unit[str]:
    """Show what a change hid; return an image of it, to hide it again. PrunedError."""
    [(image, _)] = yield SELECT_ROW, (change, customer_id)
    count = json.loads(image)["purchases"]  # nothing changed them since
    ranges = yield SELECT_HIDDEN_BY, (customer_id, change)
    if count and not ranges:
        raise PrunedError
    yield SHOW, (customer_id, change)
    return json.dumps({"purchases": count, "ranges": ranges})


def _redo_clear(change: int, customer_id: int, author: Author) -> Unit[int]:
    """Hide again the purchases that an undo showed."""
    yield from _check_customer(customer_id)
    [(image, _)] = yield SELECT_ROW, (change, customer_id)
    ranges, count = yield from _unchanged_ranges(change, customer_id, image)
    before = json.dumps({"purchases": count})
    number = yield from record(author, "purchases.cleared", customer_id, None, before)
    yield from hide(customer_id, number, ranges)
    return number


def _redo_deletion(change: int, customer_id: int, author: Author) -> Unit[int]:
    """Hide a customer again, with what was deleted with it."""
    [(deleted, content, person)] = yield SELECT_CUSTOMER, (customer_id,)
    [(image, then)] = yield SELECT_ROW, (change, customer_id)
    if deleted is not None:
        _refuse(customer_id, NOT_THERE)
    if content != then:
        _refuse(customer_id, "It has changed since.")
    ranges, count = yield from _unchanged_ranges(change, customer_id, image)
    others = yield from select_gaps(customer_id, ranges)
    if (yield from count_purchases(customer_id, others)):
        _refuse(customer_id, "It has other purchases now.")
    before = json.dumps(json.loads(person) | {"purchases": count}, ensure_ascii=False)
    number = yield from record(author, "customer.deleted", customer_id, None, before)
    yield from hide(customer_id, number, ranges)
    yield SET_DELETED, (number, customer_id)
    return number


def _unchanged_ranges(
    change: int, customer_id: int, image: str
) -> Unit[tuple[list[Range], int]]:
    """Return the ranges that an undo showed, and how many purchases these hold.

    ConflictError if they changed since.
    """
    showed = json.loads(image)
    ranges = [(first, last) for first, last in showed["ranges"]]
    top = max((last for _, last in ranges), default=0)
    changed = yield CHANGED_SINCE, (customer_id, change, top)
    if changed:
        found = [("purchase", number, "It has changed since.") for (number,) in changed]
        raise ConflictError(CHANGED, found)
    for first, last in ranges:
        if rows := (yield SELECT_OVERLAP, (customer_id, first, last)):
            why = f"Change {rows[0][0]} deleted some of its purchases since."
            _refuse(customer_id, why)
    return ranges, showed["purchases"]


LARGE: dict[str, UndoLarge] = {
    "purchases.cleared": _undo_clear,
    "purchases.restored": _redo_clear,
    "customer.deleted": _undo_deletion,
    "customer.restored": _redo_deletion,
}
"""By the action that is undone. Each records its change and returns the number."""
