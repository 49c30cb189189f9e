"""Which files are databases of ours: their schema, and a first page that was torn."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import db
from checks.support.server_process import free_port
from storage import schema, sqlite_file
from storage.sqlite_connection import driver
from tests.support import (
    DESCRIBED,
    JOHN,
    PROJECT,
    Main,
    Opener,
    list_names,
    one_engine,
    run_sql,
)


def rewritten(table: str, old: str, new: str) -> str:
    """Return SQL that changes the SQL of a table behind SQLite's back."""
    change = f"SET sql = replace(sql, '{old}', '{new}') WHERE name = '{table}'"
    return f"PRAGMA writable_schema = 1; UPDATE sqlite_master {change};"


NAME = "name TEXT NOT NULL"
TRIGGER = "CREATE TRIGGER t BEFORE {} ON {} BEGIN SELECT RAISE(IGNORE); END;"
STRANGE = [
    (TRIGGER.format("INSERT", "customer"), "trigger 't' is not"),
    (TRIGGER.format("DELETE", "purchases"), "trigger 't' is not"),
    (
        f"CREATE TABLE notes (text); {TRIGGER.format('INSERT', 'notes')}",
        "trigger 't' is not",
    ),
    ('CREATE VIEW "v\nw" AS SELECT * FROM customer', "view 'v\\nw' is not"),
    (
        "ALTER TABLE customer RENAME TO others; "
        "CREATE VIEW customer AS SELECT * FROM others",
        "'purchases' is not",  # which refers to the other one now
    ),
    ("ALTER TABLE customer ADD COLUMN phone TEXT", "table 'customer' is not"),
    (
        "DROP INDEX purchases_customer_id; ALTER TABLE purchases DROP COLUMN version",
        "table 'purchases' is not",
    ),
    (
        "ALTER TABLE customer ADD COLUMN upper TEXT AS (upper(name))",
        "table 'customer' is not",
    ),
    (rewritten("customer", NAME, f"{NAME} CHECK (name <> ''x'')"), "'customer' is not"),
    (rewritten("customer", NAME, f"{NAME} ON CONFLICT IGNORE"), "'customer' is not"),
    (rewritten("customer", NAME, f"{NAME} COLLATE NOCASE"), "'customer' is not"),
    (rewritten("customer", NAME, "name TEXTNOT NULL"), "'customer' is not"),
    (rewritten("customer", " AUTOINCREMENT", ""), "'customer' is not"),
    (rewritten("idempotency", "PRIMARY KEY", "UNIQUE"), "'idempotency' is not"),
    ("CREATE UNIQUE INDEX i ON customer (name)", "index 'i' is not"),
    ("CREATE INDEX i ON customer (name) WHERE length(name)", "index 'i' is not"),
    ("CREATE INDEX i ON customer (length(name))", "index 'i' is not"),
    ("DROP INDEX purchases_customer_id", "index 'purchases_customer_id' is missing"),
    (
        "DROP INDEX purchases_customer_id; "
        "CREATE INDEX purchases_customer_id ON purchases (id)",
        "index 'purchases_customer_id' is not",
    ),
    ("DROP TABLE idempotency", "is missing"),
    ("CREATE TABLE notes (who INTEGER REFERENCES customer)", "table 'notes' is not"),
    ("CREATE TABLE json_each (value)", "table 'json_each' is not"),
]


@pytest.mark.parametrize(("script", "reason"), STRANGE)
def test_strange_schema(
    main: Main, sqlite_path: Path, script: str, reason: str
) -> None:
    """The start is refused in a line that names it, and the file is left untouched."""
    sqlite_file.create_or_migrate(sqlite_path)
    run_sql(sqlite_path, script)
    before = sqlite_path.read_bytes()
    status, out, err = main("--port", str(free_port()))
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert reason in err
    assert sqlite_path.read_bytes() == before
    assert [*sqlite_path.parent.iterdir()] == [sqlite_path]


def collate(connection: object) -> None:
    """Make an index by a collation that only this connection has."""
    connection.create_collation("theirs", lambda a, b: (a > b) - (a < b))  # type: ignore[attr-defined]
    connection.execute("CREATE INDEX i ON customer (name COLLATE theirs)")  # type: ignore[attr-defined]


def test_collation_of_others(sqlite_path: Path) -> None:
    """No row could be added to such an index."""
    sqlite_file.create_or_migrate(sqlite_path)
    with closing(driver.connect(sqlite_path)) as connection:
        collate(connection)
    with pytest.raises(db.StartupError, match="index 'i' is not"):
        sqlite_file.create_or_migrate(sqlite_path)


@pytest.mark.parametrize("version", [*range(1, len(schema.MIGRATIONS) + 1)])
def test_strange_schema_of_an_earlier_version(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """It is compared before it is migrated, with the schema of its version."""
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", schema.MIGRATIONS[:version])
    sqlite_file.create_or_migrate(sqlite_path)
    monkeypatch.undo()
    for script in (
        TRIGGER.format("INSERT", "customer"),
        "CREATE TABLE idempotency (a)",
    ):
        copy = sqlite_path.with_name("copy")
        shutil.copy(sqlite_path, copy)
        if version == 1 or "TRIGGER" in script:  # later ones have that table
            run_sql(copy, script)
            before = copy.read_bytes()
            with pytest.raises(db.StartupError, match="is not as this server"):
                sqlite_file.create_or_migrate(copy)
            assert copy.read_bytes() == before
    sqlite_file.create_or_migrate(sqlite_path)


@pytest.mark.parametrize(
    "script",
    [
        TRIGGER.format("INSERT", "customer"),
        "ALTER TABLE customer ADD COLUMN phone TEXT AS (name)",
    ],
)
def test_strange_described_database(sqlite_path: Path, script: str) -> None:
    run_sql(sqlite_path, DESCRIBED + script)
    before = sqlite_path.read_bytes()
    with pytest.raises(db.StartupError, match="another program"):
        sqlite_file.create_or_migrate(sqlite_path)
    assert sqlite_path.read_bytes() == before


THEIRS = """
CREATE INDEX by_name ON customer (name COLLATE NOCASE DESC, address);
CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT UNIQUE,
    other INTEGER REFERENCES notes (id));
CREATE INDEX notes_text ON notes (text) WHERE text > 'a';
INSERT INTO notes (text) VALUES ('theirs');
ANALYZE;
"""


@one_engine
@pytest.mark.parametrize("described", [True, False])
async def test_what_operators_may_add(
    sqlite_path: Path, opened: Opener, described: bool
) -> None:
    """Indexes that can refuse no row, tables of their own that refer to none of ours.

    So may they in a database that was the described server's once.
    """
    if described:
        run_sql(sqlite_path, DESCRIBED)
    sqlite_file.create_or_migrate(sqlite_path)
    run_sql(sqlite_path, THEIRS)
    api = await opened()
    await api("POST /api/v1/customer", JOHN, 201)
    assert (await list_names(api))[-1] == "John Doe"
    with closing(driver.connect(sqlite_path)) as connection:
        rows = connection.execute("SELECT text FROM notes").fetchall()
    assert rows == [("theirs",)]


LITESTREAM = """
PRAGMA journal_mode = WAL;
CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER);
CREATE TABLE _litestream_lock (id INTEGER);
"""


@one_engine
@pytest.mark.parametrize("described", [True, False])
async def test_tables_of_litestream(
    sqlite_path: Path, opened: Opener, described: bool
) -> None:
    """It makes them where it starts first, in the described server's database too."""
    if described:
        run_sql(sqlite_path, DESCRIBED)
    else:
        sqlite_file.create_or_migrate(sqlite_path)
    run_sql(sqlite_path, LITESTREAM)
    api = await opened()
    await api("POST /api/v1/customer", JOHN, 201)
    sqlite_file.create_or_migrate(sqlite_path)
    assert (await list_names(api))[-1] == "John Doe"


def test_white_space_in_the_schema(sqlite_path: Path) -> None:
    """Programs that write the SQL of a schema anew may lay it out differently."""
    sqlite_file.create_or_migrate(sqlite_path)
    run_sql(sqlite_path, rewritten("customer", "(\n    id", "( id"))
    run_sql(sqlite_path, rewritten("customer", ",\n", " , "))
    sqlite_file.create_or_migrate(sqlite_path)


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from storage.sqlite_connection import driver
database = driver.connect(sys.argv[1], isolation_level=None)
database.executescript(sys.argv[3])
os._exit(0)
"""
IN_WAL = """
BEGIN;
CREATE TABLE notes (text);
INSERT INTO customer (name, address, date_created) VALUES ('kept', '', '');
COMMIT;"""
IN_JOURNAL = """
INSERT INTO customer (name, address, date_created) VALUES ('kept', '', '');
PRAGMA cache_size = 1; PRAGMA cache_spill = 1;
BEGIN EXCLUSIVE;
DROP TABLE purchases;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000)
INSERT INTO customer (name, address, date_created) SELECT 'x', zeroblob(99), '' FROM n;
"""


def left_by_a_killed(sqlite_path: Path, script: str) -> None:
    """Leave what a process that ran a script leaves when it is killed."""
    command = [sys.executable, "-c", KILLED, str(sqlite_path), str(PROJECT), script]
    subprocess.run(command, check=True)  # noqa: S603 - a program of the test's own


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize(
    "tear",
    [
        lambda page: bytes(512) + page[512:],
        lambda page: os.urandom(512) + page[512:],
        lambda page: page[:68] + bytes(444) + page[512:],
        lambda page: bytes(16) + page[16:],  # the application_id is still there
    ],
)
def test_torn_first_sector(
    sqlite_path: Path, tear: Callable[[bytes], bytes], described: bool
) -> None:
    """SQLite has the page in the WAL, or in the journal of the described server."""
    if described:
        run_sql(sqlite_path, DESCRIBED.split("INS")[0])
        left_by_a_killed(sqlite_path, IN_JOURNAL)
    else:
        sqlite_file.create_or_migrate(sqlite_path)
        left_by_a_killed(sqlite_path, IN_WAL)
    sqlite_path.write_bytes(tear(sqlite_path.read_bytes()))
    sqlite_file.create_or_migrate(sqlite_path)
    with closing(driver.connect(sqlite_path)) as connection:
        names = connection.execute("SELECT name FROM customer").fetchall()
    assert names == [("kept",)]


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
@pytest.mark.parametrize("content", [b"", b"garbage\n" * 100, b"SQLite format 3\0"])
def test_torn_and_not_mended(sqlite_path: Path, content: bytes, suffix: str) -> None:
    """What SQLite cannot mend from the files beside it is refused, untouched."""
    sqlite_path.write_bytes(content)
    sqlite_path.with_name(f"{sqlite_path.name}{suffix}").write_bytes(b"garbage\n" * 100)
    files = {file: file.read_bytes() for file in sqlite_path.parent.iterdir()}
    with pytest.raises(db.StartupError, match=r"not a SQLite database|damaged"):
        sqlite_file.create_or_migrate(sqlite_path)
    assert {f: f.read_bytes() for f in sqlite_path.parent.iterdir()} == files
