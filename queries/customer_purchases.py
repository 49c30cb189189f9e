"""Purchases in the order of their customers: a copy that SQLite lists them from.

There a customer's purchases lie side by side, where in the order of their ids each lies
on another page. The copy costs an added purchase nothing: what is above its last id is
listed from the table itself, and comes into it later, as blocks do (`queries/blocks`).
Triggers change and delete in it what changes in the table.
"""

from storage.engine import Statement, Unit

COPIED_ROWS, ALL_ROWS = 100, 500
"""The most purchases that one unit copies, so that no commit waits for long; and while
nobody writes."""
LAST = "(SELECT last FROM customer_purchases_end)"
IS_BEHIND = f"{LAST} < (SELECT max(id) FROM purchases)"
"""Spares a list a look at the table; both pages are in the cache."""
COLUMNS = "customer_id, id, purchase_name, quantity, date_created, last_updated"

SELECT_STATE = Statement(
    sqlite=f"SELECT {IS_BEHIND}, coalesce((SELECT max(id) FROM history), 0)"
)
SELECT_NEXT = Statement(
    sqlite=f"""
SELECT count(*), max(id) FROM (
    SELECT id FROM purchases WHERE id > {LAST} ORDER BY id LIMIT ? + 0
) AS following"""
)
COPY_ROWS = Statement(
    sqlite=f"""
INSERT INTO customer_purchases ({COLUMNS})
SELECT {COLUMNS} FROM purchases WHERE id > {LAST} AND id <= ?
ORDER BY customer_id, id"""
)
SET_LAST = Statement(sqlite="UPDATE customer_purchases_end SET last = ?")
COPY_RESTORED = Statement(
    sqlite=f"""
INSERT INTO customer_purchases ({COLUMNS})
SELECT {COLUMNS} FROM purchases WHERE id <= {LAST} AND id IN (
    SELECT purchase_id FROM history WHERE change = ? AND action = 'purchase.restored'
)"""
)


def read_copy_state() -> Unit[tuple[bool, int]]:
    """Return whether there is something to copy, never on PostgreSQL; the last change.

    What is copied is no change.
    """
    for is_behind, last in (yield SELECT_STATE, ()):
        return bool(is_behind), last
    return False, 0


def copy_purchases(least: int = 1, most: int = ALL_ROWS) -> Unit[bool]:
    """Copy some purchases, if there are so many; return whether there may be more."""
    for count, last in (yield SELECT_NEXT, (most,)):
        if count >= least:
            yield COPY_ROWS, (last,)
            yield SET_LAST, (last,)
            return bool(count == most)
    return False


def copy_restored(change: int) -> Unit[None]:
    """Copy the purchases that a change has brought back."""
    yield COPY_RESTORED, (change,)
