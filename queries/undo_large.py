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
SELECT_ROW = dialects("""
SELECT before, content FROM history WHERE id = ?1 AND change IS NULL
UNION ALL SELECT before, content FROM history WHERE change = ?1""")
SET_DELETED = Statement("UPDATE customer SET deleted = ? WHERE id = ?")
SET_CONTENT = Statement("UPDATE history SET content = ? WHERE id = ?")
# The first row of each purchase since, and whether that was another then; those that
# were added since have higher ids.
CHANGED_SINCE = dialects("""
SELECT first.purchase_id FROM (
    SELECT purchase_id, min(id) AS id FROM history
    WHERE customer_id = ?1 AND id > ?2 AND purchase_id <= ?3
        AND action <> 'purchase.added'
    GROUP BY purchase_id
) AS first
JOIN history h ON h.id = first.id
LEFT JOIN purchases p ON p.id = first.purchase_id
WHERE CASE
    WHEN h.action = 'purchase.restored' THEN p.id IS NOT NULL
    ELSE p.id IS NULL OR coalesce(p.change, 0) <> coalesce({change}, 0) END
ORDER BY first.purchase_id LIMIT 101""")
SELECT_OVERLAP = Statement("""
SELECT change FROM hidden WHERE customer_id = ? AND last >= ? AND first <= ? LIMIT 1""")

UndoLarge = Callable[[int, int, Author], Unit[int | None]]


def _undo_clear(change: int, customer_id: int, author: Author) -> Unit[int | None]:
    """Show again the purchases that a change hid."""
    [(deleted, _, _)] = yield SELECT_CUSTOMER, (customer_id,)
    if deleted is not None:
        raise ConflictError(NO_CUSTOMER, [("customer", customer_id, NOT_THERE)])
    before = yield from _show(change, customer_id)
    return (yield from record(author, "purchases.restored", customer_id, None, before))


def _show(change: int, customer_id: int) -> Unit[str]:
    """Show what a change hid; return an image of it, to hide it again. PrunedError."""
    count = yield from _count(change)
    ranges = yield SELECT_HIDDEN_BY, (change,)
    if count and not ranges:
        raise PrunedError
    yield SHOW, (change,)
    return json.dumps({"purchases": count, "ranges": ranges})


def _count(change: int) -> Unit[int]:
    """Return how many purchases a change hid or showed: nothing changed them since."""
    [(image, _)] = yield SELECT_ROW, (change,)
    count: int = json.loads(image).get("purchases", 0)
    return count


def _undo_deletion(change: int, customer_id: int, author: Author) -> Unit[int | None]:
    """Show a customer again, with what was deleted with it."""
    [(_, content, _)] = yield SELECT_CUSTOMER, (customer_id,)
    before = yield from _show(change, customer_id)
    yield SET_DELETED, (None, customer_id)
    number = yield from record(author, "customer.restored", customer_id, None, before)
    yield SET_CONTENT, (content, number)
    return number


def _redo_clear(change: int, customer_id: int, author: Author) -> Unit[int | None]:
    """Hide again the purchases that an undo showed."""
    [(deleted, _, _)] = yield SELECT_CUSTOMER, (customer_id,)
    if deleted is not None:
        raise ConflictError(NO_CUSTOMER, [("customer", customer_id, NOT_THERE)])
    ranges = yield from _unchanged_ranges(change, customer_id)
    before = json.dumps({"purchases": (yield from _count(change))})
    number = yield from record(author, "purchases.cleared", customer_id, None, before)
    yield from hide(customer_id, number, ranges)
    return number


def _redo_deletion(change: int, customer_id: int, author: Author) -> Unit[int | None]:
    """Hide a customer again, with what was deleted with it."""
    [(deleted, content, image)] = yield SELECT_CUSTOMER, (customer_id,)
    [(_, then)] = yield SELECT_ROW, (change,)
    if deleted is not None or content != then:
        why = NOT_THERE if deleted is not None else "It has changed since."
        raise ConflictError(
            "Rows have changed since.", [("customer", customer_id, why)]
        )
    ranges = yield from _unchanged_ranges(change, customer_id)
    others = yield from select_gaps(customer_id, ranges)
    if (yield from count_purchases(customer_id, others)):
        why = "It has other purchases now."
        raise ConflictError(
            "Rows have changed since.", [("customer", customer_id, why)]
        )
    purchases = {"purchases": (yield from _count(change))}
    before = json.dumps(json.loads(image) | purchases, ensure_ascii=False)
    number = yield from record(author, "customer.deleted", customer_id, None, before)
    yield from hide(customer_id, number, ranges)
    yield SET_DELETED, (number, customer_id)
    return number


def _unchanged_ranges(change: int, customer_id: int) -> Unit[list[Range]]:
    """Return the ranges that an undo showed. ConflictError if they changed since."""
    [(image, _)] = yield SELECT_ROW, (change,)
    ranges = [(first, last) for first, last in json.loads(image).get("ranges", [])]
    top = max((last for _, last in ranges), default=0)
    changed = yield CHANGED_SINCE, (customer_id, change, top)
    if changed:
        found = [("purchase", number, "It has changed since.") for (number,) in changed]
        raise ConflictError("Rows have changed since.", found)
    for first, last in ranges:
        if rows := (yield SELECT_OVERLAP, (customer_id, first, last)):
            why = f"Change {rows[0][0]} deleted some of its purchases since."
            raise ConflictError(
                "Rows have changed since.", [("customer", customer_id, why)]
            )
    return ranges


NOT_THERE = "It is not there."
NO_CUSTOMER = "A purchase cannot be without its customer."
LARGE: dict[str, UndoLarge] = {
    "purchases.cleared": _undo_clear,
    "purchases.restored": _redo_clear,
    "customer.deleted": _undo_deletion,
    "customer.restored": _redo_deletion,
}
"""By the action that is undone. Each records its change and returns the number."""
