"""Files that get their name when they are whole, and those that nobody finished."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage import sqlite_backup, sqlite_file, temporary_file
from tests.support import PROJECT, run_sql

KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from storage.temporary_file import SUFFIXES, temporary_file
with temporary_file(Path(sys.argv[1])) as temporary:
    for suffix in SUFFIXES:
        temporary.with_name(temporary.name + suffix).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by_a_killed(path: Path) -> None:
    """Leave what a process leaves that is killed while it writes a file."""
    command = [sys.executable, "-c", KILLED, str(path), str(PROJECT)]
    ended = subprocess.run(command, check=False)  # noqa: S603 - a program of the test's own
    assert ended.returncode < 0


def names(folder: Path) -> set[str]:
    """Return the names in a folder."""
    return {file.name for file in folder.iterdir()}


def test_what_cannot_be_removed_now(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left to the next one, since nobody holds it any more."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="error"),
        temporary_file.temporary_file(sqlite_path),
    ):
        patch.setattr(Path, "unlink", refuse)
    assert len(names(sqlite_path.parent)) == 1
    temporary_file.remove_abandoned(sqlite_path)
    assert names(sqlite_path.parent) == set()


def test_abandoned_by_a_creation(sqlite_path: Path) -> None:
    """A start removes what an interrupted one has left."""
    left_by_a_killed(sqlite_path)
    assert len(names(sqlite_path.parent)) == 1
    sqlite_file.create_or_migrate(sqlite_path)
    assert names(sqlite_path.parent) == {"db.sqlite3"}


@pytest.mark.parametrize("next_name", ["monday", "tuesday"])
def test_abandoned_by_a_backup(sqlite_path: Path, next_name: str) -> None:
    """So does a backup, also one with another name, as those that bear a date have."""
    sqlite_file.create_or_migrate(sqlite_path)
    left_by_a_killed(sqlite_path.with_name("monday"))
    assert "monday" not in names(sqlite_path.parent)
    sqlite_backup.backup(sqlite_path, sqlite_path.with_name(next_name))
    left = {name for name in names(sqlite_path.parent) if "day" in name}
    assert left == {next_name}


def test_what_another_process_writes(sqlite_path: Path) -> None:
    """It is left alone, and so is all that has not exactly a name of ours."""
    others = {
        ".db.sqlite3.0123456789AB",
        ".db.sqlite3.0123456789abc",
        "db.sqlite3.0123456789ab",
        ".other.0123456789ab",
        "..0123456789ab",
    }
    for name in others:
        sqlite_path.with_name(name).write_text("theirs")
    folder = sqlite_path.with_name(".theirs.0123456789ab")
    folder.mkdir()
    (folder / "file").write_text("theirs")
    link = sqlite_path.with_name(".db.sqlite3.abcdefabcdef")
    link.symlink_to(folder)
    with temporary_file.temporary_file(sqlite_path) as temporary:
        temporary.write_text("half")
        sqlite_file.create_or_migrate(sqlite_path)
        assert temporary.read_text() == "half"
    assert names(sqlite_path.parent) == {*others, folder.name, link.name, "db.sqlite3"}
    assert names(folder) == {"file"}


HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_abandoned_by_1_0_0(sqlite_path: Path) -> None:
    """It wrote a plain file; SQLite has a lock on it as long as it writes."""
    abandoned = sqlite_path.with_name(".db.sqlite3.0123456789ab")
    written = sqlite_path.with_name(".db.sqlite3.ba9876543210")
    for file in (abandoned, sqlite_path.with_name(f"{abandoned.name}-journal")):
        file.write_text("half")
    run_sql(written, "CREATE TABLE a (b)")
    command = [sys.executable, "-c", HOLDER, str(written)]
    with subprocess.Popen(  # noqa: S603 - a program of the test's own
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        sqlite_file.create_or_migrate(sqlite_path)
        assert names(sqlite_path.parent) == {"db.sqlite3", written.name}
        holder.kill()
    sqlite_file.create_or_migrate(sqlite_path)
    assert names(sqlite_path.parent) == {"db.sqlite3"}


def no_links(*_: object) -> None:
    """Do what os.link does where the file system has no hard links."""
    raise PermissionError(1, "Operation not permitted")


def test_power_cut_without_hard_links(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No empty file stands where a database is looked for, whenever it ends."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", no_links)
    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, end)
    with pytest.raises(KeyboardInterrupt):
        sqlite_file.create_or_migrate(sqlite_path)
    assert names(sqlite_path.parent) == set()


@pytest.mark.parametrize("links", [True, False])
def test_name_that_was_taken(
    sqlite_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with temporary_file.temporary_file(sqlite_path) as temporary:
        sqlite_path.write_text("quicker")
        with pytest.raises(FileExistsError):
            temporary_file.publish(temporary, sqlite_path)
        assert sqlite_path.read_text() == "quicker"
        temporary.write_text("new")
        temporary_file.publish(temporary, sqlite_path, replace=True)
    assert sqlite_path.read_text() == "new"
    assert names(sqlite_path.parent) == {"db.sqlite3"}
