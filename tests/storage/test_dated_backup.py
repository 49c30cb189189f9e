"""Copies with dated names, of which the newest are kept."""

import os
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import pytest

import db
from storage import sqlite_backup, sqlite_file, sqlite_verify, temporary_file
from tests.support import Main, run_sql

NOON = datetime(2026, 11, 27, 12, 0, 0, 250_000, UTC).timestamp()


class Clock:
    """Stands in for the module `time`: it moves on only where somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.asked = NOON, 0

    def time(self) -> float:
        """Return the time."""
        self.asked += 1
        assert self.asked < 20, "nobody waits"
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        assert 0 < seconds <= 1
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Return the clock that dates copies, in a zone that is not UTC."""
    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_backup, "time", clock)
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield clock
    time.tzset()


@pytest.fixture
def copies(sqlite_path: Path) -> Path:
    """Return an empty folder beside a new database."""
    sqlite_file.create_or_migrate(sqlite_path)
    folder = sqlite_path.with_name("copies")
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(file.name for file in folder.iterdir())


def dated(at: str) -> str:
    """Return the name of a copy of a time of the 27th."""
    return f"db-2026-11-27T{at}Z.sqlite3"


def test_newest_are_kept(main: Main, copies: Path, clock: Clock) -> None:
    """Each run says what it wrote, and how many older ones it removed."""
    removed = [0, 0, 1, 1]
    for hour, number in enumerate(removed):
        clock.now = NOON + 3600 * hour
        status, out, err = main("backup", "copies", "--keep", "2")
        assert (status, err) == (0, "")
        told = out.replace("1 older copy removed", "1 older copies removed")
        size = (copies / dated(f"{12 + hour}-00-00")).stat().st_size // 1000
        assert told == (
            f"copies/{dated(f'{12 + hour}-00-00')}: whole, {size} kB, 0 customers, "
            f"0 purchases, no change yet; {number} older copies removed\n"
        )
    assert names(copies) == [dated("14-00-00"), dated("15-00-00")]
    for copy in copies.iterdir():
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert "whole" in sqlite_verify.verify(copy)


def test_two_in_a_second(sqlite_path: Path, copies: Path, clock: Clock) -> None:
    """The second one begins in the next second."""
    for _ in range(3):
        sqlite_backup.backup(sqlite_path, copies, keep=9)
    assert names(copies) == [dated(f"12-00-0{second}") for second in range(3)]
    assert clock.now == NOON + 1.75


def test_two_at_once(
    sqlite_path: Path, copies: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that finds its name taken at the end begins anew, and replaces nothing."""
    write_copy, begun = sqlite_backup._write_copy, []

    def overtaken(path: Path, temporary: Path, stop: Event) -> None:
        begun.append(temporary.name)
        if len(begun) == 1:
            (copies / dated("12-00-00")).write_text("quicker")
        write_copy(path, temporary, stop)

    monkeypatch.setattr(sqlite_backup, "_write_copy", overtaken)
    line = sqlite_backup.backup(sqlite_path, copies, keep=2)
    assert begun == [dated("12-00-00"), dated("12-00-01")]
    assert names(copies) == begun
    assert (copies / begun[0]).read_text() == "quicker"
    assert line.startswith(f"{copies / begun[1]}: whole, ")


def test_what_is_not_a_copy_stays(
    sqlite_path: Path, copies: Path, clock: Clock
) -> None:
    """Of all that is there, only files of exactly its own names are removed."""
    foreign = [
        "2020-01-01.sqlite3",
        "last.sqlite3",
        "db.sqlite3",
        "db-2020-01-01.sqlite3",
        "db-2020-01-01T00-00-00Z.sqlite3.gz",
        "db-2020-01-01T00-00-00Z.db",
        "db-2020-01-01T00-00-00Z-2.sqlite3",
        "db-2020-01-01T00-00-00Zxsqlite3",
        "Xdb-2020-01-01T00-00-00Z.sqlite3",
        "shop-db-2020-01-01T00-00-00Z.sqlite3",
        "db-old-2020-01-01T00-00-00Z.sqlite3",
        "shop-2020-01-01T00-00-00Z.sqlite3",
        "db-2020-01-01T00-00-00Z.sqlite3\n",
        "db-٢٠٢٠-01-01T00-00-00Z.sqlite3",
        "db-2020-01-01T00-00-04Z.sqlite3-wal",
    ]
    for name in foreign:
        (copies / name).write_text("theirs")
    (copies / "db-2020-01-01T00-00-01Z.sqlite3").mkdir()
    (copies / "db-2020-01-01T00-00-02Z.sqlite3").symlink_to("last.sqlite3")
    (copies / "db-2020-01-01T00-00-03Z.sqlite3").symlink_to("nowhere")
    (copies / "db-2020-01-01T00-00-04Z.sqlite3").write_text("served")
    before = names(copies)
    (copies / "db-2020-01-01T00-00-05Z.sqlite3").write_text("old")
    line = sqlite_backup.backup(sqlite_path, copies, keep=1)
    assert line.endswith("; 1 older copy removed")
    assert names(copies) == sorted([*before, dated("12-00-00")])
    assert (copies / "db-2020-01-01T00-00-04Z.sqlite3").read_text() == "served"


def test_database_with_the_name_of_a_copy(
    sqlite_path: Path, copies: Path, clock: Clock
) -> None:
    """A database that a link leads to is no old copy, whatever it is called."""
    served = copies / "db-2020-01-01T00-00-00Z.sqlite3"
    run_sql(sqlite_path, "PRAGMA journal_mode = DELETE")  # as in a copy: no WAL tells
    sqlite_path.rename(served)
    sqlite_path.symlink_to(served)
    sqlite_backup.backup(sqlite_path, copies, keep=1)
    clock.now += 1
    sqlite_backup.backup(sqlite_path, copies, keep=1)
    copied = [name for name in names(copies) if not name.startswith(served.name)]
    assert copied == [dated("12-00-01")]
    assert served.exists()


@pytest.mark.parametrize("suffix", ["", ".db", ".sqlite3"])
def test_names_of_databases(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Copies are called as the database is, also one with odd letters in its name."""
    monkeypatch.chdir(tmp_path)
    path = Path(f"my.+[shop]{suffix}")
    sqlite_file.create_or_migrate(path)
    Path("copies").mkdir()
    for _ in range(2):
        sqlite_backup.backup(path, Path("copies"), keep=1)
        clock.now += 60
    stem, suffix = path.stem, path.suffix
    assert names(Path("copies")) == [f"{stem}-2026-11-27T12-01-00Z{suffix}"]


def test_clock_that_went_back(sqlite_path: Path, copies: Path, clock: Clock) -> None:
    """The copy just written stays; among the others those with the latest names."""
    for hour in (13, 14, 15):
        (copies / dated(f"{hour}-00-00")).write_text("before")
    (copies / dated("11-00-00")).write_text("since")
    line = sqlite_backup.backup(sqlite_path, copies, keep=3)
    assert line.endswith(
        "; 2 older copies removed; 2 with a later date: see to the clock"
    )
    left = [dated("12-00-00"), dated("14-00-00"), dated("15-00-00")]
    assert names(copies) == left
    clock.now += 1
    line = sqlite_backup.backup(sqlite_path, copies, keep=1)
    assert line.endswith("; 3 older copies removed")
    assert names(copies) == [dated("12-00-01")]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda place: None, "copies: not a folder"),
        (lambda place: place.write_text("theirs"), "copies: not a folder"),
    ],
)
def test_no_folder(
    main: Main, sqlite_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    sqlite_file.create_or_migrate(sqlite_path)
    make(sqlite_path.with_name("copies"))
    before = names(sqlite_path.parent)
    status, out, err = main("backup", "copies", "--keep", "3")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert reason in err
    assert names(sqlite_path.parent) == before


def test_copy_that_cannot_be_removed(
    main: Main, copies: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is there, the others that are too many are not; the line says it."""
    for hour in (8, 9, 10):
        (copies / dated(f"{hour:02}-00-00")).write_text("old")
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == dated("08-00-00"):
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    status, out, err = main("backup", "copies", "--keep", "2")
    assert (status, out) == (1, "")
    assert err == (
        f"server.py: copies/{dated('12-00-00')} is there, but an older copy is not "
        f"removed: {dated('08-00-00')} (Operation not permitted)\n"
    )
    kept = ["08-00-00", "10-00-00", "12-00-00"]
    assert names(copies) == [dated(at) for at in kept]
    assert (copies.parent / "db.sqlite3-last-backup").exists()


FAILURES = ("_write_copy", "_look_at", "publish", "temporary_file")


@pytest.mark.parametrize("failing", FAILURES)
@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_old_copies_outlive_a_failure(
    sqlite_path: Path,
    copies: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    error: BaseException,
) -> None:
    """Wherever it ends before the new copy is on disk."""
    for hour in (8, 9, 10):
        (copies / dated(f"{hour:02}-00-00")).write_text("old")
    before = names(copies)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(sqlite_backup, failing, fail)
    with pytest.raises((db.StartupError, KeyboardInterrupt)):
        sqlite_backup.backup(sqlite_path, copies, keep=1)
    assert names(copies) == before
    assert not sqlite_path.with_name("db.sqlite3-last-backup").exists()


def test_new_copy_is_on_disk_first(
    sqlite_path: Path, copies: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is removed before the folder was handed to the disk."""
    (copies / dated("08-00-00")).write_text("old")
    done: list[str] = []
    unlink = Path.unlink

    def note(temporary: Path, path: Path, replace: bool = False) -> None:
        temporary_file.publish(temporary, path, replace)
        done.append(path.name)

    def removing(path: Path, missing_ok: bool = False) -> None:
        if path.parent == copies:
            done.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(sqlite_backup, "publish", note)
    monkeypatch.setattr(Path, "unlink", removing)
    sqlite_backup.backup(sqlite_path, copies, keep=1)
    marker = "db.sqlite3-last-backup"
    assert done == [dated("12-00-00"), marker, dated("08-00-00")]


def damage(database: Path) -> None:
    """Change an entry of an index: VACUUM copies it as it is."""
    run_sql(
        database,
        """INSERT INTO customer (name, date_created) VALUES ('x', '');
        INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
        VALUES ('x', 1, 1, '');
        PRAGMA writable_schema = 1;
        CREATE TABLE other (a); CREATE INDEX other_a ON other (a, a);
        UPDATE sqlite_master SET rootpage = (
            SELECT rootpage FROM sqlite_master WHERE name = 'other_a'
        ) WHERE name = 'purchases_customer_id';
        DELETE FROM sqlite_master WHERE name LIKE 'other%';""",
    )


def test_damaged_source(main: Main, sqlite_path: Path, copies: Path) -> None:
    """A copy of it would be damaged too, and is not published."""
    (copies / dated("08-00-00")).write_text("old")
    damage(sqlite_path)
    for arguments in (["copies", "--keep", "1"], ["copy"]):
        status, out, err = main("backup", *arguments)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "the database is damaged: " in err
    assert names(copies) == [dated("08-00-00")]
    assert not sqlite_path.with_name("copy").exists()


@pytest.mark.parametrize("cut", [0, 512, 4096, 20_000])
def test_damaged_copy(
    main: Main,
    sqlite_path: Path,
    copies: Path,
    monkeypatch: pytest.MonkeyPatch,
    cut: int,
) -> None:
    """One that the disk did not keep is not published, and replaces nothing."""
    (copies / dated("08-00-00")).write_text("old")
    write_copy = sqlite_backup._write_copy

    def write_and_cut(path: Path, temporary: Path, stop: Event) -> None:
        write_copy(path, temporary, stop)
        os.truncate(temporary, cut)

    monkeypatch.setattr(sqlite_backup, "_write_copy", write_and_cut)
    last = sqlite_path.with_name("last")
    last.write_text("old")
    for arguments in (["copies", "--keep", "1"], ["last", "--replace"]):
        status, out, err = main("backup", *arguments)
        assert (status, out, err.count("\n")) == (1, "", 1)
    assert names(copies) == [dated("08-00-00")]
    assert last.read_text() == "old"
