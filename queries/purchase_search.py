"""Lists of purchases with filters or turned round, their number, and their sums.

A page looks at so many rows at the most, whatever it finds. A count and a sum are one
statement each, over any number of rows: they run as reports.
"""

import json
from functools import cache
from typing import NamedTuple

from queries.blocks import BLOCK_IDS, IN_TIME, TAIL, in_time, ranges
from queries.dialects import dialects
from queries.history import MAX_ID, PURCHASE_IDS, wait_for_writers
from queries.lists import SELECT_CUSTOMER_ID, is_settled, select_purchases, tip_of
from queries.records import NotFoundError, Page
from storage.engine import Row, Statement, UnavailableError, Unit
from storage.schema import fold_name

SCAN_ROWS = 8192
"""The most rows that one unit looks at for those that filters let through."""
MAX_NAMES, MAX_KEYS = 50_000, 100_000
"""The most names beyond ASCII that a report folds, and keys that a summary returns."""


class PurchaseFilters(NamedTuple):
    """What the purchases of a list have in common, None for anything.

    Times are as the tables hold them; `purchase_name` is a part of the name, in any
    case and any normalisation.
    """

    customer_id: int | None = None
    purchased_from: str | None = None
    purchased_before: str | None = None
    purchase_name: str | None = None

    @property
    def owner(self) -> tuple[int, ...]:
        """Return the customer as a parameter, if one is given."""
        return () if self.customer_id is None else (self.customer_id,)

    @property
    def by_time(self) -> dict[str, str]:
        """Return the filters by time."""
        times = {name: getattr(self, name) for name in IN_TIME}
        return {name: time for name, time in times.items() if time is not None}


CONDITIONS = {
    "customer_id": "p.customer_id = ?",
    "purchased_from": "p.date_created >= ?",
    "purchased_before": "p.date_created < ?",
    "purchase_name": "({name_has})",
}


def _given(filters: PurchaseFilters) -> tuple[str, ...]:
    """Return the names of the filters that are given."""
    return tuple(name for name, value in filters._asdict().items() if value is not None)


def _where(names: tuple[str, ...]) -> str:
    """Return the conditions of filters, each after an AND."""
    return "".join(f" AND {CONDITIONS[name]}" for name in names)


def _values(filters: PurchaseFilters, matching: str) -> Row:
    """Return the parameters of the conditions of filters."""
    values: list[object] = []
    for name, value in filters._asdict().items():
        if name == "purchase_name" and value is not None:
            values += [fold_name(value), matching]
        elif value is not None:
            values.append(value)
    return tuple(values)


# A page


@cache
def _select_block(names: tuple[str, ...], descending: bool) -> Statement:
    """Return the SELECT of the next block that may hold what filters by time let in."""
    nearest, order = ("max", "<=") if descending else ("min", ">=")
    return Statement(f"""
SELECT {nearest}(block), {TAIL} FROM purchase_blocks
WHERE block {order} ? AND {in_time(names)}""")


@cache
def _select_window(of_customer: bool, descending: bool) -> Statement:
    """Return the SELECT of the first and the last of the next rows, and how many."""
    owner = "customer_id = ? AND " if of_customer else ""
    order = "DESC" if descending else "ASC"
    return Statement(f"""
SELECT min(id), max(id), count(*) FROM (
    SELECT id FROM purchases WHERE {owner}id > ? AND id <= ?
    ORDER BY id {order} LIMIT ? + 0
) AS scan""")


@cache
def _select_names(of_customer: bool) -> Statement:
    """Return the SELECT of the names beyond ASCII in a range of ids, each once."""
    owner = "p.customer_id = ? AND " if of_customer else ""
    return dialects(f"""
SELECT DISTINCT p.purchase_name FROM purchases p
WHERE {owner}p.id > ? AND p.id <= ? AND {{name_beyond_ascii}}""")


@cache
def _select_rows(names: tuple[str, ...], descending: bool) -> Statement:
    order = "DESC" if descending else "ASC"
    source = f"""purchases p WHERE {{visible}}{_where(names)} AND p.id > ? AND p.id <= ?
    ORDER BY p.id {order} LIMIT ? + 0"""
    owner = "?" if "customer_id" in names else ""
    return select_purchases(source, "min(purchase_id), max(purchase_id)", owner)


def search_purchases(
    filters: PurchaseFilters, descending: bool, after: int, limit: int
) -> Unit[Page]:
    """Return a page of the purchases that filters let through. NotFoundError.

    `after` is MAX_ID before the first page of a list that is turned round.
    """
    if filters.customer_id is not None:
        yield from _refuse_unknown(filters.customer_id)
    most, recent = MAX_ID, (yield PURCHASE_IDS.recent, ())
    while True:
        low, high = (0, min(after - 1, most)) if descending else (after, most)
        low, high = yield from _skip_blocks(filters, descending, low, high)
        low, high, is_last = yield from _narrow(filters, descending, low, high)
        if most < MAX_ID or is_settled(recent, high):
            break
        row, most = yield from wait_for_writers(PURCHASE_IDS.now)
        recent = [row]
    matching, owner = "[]", filters.owner
    if filters.purchase_name is not None:
        names = yield _select_names(bool(owner)), (*owner, low, high)
        matching = _matching(filters.purchase_name, names)
    values = *owner, *_values(filters, matching), low, high, limit
    [(size, text, tip, first, last)] = yield (
        _select_rows(_given(filters), descending),
        values,
    )
    end = low + 1 if descending else high
    if size == limit:
        end = first if descending else last
    further = None if is_last and size < limit else end
    return Page(size, text, further, tip_of(recent, tip))


def _refuse_unknown(customer_id: int) -> Unit[None]:
    if not (yield SELECT_CUSTOMER_ID, (customer_id,)):
        raise NotFoundError("customer", customer_id)


def _skip_blocks(
    filters: PurchaseFilters, descending: bool, low: int, high: int
) -> Unit[tuple[int, int]]:
    """Return a range of ids that begins where filters by time may let some through."""
    times = filters.by_time
    if not times or filters.customer_id is not None:
        return low, high
    start = (high if descending else low + 1) // BLOCK_IDS
    select = _select_block((*times,), descending)
    [(block, tail)] = yield select, (start, *times.values())
    if descending:  # what no block covers comes first
        top = -1 if block is None else (block + 1) * BLOCK_IDS - 1
        return low, (high if high >= tail else min(high, top))
    bottom = tail if block is None else block * BLOCK_IDS
    return max(low, bottom - 1), high


def _narrow(
    filters: PurchaseFilters, descending: bool, low: int, high: int
) -> Unit[tuple[int, int, bool]]:
    """Return the range of the next SCAN_ROWS ids, and whether none are behind it."""
    owner = filters.owner
    select = _select_window(bool(owner), descending)
    [(first, last, rows)] = yield select, (*owner, low, high, SCAN_ROWS)
    is_last = rows < SCAN_ROWS
    if descending:
        return (low if is_last else first - 1), last or 0, is_last
    return low, last or 0, is_last


def _matching(part: str, names: list[Row]) -> str:
    """Return the names that contain a part, as JSON."""
    wanted = fold_name(part)
    return json.dumps([name for (name,) in names if wanted in fold_name(name)])


# Reports

SEEN = "(NOT EXISTS (SELECT 1 FROM hidden [WHERE customer_id]) OR {visible})"
"""Whether a purchase can be seen, asked of each only where some are hidden."""


def _source(filters: PurchaseFilters) -> str:
    """Return the FROM of a report, which takes the filters by time as parameters."""
    if not filters.by_time or filters.customer_id is not None:
        return "purchases p"
    found = ranges(filters.by_time)
    return f"({found}) AS r {{cross_join}} purchases p ON p.id BETWEEN r.low AND r.high"


def _select(filters: PurchaseFilters, what: str, rest: str = "") -> str:
    """Return the SELECT of what filters let through."""
    where = _where(_given(filters))
    return f"SELECT {what} FROM {_source(filters)} WHERE {SEEN}{where} {rest}"


def _report(filters: PurchaseFilters, sql: str) -> Statement:
    """Return a statement that has `_select` of some filters in it."""
    return dialects(sql, "?" if filters.owner else "")


def _parameters(filters: PurchaseFilters) -> Unit[Row]:
    """Return the parameters of `_select`. UnavailableError for too many names."""
    ranged: Row = (*filters.by_time.values(),)
    if filters.owner:
        ranged = filters.owner * 2  # of SEEN
    if filters.purchase_name is None:
        return ranged + _values(filters, "")
    others = filters._replace(purchase_name=None)
    select = f"""{_select(others, "DISTINCT p.purchase_name")}
        AND {{name_beyond_ascii}} LIMIT ? + 0"""
    values = ranged + _values(others, "")
    names = yield _report(filters, select), (*values, MAX_NAMES + 1)
    if len(names) > MAX_NAMES:
        raise UnavailableError(f"over {MAX_NAMES} different names: ask for less")
    return ranged + _values(filters, _matching(filters.purchase_name, names))


COUNT_HIDDEN = """
SELECT count(*) FROM hidden {{cross_join}} purchases p
ON p.customer_id = hidden.customer_id AND p.id >= hidden.first AND p.id <= hidden.last
{0}"""
COUNT_ALL = dialects(f"""
SELECT (SELECT count(*) FROM purchases) - ({COUNT_HIDDEN.format("")})""")
OF_CUSTOMER = "WHERE hidden.customer_id = ?1 AND p.customer_id = ?1"
COUNT_OF_CUSTOMER = dialects(f"""
SELECT (SELECT count(*) FROM purchases WHERE customer_id = ?1)
    - ({COUNT_HIDDEN.format(OF_CUSTOMER)})""")


def count_purchases(filters: PurchaseFilters) -> Unit[int]:
    """Return how many purchases filters let through. NotFoundError."""
    if filters.customer_id is not None:
        yield from _refuse_unknown(filters.customer_id)
    match _given(filters):
        case ():
            [(number,)] = yield COUNT_ALL, ()
        case ("customer_id",):
            [(number,)] = yield COUNT_OF_CUSTOMER, (filters.customer_id,)
        case _:
            values = yield from _parameters(filters)
            [(number,)] = yield _report(filters, _select(filters, "count(*)")), values
    return int(number)


KEYS = {
    "day": ("{day}", "g.key", "", "g.key {binary}"),
    "customer": (
        "+p.customer_id",  # by its index, each row would be looked for by itself
        "c.name",
        "JOIN customer c ON c.id = g.key [AND c.id]",
        "g.quantity DESC, g.key",
    ),
    "purchase_name": (
        "p.purchase_name",
        "g.key",
        "",
        "g.quantity DESC, g.key {binary}",
    ),
}
"""By what purchases are summed up: the key, its label, where that comes from, the order
of the sums."""


def summarize_purchases(
    filters: PurchaseFilters, by: str, limit: int | None
) -> Unit[Page]:
    """Return the number and the quantity of purchases by a key. NotFoundError.

    Days come in their order, other keys with the largest quantity first. The page has
    more than MAX_KEYS rows where there are more and no limit was given.
    """
    if filters.customer_id is not None:
        yield from _refuse_unknown(filters.customer_id)
    key, label, join, order = KEYS[by]
    sums = f"{key} AS key, count(*) AS purchases, sum(p.quantity) AS quantity"
    groups = _select(filters, sums, "GROUP BY 1")
    values = yield from _parameters(filters)
    labelled = filters.owner if join else ()
    # The second LIMIT has what shards return put in order before it becomes one text.
    [(size, text)] = yield (
        _report(
            filters,
            f"""
SELECT count(*), {{sums_as_json}} FROM (
    SELECT CAST(g.key AS TEXT) AS key, {label} AS label, purchases, quantity
    FROM (SELECT * FROM ({groups}) AS g ORDER BY {order} LIMIT ? + 0) AS g {join}
    ORDER BY {order} LIMIT {MAX_KEYS + 1}
) AS page""",
        ),
        (*values, limit or MAX_KEYS + 1, *labelled),
    )
    return Page(size, text, None)
