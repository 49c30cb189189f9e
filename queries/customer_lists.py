"""Lists of customers, perhaps of those whose name contains a text, and their number.

SQLite has an index for the names up to an id, and looks through those above it.
PostgreSQL looks at some rows, and asks its index where none of them is right: an index
of that kind returns all that match, or none, and not the next few by their ids.
"""

from functools import cache

from queries.dialects import PG_ROWS, PG_TIME
from queries.history import CUSTOMER_IDS, MAX_ID, TIP, wait_for_writers
from queries.lists import SCAN_ROWS, is_settled, tip_of
from queries.names import SELECT_INDEXED, trigrams_of
from queries.records import Page
from storage.engine import Row, Statement, Unit
from storage.schema import fold_name

WINDOW_ROWS, CANDIDATE_ROWS = 2000, 1000
"""The rows that PostgreSQL looks at before it asks its index, and those of the index of
SQLite that one unit looks at."""
TRIGRAM = 3
"""The shortest text that an index finds."""

NAMED = {"": "", "scan": " AND {instr}(c.name_folded, ?) > 0"}
NAMED["index"] = f"""{NAMED["scan"]}
    AND n.customer_names MATCH ? AND n.rowid > ? AND n.rowid <= ?"""
SOURCES = {
    "": "customer c",
    "scan": "customer c",
    "index": "customer_names n CROSS JOIN customer c ON c.id = n.rowid",
}
"""How customers are looked for: any, by looking at names, by the index of SQLite."""
LIKE = "name_folded LIKE ? ESCAPE '\\'"


def _order(descending: bool) -> str:
    return "DESC" if descending else "ASC"


@cache
def _select_page(way: str, descending: bool) -> Statement:
    """Return the SELECT of a page: size, JSON, last row of the feed, first, last."""
    where = f"""{SOURCES[way]}
    WHERE c.id > ? AND c.id <= ? AND c.deleted IS NULL{NAMED[way]}
    ORDER BY c.id {_order(descending)} LIMIT ? + 0"""
    return Statement(
        sqlite=f"""
SELECT count(*), json_group_array(json_object(
    'id', id, 'name', name, 'address', address, 'created_on', created_on)), {TIP},
    min(id), max(id)
FROM (
    SELECT c.id, c.name, c.address, c.date_created AS created_on
    FROM {where.format(instr="instr")}
) AS page""",
        postgres=_postgres_page(where.format(instr="strpos")),
    )


def _postgres_page(source: str) -> str:
    return f"""
SELECT count(*), {PG_ROWS}, 0, min(id), max(id)
FROM (
    SELECT c.id, c.name, c.address, {PG_TIME.format("c.date_created")} AS created_on
    FROM {source}
) AS page"""


@cache
def _select_like(descending: bool) -> Statement:
    """Return the SELECT of a page by the index of PostgreSQL."""
    source = f"""(
        SELECT id AS found FROM customer WHERE {LIKE} OFFSET 0
    ) AS f JOIN customer c ON c.id = f.found
    WHERE c.id > ? AND c.id <= ? AND c.deleted IS NULL
    ORDER BY c.id {_order(descending)} LIMIT ? + 0"""
    return Statement(postgres=_postgres_page(source))


@cache
def _select_window(by_index: bool, descending: bool) -> Statement:
    """Return the SELECT of the first and the last of the next rows, and how many.

    By the index, of those that have all trigrams of a text.
    """
    order = f"ORDER BY id {_order(descending)} LIMIT ? + 0"
    source = f"SELECT id FROM customer WHERE id > ? AND id <= ? {order}"
    if by_index:
        source = f"""SELECT rowid AS id FROM customer_names
            WHERE customer_names MATCH ? AND rowid > ? AND rowid <= ? {order}"""
    return Statement(f"SELECT min(id), max(id), count(*) FROM ({source}) AS scan")


def find_customers(part: str, descending: bool, after: int, limit: int) -> Unit[Page]:
    """Return a page of the customers whose name contains a part, caseless.

    `after` is MAX_ID before the first page of a list that is turned round.
    """
    wanted, most = fold_name(part), MAX_ID
    recent = yield CUSTOMER_IDS.recent, ()
    while True:
        low, high = (0, min(after - 1, most)) if descending else (after, most)
        if recent:
            page, top = yield from _look_on_postgres(
                wanted, descending, low, high, limit
            )
        else:
            page, top = yield from _look_on_sqlite(wanted, descending, low, high, limit)
        if most < MAX_ID or is_settled(recent, top):
            return page._replace(cursor=tip_of(recent, page.cursor or 0))
        row, most = yield from wait_for_writers(CUSTOMER_IDS.now)
        recent = [row]


Look = Unit[tuple[Page, int | None]]
"""Returns a page, and the largest id that it depends on."""


def _look_on_postgres(
    wanted: str, descending: bool, low: int, high: int, limit: int
) -> Look:
    rows = WINDOW_ROWS if len(wanted) >= TRIGRAM else SCAN_ROWS
    page, top = yield from _look_through(wanted, descending, low, high, limit, rows)
    if rows == SCAN_ROWS or page.size or page.after is None:
        return page, top
    values = _pattern(wanted), low, high, limit
    [(size, json, _, first, last)] = yield _select_like(descending), values
    after = (first if descending else last) if size == limit else None
    return Page(size, json, after), max(last or 0, top or 0)


def _look_on_sqlite(
    wanted: str, descending: bool, low: int, high: int, limit: int
) -> Look:
    indexed = 0
    if len(wanted) >= TRIGRAM and (found := (yield SELECT_INDEXED, ())):
        [(indexed,)] = found
    ranges = [(low, min(high, indexed), True), (max(low, indexed), high, False)]
    page = Page(0, "[]", None)
    for start, end, by_index in reversed(ranges) if descending else ranges:
        if start >= end and (by_index or page.cursor is not None):
            continue
        look = _look_in_index if by_index else _look_through
        more, _ = yield from look(wanted, descending, start, end, limit - page.size)
        comma = "," if page.size and more.size else ""
        json = page.json[:-1] + comma + more.json[1:]
        page = Page(page.size + more.size, json, more.after, more.cursor)
        if page.after is not None or page.size == limit:
            break
    return page, 0


def _look_through(
    wanted: str,
    descending: bool,
    low: int,
    high: int,
    limit: int,
    rows: int | None = None,
) -> Look:
    """Look at the names of the next rows."""
    rows = rows or SCAN_ROWS
    window = yield _select_window(False, descending), (low, high, rows)
    way = "scan" if wanted else ""
    values = (wanted,) if wanted else ()
    return (yield from _fetch(way, descending, low, window, rows, limit, values))


def _look_in_index(
    wanted: str, descending: bool, low: int, high: int, limit: int
) -> Look:
    """Look at the next rows that the index finds; a name may have other trigrams."""
    match, select = trigrams_of(wanted), _select_window(True, descending)
    window = yield select, (match, low, high, CANDIDATE_ROWS)
    [(first, last, _)] = window
    values = wanted, match, (first or 1) - 1, last or 0
    fetch = _fetch("index", descending, low, window, CANDIDATE_ROWS, limit, values)
    return (yield from fetch)


def _fetch(
    way: str,
    descending: bool,
    low: int,
    window: list[Row],
    rows: int,
    limit: int,
    values: Row,
) -> Look:
    """Return the page of a window of so many rows, and its last id."""
    [(first, last, found)] = window
    start, end = (first or 1) - 1, last or 0
    select = _select_page(way, descending)
    [(size, json, tip, least, most)] = yield select, (start, end, *values, limit)
    after = None
    if size == limit:
        after = least if descending else most
    elif found == rows:
        after = first if descending else last
    return Page(size, json, after, tip), last


COUNT_ALL = Statement("""
SELECT (SELECT count(*) FROM customer)
    - (SELECT count(*) FROM customer WHERE deleted IS NOT NULL)""")
COUNT_NAMED = Statement(
    sqlite="""
SELECT count(*) FROM customer
WHERE id > ? AND instr(name_folded, ?) > 0 AND deleted IS NULL""",
    postgres=f"""
SELECT count(*) FROM customer WHERE id > ? AND {LIKE} AND deleted IS NULL""",
)
COUNT_INDEXED = Statement(
    sqlite="""
SELECT count(*) FROM customer_names n CROSS JOIN customer c ON c.id = n.rowid
WHERE n.customer_names MATCH ? AND n.rowid <= ? AND instr(c.name_folded, ?) > 0
    AND c.deleted IS NULL"""
)


def count_customers(part: str) -> Unit[int]:
    """Return the number of customers whose name contains a part, caseless."""
    wanted, total, indexed = fold_name(part), 0, 0
    if not wanted:
        [(total,)] = yield COUNT_ALL, ()
        return int(total)
    recent = yield CUSTOMER_IDS.recent, ()
    if recent:
        wanted = _pattern(wanted)
    elif len(wanted) >= TRIGRAM:
        for (indexed,) in (yield SELECT_INDEXED, ()):
            values = trigrams_of(wanted), indexed, wanted
            [(total,)] = yield COUNT_INDEXED, values
    [(rest,)] = yield COUNT_NAMED, (indexed, wanted)
    return int(total + rest)


def _pattern(wanted: str) -> str:
    """Return the pattern of LIKE for a text that stands anywhere."""
    escaped = wanted.translate({ord(char): f"\\{char}" for char in "\\%_"})
    return f"%{escaped}%"
