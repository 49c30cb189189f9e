"""The SQLite file: identified, created, migrated, backed up."""

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

from storage.engine import StartupError
from storage.schema import (
    APPLICATION_ID,
    DESCRIBED_COLUMNS,
    LEGACY_MIGRATION,
    MIGRATIONS,
    fold_name,
)
from storage.sqlite_connection import ERROR_MESSAGES, INTERRUPT, code_of, driver

PAGE_BYTES = 2048
"""Each purchase changes another page of the index by customer, and a commit writes
pages whole: half of SQLite's 4096 makes adding quicker, and lists no slower."""


def create_or_migrate(path: Path) -> None:
    """Create the database, or migrate the one that is there. StartupError."""
    # A file that is refused stays as it was, byte for byte.
    with startup_errors(path):
        if os.path.lexists(path):
            _migrate(path, legacy=_identify(path))
        else:
            _create(path)


@contextmanager
def startup_errors(what: Path | str) -> Iterator[None]:
    """Turn errors of the driver and the system into one line. StartupError."""
    try:
        yield
    except driver.Error as exc:
        reasons = ERROR_MESSAGES | {INTERRUPT: "interrupted"}
        reason = reasons.get(code_of(exc), "SQLite refuses it")
        raise StartupError(f"{what}: {reason}") from exc
    except OSError as exc:
        raise StartupError(f"{what}: {exc.strerror}") from exc


def _create(path: Path) -> None:
    # Under a temporary name first: a reader of the path finds a whole database.
    with _temporary_file(path) as temporary:
        with closing(driver.connect(temporary)) as connection:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("VACUUM")  # keeps it
        _migrate(temporary, legacy=False)
        with suppress(FileExistsError):  # another process was quicker
            _publish(temporary, path)


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """Yield an empty file beside a path, which only its owner may read; delete it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        yield temporary
    finally:
        for end in ("", "-journal", "-wal", "-shm"):
            temporary.with_name(f"{temporary.name}{end}").unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> None:
    """Give a complete file its name, if that is still free. FileExistsError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: the name is reserved first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _identify(path: Path) -> bool:
    """Return whether the file is the described server's, not ours. StartupError."""
    if not path.is_file():
        raise StartupError(f"{path}: not a file")
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise StartupError(f"{path}: not a SQLite database")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise StartupError(f"{path}: the file or its folder cannot be written")
    # sqlite.org/fileformat.html#application_id
    certainly_ours = int.from_bytes(header[68:72], "big") == APPLICATION_ID
    with _open_unchanged(path, certainly_ours) as connection:
        application_id, version = read_identity(connection)
        if application_id == APPLICATION_ID:
            if version > len(MIGRATIONS):
                raise StartupError(f"{path}: made by a newer version of this server")
            return False
        if application_id or version or _columns(connection) != DESCRIBED_COLUMNS:
            raise StartupError(f"{path}: the database of another program")
    return True


@contextmanager
def _open_unchanged(path: Path, certainly_ours: bool) -> Iterator[Any]:
    """Open a database without a change to it or to the files beside it."""
    # A WAL cannot be read without making an index beside it (sqlite.org/wal.html
    # #readonly), nor a hot journal without playing it back. So a copy is opened where
    # there is a journal, or a WAL beside a file that is not certainly ours.
    whole = path.resolve()
    wal, journal = (Path(f"{whole}{end}") for end in ("-wal", "-journal"))
    left = [file for file in (wal, journal) if file.exists()]
    with TemporaryDirectory() as folder:
        if journal in left or (left and not certainly_ours):
            for file in (whole, *left):
                shutil.copyfile(file, Path(folder, file.name))
            uri = Path(folder, whole.name).as_uri()
        else:
            uri = f"{whole.as_uri()}?mode=ro{'' if left else '&immutable=1'}"
        with closing(driver.connect(uri, uri=True)) as connection:
            yield connection


def read_identity(connection: Any) -> tuple[int, int]:
    """Return the application id and the version of a database."""
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


def _migrate(path: Path, legacy: bool) -> None:
    """Migrate a database to the newest version in one transaction."""
    newest = APPLICATION_ID, len(MIGRATIONS)
    # A name that begins with `file:` would be taken for a URI.
    with closing(driver.connect(path.absolute(), isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        if read_identity(connection) == newest:
            return
        connection.create_function("canonical_time", 1, canonical_time)
        connection.create_function("canonical_text", 1, canonical_text)
        connection.create_function("casefold", 1, str.casefold)
        connection.create_function("fold_name", 1, fold_name)
        connection.execute("BEGIN EXCLUSIVE")
        # Another process may have been quicker.
        application_id, version = read_identity(connection)
        from_legacy = legacy and application_id != APPLICATION_ID
        first = LEGACY_MIGRATION if from_legacy else MIGRATIONS[0]
        for script in (first, *MIGRATIONS[1:])[version:]:
            for statement in script.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {newest[0]}")
        connection.execute(f"PRAGMA user_version = {newest[1]}")
        connection.execute("COMMIT")
        with suppress(driver.Error):  # somebody reads it; the server tries again
            connection.execute("PRAGMA journal_mode = WAL")


def canonical_time(text: object) -> str:
    """Return a time of the described server as this server writes it, if it is one."""
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
    """Return a text of the described server, with U+FFFD for what is not UTF-8."""
    # As bytes, for a driver may cut the text that a function returns at U+0000.
    return None if text is None else text.decode("utf-8", "replace").encode()


def backup(path: Path, destination: Path) -> None:
    """Write a consistent copy of a database, also of one that is being served.

    The copy is complete or absent, and only its owner may read it. StartupError
    when the destination exists, or on SIGTERM and SIGINT. VACUUM INTO reads one
    snapshot (sqlite.org/lang_vacuum.html), and a read-only connection does not
    checkpoint.
    """
    with startup_errors(path):
        if not path.is_file() or _identify(path):
            raise StartupError(f"{path}: not a database of this server")
    if os.path.lexists(destination):
        raise StartupError(f"{destination}: already there")
    with (
        startup_errors(f"{path} to {destination}"),
        _temporary_file(destination) as temporary,
    ):
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with (
            closing(driver.connect(uri, uri=True)) as connection,
            _stoppable(connection),
        ):
            connection.execute("VACUUM INTO ?", (str(temporary.absolute()),))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        _publish(temporary, destination)


@contextmanager
def _stoppable(connection: Any) -> Iterator[None]:
    """Let SIGTERM and SIGINT interrupt the statement of a connection."""
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
