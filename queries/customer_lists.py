"""Lists of customers, by a part of the name: a page for each unit of work.

On SQLite the names up to some id are looked up in an index, and those above it are
looked at in windows of ids; so are all where the text is too short for the index. On
PostgreSQL a page is a window too, and only one that holds nothing asks the index, where
there is one: so a rare text costs one lookup, and a frequent one no more than a window.
"""

from typing import NamedTuple

from queries import names
from queries.dialects import PG_ROWS, PG_TIME
from queries.history import CUSTOMER_IDS, MAX_ID, TIP, wait_for_writers
from queries.lists import is_settled
from queries.records import Page
from storage import search_index
from storage.engine import Row, Statement, Unit
from storage.schema import fold_name

SCAN_ROWS = 20_000
"""The most rows that one unit looks at for those that a list shows."""
WINDOW_ROWS = 2000
"""The most rows that one looks at on PostgreSQL before it asks the index."""
SPARE_ROWS = 100
"""How many more than wanted are looked at where most will be shown: some are deleted,
or were found in the index by mistake."""


ROWS = {
    "sqlite": """json_group_array(json_object(
    'id', id, 'name', name, 'address', address, 'created_on', created_on))""",
    "postgres": PG_ROWS,
}
TIMES = {"sqlite": "date_created", "postgres": PG_TIME.format("date_created")}


def _page(order: str, **sources: str) -> Statement:
    """Return the SELECT of a page of customers `c`: size, first and last id, JSON.

    For the engines that have a source. The last parameter is the most rows.
    """
    variants = {
        engine: f"""
SELECT count(*), min(id), max(id), {ROWS[engine]}
FROM (
    SELECT c.id, name, address, {TIMES[engine]} AS created_on FROM {source}
    AND c.deleted IS NULL ORDER BY c.id {order} LIMIT ? + 0
) AS page"""
        for engine, source in sources.items()
    }
    return Statement(**variants)


class Order(NamedTuple):
    """The statements of a list in one order."""

    window: Statement
    """The first and the last of the next ids, and how many there are."""
    scan: Statement
    """The page of those in a range that contain a text."""
    candidates: Statement
    """As `window`, of those that the index of SQLite finds, and their ids as JSON."""
    chosen: Statement
    """The page of those among such ids that contain a text."""
    like: Statement
    """The page of those in a range that are like a pattern, on PostgreSQL."""


def _order(order: str) -> Order:
    scan = "customer c WHERE c.id > ? AND c.id <= ? AND {}(name_folded, ?) > 0"
    return Order(
        window=Statement(f"""
SELECT min(id), max(id), count(*) FROM (
    SELECT id FROM customer WHERE id > ? AND id <= ? ORDER BY id {order} LIMIT ? + 0
) AS looked_at"""),
        scan=_page(order, sqlite=scan.format("instr"), postgres=scan.format("strpos")),
        candidates=Statement(
            sqlite=f"""
SELECT min(id), max(id), count(*), json_group_array(id) FROM (
    SELECT rowid AS id FROM customer_names
    WHERE customer_names MATCH ? AND rowid > ? AND rowid <= ?
    ORDER BY rowid {order} LIMIT ? + 0
)"""
        ),
        # CROSS has SQLite look up each of the ids, and not each customer among them.
        chosen=_page(
            order,
            sqlite="""json_each(?) AS one CROSS JOIN customer c ON c.id = one.value
    WHERE instr(name_folded, ?) > 0""",
        ),
        # MATERIALIZED has PostgreSQL ask the index, and not walk along the ids.
        like=_page(
            order,
            postgres="""(
        WITH found AS MATERIALIZED (SELECT id FROM customer WHERE name_folded LIKE ?)
        SELECT id FROM found WHERE id > ? AND id <= ?
    ) AS one JOIN customer c ON c.id = one.id WHERE TRUE""",
        ),
    )


ASCENDING, DESCENDING = _order(""), _order("DESC")
SELECT_TIP = Statement(sqlite=f"SELECT {TIP}")

COUNT = """
SELECT count(*) FROM customer WHERE {}(name_folded, ?) > 0 AND deleted IS NULL"""
COUNT_SCANNED = Statement(sqlite=COUNT.format("instr"), postgres=COUNT.format("strpos"))
COUNT_LIKE = Statement(
    postgres="""
SELECT count(*) FROM customer WHERE name_folded LIKE ? AND deleted IS NULL"""
)
COUNT_INDEXED = Statement(
    sqlite="""
SELECT (
    SELECT count(*) FROM customer_names CROSS JOIN customer c
    ON c.id = customer_names.rowid
    WHERE customer_names MATCH ?1 AND instr(c.name_folded, ?2) > 0
        AND c.deleted IS NULL
) + (
    SELECT count(*) FROM customer
    WHERE id > (SELECT coalesce(max(id), 0) FROM customer_names_content)
        AND instr(name_folded, ?2) > 0 AND deleted IS NULL
)"""
)


class Range(NamedTuple):
    """Ids above `low` and up to `high`."""

    low: int
    high: int


class Piece(NamedTuple):
    """What was found in a part of a range, in its order, as a JSON array."""

    size: int
    json: str
    after: int | None
    """The id that the next piece comes after, None at the end of the range."""
    passed: int
    """The highest id that a reader goes past: none below may still be to come."""


class Search(NamedTuple):
    """A text that was folded, and the order in which to look for it."""

    wanted: str
    descending: bool

    @property
    def statements(self) -> Order:
        """Return the statements of the order."""
        return DESCENDING if self.descending else ASCENDING

    @property
    def has_terms(self) -> bool:
        """Return whether an index can find the text."""
        return len(self.wanted) >= names.TERM

    def rest(self, ids: Range, after: int) -> Range:
        """Return the part of a range that comes after an id."""
        return Range(ids.low, after - 1) if self.descending else Range(after, ids.high)

    def up_to(self, ids: Range, end: int) -> Range:
        """Return the part of a range up to an id, this one too."""
        return Range(end - 1, ids.high) if self.descending else Range(ids.low, end)

    def last(self, first: int, last: int) -> int:
        """Return which of the ends of some ids comes last."""
        return first if self.descending else last


def find_customers(part: str, descending: bool, after: int, limit: int) -> Unit[Page]:
    """Return a page of the customers whose name contains a part, caseless.

    Of those after an id, or descending of those before it.
    """
    search, most = Search(fold_name(part), descending), MAX_ID
    ids = search.rest(Range(0, MAX_ID), after)
    recent = yield CUSTOMER_IDS.recent, ()
    indexed = yield from names.indexed_to()
    while True:
        within = Range(ids.low, min(ids.high, most))
        if recent:
            found = yield from _look_or_ask(search, within, limit)
        else:
            found = yield from _find_indexed(search, within, limit, indexed)
        if most < MAX_ID or is_settled(recent, found.passed):
            break
        row, most = yield from wait_for_writers(CUSTOMER_IDS.now)
        recent = [row]
    [(tip,)] = (yield SELECT_TIP, ()) or [recent[0][:1]]
    return Page(found.size, found.json, found.after, tip)


def _find_indexed(search: Search, ids: Range, limit: int, indexed: int) -> Unit[Piece]:
    """Return a piece of a range, of which the index holds the ids up to one."""
    found = Piece(0, "[]", None, 0)
    parts = [
        (_look_up, Range(ids.low, min(indexed, ids.high))),
        (_scan, Range(max(indexed, ids.low), ids.high)),
    ]
    if not search.has_terms:
        parts = [(_scan, ids)]
    for look, part in reversed(parts) if search.descending else parts:
        if part.low >= part.high:
            continue
        more = yield from look(search, part, limit - found.size)
        found = _join(found, more)
        if found.after is not None:
            break
    return found


def _look_or_ask(search: Search, ids: Range, limit: int) -> Unit[Piece]:
    """Return a piece of a range from a window of it, or else from the index."""
    rows = min(WINDOW_ROWS, SCAN_ROWS) if search.has_terms else SCAN_ROWS
    found = yield from _scan(search, ids, limit, rows)
    if found.size or found.after is None or not search.has_terms:
        return found
    rest = search.rest(ids, found.after)
    values = names.pattern(search.wanted), *rest, limit
    [(size, first, last, json)] = yield search.statements.like, values
    after = search.last(first, last) if size == limit else None
    passed = found.passed if search.descending else last or 0
    return Piece(size, json, after, passed)


def _scan(
    search: Search, ids: Range, limit: int, rows: int | None = None
) -> Unit[Piece]:
    """Return a piece of a range from a window of it."""
    rows = rows or SCAN_ROWS
    if not search.wanted:  # most are shown
        rows = min(rows, limit + SPARE_ROWS)
    [(first, top, looked)] = yield search.statements.window, (*ids, rows)
    if not looked:
        return Piece(0, "[]", None, 0)
    end = search.last(first, top)
    values = *search.up_to(ids, end), search.wanted, limit
    [(size, first, last, json)] = yield search.statements.scan, values
    shown = search.last(first, last) if size else 0
    after = shown if size == limit else end if looked == rows else None
    passed = top if search.descending else after or shown
    return Piece(size, json, after, passed)


def _look_up(search: Search, ids: Range, limit: int) -> Unit[Piece]:
    """Return a piece of a range, all of which is in the index of SQLite."""
    rows = min(SCAN_ROWS, limit + SPARE_ROWS)
    values = names.match(search.wanted), *ids, rows
    [(first, last, looked, some)] = yield search.statements.candidates, values
    if not looked:
        return Piece(0, "[]", None, 0)
    end = search.last(first, last)
    chosen = some, search.wanted, limit
    [(size, first, last, json)] = yield search.statements.chosen, chosen
    shown = search.last(first, last) if size == limit else end
    is_all = size < limit and looked < rows
    return Piece(size, json, None if is_all else shown, 0)


def _join(one: Piece, other: Piece) -> Piece:
    """Return two pieces as one."""
    comma = "," if one.size and other.size else ""
    json = f"{one.json[:-1]}{comma}{other.json[1:]}"
    return other._replace(size=one.size + other.size, json=json)


def count_customers(part: str) -> Unit[int]:
    """Return how many customers have a name that contains a part, caseless."""
    search = Search(fold_name(part), descending=False)
    rows: list[Row] = []
    if search.has_terms:
        rows = yield COUNT_LIKE, (names.pattern(search.wanted),)
        if not rows and search_index.AVAILABLE:
            values = names.match(search.wanted), search.wanted
            rows = yield COUNT_INDEXED, values
    if not rows:
        rows = yield COUNT_SCANNED, (search.wanted,)
    return int(rows[0][0])
