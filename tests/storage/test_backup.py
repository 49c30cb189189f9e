"""The backup command."""

import os
import signal
import stat
import threading
from pathlib import Path

import pytest

import server
from checks.support.server_process import Server, exchange, request_bytes, serving
from storage import sqlite_file
from tests.support import JOHN, PHONE, Main, post, run_sql


def test_backup_of_a_served_database(tmp_path: Path) -> None:
    """The README's way: a copy beside the running server, put in another's place."""
    copy = tmp_path / "copy" / "db.sqlite3"
    copy.parent.mkdir()
    with serving(tmp_path) as ours:
        exchange(ours.port, post("/api/v1/customer", JOHN))
        exchange(ours.port, post("/api/v1/purchase/1", PHONE))
        tool = Server(tmp_path)
        tool.command += ["backup", str(copy)]
        assert tool.refused() == (0, "")
        listed = exchange(ours.port, request_bytes("GET", "/api/v1/customer"))
        exchange(ours.port, post("/api/v1/purchase/1", PHONE))
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with serving(copy.parent) as ours:
        restored = exchange(ours.port, request_bytes("GET", "/api/v1/customer"))
        assert ours.stop() == 0, ours.log()
    assert restored.json() == listed.json() is not None


def test_backup_is_stopped(
    main: Main, sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal ends it, and nothing of it is left."""
    sqlite_file.create_or_migrate(sqlite_path)
    run_sql(
        sqlite_path,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) "
        "INSERT INTO customer (name, date_created) SELECT i, '' FROM n",
    )

    class Signalled(threading.Event):
        def is_set(self) -> bool:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().is_set()

    monkeypatch.setattr(sqlite_file, "Event", Signalled)
    status, out, err = main("backup", "copy")
    reason = "server.py: db.sqlite3 to copy: interrupted\n"
    assert (status, out, err) == (1, "", reason)
    left = {file.name for file in sqlite_path.parent.iterdir()}
    assert {name for name in left if "copy" in name} == set()


def test_backup_refused(main: Main, sqlite_path: Path, tmp_path: Path) -> None:
    for expected in ("db.sqlite3: no such file", ""):
        status, out, err = main("backup", "copy")
        assert (status, out) == (1 if expected else 0, ""), err
        assert expected in err
        server.try_make_db(f"sqlite:///{sqlite_path}")
    before = (tmp_path / "copy").read_bytes()
    for destination, reason in (
        ("copy", "already there"),
        ("missing/copy", "No such file"),
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
