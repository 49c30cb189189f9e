"""The SQLite file: created, and migrated."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from storage import search_index
from storage.engine import StartupError
from storage.schema import APPLICATION_ID, LEGACY_MIGRATION, MIGRATIONS
from storage.sqlite_connection import ERROR_MESSAGES, INTERRUPT, code_of, driver
from storage.sqlite_identity import (
    check_schema,
    is_described,
    open_unchanged,
    read_identity as read_identity,
)
from storage.sqlite_migration import run_scripts
from storage.temporary_file import publish, remove_abandoned, temporary_file

PAGE_BYTES = 4096
"""What SQLite would take too: with 2048, adding to few customers is a little quicker,
and where there are many to read or to add to, slower."""


def create_or_migrate(path: Path) -> None:
    """Create the database, or migrate the one that is there. StartupError."""
    # A file that is refused stays as it was, byte for byte.
    with startup_errors(path):
        remove_abandoned(path)
        if os.path.lexists(path):
            _migrate(path, legacy=_identify(path))
        else:
            _create(path)
    search_index.tell()


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
    _refuse_leftovers(path)
    # Under a temporary name first: a reader of the path finds a whole database.
    with temporary_file(path) as temporary:
        with closing(driver.connect(temporary)) as connection:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("VACUUM")  # keeps it
        _migrate(temporary, legacy=False)
        with suppress(FileExistsError):  # another process was quicker
            publish(temporary, path)


def _refuse_leftovers(path: Path) -> None:
    """Raise StartupError for what SQLite would take for a part of a new database.

    A WAL or a journal of one that is gone would overwrite its pages
    (sqlite.org/howtocorrupt.html, section 1.4).
    """
    for left in (_beside(path, "-wal"), _beside(path, "-journal")):
        # Another process may have been quicker, and this is its WAL.
        if left.exists() and left.stat().st_size and not os.path.lexists(path):
            raise StartupError(f"{left}: left by a database that is gone: move it away")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}{suffix}")


def _identify(path: Path) -> bool:
    """Return whether the file is the described server's, not ours. StartupError."""
    with open_unchanged(path) as connection:
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise StartupError(f"{path}: the file or its folder cannot be written")
        described = is_described(path, connection)
        if not described:
            check_schema(path, connection)
    return described


def _migrate(path: Path, legacy: bool) -> None:
    """Migrate a database to the newest version, and index it, in one transaction."""
    newest = APPLICATION_ID, len(MIGRATIONS)
    # A name that begins with `file:` would be taken for a URI.
    with closing(driver.connect(path.absolute(), isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        if read_identity(connection) == newest and search_index.is_as_wanted(
            connection
        ):
            return
        connection.execute("BEGIN EXCLUSIVE")
        # Another process may have been quicker.
        application_id, version = read_identity(connection)
        if (application_id, version) != newest:
            from_legacy = legacy and application_id != APPLICATION_ID
            first = LEGACY_MIGRATION if from_legacy else MIGRATIONS[0]
            run_scripts(connection, (first, *MIGRATIONS[1:])[version:])
            connection.execute(f"PRAGMA application_id = {newest[0]}")
            connection.execute(f"PRAGMA user_version = {newest[1]}")
            search_index.renew(connection)  # names may have been folded anew
        elif not search_index.is_as_wanted(connection):
            search_index.renew(connection)
        connection.execute("COMMIT")
        with suppress(driver.Error):  # somebody reads it; the server tries again
            connection.execute("PRAGMA journal_mode = WAL")
