"""The index for search in a SQLite file: made, found strange, emptied, made anew."""

import asyncio
import logging
import shutil
from contextlib import closing
from pathlib import Path

import pytest

import db
from storage import schema, search_index, sqlite_backup, sqlite_file
from storage.engine import StartupError
from storage.sqlite_connection import driver
from storage.sqlite_engine import SqliteEngine
from tests.support import DESCRIBED, by, run_sql

pytestmark = pytest.mark.skipif(
    not search_index.AVAILABLE, reason="this SQLite cannot have the index"
)

NAMES = ("Ann Smith", "Bob Smithson", "Straße")


def open_and_find(path: Path, *texts: str, adds: bool = False) -> list[int]:
    """Start on a file, add customers if asked to, index them; count those found."""

    async def run() -> list[int]:
        engine = await SqliteEngine.open(path)
        try:
            for name in NAMES if adds else ():
                await engine.write(db.add_customer, name, "", *by())
            await engine.write(db.index_names)
            found = []
            for text in texts:
                page = await engine.scan(db.find_customers, text, False, 0, 100)
                assert await engine.scan(db.count_customers, text) == page.size
                found.append(page.size)
            return found
        finally:
            await engine.close()

    sqlite_file.create_or_migrate(path)
    return asyncio.run(run())


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    with closing(driver.connect(path)) as connection:
        found: list[tuple[object, ...]] = connection.execute(sql).fetchall()
    return found


INDEXED = "SELECT id FROM customer_names_content ORDER BY id"
MATCHES = "SELECT rowid FROM customer_names WHERE customer_names MATCH 'smi' ORDER BY 1"


def test_objects_are_as_made(sqlite_path: Path) -> None:
    """What is compared with a file is what FTS5 makes."""
    sqlite_file.create_or_migrate(sqlite_path)
    made = "SELECT name, sql FROM sqlite_master WHERE name LIKE 'customer_names%'"
    wanted = {name: sql.strip() for name, sql in search_index.OBJECTS.items()}
    assert sorted(rows(sqlite_path, made)) == sorted(wanted.items())
    assert rows(
        sqlite_path, "SELECT v FROM customer_names_config WHERE k = 'secure-delete'"
    ) == [(1,)]


def test_start_on_an_index(sqlite_path: Path) -> None:
    """A start leaves it, and the file, as they are."""
    assert open_and_find(sqlite_path, "smith", "SSE", adds=True) == [2, 1]
    assert rows(sqlite_path, MATCHES) == [(1,), (2,)]
    before = sqlite_path.read_bytes()
    sqlite_file.create_or_migrate(sqlite_path)
    assert sqlite_path.read_bytes() == before


@pytest.mark.parametrize("version", [*range(len(schema.MIGRATIONS)), None])
def test_database_of_before(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch, version: int | None
) -> None:
    """The first start gives one that had none its index: the described server's (0)."""
    with monkeypatch.context() as patch:
        patch.setattr(search_index, "AVAILABLE", False)
        if version:
            patch.setattr(sqlite_file, "MIGRATIONS", schema.MIGRATIONS[:version])
        if version == 0:
            run_sql(sqlite_path, DESCRIBED)
        else:
            sqlite_file.create_or_migrate(sqlite_path)
    if version == 1:
        insert = "INSERT INTO customer (name, address, date_created) VALUES (?, '', '')"
    else:
        insert = """INSERT INTO customer (name, address, date_created, name_folded)
            VALUES (?1, '', '', fold(?1))"""
    if version != 0:
        with closing(driver.connect(sqlite_path)) as connection:
            connection.create_function("fold", 1, schema.fold_name)
            connection.executemany(insert, [(name,) for name in NAMES])
            connection.commit()
    assert open_and_find(sqlite_path, "strasse", "xyz") == [1, 0]
    assert len(rows(sqlite_path, INDEXED)) == 3


def test_library_that_cannot(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It makes none, searches by scanning, and says so."""
    monkeypatch.setattr(search_index, "AVAILABLE", False)
    with caplog.at_level(logging.INFO):
        assert open_and_find(sqlite_path, "smith", "s", "", adds=True) == [2, 3, 3]
    assert [record.message for record in caplog.records if "index" in record.message]
    assert (
        rows(sqlite_path, "SELECT 1 FROM sqlite_master WHERE sql LIKE '%fts5%'") == []
    )


def test_libraries_in_turn(sqlite_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that was not kept up to date is emptied, and never taken for whole."""
    open_and_find(sqlite_path, adds=True)
    monkeypatch.setattr(search_index, "AVAILABLE", False)
    assert open_and_find(sqlite_path, "smith") == [2]
    for table in ("data", "idx", "content"):
        assert rows(sqlite_path, f"SELECT * FROM customer_names_{table}") == []
    run_sql(
        sqlite_path, "UPDATE customer SET name = 'C', name_folded = 'c' WHERE id = 1"
    )
    copy = sqlite_path.with_name("copy")
    sqlite_backup.backup(sqlite_path, copy)
    before = sqlite_path.read_bytes()
    assert open_and_find(sqlite_path, "smith") == [1]
    assert sqlite_path.read_bytes() == before, "it was emptied again"
    monkeypatch.setattr(search_index, "AVAILABLE", True)
    for path in (sqlite_path, copy):
        assert open_and_find(path, "smith") == [1]
        assert rows(path, MATCHES) == [(2,)]
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]


STRANGE = [
    "DROP TABLE customer_names; CREATE TABLE customer_names (name_folded)",
    "DROP TABLE customer_names; CREATE TABLE Customer_Names_Idx (a)",
    "DROP TABLE customer_names; CREATE VIEW customer_names AS SELECT 1 AS name_folded",
    """DROP TABLE customer_names; CREATE VIRTUAL TABLE customer_names
    USING fts5(name_folded, tokenize='trigram', detail=none, columnsize=0)""",
    """DROP TABLE customer_names; CREATE VIRTUAL TABLE customer_names
    USING fts5(name_folded, content='customer')""",
    "CREATE TABLE customer_names_docsize (id INTEGER REFERENCES customer_names_data)",
    "CREATE UNIQUE INDEX i ON customer_names_content (c0)",
    "CREATE TRIGGER t AFTER DELETE ON customer_names_data BEGIN SELECT 1; END",
    "PRAGMA writable_schema = 1; DELETE FROM sqlite_master WHERE name LIKE '%s_config'",
    "PRAGMA writable_schema = 1; DELETE FROM sqlite_master WHERE name LIKE '%r_names'",
]


@pytest.mark.parametrize("can", [True, False])
@pytest.mark.parametrize("script", STRANGE)
def test_strange_index(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, can: bool
) -> None:
    """It is all there and as we make it, or not at all; else the file is left alone."""
    sqlite_file.create_or_migrate(sqlite_path)
    run_sql(sqlite_path, script)
    before = sqlite_path.read_bytes()
    monkeypatch.setattr(search_index, "AVAILABLE", can)
    with pytest.raises(StartupError, match=r"is not as this server|is missing"):
        sqlite_file.create_or_migrate(sqlite_path)
    assert sqlite_path.read_bytes() == before
    assert [*sqlite_path.parent.iterdir()] == [sqlite_path]


def test_backup(sqlite_path: Path) -> None:
    """A copy has the index, and what is in it."""
    open_and_find(sqlite_path, adds=True)
    copy = sqlite_path.with_name("copy")
    sqlite_backup.backup(sqlite_path, copy)
    assert rows(copy, MATCHES) == [(1,), (2,)]
    before = copy.read_bytes()
    shutil.copy(copy, sqlite_path)
    sqlite_file.create_or_migrate(copy)
    assert copy.read_bytes()[100:] == before[100:]
    assert open_and_find(sqlite_path, "smith") == [2]
