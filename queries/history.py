"""Recording what a write changes, in its own transaction.

A change is one request that wrote. Its number is the id of its first row where it has
one row, or is drawn like one; `history.change` is empty where it is the row's own id.
`content` is the change that the row's content comes from after it: NULL for its own, or
for its creation where it adds the row; 0 for the creation where it says so. Purchases
and customers have theirs in `change`, NULL for the creation.
"""

import json
from typing import NamedTuple

from queries.dialects import dialects, horizon, lock
from storage.engine import (
    SLEEP,
    HorizonStatement,
    RecentStatement,
    Row,
    Statement,
    Unit,
)

MAX_ID = 2**63 - 1


class Author(NamedTuple):
    """Who writes, when, and whether the history keeps what was there before."""

    caller: str
    at: str
    keeps_images: bool


RECORD_COLUMNS = "at, caller, action, customer_id, purchase_id, before"
RECORD = Statement(
    sqlite=f"""
INSERT INTO history ({RECORD_COLUMNS}) VALUES (?, nullif(?, ''), ?, ?, ?, ?)""",
    postgres="SELECT number FROM record_change(?, ?, ?, ?, ?, ?)",
)
NEXT_CHANGE = Statement(
    sqlite="""
SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'history'"""
)
DRAW_IDS = Statement(
    postgres=f"""
WITH turn AS MATERIALIZED (SELECT {lock("history")})
SELECT json_agg(nextval('history_id_seq')) FROM turn, generate_series(0, ?)"""
)


def record_rows(rows: str, row: str) -> str:
    """Return an INSERT of rows into the history, in the order of the ids of `row`.

    `rows` are an action, the ids of a customer and of a purchase, an image, a content.
    The parameters before theirs are ?2 to ?5: the change, the time, the caller, and ids
    as JSON, NULL where the database draws them: a shard of PostgreSQL would draw others
    than those of the one sequence.
    """
    return f"""
INSERT INTO history
    (id, change, at, caller, action, customer_id, purchase_id, before, content)
SELECT {{drawn_id}}, ?2, ?3, nullif(?4, ''),
    r.action, r.customer_id, r.purchase_id, r.before, r.content
FROM (SELECT {{place_{row}}} AS place, {rows}) AS r {{join_drawn}} ORDER BY r.place"""


RECORD_DELETED = dialects(
    record_rows(
        """'purchase.deleted' AS action, p.customer_id, p.id AS purchase_id,
    CASE WHEN ?6 THEN {purchase_image} END AS before, CAST(NULL AS bigint) AS content
FROM purchases p WHERE p.customer_id = ?1 AND p.id IN ({ids_of_7})""",
        "p",
    )
)
TIP = "coalesce((SELECT max(id) FROM history), (SELECT pruned FROM history_start))"
"""The last row of the feed, on SQLite."""
HORIZON = HorizonStatement(
    "history",
    sqlite=f"SELECT tip, tip FROM (SELECT {TIP} AS tip)",
    postgres=horizon("history"),
)
"""The last row of the history before which none can still come, and the last id."""


def record(
    author: Author,
    action: str,
    customer_id: int,
    purchase_id: int | None = None,
    before: str | None = None,
) -> Unit[int]:
    """Record a change of one row; return its number."""
    written = author.at, author.caller, action, customer_id, purchase_id, before
    [(change,)] = yield RECORD, written
    return int(change)


def next_change(rows: int) -> Unit[tuple[int, list[int] | None]]:
    """Return the number of a change of several rows, to be recorded right after.

    And ids for so many rows, None on SQLite, which draws them when it records.
    """
    for (drawn,) in (yield DRAW_IDS, (rows,)):
        change, *ids = json.loads(drawn)
        return change, ids
    [(change,)] = yield NEXT_CHANGE, ()
    return change, None


WAIT_SECONDS, WAITS = 0.005, 200
"""How often, and how many times, to look whether writers under way have ended."""


class Ids(NamedTuple):
    """What a list of a table asks: up to where history and table are settled.

    No writer that is under way can still add a row up to there. In `recent` that is a
    moment old, and holds for ever, since ids only grow. SQLite returns no row: there
    ids come in the order of commits.
    """

    recent: RecentStatement
    now: HorizonStatement


def _ids_of(table: str) -> Ids:
    sql = f"SELECT * FROM ({horizon('history')}) AS h, ({horizon(table)}) AS t"
    tables = "history", table
    return Ids(
        RecentStatement(*tables, postgres=sql), HorizonStatement(*tables, postgres=sql)
    )


CUSTOMER_IDS, PURCHASE_IDS = _ids_of("customer"), _ids_of("purchases")


def wait_for_writers(ids: Statement) -> Unit[tuple[Row, int]]:
    """Return what a statement says first, and the last id that a reader may show then.

    Its last two columns are up to where ids are settled, and the last one drawn. On
    PostgreSQL a reader waits for writers that drew an id before it, or a client that
    goes on after the last row would never see theirs. One that takes too long is not
    waited for: then the rows after its id are left to the next page.
    """
    [first] = yield ids, ()
    *_, ready, drawn = first
    for _ in range(WAITS):
        if ready >= drawn:
            break
        yield SLEEP, (WAIT_SECONDS,)
        [(*_, ready, _)] = yield ids, ()
    return first, min(ready, drawn)
