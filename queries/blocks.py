"""Blocks of purchases by their ids, with the oldest and the newest date of each.

Purchases come mostly in the order of their dates, so a search by date skips most
blocks: a block range index, as PostgreSQL's BRIN is one. It costs an added purchase
nothing: blocks are filled in later, and those above the last one are looked through.
Dates never change. A purchase that is brought back widens its block.
"""

from collections.abc import Iterable

from queries.dialects import of_customer
from queries.history import MAX_ID, PURCHASE_IDS
from storage.engine import Statement, Unit

BLOCK_IDS, BLOCKS = 4096, 4
"""How many ids a block has, and how many blocks one unit fills in."""
TAIL = f"(SELECT coalesce(max(block) + 1, 0) * {BLOCK_IDS} FROM purchase_blocks)"
"""The first id that no block covers."""
IN_TIME = {"purchased_from": "newest >= ?", "purchased_before": "oldest < ?"}
"""What a block must be to hold a purchase that a filter lets through."""

SELECT_UNFILLED = Statement(
    # SQLite looks at every row where one SELECT has both.
    sqlite=f"""
SELECT (SELECT min(id) FROM purchases WHERE id >= {TAIL}), (
    SELECT max(id) FROM purchases WHERE id >= {TAIL})""",
    postgres=f"SELECT min(id), max(id) FROM purchases WHERE id >= {TAIL}",
)
FILL_BLOCK = Statement("""
INSERT INTO purchase_blocks (block, oldest, newest)
SELECT ? + 0, oldest, newest FROM (
    SELECT min(date_created) AS oldest, max(date_created) AS newest
    FROM purchases WHERE id >= ? AND id < ?
) AS found WHERE oldest IS NOT NULL
ON CONFLICT (block) DO NOTHING""")
LOCK_BLOCKS = Statement(postgres="SELECT pg_advisory_xact_lock(1129337649, 1)")
"""Lets purchases come back to a block before it is filled in, or after."""
WIDEN_BLOCKS = of_customer(
    f"""
INSERT INTO purchase_blocks (block, oldest, newest)
SELECT p.id / {BLOCK_IDS}, min(p.date_created), max(p.date_created)
FROM purchases p WHERE p.id < {TAIL} [AND p.customer_id] AND p.id IN (
    SELECT purchase_id FROM history
    WHERE change = ?1 AND action = 'purchase.restored' [AND customer_id])
GROUP BY 1
ON CONFLICT (block) DO UPDATE
SET oldest = {{least}}(purchase_blocks.oldest, excluded.oldest),
    newest = {{greatest}}(purchase_blocks.newest, excluded.newest)""",
    1,
)


def is_fillable() -> Unit[bool]:
    """Return whether a block could be filled in."""
    [(first, last)] = yield SELECT_UNFILLED, ()
    return first is not None and first // BLOCK_IDS < last // BLOCK_IDS


def fill_blocks() -> Unit[bool]:
    """Fill in some blocks that nothing is added to any more; return if more are."""
    yield LOCK_BLOCKS, ()
    settled = yield PURCHASE_IDS.now, ()
    for _ in range(BLOCKS):
        [(first, last)] = yield SELECT_UNFILLED, ()
        if settled:  # PostgreSQL: writers under way may still add ids below the last
            last = min(last or 0, settled[0][2])
        if first is None or first // BLOCK_IDS >= (last or 0) // BLOCK_IDS:
            return False
        start = first // BLOCK_IDS * BLOCK_IDS
        yield FILL_BLOCK, (start // BLOCK_IDS, start, start + BLOCK_IDS)
    return True


def widen_blocks(change: int, owner: tuple[int, ...]) -> Unit[None]:
    """Have the blocks cover the purchases that a change has brought back.

    `owner` is empty if it has several customers.
    """
    yield LOCK_BLOCKS, ()
    yield WIDEN_BLOCKS[len(owner)], (change, *owner)


def in_time(filters: Iterable[str]) -> str:
    """Return the condition of a block that filters by time let some of through."""
    return " AND ".join(IN_TIME[name] for name in filters)


def ranges(filters: Iterable[str]) -> str:
    """Return the SELECT of the ranges of ids in which filters by date let some through.

    It takes the parameters of the filters.
    """
    return f"""
SELECT block * {BLOCK_IDS} AS low, block * {BLOCK_IDS} + {BLOCK_IDS - 1} AS high
FROM purchase_blocks WHERE {in_time(filters)}
UNION ALL SELECT {TAIL}, {MAX_ID}"""
