"""The index of customers' names: filled in behind those who add customers.

To add a customer costs nothing for it: names above the last one that is indexed are
looked through, and indexed once they are many. Whoever changes a name that is indexed
changes the index too. PostgreSQL does all of this itself.
"""

from queries.blocks import is_fillable
from storage.engine import Statement, Unit
from storage.search_index import AVAILABLE

TAIL_ROWS, STEP_ROWS = 1000, 2000
"""How many names may be left to look through, and how many one unit indexes."""
MAX_TRIGRAMS = 24
"""The most trigrams of a text that the index is asked for."""


def _indexed(sql: str) -> Statement:
    """Return a statement that does nothing where there is no index."""
    return Statement(sqlite=sql if AVAILABLE else "")


SELECT_INDEXED = _indexed("SELECT coalesce(max(id), 0) FROM customer_names_content")
"""The last id that is indexed; no row where no index is."""
COUNT_TAIL = Statement("""
SELECT count(*) FROM (SELECT id FROM customer WHERE id > ? ORDER BY id LIMIT ? + 0) AS t
""")
INDEX_NAMES = _indexed("""
INSERT INTO customer_names (rowid, name_folded)
SELECT id, name_folded FROM customer WHERE id > ? ORDER BY id LIMIT ? + 0""")
RENAME = _indexed("UPDATE customer_names SET name_folded = ? WHERE rowid = ?")
RENAME_OF_CHANGE = _indexed("""
UPDATE customer_names SET name_folded = (
    SELECT name_folded FROM customer WHERE id = customer_names.rowid
) WHERE rowid IN (
    SELECT customer_id FROM history WHERE change = ? AND action = 'customer.updated')
""")
FORGET_NAME = _indexed("DELETE FROM customer_names WHERE rowid = ?")


def needs_upkeep() -> Unit[bool]:
    """Return whether names are to be indexed, or blocks to be filled in."""
    for (last,) in (yield SELECT_INDEXED, ()):
        [(tail,)] = yield COUNT_TAIL, (last, TAIL_ROWS + 1)
        if tail > TAIL_ROWS:
            return True
    return (yield from is_fillable())


def index_names() -> Unit[bool]:
    """Index some names; return whether there may be more."""
    for (last,) in (yield SELECT_INDEXED, ()):
        [(tail,)] = yield COUNT_TAIL, (last, STEP_ROWS)
        if tail:
            yield INDEX_NAMES, (last, STEP_ROWS)
        return bool(tail == STEP_ROWS)
    return False


def trigrams_of(text: str) -> str:
    """Return the query of the trigrams of a text that has at least three characters."""
    found = [*dict.fromkeys(text[at : at + 3] for at in range(len(text) - 2))]
    step = -(-len(found) // MAX_TRIGRAMS)
    quoted = (trigram.replace('"', '""') for trigram in found[::step])
    return " AND ".join(f'"{trigram}"' for trigram in quoted)
