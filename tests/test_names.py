"""The index of names on SQLite: what it is asked, what is kept in it, what is not."""

import asyncio
import random
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import db
from api import upkeep
from queries import names
from storage import search_index
from storage.engine import Statement
from storage.sqlite_connection import driver
from tests.support import ApiClient, author, by, one_engine

pytestmark = pytest.mark.skipif(
    not search_index.AVAILABLE, reason="this SQLite cannot have the index"
)


@pytest.mark.parametrize(
    ("wanted", "terms"),
    [
        ("a\"b'", ['"a""b"', '"""b\'"']),
        ("aaaa b", ['"aaa"', '"aa "', '"a b"']),  # each once
        ("中" * 200, ['"中中中"']),
        ("abcdefg", ['"abc"', '"cde"', '"efg"']),  # the ends, and between them
    ],
)
def test_match(wanted: str, terms: list[str]) -> None:
    assert names.match(wanted) == " AND ".join(terms)


@pytest.mark.parametrize(
    ("wanted", "pattern"), [("ab", "%ab%"), ("a%_\\", "%a\\%\\_\\\\%")]
)
def test_pattern(wanted: str, pattern: str) -> None:
    assert names.pattern(wanted) == pattern


def select(sql: str) -> db.Unit[list[Any]]:
    """Return the rows of a query."""
    rows = yield Statement(sql), ()
    return rows


async def add(engine: Any, *texts: str) -> None:
    """Add customers."""
    for text in texts:
        await engine.write(db.add_customer, text, "", *by())


async def found(engine: Any, part: str) -> list[int]:
    """Return the size of the first page that a search finds, and the whole count."""
    page = await engine.scan(db.find_customers, part, False, 0, 100)
    return [page.size, await engine.scan(db.count_customers, part)]


@one_engine
async def test_what_the_index_finds_by_mistake(engine: Any) -> None:
    """A name may hold all terms of a text, and not the text; or be deleted."""
    await add(engine, "abcxbcd", "bcdabc", "abcd", "xabcdx", "abcde")
    await engine.write(db.index_names)
    await engine.write(db.delete_customer, 4, author(), None)
    assert await found(engine, "abcd") == [2, 2]
    part = "x" * 200
    await add(engine, part, part[1:] + "y", "y" + part[1:])
    await engine.write(db.index_names)
    assert await found(engine, part) == [1, 1]
    assert await found(engine, part[1:]) == [3, 3]


@one_engine
async def test_bounded_steps(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit looks at few of those found by mistake, and the search goes on."""
    monkeypatch.setattr("queries.customer_lists.SPARE_ROWS", 4)
    await add(engine, *["abcxbcd"] * 12, "abcd")
    await engine.write(db.index_names)
    after, ends = 0, []
    while after is not None:
        page = await engine.scan(db.find_customers, "abcd", False, after, 1)
        after = page.after
        ends.append((page.size, after))
    assert ends == [(0, 5), (0, 10), (1, 13), (0, None)]


def contents() -> db.Unit[bytes]:
    """Return all that the tables of the index hold."""
    whole = b""
    for table, columns in (
        ("data", ("block",)),
        ("idx", ("term",)),
        ("content", ("c0",)),
    ):
        for column in columns:
            sql = f"SELECT CAST({column} AS BLOB) FROM customer_names_{table}"
            rows = yield from select(sql)
            whole += b"\n".join(row[0] for row in rows) + b"\n"
    return whole


ALPHABET, LETTERS = "abcdefghijklmnop", "中乙八丁万丈三上下不与丑"
"""Of the names of all but those who are erased, and of theirs, whose bytes are not
found among the numbers of an index by chance."""


def terms_of(path: Path) -> list[str]:
    """Return all terms of the index."""
    with closing(driver.connect(path)) as connection:
        table = "CREATE VIRTUAL TABLE temp.terms USING fts5vocab"
        connection.execute(f"{table}('main', 'customer_names', 'row')")
        return [term for (term,) in connection.execute("SELECT term FROM temp.terms")]


@one_engine
async def test_nothing_is_left(api: ApiClient, engine: Any, sqlite_path: Path) -> None:
    """Erased customers leave no three characters of their names, wherever these stood.

    FTS5 stores a term as what it does not share with the one before it, and the first
    of each page once more.
    """
    chance = random.Random(1)  # noqa: S311 - nothing is secret
    others = ["".join(chance.choices(ALPHABET, k=20)) for _ in range(1500)]
    erased = ["".join(chance.choices(LETTERS, k=30)) for _ in range(40)]
    everyone = others + erased
    chance.shuffle(everyone)
    for start in range(0, len(everyone), 200):
        await asyncio.gather(
            *(add(engine, name) for name in everyone[start : start + 200])
        )
        await engine.write(db.index_names)
    rows = await engine.read(select, "SELECT id, name FROM customer")
    ids = {name: number for number, name in rows}
    held = await engine.read(contents)
    assert {*"".join(terms_of(sqlite_path))} == {*ALPHABET, *LETTERS}
    assert sum(name.encode() in held for name in erased) == 40
    for name in erased[:20]:
        await engine.write(db.purge_customer, ids[name], author(), None)
    for name in erased[20:]:
        path = f"PATCH /api/v1/customer/{ids[name]}"
        await api(path, {"name": "abc" + others[0]})
    held = await engine.read(contents)
    for name in erased:
        for at in range(len(name) - 2):
            assert name[at : at + 3].encode() not in held
    assert not {*"".join(terms_of(sqlite_path))} - {*ALPHABET}
    assert await engine.read(select, "PRAGMA quick_check") == [("ok",)]
    assert await found(engine, erased[0][:5]) == [0, 0]
    assert (await found(engine, others[0]))[1] == 21


@one_engine
async def test_erased_before_it_was_indexed(api: ApiClient, engine: Any) -> None:
    """The blank that is left for a while may be indexed, and goes with the row."""
    await add(engine, "Ann", "Bob Marker")
    await engine.write(db.purge_customer, 2, author(), None)
    await engine.write(db.index_names)
    ids = "SELECT id, c0 FROM customer_names_content"
    assert await engine.read(select, ids) == [(1, "ann"), (2, "")]
    for _ in range(3):
        await engine.write(db.purge_step, 2)
    assert await engine.read(select, ids) == [(1, "ann")]
    assert not await engine.write(db.index_names)


async def all_indexed(engine: Any) -> None:
    """Wait until nothing is left to index."""
    async with asyncio.timeout(10):
        while await engine.read(db.count_unindexed):  # noqa: ASYNC110 - of a database
            await asyncio.sleep(0.01)


@one_engine
async def test_indexed_in_the_background(
    api: ApiClient, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many names soon, few in the end; then nothing is written any more."""
    monkeypatch.setattr(upkeep, "INDEX_SECONDS", 0.01)
    monkeypatch.setattr(names, "INDEX_ROWS", 5)
    monkeypatch.setattr(db, "INDEX_ROWS", 5)
    await add(engine, *["Ann"] * 4)
    task = asyncio.create_task(upkeep.fill_indexes(engine))
    await asyncio.sleep(0.1)
    assert await engine.read(db.count_unindexed) == 4
    await add(engine, *["Bob"] * 3)
    await all_indexed(engine)
    await add(engine, "Eve")
    monkeypatch.setattr(upkeep, "FEW_SECONDS", 0.01)
    await all_indexed(engine)
    commits = engine.stats().commits
    await asyncio.sleep(0.1)
    assert engine.stats().commits == commits
    task.cancel()
