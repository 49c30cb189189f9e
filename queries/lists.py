"""Lists of purchases: a page for each unit of work, as one JSON text.

The driver gives up the interpreter's lock and waits to have it back at each row; one
text has one, and goes into the reply as it is. `LIMIT ? + 0`, since SQLite prepares a
statement anew each time `LIMIT ?` is bound.
"""

from queries.customer_purchases import COLUMNS, IS_BEHIND, LAST
from queries.dialects import PG_ROWS, PG_TIME, POSTGRES, SQLITE, fill_in, numbered
from queries.history import MAX_ID, PURCHASE_IDS, TIP, wait_for_writers
from queries.records import NotFoundError, Page
from storage.engine import Row, Statement, Unit

SCAN_ROWS = 20_000
"""The most ids in which one unit looks for rows that a list shows."""


def is_settled(recent: list[Row], last: int | None) -> bool:
    """Return whether a page needs no look at the writers that are under way."""
    return not recent or (last or 0) <= recent[0][2]


def tip_of(recent: list[Row], tip: int) -> int:
    """Return the row of the feed after which it goes on from a list."""
    return recent[0][0] if recent else tip


def select_purchases(
    source: str,
    result: str,
    owner: str = "",
    *,
    sqlite: str = "",
    customer: str = "CAST(customer_id AS TEXT)",
) -> Statement:
    """Return the SELECT of a page of purchases `p`.

    Its columns are the size, the JSON, the last row of the feed, and `result`. The
    pieces of `source` are of the dialects, and its parameters are `?` or numbered;
    `sqlite` is the source for SQLite, where that is another. `customer` is the id of
    the customer as text.
    """
    postgres = fill_in(source, POSTGRES, owner)
    sqlite = sqlite or fill_in(source, SQLITE, owner)
    return Statement(
        sqlite=f"""
SELECT count(*), json_group_array(json_object(
    'purchase_id', purchase_id, 'purchase_name', purchase_name, 'quantity', quantity,
    'purchased_on', purchased_on, 'last_updated_on', last_updated_on,
    'customer_id', customer)), {TIP}, {result}
FROM (
    SELECT p.id AS purchase_id, purchase_name, quantity, date_created AS purchased_on,
        last_updated AS last_updated_on, {customer} AS customer
    FROM {sqlite}
) AS page""",
        postgres=numbered(f"""
SELECT count(*), {PG_ROWS}, 0, {result}
FROM (
    SELECT p.id AS purchase_id, purchase_name, quantity,
        {PG_TIME.format("date_created")} AS purchased_on,
        {PG_TIME.format("last_updated")} AS last_updated_on,
        {customer} AS customer_id
    FROM {postgres}
) AS page"""),
    )


SELECT_PURCHASES = select_purchases(
    """purchases p WHERE p.id > ?1 AND p.id <= ?2 AND {visible}
        ORDER BY p.id LIMIT ?3 + 0""",
    "max(purchase_id)",
)
"""A page of those in a range that are not hidden."""
SELECT_NEXT = Statement("SELECT min(id) FROM purchases WHERE id > ? AND id <= ?")
NEXT_HIDDEN = "FROM hidden WHERE customer_id = ?1 AND last > ?2 ORDER BY last LIMIT 1"
BEFORE_HIDDEN = f"id <= ?3 AND id <= coalesce((SELECT first - 1 {NEXT_HIDDEN}), ?3)"
END_OF_PAGE = "ORDER BY p.id LIMIT ?4 + 0"
SELECT_CUSTOMER_PURCHASES = select_purchases(
    f"""purchases p WHERE customer_id = ?1 AND id > ?2 AND {BEFORE_HIDDEN}
        {END_OF_PAGE}""",
    f"max(purchase_id), (SELECT last {NEXT_HIDDEN})",
    sqlite=f"""(
        SELECT {COLUMNS} FROM customer_purchases
        WHERE customer_id = ?1 AND id > ?2 AND {BEFORE_HIDDEN}
        UNION ALL
        SELECT {COLUMNS} FROM purchases
        WHERE {IS_BEHIND} AND customer_id = ?1 AND id > max(?2, {LAST})
            AND {BEFORE_HIDDEN}
    ) AS p {END_OF_PAGE}""",
    customer="CAST(?5 AS TEXT)",
)
"""A page of those before the next hidden range, and the end of that."""
SELECT_CUSTOMER_ID = Statement("""
SELECT id FROM customer WHERE id = ? AND deleted IS NULL""")


def list_purchases(after: int, limit: int) -> Unit[Page]:
    """Return a page of everyone's purchases."""
    recent, most = (yield PURCHASE_IDS.recent, ()), MAX_ID
    page, end = yield from _read_range(after, most, limit)
    if not is_settled(recent, end):
        row, most = yield from wait_for_writers(PURCHASE_IDS.now)
        recent = [row]
        page, _ = yield from _read_range(after, most, limit)
    return page._replace(cursor=tip_of(recent, page.cursor or 0))


def _read_range(after: int, most: int, limit: int) -> Unit[tuple[Page, int | None]]:
    """Return a page of the purchases up to some id, and the last id that it passes."""
    high = min(most, after + SCAN_ROWS)
    [(size, json, tip, last)] = yield SELECT_PURCHASES, (after, high, limit)
    if size == limit:
        return Page(size, json, last, tip), last
    [(following,)] = yield SELECT_NEXT, (high, most)
    further = None if following is None else following - 1
    return Page(size, json, further, tip), further or last


def list_customer_purchases(customer_id: int, after: int, limit: int) -> Unit[Page]:
    """Return a page of one customer's purchases. NotFoundError."""
    most, size, json = MAX_ID, 0, "[]"
    recent = yield PURCHASE_IDS.recent, ()
    while True:  # again where a hidden range begins
        values = customer_id, after, most, limit - size, str(customer_id)
        rows = yield SELECT_CUSTOMER_PURCHASES, values
        [(found, more, tip, last, end)] = rows
        if most == MAX_ID and not is_settled(recent, last):
            _, most = yield from wait_for_writers(PURCHASE_IDS.now)
            continue
        if found:
            json = f"{json[:-1]},{more[1:]}" if size else more
            size += found
        if size == limit or end is None:
            break
        after = end
    if not size and not (yield SELECT_CUSTOMER_ID, (customer_id,)):
        raise NotFoundError("customer", customer_id)
    further = last if size == limit else None
    return Page(size, json, further, tip_of(recent, tip))
