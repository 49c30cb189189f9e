"""Blocks of dates: what a search by date skips holds nothing that it looks for."""

import asyncio
import json
import random
from typing import Any

import pytest

import db
from queries import blocks, purchase_search
from queries.blocks import BLOCK_IDS
from storage.engine import Statement, Unit
from tests.support import MAX_ID, PHONE, ApiClient, ClientReply, author

Rows = dict[int, str]
"""The dates of purchases by their ids."""
INSERT = Statement(
    sqlite="""
INSERT INTO purchases (id, purchase_name, quantity, customer_id, date_created)
SELECT json_extract(value, '$[0]'), 'x', 1, 1, json_extract(value, '$[1]')
FROM json_each(?)""",
    postgres="""
INSERT INTO purchases (id, purchase_name, quantity, customer_id, date_created)
OVERRIDING SYSTEM VALUE
SELECT (value->>0)::bigint, 'x', 1, 1, (value->>1)::timestamptz
FROM json_array_elements(?)""",
)
SET_LAST = Statement(
    postgres="SELECT setval('purchases_id_seq', (SELECT max(id) FROM purchases))"
)
SELECT_BLOCKS = Statement(
    sqlite="SELECT block, oldest, newest FROM purchase_blocks ORDER BY block",
    postgres="""
SELECT block, oldest, newest FROM purchase_blocks ORDER BY block""",
)


def day(number: int) -> str:
    """Return midnight of a day since the beginning of 2000, as the tables hold it."""
    year, rest = divmod(number, 12 * 28)
    return f"{2000 + year}-{rest // 28 + 1:02}-{rest % 28 + 1:02} 00:00:00.000000+00:00"


def insert(rows: Rows) -> Unit[None]:
    """Insert purchases of customer 1 with ids of the test's own."""
    yield INSERT, (json.dumps([*rows.items()]),)
    yield SET_LAST, ()


def read_blocks() -> Unit[dict[int, tuple[str, str]]]:
    """Return the oldest and the newest date of each block that is filled in."""
    return {block: (old, new) for block, old, new in (yield SELECT_BLOCKS, ())}


async def fill(engine: Any) -> None:
    """Fill in all blocks that can be."""
    while await engine.write(db.fill_blocks):
        pass


def expected_blocks(rows: Rows) -> dict[int, tuple[str, str]]:
    """Return the blocks of rows, but for the last one, which may still get more."""
    found: dict[int, list[str]] = {}
    for number, date in rows.items():
        found.setdefault(number // BLOCK_IDS, []).append(date)
    found.pop(max(found))
    return {block: (min(dates), max(dates)) for block, dates in found.items()}


async def search(
    engine: Any, since: str | None, before: str | None, descending: bool, limit: int
) -> list[int]:
    """Return the ids that a search by date finds, page by page."""
    filters = db.PurchaseFilters(None, since, before, None)
    ids: list[int] = []
    after: int | None = MAX_ID if descending else 0
    while after is not None:
        page = await engine.scan(db.search_purchases, filters, descending, after, limit)
        ids += [row["purchase_id"] for row in json.loads(page.json)]
        assert page.after is None or (page.after < after) is descending
        after = page.after
    return ids


async def compare(engine: Any, rows: Rows, chance: random.Random, times: int) -> None:
    """Hold searches, counts and sums against the rows."""
    days = sorted({*rows.values(), day(0), day(999)})
    for _ in range(times):
        since, before = (chance.choice([None, *days]) for _ in range(2))
        ids = [
            number
            for number, date in sorted(rows.items())
            if (since is None or date >= since) and (before is None or date < before)
        ]
        limit = chance.choice([1, 3, 500])
        descending = chance.random() < 0.5
        found = await search(engine, since, before, descending, limit)
        assert found == (ids[::-1] if descending else ids), (since, before)
        filters = db.PurchaseFilters(None, since, before, None)
        assert await engine.report(db.count_purchases, filters) == len(ids)
        page = await engine.report(db.summarize_purchases, filters, "day", None)
        sums = {one["key"]: one["purchases"] for one in json.loads(page.json)}
        dates = [rows[number][:10] for number in ids]
        assert sums == {date: dates.count(date) for date in dates}


async def undo(api: ApiClient, change: str) -> ClientReply:
    """Undo a change."""
    return await api(f"POST /api/v1/changes/{change}/undo", None, 201)


async def import_rows(api: ApiClient, rows: Rows) -> str:
    """Import purchases with ids of their own; return the change."""
    lines = ["customer_id,purchase_name,quantity,purchased_on,purchase_id"]
    lines += [f"1,x,1,{date[:10]},{number}" for number, date in rows.items()]
    file = "\n".join(lines).encode()
    reply = await api("POST /api/v1/imports", file, 201, Content_Type="text/csv")
    return reply.headers["Change"]


@pytest.fixture
def small_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search look at few rows at a time."""
    monkeypatch.setattr(purchase_search, "SCAN_ROWS", 4)


@pytest.mark.usefixtures("small_scans")
@pytest.mark.parametrize("seed", range(3))
async def test_dates_out_of_order(
    api: ApiClient, engine: Any, customer: int, seed: int
) -> None:
    """Found through any number of filled blocks, with empty ones between them."""
    chance = random.Random(seed)  # noqa: S311 - nothing is secret
    edges = [0, 1, BLOCK_IDS - 1]
    rows: Rows = {}
    for block in sorted(chance.sample(range(30), 9)):
        for place in edges + chance.sample(range(2, BLOCK_IDS - 1), 2):
            if block or place:
                date = block * 5 + chance.choice([0, 1, -7, 90])
                rows[block * BLOCK_IDS + place] = day(max(date, 0))
    await engine.write(insert, rows)
    await compare(engine, rows, chance, 5)
    more = True
    while more:  # some blocks are filled, others are not
        more = await engine.write(db.fill_blocks)
        await compare(engine, rows, chance, 4)
    assert await engine.read(read_blocks) == expected_blocks(rows)
    await compare(engine, rows, chance, 12)


async def test_blocks_at_a_time(api: ApiClient, engine: Any, customer: int) -> None:
    """A unit fills in some, and the last is left to what still comes."""
    rows = {number * BLOCK_IDS + 1: day(number) for number in range(blocks.BLOCKS + 2)}
    await engine.write(insert, rows)
    assert await engine.write(db.fill_blocks)
    assert len(await engine.read(read_blocks)) == blocks.BLOCKS
    assert not await engine.write(db.fill_blocks)
    assert await engine.read(read_blocks) == expected_blocks(rows)
    assert not await engine.write(db.fill_blocks)


async def test_no_rows(api: ApiClient, engine: Any, customer: int) -> None:
    assert not await engine.write(db.fill_blocks)
    assert await search(engine, day(0), None, False, 5) == []
    assert await search(engine, day(0), None, True, 5) == []
    await api("POST /api/v1/purchase/1", PHONE, 201)
    assert not await engine.write(db.fill_blocks)
    assert await search(engine, day(0), None, False, 5) == [1]


@pytest.mark.usefixtures("small_scans")
@pytest.mark.parametrize("kind", ["row", "undone", "cleared", "customer"])
async def test_what_comes_back(
    api: ApiClient, engine: Any, customer: int, kind: str
) -> None:
    """A purchase that was away while its block was filled in is found again."""
    inside = {BLOCK_IDS * 2 + place: day(100 + place) for place in range(3)}
    outside = {BLOCK_IDS * 2 + 7: day(3), BLOCK_IDS * 2 + 8: day(500)}
    whole = {BLOCK_IDS + 5: day(700)} if kind != "row" else {}  # a block of its own
    rows = {**inside, **outside, **whole, BLOCK_IDS * 9: day(100)}
    await engine.write(insert, {1: day(100)} if kind == "undone" else rows)
    if kind == "undone":
        change = await import_rows(api, rows)
        reply = await undo(api, change)
        rows |= {1: day(100), BLOCK_IDS * 12: day(100)}
        await engine.write(insert, {BLOCK_IDS * 12: day(100)})
    elif kind == "row":
        body = {"delete_all": False, "purchase_ids": [*outside]}
        reply = await api("DELETE /api/v1/purchase/1", body)
    elif kind == "cleared":
        reply = await api("DELETE /api/v1/purchase/1?delete_all=true")
    else:
        reply = await api("DELETE /api/v1/customer/1")
    await fill(engine)
    chance = random.Random(1)  # noqa: S311 - nothing is secret
    back = await undo(api, reply.headers["Change"])
    await compare(engine, rows, chance, 20)
    filled = await engine.read(read_blocks)
    for number, date in rows.items():
        oldest, newest = filled.get(number // BLOCK_IDS, (date, date))
        assert oldest <= date <= newest
    await undo(api, back.headers["Change"])
    await fill(engine)
    assert await search(engine, day(500), None, False, 9) == []


@pytest.mark.usefixtures("small_scans")
async def test_back_before_its_block_is_filled(
    api: ApiClient, engine: Any, customer: int
) -> None:
    """The undo widens nothing above the last block, which is filled in later."""
    rows = {number * BLOCK_IDS + 1: day(number) for number in range(4)}
    rows[BLOCK_IDS * 3 + 2] = day(0)
    await engine.write(insert, rows)
    await fill(engine)
    gone = await api(f"DELETE /api/v1/purchase/1?purchase_id={BLOCK_IDS * 3 + 2}")
    await undo(api, gone.headers["Change"])
    assert await engine.read(read_blocks) == expected_blocks(rows)
    await compare(engine, rows, random.Random(2), 10)  # noqa: S311
    rows[BLOCK_IDS * 5] = day(1)
    await engine.write(insert, {BLOCK_IDS * 5: day(1)})
    await fill(engine)
    assert await engine.read(read_blocks) == expected_blocks(rows)


@pytest.mark.usefixtures("small_scans")
async def test_filled_while_purchases_come(
    api: ApiClient, engine: Any, customer: int
) -> None:
    """Nothing that is being added is missed by the block that it belongs to."""
    await engine.write(insert, {BLOCK_IDS - 40: day(1)})
    rows: Rows = {BLOCK_IDS - 40: day(1)}
    times = ["2001-01-02T00:00:00Z", "1999-05-05T00:00:00Z", "2020-01-01T00:00:00Z"]

    async def add(time: str) -> None:
        body = {**PHONE, "purchased_on": time}
        reply = await api("POST /api/v1/purchase/1", body, 201)
        stored = time.replace("T", " ").replace("Z", ".000000+00:00")
        rows[reply.data["id"]] = stored

    async def fill_on(adding: asyncio.Future[Any]) -> None:
        while not adding.done():
            await engine.write(db.fill_blocks)

    for turn in range(6):
        adding = asyncio.gather(*(add(times[turn % 3]) for _ in range(15)))
        await asyncio.gather(adding, fill_on(adding))
    assert max(rows) > BLOCK_IDS
    await fill(engine)
    assert await engine.read(read_blocks) == expected_blocks(rows)
    await compare(engine, rows, random.Random(3), 12)  # noqa: S311


@pytest.mark.usefixtures("small_scans")
async def test_any_sequence(api: ApiClient, engine: Any, customer: int) -> None:
    """Deleting, undoing, adding and filling in, in any order."""
    chance = random.Random(4)  # noqa: S311 - nothing is secret
    rows = {
        block * BLOCK_IDS + place: day(chance.randrange(400))
        for block in range(1, 6)
        for place in range(3)
    }
    await engine.write(insert, rows)
    deleted: list[tuple[int, Rows]] = []
    for _ in range(40):
        action = chance.choice(["delete", "delete", "undo", "undo", "fill", "add"])
        if action == "delete" and rows:
            ids = chance.sample([*rows], min(len(rows), 3))
            unit = db.delete_purchases, 1, ids, author()
            change = (await engine.write(*unit)).change
            deleted.append((change, {number: rows.pop(number) for number in ids}))
        elif action == "undo" and deleted:
            change, back = deleted.pop(chance.randrange(len(deleted)))
            await engine.write(db.undo_change, change, author(), day(0))
            rows |= back
        elif action == "fill":
            await engine.write(db.fill_blocks)
        elif action == "add":
            top = max([*rows, *(n for _, gone in deleted for n in gone)])
            new = {top + BLOCK_IDS // 2: day(chance.randrange(400))}
            await engine.write(insert, new)
            rows |= new
        await compare(engine, rows, chance, 2)
