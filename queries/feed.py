"""The feed: the rows of the history in the one order that every reader sees."""

from functools import cache
from typing import NamedTuple

from queries.dialects import PG_ROWS, PG_TIME, POSTGRES, SQLITE, fill_in, numbered
from queries.history import HORIZON, wait_for_writers
from queries.records import NotFoundError, Page, PrunedError
from storage.engine import Statement, Unit

SCAN_ROWS = 20_000
"""The most ids in which one unit looks for rows that a filter lets through. Hardly one
is free, but for those that are no longer kept."""
NOW = """CASE WHEN h.purchase_id IS NOT NULL THEN (
        SELECT {purchase_image} FROM purchases p
        WHERE p.customer_id = h.customer_id [AND p.customer_id]
            AND p.id = h.purchase_id AND {visible}
    ) WHEN h.action LIKE 'customer.%' THEN (
        SELECT {customer_image} FROM customer c
        WHERE c.id = h.customer_id [AND c.id] AND c.deleted IS NULL
    ) END"""
OF_CHANGE = """h.id IN (
    SELECT id FROM history WHERE id = ?1 AND change IS NULL
    UNION ALL SELECT id FROM history WHERE change = ?1)"""


class Filters(NamedTuple):
    """What the rows of a feed have in common, None for anything."""

    customer_id: int | None = None
    purchase_id: int | None = None
    caller: str | None = None
    action: str | None = None


SELECT_PRUNED = Statement("SELECT pruned FROM history_start")


def _select_rows(
    where: str, limit: str, descending: bool = False, owner: str = ""
) -> Statement:
    """Return the SELECT of a page of rows `h`: how many, the first, the last, JSON."""
    order = f"ORDER BY h.id {'DESC' if descending else 'ASC'} LIMIT {limit} + 0"
    sqlite, postgres = (fill_in(NOW, pieces, owner) for pieces in (SQLITE, POSTGRES))
    return Statement(
        sqlite=f"""
SELECT count(*), min(id), max(id), json_group_array(json_object(
    'id', id, 'change', change, 'at', at, 'caller', caller, 'action', action,
    'customer_id', customer_id, 'purchase_id', purchase_id,
    'before', json(before), 'now', json(now)))
FROM (
    SELECT h.id, coalesce(h.change, h.id) AS change, h.at, h.caller, h.action,
        h.customer_id, h.purchase_id, h.before, {sqlite} AS now
    FROM history h WHERE {where} {order}
) AS page""",
        postgres=numbered(f"""
SELECT count(*), min(id), max(id), {PG_ROWS}
FROM (
    SELECT h.id, coalesce(h.change, h.id) AS change, {PG_TIME.format("h.at")} AS at,
        h.caller, h.action, h.customer_id, h.purchase_id, h.before::json AS before,
        ({postgres})::json AS now
    FROM history h WHERE {where} {order}
) AS page"""),
    )


@cache
def _select_page(names: tuple[str, ...], descending: bool) -> Statement:
    """Return the SELECT of a page with some filters."""
    places = {name: f"?{place}" for place, name in enumerate(names, 3)}
    filters = "".join(f" AND h.{name} = {place}" for name, place in places.items())
    where, limit = f"h.id > ?1 AND h.id <= ?2{filters}", f"?{len(names) + 3}"
    return _select_rows(where, limit, descending, places.get("customer_id", ""))


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
    chosen = {
        name: value for name, value in filters._asdict().items() if value is not None
    }
    goes_on, pruned = not descending and after >= 0, 0
    if chosen or goes_on:
        [(pruned,)] = yield SELECT_PRUNED, ()
    if goes_on and after < pruned:
        raise PrunedError
    _, tip = yield from wait_for_writers(HORIZON)
    rows = SCAN_ROWS if chosen else tip
    if descending:
        high = min(after - 1, tip) if after else tip
        low = max(pruned, high - rows)
        further = low + 1 if low > pruned else None
    else:
        low = max(pruned, after)
        high = min(tip, low + rows)
        further = high if high < tip else None
    values = (low, high, *chosen.values(), limit)
    [(size, first, last, json)] = yield _select_page((*chosen,), descending), values
    if size == limit:
        further = first if descending else last
    return Page(size, json, further, tip)


def follow_changes(after: int, limit: int) -> Unit[Page]:
    """Return the rows of the feed after a row, without waiting. PrunedError."""
    yield from refuse_pruned(after + 1)
    [(tip, _)] = yield HORIZON, ()
    values = after, tip, limit
    [(size, _, last, json)] = yield _select_page((), False), values
    return Page(size, json, last if size == limit else None, tip)


SELECT_OF_CHANGE = _select_rows(f"{OF_CHANGE} AND h.id > ?2", "?3")


def read_change(change: int, after: int, limit: int) -> Unit[Page]:
    """Return a page of the rows of a change. NotFoundError, PrunedError."""
    yield from refuse_pruned(change)
    [(size, _, last, json)] = yield SELECT_OF_CHANGE, (change, after, limit)
    if not size:
        [(found, *_)] = yield SELECT_OF_CHANGE, (change, 0, 1)
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
