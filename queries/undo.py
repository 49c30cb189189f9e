"""Undo: the change that brings back what another change found.

The rules, each forced by a counter-example: a change is undone once, and what was
undone comes back by undoing the undo; a version never goes back, unless the row comes
back as it was; whether a row has changed since is told by the change that its content
comes from, which an undo sets back, and not by its version; a purchase comes back only
while its customer is there; a customer goes only when no purchase of it is left.
"""

from collections.abc import Callable

from queries.blocks import widen_blocks
from queries.dialects import dialects
from queries.feed import refuse_pruned
from queries.hidden import PURGED, split_ranges
from queries.history import Author, next_change
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
CHANGE = f"""
WITH h AS (
    SELECT {COLUMNS}, {CONTENT} AS content
    FROM history WHERE id = ?1 AND change IS NULL
    UNION ALL
    SELECT {COLUMNS}, {CONTENT} FROM history WHERE change = ?1
)"""
"""The rows of a change, each with the change that its row's content then came from."""

SELECT_ACTIONS = dialects("""
SELECT action, count(*), min(at), sum(CASE
    WHEN action IN ('purchase.updated', 'purchase.deleted', 'customer.updated')
        AND before IS NULL THEN 1 ELSE 0 END), count(change)
FROM history
WHERE id IN (
    SELECT id FROM history WHERE id = ?1 AND change IS NULL
    UNION ALL SELECT id FROM history WHERE change = ?1
) GROUP BY action ORDER BY action""")
LOCK_CUSTOMERS = dialects("""
SELECT id, deleted FROM customer WHERE id IN (
    SELECT customer_id FROM history WHERE id = ?1 AND change IS NULL
    UNION SELECT customer_id FROM history WHERE change = ?1
) ORDER BY id {for_update}""")
COUNT_CUSTOMERS = dialects(f"{CHANGE} SELECT count(DISTINCT customer_id) FROM h")
SELECT_UNDOER = Statement("SELECT coalesce(change, id) FROM history WHERE undoes = ?")
MARK = Statement("""
UPDATE history SET undoes = ? WHERE id = (SELECT min(id) FROM history WHERE change = ?)
""")

MARK_ALONE = Statement("UPDATE history SET undoes = ? WHERE id = ?")
RESTORED = {
    "purchase.added": "purchase.restored",
    "customer.created": "customer.restored",
}
"""Actions that are undone as those that made the row."""

CHANGED_PURCHASES = dialects(f"""{CHANGE}
SELECT h.purchase_id, p.id IS NULL FROM h LEFT JOIN purchases p ON p.id = h.purchase_id
WHERE h.action IN ('purchase.added', 'purchase.updated', 'purchase.restored')
    AND (p.id IS NULL OR coalesce(p.change, 0) <> h.content OR NOT {{visible}})
ORDER BY h.id LIMIT {MAX_CONFLICTS + 1}""")
CHANGED_CUSTOMERS = dialects(f"""{CHANGE}
SELECT c.id, c.deleted IS NOT NULL FROM h JOIN customer c ON c.id = h.customer_id
WHERE h.action IN ('customer.created', 'customer.updated', 'customer.restored')
    AND (c.deleted IS NOT NULL OR coalesce(c.change, 0) <> h.content)
ORDER BY h.id LIMIT {MAX_CONFLICTS + 1}""")
ABSENT_CUSTOMERS = dialects(f"""{CHANGE}
SELECT DISTINCT c.id FROM h JOIN customer c ON c.id = h.customer_id
WHERE h.action IN ('purchase.deleted', 'purchase.updated') AND c.deleted IS NOT NULL
ORDER BY c.id LIMIT {MAX_CONFLICTS + 1}""")
LEFT_PURCHASES = dialects(f"""{CHANGE}
SELECT p.id FROM h JOIN purchases p ON p.customer_id = h.customer_id
WHERE h.action IN ('customer.created', 'customer.restored') AND {{visible}}
ORDER BY p.id + 0 LIMIT {MAX_CONFLICTS + 1}""")  # + 0: not through all purchases

RECORD = """
INSERT INTO history
    (change, at, caller, action, customer_id, purchase_id, before, content)
SELECT ?2, ?3, nullif(?4, ''), """
STEPS = {
    action: (dialects(record), dialects(change))
    for action, (record, change) in {
        "customer.deleted": (
            f"""{CHANGE} {RECORD} 'customer.restored', c.id, NULL, NULL,
    coalesce(c.change, 0)
FROM h JOIN customer c ON c.id = h.customer_id
WHERE h.action = 'customer.deleted' ORDER BY h.id""",
            f"""{CHANGE}
UPDATE customer SET deleted = NULL WHERE id IN (
    SELECT customer_id FROM h WHERE action = 'customer.deleted')""",
        ),
        "purchase.deleted": (
            f"""{CHANGE} {RECORD} 'purchase.restored', customer_id, purchase_id, NULL,
    coalesce({{change}}, 0) FROM h WHERE action = 'purchase.deleted' ORDER BY id""",
            f"""{CHANGE}
INSERT INTO purchases (id, purchase_name, quantity, customer_id, date_created,
    last_updated, version, change) {{with_ids}}
SELECT purchase_id, {{purchase_name}}, {{quantity}}, customer_id, {{purchased_on}},
    {{last_updated_on}}, {{version}}, {{change}}
FROM h WHERE action = 'purchase.deleted' ORDER BY id""",
        ),
        "purchase.updated": (
            f"""{CHANGE} {RECORD} 'purchase.updated', p.customer_id, p.id,
    {{purchase_image}}, coalesce({{change}}, 0)
FROM h JOIN purchases p ON p.id = h.purchase_id
WHERE h.action = 'purchase.updated' ORDER BY h.id""",
            f"""{CHANGE}
UPDATE purchases SET purchase_name = {{purchase_name}}, quantity = {{quantity}},
    last_updated = {{last_updated_on}}, version = version + 1, change = {{change}}
FROM h WHERE h.purchase_id = purchases.id AND h.action = 'purchase.updated'""",
        ),
        "purchase.added": (
            f"""{CHANGE} {RECORD} 'purchase.deleted', p.customer_id, p.id,
    {{purchase_image}}, NULL FROM h JOIN purchases p ON p.id = h.purchase_id
WHERE h.action IN ('purchase.added', 'purchase.restored') ORDER BY h.id""",
            f"""{CHANGE}
DELETE FROM purchases WHERE id IN (
    SELECT purchase_id FROM h WHERE action IN ('purchase.added', 'purchase.restored'))
""",
        ),
        "customer.updated": (
            f"""{CHANGE} {RECORD} 'customer.updated', c.id, NULL, {{customer_image}},
    coalesce({{change}}, 0) FROM h JOIN customer c ON c.id = h.customer_id
WHERE h.action = 'customer.updated' ORDER BY h.id""",
            f"""{CHANGE}
UPDATE customer SET name = {{name}}, name_folded = {{name_folded}},
    address = {{address}}, version = version + 1, change = {{change}}
FROM h WHERE h.customer_id = customer.id AND h.action = 'customer.updated'""",
        ),
        "customer.created": (
            f"""{CHANGE} {RECORD} 'customer.deleted', c.id, NULL,
    {{customer_image}}, NULL
FROM h JOIN customer c ON c.id = h.customer_id
WHERE h.action IN ('customer.created', 'customer.restored') ORDER BY h.id""",
            f"""{CHANGE}
UPDATE customer SET deleted = ?2 WHERE id IN (
    SELECT customer_id FROM h WHERE action IN ('customer.created', 'customer.restored'))
""",
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
    if any(at < since for _, _, at, *_ in actions):
        raise PrunedError
    [(customers,)] = yield COUNT_CUSTOMERS, (change,)
    locked = yield LOCK_CUSTOMERS, (change,)
    yield from refuse_pruned(change)
    if len(locked) < customers or any(deleted == PURGED for _, deleted in locked):
        raise ErasedError
    if any(imageless for *_, imageless, _ in actions):
        raise PrunedError
    if undoer := (yield SELECT_UNDOER, (change,)):
        raise ConflictError(f"It was undone already, by change {undoer[0][0]}.", [])
    names, rows = {row[0] for row in actions}, sum(row[1] for row in actions)
    is_own_row = not any(of_several for *_, of_several in actions)
    if is_own_row and (undo := LARGE.get(*names)):
        number = yield from undo(change, locked[0][0], author)
        yield MARK_ALONE, (change, number)
        return Undone(number, change, 1)
    yield from _refuse_changed(change)
    number = yield from next_change()
    for action, (record, undo_all) in STEPS.items():
        if names & {action, RESTORED.get(action, action)}:
            yield record, (change, number, author.at, author.caller)
            both = action == "customer.created"  # its rows hold the number
            yield undo_all, (change, number) if both else (change,)
    yield from _refuse_left(change)
    yield from split_ranges(number)
    yield from widen_blocks(number)
    if "customer.updated" in names:
        yield from rename_all(change)
    yield MARK, (change, number)
    return Undone(number, change, rows)


def _refuse_changed(change: int) -> Unit[None]:
    """Raise ConflictError where rows of a change are not as it left them."""
    found = []
    for noun, statement in (
        ("customer", CHANGED_CUSTOMERS),
        ("purchase", CHANGED_PURCHASES),
    ):
        rows = yield statement, (change,)
        found += [
            (noun, number, "It is not there." if gone else "It has changed since.")
            for number, gone in rows
        ]
    if found:
        raise ConflictError("Rows have changed since.", found)


def _refuse_left(change: int) -> Unit[None]:
    """Raise ConflictError for purchases whose customer is not there after the undo."""
    absent = yield ABSENT_CUSTOMERS, (change,)
    left = yield LEFT_PURCHASES, (change,)
    if absent or left:
        raise ConflictError(
            "A purchase cannot be without its customer.",
            [("customer", number, "It is not there.") for (number,) in absent]
            + [("purchase", number, "Its customer would go.") for (number,) in left],
        )
