"""Whether a SQLite file is a database of ours, judged without a change to it."""

import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from storage import search_index
from storage.engine import StartupError
from storage.schema import APPLICATION_ID, DESCRIBED_COLUMNS, MIGRATIONS
from storage.sqlite_connection import driver
from storage.sqlite_migration import run_scripts

MAGIC = b"SQLite format 3\0"

Object = tuple[str, str, str]
"""The type and the name of an object of a schema, and the SQL that made it."""

SELECT_OBJECTS = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
SHADOWS = re.compile(r"(json|pragma)_", re.IGNORECASE)
"""Table-valued functions that queries use, and a table of that name would hide."""
COLLATIONS = {"BINARY", "NOCASE", "RTRIM"}
"""Those of SQLite itself (sqlite.org/datatype3.html#collating_sequences)."""

LITESTREAM = {"_litestream_seq", "_litestream_lock"}
"""Tables that Litestream makes in whatever it replicates, perhaps before we start."""


@contextmanager
def open_unchanged(path: Path, shm_too: bool = False) -> Iterator[Any]:
    """Open a database without a change to it or to the files beside it.

    With `shm_too` that holds for the index of the WAL as well, which is made anew from
    the WAL otherwise: nothing in it outlives the processes that use it.

    StartupError for what is no database by its header, where nothing beside it can
    mend that: a power cut may tear the first page, and SQLite has it in the WAL or in
    the journal.
    """
    # A WAL cannot be read without making an index beside it (sqlite.org/wal.html
    # #readonly), nor a hot journal without playing it back. So a copy is opened where
    # there is a journal, or a WAL beside a file that is not certainly ours.
    if not path.is_file():
        missing = not path.exists() and not path.is_symlink()
        raise StartupError(f"{path}: {'no such file' if missing else 'not a file'}")
    whole = path.resolve()
    wal, journal, shm = (Path(f"{whole}{end}") for end in ("-wal", "-journal", "-shm"))
    left = [file for file in (wal, journal) if file.exists()]
    with whole.open("rb") as file:
        header = file.read(100)
    is_sqlite = header.startswith(MAGIC) and len(header) == 100
    if not header or not (is_sqlite or left):
        raise StartupError(f"{path}: not a SQLite database")
    # sqlite.org/fileformat.html#application_id
    ours = is_sqlite and int.from_bytes(header[68:72], "big") == APPLICATION_ID
    # os_unix.c of SQLite: with `readonly_shm` it reads an index that a living process
    # keeps, and makes its own in memory where there is none; but the file must exist.
    lacks_shm = shm_too and wal in left and not shm.exists()
    with TemporaryDirectory() as folder:
        if journal in left or lacks_shm or (left and not ours):
            for name in (whole, *left):
                shutil.copyfile(name, Path(folder, name.name))
            uri = Path(folder, whole.name).as_uri()
        else:
            served = "&readonly_shm=1" if shm_too else ""
            uri = f"{whole.as_uri()}?mode=ro{served if left else '&immutable=1'}"
        with closing(driver.connect(uri, uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection


def read_identity(connection: Any) -> tuple[int, int]:
    """Return the application id and the version of a database."""
    pragmas = ("application_id", "user_version")
    found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    return found[0], found[1]


def is_described(path: Path, connection: Any) -> bool:
    """Return whether a database is the described server's, not ours. StartupError."""
    application_id, version = read_identity(connection)
    if application_id == APPLICATION_ID:
        if version > len(MIGRATIONS):
            raise StartupError(f"{path}: made by a newer version of this server")
        return False
    if application_id or version or not _is_as_described(connection):
        raise StartupError(f"{path}: the database of another program")
    return True


def _is_as_described(connection: Any) -> bool:
    tables: dict[str, set[str | int]] = {}
    for kind, name, _ in _read_objects(connection):
        if kind not in ("table", "index"):
            return False
        # sqlite_sequence and the tables of ANALYZE are SQLite's own
        theirs = name.startswith("sqlite_") or name in LITESTREAM
        if kind == "table" and not theirs:
            columns = _pragma(connection, "table_xinfo", name)
            # The last value is not 0 where a column is generated or hidden.
            tables[name] = {column[6] or column[1] for column in columns}
    return tables == DESCRIBED_COLUMNS


def check_schema(path: Path, connection: Any) -> None:
    """Compare the schema of a database of ours with the one we make. StartupError.

    What an operator may have added and changes no result is left alone: indexes that
    can refuse no row, and tables of their own that do not refer to ours. A trigger, a
    view, a constraint or another column may do anything (sqlite.org/security.html).
    """
    version = read_identity(connection)[1]
    made, newest = _made_objects(version), _made_objects(len(MIGRATIONS))
    found = _read_objects(connection)
    names = {name.lower() for _, name, _ in made | newest | INDEX}
    if any(name in search_index.OBJECTS for _, name, _ in found):
        made |= INDEX
    strange = [
        *(one for one in found if not _is_harmless(connection, one, made, names)),
        *(("index", name, "") for name in _strange_indexes(connection, made)),
    ]
    for kind, name, _ in strange:
        raise StartupError(f"{path}: {kind} {name!r} is not as this server makes it")
    for kind, name, _ in sorted(made - set(map(_plain, found))):
        raise StartupError(f"{path}: {kind} {name!r} is missing")


def _plain(found: Object) -> Object:
    """Return an object with the white space of its SQL made alike."""
    kind, name, sql = found
    return kind, name, re.sub(r" ?([(),]) ?", r"\1", " ".join(sql.split()))


INDEX = frozenset(
    _plain(("table", name, sql)) for name, sql in search_index.OBJECTS.items()
)
"""The tables of the index for search, which a database has all or none of."""


@cache
def _made_objects(version: int) -> frozenset[Object]:
    """Return the objects of a database of ours at a version."""
    with closing(driver.connect(":memory:")) as connection:
        run_scripts(connection, MIGRATIONS[:version])
        return frozenset(map(_plain, _read_objects(connection)))


def _read_objects(connection: Any) -> list[Object]:
    found: list[Object] = connection.execute(SELECT_OBJECTS).fetchall()
    return found


def _is_harmless(
    connection: Any, found: Object, made: frozenset[Object], names: set[str]
) -> bool:
    """Return whether an object is one that we made, or can do no harm to them."""
    if _plain(found) in made:
        return True
    kind, name, _ = found
    if kind == "index":  # those of our tables are looked at by `_strange_indexes`
        return name.lower() not in names
    if kind != "table" or name.lower() in names or SHADOWS.match(name):
        return False
    referred = {row[2].lower() for row in _pragma(connection, "foreign_key_list", name)}
    return not referred & names


def _strange_indexes(connection: Any, made: frozenset[Object]) -> Iterator[str]:
    """Yield the names of indexes of our tables that may refuse a row."""
    ours = {name for kind, name, _ in made if kind == "index"}
    for table in (name for kind, name, _ in made if kind == "table"):
        for _, name, unique, origin, partial in _pragma(
            connection, "index_list", table
        ):
            if name in ours or origin != "c":
                continue
            columns = _pragma(connection, "index_xinfo", name)
            # Column -2 is an expression.
            plain = all(row[1] != -2 and row[4] in COLLATIONS for row in columns)
            if unique or partial or not plain:
                yield name


def _pragma(connection: Any, pragma: str, name: str) -> list[Any]:
    quoted = name.replace('"', '""')
    rows: list[Any] = connection.execute(f'PRAGMA {pragma}("{quoted}")').fetchall()
    return rows
