"""Ranges of a customer's purchases that are hidden: deleted all at once, by a change.

Hiding costs the same however many purchases a range holds, but for counting them once:
while they are hidden, nothing changes them. `erasure` removes them later. The ranges of
a customer never overlap.
"""

import json
from collections.abc import Iterable

from queries.dialects import of_customer
from storage.engine import Statement, Unit

Range = tuple[int, int]
"""The first and the last id of purchases, both of them hidden."""

PURGED = 0
"""Stands for the change of a range that nobody can bring back."""

SELECT_HIDDEN_BY = Statement("""
SELECT first, last FROM hidden WHERE customer_id = ? AND change = ? ORDER BY last""")
SHOW = Statement("DELETE FROM hidden WHERE customer_id = ? AND change = ?")
SELECT_RANGES = Statement("""
SELECT first, last FROM hidden WHERE customer_id = ? ORDER BY last""")
SELECT_TOP = Statement("SELECT max(id) FROM purchases WHERE customer_id = ?")
COUNT_IN_RANGE = Statement("""
SELECT count(*) FROM purchases WHERE customer_id = ? AND id >= ? AND id <= ?""")
FEW_RANGES = 8
COUNT_IN_RANGES = Statement(
    # CROSS has SQLite look for the purchases of each range, and not the other way.
    sqlite="""
SELECT count(*) FROM json_each(?) AS gap CROSS JOIN purchases AS p
ON p.customer_id = ? AND p.id
    BETWEEN json_extract(gap.value, '$[0]') AND json_extract(gap.value, '$[1]')""",
    postgres="""
SELECT count(*) FROM json_array_elements(?) AS gap (value) JOIN purchases AS p
ON p.customer_id = ? AND p.id
    BETWEEN (gap.value->>0)::bigint AND (gap.value->>1)::bigint""",
)
HIDE_RANGES = Statement(
    sqlite="""
INSERT INTO hidden (customer_id, change, first, last)
SELECT ?, ?, json_extract(value, '$[0]'), json_extract(value, '$[1]')
FROM json_each(?)""",
    postgres="""
INSERT INTO hidden (customer_id, change, first, last)
SELECT ?, ?, (value->>0)::bigint, (value->>1)::bigint
FROM json_array_elements(?) AS gap (value)""",
)


def select_gaps(customer_id: int, beside: Iterable[Range] = ()) -> Unit[list[Range]]:
    """Return the ranges in which a customer's purchases can be seen, beside some."""
    hidden = yield SELECT_RANGES, (customer_id,)
    [(top,)] = yield SELECT_TOP, (customer_id,)
    taken = [*beside, *((first, last) for first, last in hidden)]
    return gaps(sorted(taken), top or 0)


def gaps(hidden: Iterable[Range], top: int, start: int = 1) -> list[Range]:
    """Return the ranges between some ranges in their order, from `start` to `top`."""
    found = []
    for first, last in hidden:
        if start < first:
            found.append((start, min(first - 1, top)))
        start = last + 1
    if start <= top:
        found.append((start, top))
    return [(first, last) for first, last in found if first <= last]


def count_purchases(customer_id: int, ranges: list[Range]) -> Unit[int]:
    """Return how many purchases of a customer are in some ranges."""
    if len(ranges) <= FEW_RANGES:  # PostgreSQL plans this well, even in parallel
        total = 0
        for limits in ranges:
            [(count,)] = yield COUNT_IN_RANGE, (customer_id, *limits)
            total += count
        return total
    [(count,)] = yield COUNT_IN_RANGES, (json.dumps(ranges), customer_id)
    return int(count)


def select_purchases(customer_id: int) -> Unit[tuple[list[Range], int]]:
    """Return the ranges in which a customer has purchases, and how many these are."""
    visible = yield from select_gaps(customer_id)
    count = yield from count_purchases(customer_id, visible)
    return (visible if count else []), count


def hide(customer_id: int, change: int, ranges: list[Range]) -> Unit[None]:
    """Hide the purchases of a customer in some ranges, which are all visible."""
    if ranges:
        yield HIDE_RANGES, (customer_id, change, json.dumps(ranges))


SELECT_OVER = of_customer(
    """
SELECT hidden.customer_id, hidden.first, hidden.last, hidden.change, p.id
FROM purchases p JOIN hidden ON hidden.customer_id = p.customer_id
    [AND hidden.customer_id] AND hidden.first <= p.id AND hidden.last >= p.id
WHERE p.id IN (SELECT purchase_id FROM history WHERE change = ?1 [AND customer_id])
    [AND p.customer_id]
ORDER BY hidden.customer_id, hidden.last, p.id""",
    1,
)
DELETE_RANGE = Statement("DELETE FROM hidden WHERE customer_id = ? AND last = ?")


def split_ranges(change: int, owner: tuple[int, ...]) -> Unit[None]:
    """Let the purchases that a change has brought back be seen where others are hidden.

    `owner` is empty if it has several customers. The purchases came back into ranges
    that were hidden after they had been deleted alone.
    """
    rows = yield SELECT_OVER[len(owner)], (change, *owner)
    shown: dict[tuple[int, int, int, int], list[int]] = {}
    for customer_id, first, last, hider, number in rows:
        shown.setdefault((customer_id, first, last, hider), []).append(number)
    for (customer_id, first, last, hider), numbers in shown.items():
        yield DELETE_RANGE, (customer_id, last)
        single = [(number, number) for number in numbers]
        left = gaps(single, last, first)
        if left:
            yield from hide(customer_id, hider, left)
