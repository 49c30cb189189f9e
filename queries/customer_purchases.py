"""Purchases in the order of their customers: a copy that SQLite lists them from.

There a customer's purchases lie side by side, where in the order of their ids each lies
on another page. The copy costs an added purchase nothing: what is above its last id is
listed from the table itself, and comes into it later, as blocks do (`queries/blocks`).
Triggers change and delete in it what changes in the table.
"""

from storage.engine import Statement, Unit

COPIED_ROWS = 500
"""How many purchases one unit copies: few, so that no commit waits for long."""
LAST = "(SELECT last FROM customer_purchases_end)"
COLUMNS = "customer_id, id, purchase_name, quantity, date_created, last_updated"

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


def is_copy_behind() -> Unit[bool]:
    """Return whether there are purchases to copy: never on PostgreSQL."""
    rows = yield SELECT_NEXT, (COPIED_ROWS,)
    return bool(rows) and rows[0][0] == COPIED_ROWS


def copy_purchases() -> Unit[bool]:
    """Copy some purchases; return whether there may be more."""
    for count, last in (yield SELECT_NEXT, (COPIED_ROWS,)):
        if count == COPIED_ROWS:
            yield COPY_ROWS, (last,)
            yield SET_LAST, (last,)
            return True
    return False


def copy_restored(change: int) -> Unit[None]:
    """Copy the purchases that a change has brought back."""
    yield COPY_RESTORED, (change,)
