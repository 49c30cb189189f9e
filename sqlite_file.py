"""The SQLite file: recognised, made, taken over, migrated, backed up."""

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import db
import schema
from sqlite_lane import INTERRUPT, TROUBLES, code_of, driver

PAGE_BYTES = 2048
"""Each purchase changes another page of the index by customer, and a commit writes
pages whole: half of SQLite's 4096 makes adding quicker, and lists no slower."""


def make(path: Path) -> None:
    """Create the database, or bring the one that is there up to date. RefusedError.

    A file that is refused stays as it was, byte for byte.
    """
    with refusals(path):
        if os.path.lexists(path):
            _migrate(path, described=_recognise(path))
        else:
            _create(path)


@contextmanager
def refusals(what: Path | str) -> Iterator[None]:
    """Say in one line what is the matter with a file. RefusedError."""
    try:
        yield
    except driver.Error as exc:
        reasons = TROUBLES | {INTERRUPT: "interrupted"}
        reason = reasons.get(code_of(exc), "SQLite refuses it")
        raise db.RefusedError(f"{what}: {reason}") from exc
    except OSError as exc:
        raise db.RefusedError(f"{what}: {exc.strerror}") from exc


def _create(path: Path) -> None:
    # Made under another name first: whoever finds the file finds it whole.
    with _draft(path) as draft:
        with closing(driver.connect(draft)) as connection:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("VACUUM")  # keeps it
        _migrate(draft, described=False)
        with suppress(FileExistsError):  # another process was quicker
            _give_name(draft, path)


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Make an empty file beside a path, which only its owner may read, for a while."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        yield draft
    finally:
        for end in ("", "-journal", "-wal", "-shm"):
            draft.with_name(f"{draft.name}{end}").unlink(missing_ok=True)


def _give_name(draft: Path, path: Path) -> None:
    """Let a whole file have a name that is still free. FileExistsError."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: the name is reserved first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


# Recognising


def _recognise(path: Path) -> bool:
    """Return whether the file is the described server's, not ours. RefusedError."""
    if not path.is_file():
        raise db.RefusedError(f"{path}: not a file")
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise db.RefusedError(f"{path}: not a SQLite database")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise db.RefusedError(f"{path}: the file or its folder cannot be written")
    # sqlite.org/fileformat.html#application_id
    surely_ours = int.from_bytes(header[68:72], "big") == schema.APPLICATION_ID
    with _looking_at(path, surely_ours) as connection:
        application_id, version = _identity(connection)
        if application_id == schema.APPLICATION_ID:
            if version > len(schema.MIGRATIONS):
                raise db.RefusedError(f"{path}: made by a newer version of this server")
            return False
        if (
            application_id
            or version
            or _columns(connection) != schema.DESCRIBED_COLUMNS
        ):
            raise db.RefusedError(f"{path}: the database of another program")
    return True


@contextmanager
def _looking_at(path: Path, surely_ours: bool) -> Iterator[Any]:
    """Open a database that must stay as it is, with all that belongs to it.

    A WAL cannot be read without making an index beside it (sqlite.org/wal.html
    #readonly), nor a hot journal without playing it back. So a copy is looked at where
    there is a journal, or a WAL beside a file that is not surely ours.
    """
    whole = path.resolve()
    wal, journal = (Path(f"{whole}{end}") for end in ("-wal", "-journal"))
    left = [file for file in (wal, journal) if file.exists()]
    with TemporaryDirectory() as folder:
        if journal in left or (left and not surely_ours):
            for file in (whole, *left):
                shutil.copyfile(file, Path(folder, file.name))
            uri = Path(folder, whole.name).as_uri()
        else:
            uri = f"{whole.as_uri()}?mode=ro{'' if left else '&immutable=1'}"
        with closing(driver.connect(uri, uri=True)) as connection:
            yield connection


def _identity(connection: Any) -> tuple[int, int]:
    """Return whose database it is, and of which version."""
    pragmas = ("application_id", "user_version")
    found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    return found[0], found[1]


def _columns(connection: Any) -> dict[str, set[str]]:
    # sqlite_sequence and what ANALYZE makes are SQLite's own
    names = connection.execute(
        r"SELECT name FROM sqlite_master WHERE type != 'index'"
        r" AND name NOT LIKE 'sqlite\_%' ESCAPE '\'"
    ).fetchall()
    select = "SELECT name FROM pragma_table_info(?)"
    return {
        name: {row[0] for row in connection.execute(select, (name,))}
        for (name,) in names
    }


# Migrating


def _migrate(path: Path, described: bool) -> None:
    """Bring a database to the newest version in one transaction."""
    newest = schema.APPLICATION_ID, len(schema.MIGRATIONS)
    # A name that begins with `file:` would be taken for a URI.
    with closing(driver.connect(path.absolute(), isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        if _identity(connection) == newest:
            return
        connection.create_function("canonical_time", 1, canonical_time)
        connection.create_function("canonical_text", 1, canonical_text)
        connection.create_function("casefold", 1, str.casefold)
        connection.execute("BEGIN EXCLUSIVE")
        # Another process may have been quicker.
        application_id, version = _identity(connection)
        adopting = described and application_id != schema.APPLICATION_ID
        first = schema.ADOPTION if adopting else schema.MIGRATIONS[0]
        for script in (first, *schema.MIGRATIONS[1:])[version:]:
            for statement in script.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {newest[0]}")
        connection.execute(f"PRAGMA user_version = {newest[1]}")
        connection.execute("COMMIT")
        with suppress(driver.Error):  # somebody reads it; the server tries again
            connection.execute("PRAGMA journal_mode = WAL")


def canonical_time(text: object) -> str:
    """Return a time of the described server as `db.now` writes it, if it is one."""
    if not text:
        return "1970-01-01 00:00:00.000000+00:00"
    try:
        time = _parsed(str(text))
        time = time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return str(text)
    return time.isoformat(" ", "microseconds")


def _parsed(text: str) -> datetime:
    with suppress(ValueError):
        return datetime.fromisoformat(text)
    return datetime.strptime(text, "%b %d %Y %H:%M:%S")  # as its replies show it


def canonical_text(text: bytes | None) -> bytes | None:
    """Return a text of the described server, with U+FFFD for what is not UTF-8.

    As bytes, for a driver may cut the text that a function returns at U+0000.
    """
    return None if text is None else text.decode("utf-8", "replace").encode()


# Backups


def backup(path: Path, destination: Path) -> None:
    """Write a consistent copy of a database, also of one that is being served.

    The copy is complete or absent, and only its owner may read it. RefusedError
    when the destination exists, or on SIGTERM and SIGINT. VACUUM INTO reads one
    snapshot (sqlite.org/lang_vacuum.html), and a read-only connection does not
    checkpoint.
    """
    with refusals(path):
        if not path.is_file() or _recognise(path):
            raise db.RefusedError(f"{path}: not a database of this server")
    if os.path.lexists(destination):
        raise db.RefusedError(f"{destination}: already there")
    with refusals(f"{path} to {destination}"), _draft(destination) as draft:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with (
            closing(driver.connect(uri, uri=True)) as connection,
            _stoppable(connection),
        ):
            connection.execute("VACUUM INTO ?", (str(draft.absolute()),))
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        _give_name(draft, destination)


@contextmanager
def _stoppable(connection: Any) -> Iterator[None]:
    """Let SIGTERM and SIGINT interrupt what a connection does."""
    stop = Event()
    connection.set_progress_handler(stop.is_set, 10_000)
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
