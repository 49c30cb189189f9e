"""The index of customers' names on SQLite: its terms, and units that keep it.

It lags behind: names above the last id in it are added by `index_names`, beside the
requests, so that adding a customer costs nothing more. A name in it that changes is
changed there in the same unit, and one that is erased leaves nothing. PostgreSQL keeps
its own index; the statements of here have no variant for it.
"""

from storage import search_index
from storage.engine import Statement, Unit

INDEX_ROWS = 2000
"""The most names that one unit adds to the index."""
MAX_TERMS = 3
"""The most terms that an expression holds. Each costs a walk along all names that have
it; what a further one would keep out costs less to look at."""
TERM = 3
"""The characters of a term. A shorter text cannot be looked up."""

SELECT_INDEXED = Statement(
    sqlite="SELECT coalesce(max(id), 0) FROM customer_names_content"
)
COUNT_UNINDEXED = Statement(
    sqlite="""
SELECT count(*) FROM (
    SELECT id FROM customer
    WHERE id > (SELECT coalesce(max(id), 0) FROM customer_names_content)
    LIMIT ? + 0
)"""
)
INDEX = Statement(
    sqlite="""
INSERT INTO customer_names (rowid, name_folded)
SELECT id, name_folded FROM customer WHERE id > ? ORDER BY id LIMIT ? + 0"""
)
# To take a name out without a trace costs a walk as well: not for one that stays.
RENAME = Statement(
    sqlite="""
UPDATE customer_names SET name_folded = ?1 WHERE rowid = ?2 AND name_folded <> ?1"""
)
CURRENT = "(SELECT name_folded FROM customer WHERE id = customer_names.rowid)"
RENAME_ALL = Statement(
    sqlite=f"""
UPDATE customer_names SET name_folded = {CURRENT}
WHERE name_folded <> {CURRENT} AND rowid IN (
    SELECT customer_id FROM history
    WHERE id = ?1 AND change IS NULL AND action = 'customer.updated'
    UNION ALL
    SELECT customer_id FROM history WHERE change = ?1 AND action = 'customer.updated'
)"""
)
FORGET = Statement(sqlite="DELETE FROM customer_names WHERE rowid = ?")


def match(wanted: str) -> str:
    """Return an expression that finds all names that contain a text, and few others.

    It has some terms of the text, all of which a name must hold
    (sqlite.org/fts5.html#full_text_query_syntax).
    """
    count = len(wanted) - TERM + 1
    terms = [*dict.fromkeys(wanted[at : at + TERM] for at in range(count))]
    if len(terms) > MAX_TERMS:
        step = (len(terms) - 1) / (MAX_TERMS - 1)
        terms = [terms[round(turn * step)] for turn in range(MAX_TERMS)]
    return " AND ".join('"' + term.replace('"', '""') + '"' for term in terms)


def pattern(wanted: str) -> str:
    """Return a pattern of LIKE for what contains a text."""
    for special in "\\%_":
        wanted = wanted.replace(special, f"\\{special}")
    return f"%{wanted}%"


def indexed_to() -> Unit[int]:
    """Return the id up to which names are in the index, 0 without one."""
    rows = (yield SELECT_INDEXED, ()) if search_index.AVAILABLE else []
    return int(rows[0][0]) if rows else 0


def count_unindexed() -> Unit[int]:
    """Return how many names are not in the index yet, at most INDEX_ROWS."""
    rows = (yield COUNT_UNINDEXED, (INDEX_ROWS,)) if search_index.AVAILABLE else []
    return int(rows[0][0]) if rows else 0


def index_names() -> Unit[bool]:
    """Add some names to the index; return whether there may be more."""
    waiting = yield from count_unindexed()
    if waiting:
        end = yield from indexed_to()
        yield INDEX, (end, INDEX_ROWS)
    return waiting == INDEX_ROWS


def rename(customer_id: int, name_folded: str) -> Unit[None]:
    """Change a name in the index, if it is there already."""
    if search_index.AVAILABLE:
        yield RENAME, (name_folded, customer_id)


def rename_all(change: int) -> Unit[None]:
    """Take over the names of the customers that a change updated, as they are now."""
    if search_index.AVAILABLE:
        yield RENAME_ALL, (change,)


def forget(customer_id: int) -> Unit[None]:
    """Remove a name from the index."""
    if search_index.AVAILABLE:
        yield FORGET, (customer_id,)
