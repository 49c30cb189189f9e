"""Database files that are accepted or refused."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import db
from checks.support.server_process import free_port
from storage import schema, sqlite_backup, sqlite_file
from storage.sqlite_connection import driver
from storage.sqlite_engine import SqliteEngine
from tests.support import (
    DESCRIBED,
    JOHN,
    OTHERS,
    Main,
    Opener,
    list_names,
    one_engine,
    run_sql,
)


def test_without_hard_links(sqlite_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    sqlite_file.create_or_migrate(sqlite_path)
    copy = sqlite_path.with_name("copy")
    sqlite_backup.backup(sqlite_path, copy)
    with closing(driver.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert {file.name for file in copy.parent.iterdir()} >= {"db.sqlite3", "copy"}


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_wal_of_a_database_that_is_gone(sqlite_path: Path, suffix: str) -> None:
    """SQLite would take its pages for those of the new one."""
    left = sqlite_path.with_name(f"{sqlite_path.name}{suffix}")
    left.write_text("frames")
    with pytest.raises(db.StartupError, match="a database that is gone"):
        sqlite_file.create_or_migrate(sqlite_path)
    assert [*sqlite_path.parent.iterdir()] == [left]
    left.write_text("")
    sqlite_file.create_or_migrate(sqlite_path)
    assert sqlite_path.exists()


async def test_what_was_left_in_the_cache(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file put in place, and commits of a killed server, are on disk after a start.

    So are their names, in the folder of the file and in that of a link to it.
    """
    folder = sqlite_path.with_name("real")
    folder.mkdir()
    sqlite_file.create_or_migrate(folder / "file")
    sqlite_path.symlink_to(folder / "file")  # noqa: ASYNC240 - nothing else runs
    synced = set()

    def sync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real_sync(descriptor)

    real_sync = os.fsync
    monkeypatch.setattr(os, "fsync", sync)
    engine = await SqliteEngine.open(sqlite_path)
    files = [folder / "file", folder / "file-wal", folder, sqlite_path.parent]
    assert synced == {file.stat().st_ino for file in files}
    await engine.close()


async def test_fsync_that_fails_at_the_start(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_file.create_or_migrate(sqlite_path)

    def sync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(db.StartupError, match="Input/output error"):
        await SqliteEngine.open(sqlite_path)


HALF = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.executescript("PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN EXCLUSIVE")
database.execute("DROP TABLE purchases")
for number in range(100, 2000):
    database.execute("INSERT INTO customer VALUES (?, ?, '', '')", (number, "x" * 99))
os._exit(0)
"""


@pytest.mark.parametrize(
    ("script", "application_id", "ours"),
    [
        (DESCRIBED, 0, True),
        (DESCRIBED, schema.APPLICATION_ID, True),
        (OTHERS, 0, False),
    ],
)
def test_hot_journal(
    sqlite_path: Path, script: str, application_id: int, ours: bool
) -> None:
    """What a program left half done is undone in a file of ours, and only there.

    Also where what it left is that the file is ours by now.
    """
    run_sql(sqlite_path, DESCRIBED.split("INS")[0] + script.replace(DESCRIBED, ""))
    command = [sys.executable, "-c", HALF, str(sqlite_path)]
    subprocess.run(command, check=True)  # noqa: S603 - a program of the test's own
    left = sqlite_path.read_bytes()
    sqlite_path.write_bytes(left[:68] + application_id.to_bytes(4, "big") + left[72:])
    files = {file: file.read_bytes() for file in sqlite_path.parent.iterdir()}
    assert len(files) == 2, "no hot journal"
    if ours:
        sqlite_file.create_or_migrate(sqlite_path)
        with closing(driver.connect(sqlite_path)) as connection:
            assert connection.execute("SELECT count(*) FROM customer").fetchone() == (
                0,
            )
    else:
        with pytest.raises(db.StartupError, match="another program"):
            sqlite_file.create_or_migrate(sqlite_path)
        assert {f: f.read_bytes() for f in sqlite_path.parent.iterdir()} == files


@one_engine
async def test_symbolic_link(sqlite_path: Path, opened: Opener) -> None:
    folder = sqlite_path.with_name("real")
    await asyncio.to_thread(folder.mkdir)
    sqlite_file.create_or_migrate(folder / "file")
    await asyncio.to_thread(sqlite_path.symlink_to, folder / "file")
    api = await opened()
    await api("POST /api/v1/customer", JOHN, 201)
    assert await list_names(api) == ["John Doe"]


def test_start_while_locked(main: Main, sqlite_path: Path) -> None:
    sqlite_file.create_or_migrate(sqlite_path)
    with closing(driver.connect(sqlite_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, out, err = main("--port", str(free_port()))
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert "locked by another process" in err


def not_ours(script: str) -> Callable[[Path], None]:
    """Return what makes a database of another program."""
    return lambda path: run_sql(path, script)


def cut(path: Path) -> None:
    """Leave half of a database of ours."""
    sqlite_file.create_or_migrate(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    """Damage the schema of a database of ours."""
    sqlite_file.create_or_migrate(path)
    made = path.read_bytes()
    path.write_bytes(made[:100] + b"\xa5" * 1000 + made[1100:])


def newer(path: Path) -> None:
    """Make a database as the next version of this server may."""
    sqlite_file.create_or_migrate(path)
    run_sql(path, f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")


OTHER_COLUMN = DESCRIBED.replace("address TEXT", "address TEXT, phone TEXT").split(
    "INS"
)[0]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b"garbage\n" * 100), "not a SQLite database"),
        (lambda path: path.write_bytes(b""), "not a SQLite database"),
        (
            lambda path: path.write_bytes(b"SQLite format 3\0" * 3),
            "not a SQLite database",
        ),
        (
            lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 999),
            "damaged",
        ),
        (lambda path: path.mkdir(), "not a file"),
        (lambda path: path.symlink_to("nowhere"), "not a file"),
        (not_ours(OTHERS), "another program"),
        (not_ours(OTHERS + "PRAGMA user_version = 2"), "another program"),
        (not_ours(OTHERS + "PRAGMA application_id = 7"), "another program"),
        (not_ours("PRAGMA user_version = 0; VACUUM"), "another program"),
        (not_ours(DESCRIBED + OTHERS), "another program"),
        (not_ours(DESCRIBED + "PRAGMA user_version = 1"), "another program"),
        (not_ours(DESCRIBED + "CREATE VIEW v AS SELECT 1"), "another program"),
        (not_ours(OTHER_COLUMN), "another program"),
        (newer, "newer version"),
        (cut, "damaged"),
        (overwritten, "damaged"),
    ],
)
def test_file_refused(
    main: Main, sqlite_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    """It is left untouched, byte for byte, and nothing is put beside it."""
    make(sqlite_path)
    before = sqlite_path.read_bytes() if sqlite_path.is_file() else b""
    files = sorted(sqlite_path.parent.iterdir())
    status, out, err = main("--port", str(free_port()))
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert reason in err
    assert sorted(sqlite_path.parent.iterdir()) == files
    assert (sqlite_path.read_bytes() if sqlite_path.is_file() else b"") == before
