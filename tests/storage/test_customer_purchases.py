"""The copy of the purchases that SQLite lists a customer from."""

import asyncio
import random
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import db
import server
from api import upkeep
from api.database import DATABASE
from storage import schema, sqlite_file, sqlite_verify
from storage.engine import Row, StartupError, Statement, Unit
from storage.sqlite_connection import driver
from tests.support import JOHN, PHONE, ApiClient, one_engine, run_sql

COLUMNS = "customer_id, id, purchase_name, quantity, date_created, last_updated"
SELECT_COPY = Statement(sqlite=f"SELECT {COLUMNS} FROM customer_purchases ORDER BY id")
SELECT_ROWS = Statement(
    sqlite=f"""
SELECT {COLUMNS} FROM purchases
WHERE id <= (SELECT last FROM customer_purchases_end) ORDER BY id"""
)


def read_both() -> Unit[tuple[list[Row], list[Row]]]:
    """Return the rows of the copy, and those that it should have."""
    copy = yield SELECT_COPY, ()
    rows = yield SELECT_ROWS, ()
    return copy, rows


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db.copy_purchases, "__defaults__", (1, 3))


async def copy_all(engine: Any) -> int:
    """Copy what can be copied; return how often there was something."""
    count = 0
    while await engine.write(db.copy_purchases):
        count += 1
    return count


async def add(api: ApiClient, customer: int, number: int) -> None:
    """Add purchases to a customer."""
    for place in range(number):
        body = {"purchase_name": f"thing {place}", "quantity": place + 1}
        await api(f"POST /api/v1/purchase/{customer}", body, 201)


@one_engine
async def test_lists_around_the_end(api: ApiClient, engine: Any) -> None:
    """A list is of the copy, of the table above it, or of both, in pages too."""
    for customer in (1, 2):
        await api("POST /api/v1/customer", JOHN, 201)
        await add(api, customer, 4)
    await add(api, 1, 3)
    expected = [1, 2, 3, 4, 9, 10, 11]
    for _ in range(5):
        listed = await api("GET /api/v1/purchase/1")
        assert [row["purchase_id"] for row in listed.data] == expected
        for limit in (1, 3, 6):
            path = f"/api/v1/purchase/1?limit={limit}"
            found = []
            while path:
                page = await api(f"GET {path}")
                found += [row["purchase_id"] for row in page.data]
                link = page.headers.get("Link", "")
                path = link.partition(">")[0].lstrip("<")
            assert found == expected
        await engine.write(db.copy_purchases, 3)
    copied, rows = await engine.read(read_both)
    assert copied == rows
    assert len(rows) == 9, "a rest of two waits: three were asked for"
    assert (await engine.read(db.read_copy_state))[0]
    assert not await engine.write(db.copy_purchases)
    assert not (await engine.read(db.read_copy_state))[0]
    assert len((await api("GET /api/v1/purchase/1")).data) == 7


@one_engine
async def test_changes_reach_the_copy(api: ApiClient, engine: Any) -> None:
    """Whatever changes a purchase, deletes it or brings it back, below the end."""
    await api("POST /api/v1/customer", JOHN, 201)
    await add(api, 1, 6)
    assert await copy_all(engine) == 2
    await api("PATCH /api/v1/purchase/2", {"quantity": 99})
    undone = await api("PATCH /api/v1/purchase/3", {"purchase_name": "other"})
    await api(f"POST /api/v1/changes/{undone.headers['Change']}/undo", None, 201)
    deleted = await api("DELETE /api/v1/purchase/1", {"purchase_ids": [1, 4]})
    copied, rows = await engine.read(read_both)
    assert copied == rows
    assert [row[1] for row in rows] == [2, 3, 5, 6]
    assert rows[0][3] == 99
    await api(f"POST /api/v1/changes/{deleted.headers['Change']}/undo", None, 201)
    copied, rows = await engine.read(read_both)
    assert copied == rows
    assert len(rows) == 6
    listed = await api("GET /api/v1/purchase/1")
    assert [row["quantity"] for row in listed.data] == [1, 99, 3, 4, 5, 6]


@one_engine
async def test_purge_reaches_the_copy(api: ApiClient, engine: Any) -> None:
    await api("POST /api/v1/customer", JOHN, 201)
    await add(api, 1, 6)
    await copy_all(engine)
    await api("DELETE /api/v1/customer/1?purge=true")
    assert await engine.read(read_both) == ([], [])


@one_engine
async def test_any_sequence(api: ApiClient, engine: Any) -> None:
    """Adding, changing, deleting, undoing and copying, in any order."""
    chance = random.Random(7)  # noqa: S311 - nothing is secret
    for _ in range(3):
        await api("POST /api/v1/customer", JOHN, 201)
    changes: list[str] = []
    for _ in range(120):
        customer = chance.randrange(3) + 1
        listed = (await api(f"GET /api/v1/purchase/{customer}")).data
        ids = [row["purchase_id"] for row in listed]
        match chance.choice(["add", "add", "patch", "delete", "undo", "copy", "all"]):
            case "add":
                await add(api, customer, 1)
            case "patch" if ids:
                body = {"quantity": chance.randrange(1, 99)}
                await api(f"PATCH /api/v1/purchase/{chance.choice(ids)}", body)
            case "delete" if ids:
                some = {"purchase_ids": chance.sample(ids, min(2, len(ids)))}
                reply = await api(f"DELETE /api/v1/purchase/{customer}", some)
                changes.append(reply.headers["Change"])
            case "all" if ids:
                reply = await api(f"DELETE /api/v1/purchase/{customer}?delete_all=true")
                changes.append(reply.headers["Change"])
            case "undo" if changes:
                number = changes.pop(chance.randrange(len(changes)))
                await api(f"POST /api/v1/changes/{number}/undo", None, 201)
            case "copy":
                await engine.write(db.copy_purchases)
        copied, rows = await engine.read(read_both)
        assert copied == rows
        for person in (1, 2, 3):
            one = await api(f"GET /api/v1/purchase/{person}")
            other = await api(f"GET /api/v1/customer?customer_id={person}&order=desc")
            assert one.data == other.data[::-1]


@one_engine
async def test_upkeep_copies(
    api: ApiClient, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "INDEX_SECONDS", 0.01)
    monkeypatch.setattr(upkeep, "QUIET_SECONDS", 0.1)
    await api("POST /api/v1/customer", JOHN, 201)
    await add(api, 1, 7)
    task = asyncio.create_task(upkeep.fill_indexes(engine))
    try:
        for _ in range(2000):
            copied, _ = await engine.read(read_both)
            if len(copied) == 7:
                break
            await asyncio.sleep(0.01)
        assert len(copied) == 7
    finally:
        task.cancel()


class FakeEngine:
    """Has some purchases left to copy, and perhaps other writers."""

    def __init__(self, left: int) -> None:
        self.left, self.last = left, 0
        self.sizes: list[int] = []
        """How many were copied each time."""
        self.others = False
        """Whether others write at the same time."""

    async def read(self, query: Any) -> tuple[bool, int]:
        assert query is db.read_copy_state
        return self.left > 0, self.last

    async def write(self, query: Any, least: int = 1, most: int = 500) -> bool:
        assert query is db.copy_purchases
        size = min(self.left, most)
        self.last += self.others
        if size < least:
            return False
        self.left -= size
        self.sizes.append(size)
        return size == most


async def test_when_it_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing while many write, a little while few do, all once nobody does."""
    engine = FakeEngine(1700)
    copier = upkeep.Copier(engine)  # type: ignore[arg-type]
    monkeypatch.setattr(upkeep, "QUIET_SECONDS", 60.0)
    for changes, sizes in ((100, []), (1, [100]), (99, [100, 100]), (0, [100, 100])):
        engine.last += changes
        await copier.copy()
        assert engine.sizes == sizes
    monkeypatch.setattr(upkeep, "QUIET_SECONDS", -1.0)
    engine.others = True
    await copier.copy()
    assert engine.sizes[2:] == [500, 500], "it gives way"
    engine.others = False
    await copier.copy()
    assert engine.sizes[4:] == [100], "others wrote meanwhile"
    await copier.copy()
    assert engine.sizes[5:] == [400]
    engine.last, engine.left = engine.last + 1, 99
    await copier.copy()
    assert len(engine.sizes) == 6, "the last few wait"
    await copier.copy()
    assert engine.sizes[6:] == [99]


def fill(path: Path, version: int | None = None) -> None:
    """Make a database with purchases of two customers, of which a gap is missing."""
    newest = len(schema.MIGRATIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_file, "MIGRATIONS", schema.MIGRATIONS[: version or newest])
        sqlite_file.create_or_migrate(path)
    run_sql(
        path,
        """INSERT INTO customer (name, date_created) VALUES ('a', 'x'), ('b', 'x');
        INSERT INTO purchases (id, purchase_name, quantity, customer_id, date_created)
        VALUES (1, 'p', 1, 2, '2026'), (2, 'q', 2, 1, '2026'), (4611686018427387904,
            'r', 3, 2, '2026')""",
    )


def test_migration_copies_all(sqlite_path: Path) -> None:
    fill(sqlite_path, 7)
    server.try_make_db(f"sqlite:///{sqlite_path}")
    with closing(driver.connect(sqlite_path)) as raw:
        copied = raw.execute("SELECT customer_id, id FROM customer_purchases")
        assert copied.fetchall() == [(1, 2), (2, 1), (2, 1 << 62)]
        last = raw.execute("SELECT last FROM customer_purchases_end").fetchall()
        assert last == [(1 << 62,)]
    assert "3 purchases" in sqlite_verify.verify(sqlite_path)


@one_engine
async def test_ids_far_apart(sqlite_path: Path, opened: Any) -> None:
    fill(sqlite_path)
    api = await opened()
    engine = api.client.server.app[DATABASE]
    assert await copy_all(engine) == 1, "and a second that found nothing"
    assert [row[1] for row in (await engine.read(read_both))[0]] == [1, 2, 1 << 62]
    await api("POST /api/v1/purchase/1", PHONE, 201)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM customer_purchases WHERE id = 2",
        "INSERT INTO customer_purchases VALUES (1, 3, 'x', 1, '2026', NULL)",
        "UPDATE customer_purchases SET quantity = 9 WHERE id = 1",
        "UPDATE customer_purchases SET customer_id = 1 WHERE id = 1",
        "UPDATE customer_purchases SET last_updated = '2027' WHERE id = 1",
        "UPDATE customer_purchases_end SET last = 2",
        "DELETE FROM customer_purchases_end",
        "INSERT INTO customer_purchases_end VALUES (1 << 62)",
    ],
)
def test_damage_is_found(sqlite_path: Path, damage: str) -> None:
    fill(sqlite_path, 7)
    server.try_make_db(f"sqlite:///{sqlite_path}")
    run_sql(sqlite_path, damage)
    with pytest.raises(StartupError, match="what customers are listed from is wrong"):
        sqlite_verify.verify(sqlite_path)
