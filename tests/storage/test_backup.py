"""The backup command."""

import os
import shutil
import signal
import stat
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

import db
import server
from checks.support.server_process import Server, exchange, request_bytes, serving
from storage import sqlite_backup, sqlite_file, sqlite_verify
from storage.sqlite_connection import driver
from tests.support import DESCRIBED, JOHN, PHONE, Main, post, run_sql

LAST_BACKUP = "database_last_backup_timestamp_seconds"


def test_backup_of_a_served_database(tmp_path: Path) -> None:
    """The README's way: a copy beside the running server, put in another's place."""
    copy = tmp_path / "copy" / "db.sqlite3"
    copy.parent.mkdir()
    with serving(tmp_path) as ours:
        exchange(ours.port, post("/api/v1/customer", JOHN))
        exchange(ours.port, post("/api/v1/purchase/1", PHONE))
        tool = Server(tmp_path)
        tool.command += ["backup", str(copy)]
        began = time.time()
        assert LAST_BACKUP not in metrics_of(ours)
        assert tool.refused() == (0, "")
        assert began - 1 < metrics_of(ours)[LAST_BACKUP] < time.time() + 1
        listed = exchange(ours.port, request_bytes("GET", "/api/v1/customer"))
        exchange(ours.port, post("/api/v1/purchase/1", PHONE))
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with serving(copy.parent) as ours:
        restored = exchange(ours.port, request_bytes("GET", "/api/v1/customer"))
        assert ours.stop() == 0, ours.log()
    assert restored.json() == listed.json() is not None


def go_on(*_: object) -> None:
    """Stand in for what must not be reached."""
    pytest.fail("it goes on")


@pytest.mark.parametrize("writing", [True, False])
def test_backup_is_stopped(
    main: Main, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch, writing: bool
) -> None:
    """A signal ends it, while it writes and while it looks; nothing of it is left."""
    sqlite_file.create_or_migrate(sqlite_path)
    run_sql(
        sqlite_path,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) "
        "INSERT INTO customer (name, date_created) SELECT i, '' FROM n",
    )
    write_copy = sqlite_backup._write_copy

    class Signalled(threading.Event):
        def is_set(self) -> bool:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().is_set()

    def write_and_signal(path: Path, temporary: Path, stop: threading.Event) -> None:
        write_copy(path, temporary, stop)
        os.kill(os.getpid(), signal.SIGTERM)

    if writing:
        monkeypatch.setattr(sqlite_verify, "Event", Signalled)
        monkeypatch.setattr(sqlite_backup, "_look_at", go_on)
    else:
        monkeypatch.setattr(sqlite_backup, "_write_copy", write_and_signal)
        monkeypatch.setattr(sqlite_backup, "check_meaning", go_on)
    status, out, err = main("backup", "copy")
    reason = "server.py: db.sqlite3 to copy: interrupted\n"
    assert (status, out, err) == (1, "", reason)
    left = {file.name for file in sqlite_path.parent.iterdir()}
    assert {name for name in left if "copy" in name} == set()


def test_backup_refused(main: Main, sqlite_path: Path, tmp_path: Path) -> None:
    for expected in ("db.sqlite3: no such file", ""):
        status, out, err = main("backup", "copy")
        assert (status, bool(out)) == ((1, False) if expected else (0, True)), err
        assert expected in err
        server.try_make_db(f"sqlite:///{sqlite_path}")
    before = (tmp_path / "copy").read_bytes()
    (tmp_path / "folder").mkdir()
    for destination, reason in (
        ("folder", "folder: a folder: name a file in it, or let --keep N name one"),
        ("copy", "already there"),
        ("missing/copy", "there is no folder missing"),
        ("db.sqlite3", "already there"),
    ):
        status, out, err = main("backup", destination)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert reason in err
    assert (tmp_path / "copy").read_bytes() == before
    whole = sqlite_path.read_bytes()
    for damaged in (b"garbage", whole[:3000], whole[:100] + b"x" * len(whole)):
        sqlite_path.write_bytes(damaged)
        status, out, err = main("backup", "other")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "db.sqlite3" in err
    assert not [file for file in tmp_path.iterdir() if "other" in file.name]


def metrics_of(running: Server) -> dict[str, float]:
    """Return the metrics of a server that have no labels."""
    text = exchange(running.port, request_bytes("GET", "/metrics")).body.decode()
    lines = (line.split() for line in text.splitlines() if line[0] != "#")
    return {words[0]: float(words[1]) for words in lines if "{" not in words[0]}


def test_backup_whose_time_cannot_be_recorded(
    main: Main, sqlite_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The copy is there all the same, and the log says what is missing."""
    sqlite_file.create_or_migrate(sqlite_path)
    sqlite_path.with_name("db.sqlite3-last-backup").mkdir()
    status, out, err = main("backup", "copy")
    assert (status, out.count("\n"), err) == (0, 1, "")
    assert "the time of this backup is not recorded" in caplog.text
    assert count_customers(sqlite_path.with_name("copy")) == 0


def count_customers(path: Path) -> int:
    """Return how many customers a database file has."""
    with closing(driver.connect(path)) as connection:
        number: int = connection.execute("SELECT count(*) FROM customer").fetchone()[0]
        return number


def test_backup_that_replaces(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old copy is there until the new one is whole; a link still leads to it."""
    copy, link = sqlite_path.with_name("copy"), sqlite_path.with_name("link")
    sqlite_file.create_or_migrate(sqlite_path)
    sqlite_backup.backup(sqlite_path, copy, replace=True)
    link.symlink_to(copy)
    run_sql(sqlite_path, "INSERT INTO customer (name, date_created) VALUES ('x', '')")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_backup, "_write_copy", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sqlite_backup.backup(sqlite_path, copy, replace=True)
    assert count_customers(copy) == 0
    sqlite_backup.backup(sqlite_path, link, replace=True)
    assert (count_customers(copy), link.is_symlink()) == (1, True)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert not [file for file in copy.parent.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        ("db.sqlite3", "belongs to the database"),
        ("db.sqlite3-wal", "belongs to the database"),
        ("db.sqlite3-last-backup", "belongs to the database"),
        ("../db/db.sqlite3-journal", "belongs to the database"),
        ("hard-link", "belongs to the database"),
        ("link", "belongs to the database"),
        ("folder", "a folder"),
        ("pipe", "not a file"),
        ("in-use", "in-use-wal: in use"),
        ("gone", "gone-wal: in use, or left by another database"),
        ("in-use/copy", "there is no folder"),
    ],
)
def test_backup_that_may_not_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, destination: str, reason: str
) -> None:
    """What belongs to the database, and what SQLite would read with a strange WAL."""
    folder = tmp_path / "db"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = Path("db.sqlite3")
    sqlite_file.create_or_migrate(path)
    Path("hard-link").hardlink_to(path)
    Path("link").symlink_to(path)
    Path("folder").mkdir()
    os.mkfifo("pipe")
    shutil.copy(path, "in-use")
    for name in ("in-use-wal", "gone-wal"):
        Path(name).write_bytes(b"")
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    with pytest.raises(db.StartupError, match=reason):
        sqlite_backup.backup(path, Path(destination), replace=True)
    assert {file: file.read_bytes() for file in before} == before


def test_backup_before_the_database_is_taken_over(sqlite_path: Path) -> None:
    run_sql(sqlite_path, DESCRIBED)
    with pytest.raises(db.StartupError, match="start the server on it once"):
        sqlite_backup.backup(sqlite_path, sqlite_path.with_name("copy"))


def test_backup_of_a_strange_schema(sqlite_path: Path) -> None:
    """What is there is worth saving, though no server would start on it."""
    copy, copies = sqlite_path.with_name("copy"), sqlite_path.with_name("copies")
    sqlite_file.create_or_migrate(sqlite_path)
    run_sql(sqlite_path, "CREATE VIEW v AS SELECT 1")
    with pytest.raises(db.StartupError, match=r"copy: view 'v' .*; the copy is there"):
        sqlite_backup.backup(sqlite_path, copy)
    assert count_customers(copy) == 0
    copies.mkdir()
    for _ in range(2):
        with pytest.raises(db.StartupError, match="no older copy is removed"):
            sqlite_backup.backup(sqlite_path, copies, keep=1)
    assert [count_customers(file) for file in copies.iterdir()] == [0, 0]
    assert sqlite_path.with_name("db.sqlite3-last-backup").exists()


def test_marker_of_another_user(sqlite_path: Path, tmp_path: Path) -> None:
    """The file that tells the time of the backup is a new one each time."""
    sqlite_file.create_or_migrate(sqlite_path)
    marker, theirs = sqlite_path.with_name("db.sqlite3-last-backup"), tmp_path / "x"
    theirs.touch(0o400)
    os.utime(theirs, (0, 0))
    marker.symlink_to(theirs)
    for name in ("a", "b"):
        sqlite_backup.backup(sqlite_path, sqlite_path.with_name(name))
        assert stat.S_ISREG(marker.lstat().st_mode)
        assert stat.S_IMODE(marker.lstat().st_mode) == 0o600
        assert marker.stat().st_mtime > time.time() - 60
        marker.chmod(0o400)
        os.utime(marker, (0, 0))
    assert theirs.stat().st_mtime == 0
