"""Purchases by date, where their dates and their ids are not in one order."""

import json
import random
from typing import Any

import pytest

import db
from queries import blocks, purchase_search
from storage.engine import Statement
from tests.support import MAX_ID, author, count

DAYS = [f"20{year:02}-01-01 00:00:00.000000+00:00" for year in range(10, 30)]
ADD = Statement(
    """
INSERT INTO purchases (id, purchase_name, quantity, customer_id, date_created)
VALUES (?, 'x', 1, ?, ?)""",
    postgres="""
INSERT INTO purchases (id, purchase_name, quantity, customer_id, date_created)
OVERRIDING SYSTEM VALUE VALUES (?, 'x', 1, ?, ?)""",
)
SET_LAST = Statement(postgres="SELECT setval('purchases_id_seq', ?)")


def add_rows(customer: int, rows: list[tuple[int, str]]) -> db.Unit[None]:
    """Add purchases with ids and times."""
    for number, time in rows:
        yield ADD, (number, customer, time)
    yield SET_LAST, (rows[-1][0],)


async def found(
    engine: Any, since: str, before: str, descending: bool = False
) -> list[int]:
    """Return the ids of all purchases of some time, page by page."""
    filters = db.PurchaseFilters(None, since, before)
    ids, after = [], MAX_ID if descending else 0
    while True:
        values = filters, descending, after, 2
        page = await engine.scan(db.search_purchases, *values)
        ids += [row["purchase_id"] for row in json.loads(page.json)]
        if page.after is None:
            break
        after = page.after
    assert await engine.report(db.count_purchases, filters) == len(ids)
    return ids


async def test_any_order(
    engine: Any, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled in, partly or not at all, the blocks let the same rows through."""
    monkeypatch.setattr(purchase_search, "SCAN_ROWS", 3)
    chance = random.Random(7)  # noqa: S311 - nothing is secret
    ids = sorted(chance.sample(range(1, 20 * blocks.BLOCK_IDS), 60))
    rows = [(number, chance.choice(DAYS)) for number in ids]
    await engine.write(add_rows, customer, rows)
    filled: list[int] = []
    for _ in range(6):
        for _ in range(5):
            since, before = sorted(chance.choices(DAYS, k=2))
            wanted = [number for number, time in rows if since <= time < before]
            assert await found(engine, since, before) == wanted
            assert await found(engine, since, before, True) == wanted[::-1]
        assert filled or await engine.read(db.is_fillable)
        await engine.write(db.fill_blocks)
        filled.append(await engine.read(count, "purchase_blocks"))
    assert filled == sorted(filled)
    assert filled[0] == blocks.BLOCKS
    assert filled[-1] >= 15
    assert not await engine.read(db.is_fillable)


async def test_brought_back(engine: Any, customer: int) -> None:
    """A purchase that comes back to a block that has no such date is found."""
    rows = [(1, DAYS[0]), (2, DAYS[5]), (3 * blocks.BLOCK_IDS, DAYS[6])]
    rows.append((5 * blocks.BLOCK_IDS, DAYS[7]))
    await engine.write(add_rows, customer, rows)
    for number in (1, rows[2][0]):
        deleted = await engine.write(db.delete_purchases, customer, [number], author())
        while await engine.write(db.fill_blocks):
            pass
        gone = next(time for id_, time in rows if id_ == number)
        later = DAYS[DAYS.index(gone) + 1]
        assert await found(engine, gone, later) == []
        await engine.write(db.undo_change, deleted.change, author(), "")
        assert await found(engine, gone, later) == [number]
    assert await engine.read(count, "purchase_blocks") == 2
