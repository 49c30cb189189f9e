"""The feed: the rows of the history in the one order that every reader sees."""

from functools import cache
from typing import NamedTuple

from queries.dialects import PG_ROWS, PG_TIME, POSTGRES, SHARED, SQLITE
from queries.history import HORIZON, wait_for_writers
from queries.records import NotFoundError, Page, PrunedError
from storage.engine import Statement, Unit

SCAN_ROWS = 20_000
"""The most rows that one unit looks at for those that a filter lets through."""
NOW = """CASE WHEN h.purchase_id IS NOT NULL THEN (
        SELECT {purchase_image} FROM purchases p
        WHERE p.id = h.purchase_id AND {visible}
    ) WHEN h.action LIKE 'customer.%' THEN (
        SELECT {customer_image} FROM customer c
        WHERE c.id = h.customer_id AND c.deleted IS NULL
    ) END"""
OF_CHANGE = """h.id IN (
    SELECT id FROM history WHERE id = ? AND change IS NULL
    UNION ALL SELECT id FROM history WHERE change = ?)"""


class Filters(NamedTuple):
    """What the rows of a feed have in common, None for anything."""

    customer_id: int | None = None
    purchase_id: int | None = None
    caller: str | None = None
    action: str | None = None


SELECT_PRUNED = Statement("SELECT pruned FROM history_start")


def _select_rows(where: str, descending: bool = False) -> Statement:
    """Return the SELECT of a page of rows `h`: how many, the first, the last, JSON."""
    order = f"ORDER BY h.id {'DESC' if descending else 'ASC'} LIMIT ? + 0"
    now = {
        name: NOW.format(**SHARED, **pieces)
        for name, pieces in (("sqlite", SQLITE), ("postgres", POSTGRES))
    }
    return Statement(
        sqlite=f"""
SELECT count(*), min(id), max(id), json_group_array(json_object(
    'id', id, 'change', change, 'at', at, 'caller', caller, 'action', action,
    'customer_id', customer_id, 'purchase_id', purchase_id,
    'before', json(before), 'now', json(now)))
FROM (
    SELECT h.id, coalesce(h.change, h.id) AS change, h.at, h.caller, h.action,
        h.customer_id, h.purchase_id, h.before, {now["sqlite"]} AS now
    FROM history h WHERE {where} {order}
) AS page""",
        postgres=f"""
SELECT count(*), min(id), max(id), {PG_ROWS}
FROM (
    SELECT h.id, coalesce(h.change, h.id) AS change, {PG_TIME.format("h.at")} AS at,
        h.caller, h.action, h.customer_id, h.purchase_id, h.before::json AS before,
        ({now["postgres"]})::json AS now
    FROM history h WHERE {where} {order}
) AS page""",
    )


@cache
def _select_page(names: tuple[str, ...], descending: bool) -> Statement:
    """Return the SELECT of a page with some filters."""
    filters = "".join(f" AND h.{name} = ?" for name in names)
    return _select_rows(f"h.id > ? AND h.id <= ?{filters}", descending)


@cache
def _select_scan_end(descending: bool) -> Statement:
    """Return the SELECT of the last of the next so many rows, and their number."""
    furthest, order = ("min", "DESC") if descending else ("max", "ASC")
    return Statement(f"""
SELECT {furthest}(id), count(*) FROM (
    SELECT id FROM history WHERE id > ? AND id <= ? ORDER BY id {order} LIMIT ? + 0
) AS scan""")


def read_changes(
    filters: Filters, descending: bool, after: int, limit: int
) -> Unit[Page]:
    """Return a page of the feed, after a row. PrunedError for one no longer kept."""
    page = yield from _read_page(filters, descending, after, limit)
    return page._replace(cursor=None)  # the page may end before it


def catch_up(filters: Filters, after: int, limit: int) -> Unit[Page]:
    """Return a page after a row; its cursor is the last row that it looked for."""
    return (yield from _read_page(filters, False, after, limit))


def _read_page(
    filters: Filters, descending: bool, after: int, limit: int
) -> Unit[Page]:
    if not descending and after >= 0:
        yield from refuse_pruned(after + 1)
    _, tip = yield from wait_for_writers(HORIZON)
    low, high = (
        (0, min(after - 1, tip) if after else tip) if descending else (after, tip)
    )
    chosen = {
        name: value for name, value in filters._asdict().items() if value is not None
    }
    scanned = 0
    if chosen:
        [(end, scanned)] = yield _select_scan_end(descending), (low, high, SCAN_ROWS)
        if scanned == SCAN_ROWS:
            low, high = (end - 1, high) if descending else (low, end)
    values = (low, high, *chosen.values(), limit)
    [(size, first, last, json)] = yield _select_page((*chosen,), descending), values
    if size == limit:
        further = first if descending else last
    else:
        further = end if scanned == SCAN_ROWS else None
    return Page(size, json, further, tip)


def follow_changes(after: int, limit: int) -> Unit[Page]:
    """Return the rows of the feed after a row, without waiting. PrunedError."""
    yield from refuse_pruned(after + 1)
    [(tip, _)] = yield HORIZON, ()
    values = after, tip, limit
    [(size, _, last, json)] = yield _select_page((), False), values
    return Page(size, json, last if size == limit else None, tip)


SELECT_OF_CHANGE = _select_rows(f"{OF_CHANGE} AND h.id > ?")


def read_change(change: int, after: int, limit: int) -> Unit[Page]:
    """Return a page of the rows of a change. NotFoundError, PrunedError."""
    yield from refuse_pruned(change)
    [(size, _, last, json)] = yield SELECT_OF_CHANGE, (change, change, after, limit)
    if not size:
        [(found, *_)] = yield SELECT_OF_CHANGE, (change, change, 0, 1)
        if not found:
            raise NotFoundError("change", change)
    return Page(size, json, last if size == limit else None)


def refuse_pruned(first: int) -> Unit[None]:
    """Raise PrunedError where rows from one on are asked for that is no longer kept.

    A change has no row before its number.
    """
    [(pruned,)] = yield SELECT_PRUNED, ()
    if first <= pruned:
        raise PrunedError
