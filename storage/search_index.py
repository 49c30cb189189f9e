"""The index of customers' names by parts of them, an FTS5 table of SQLite.

It is no part of the versioned schema: a start makes it where the library can, and the
server fills it in. Where the library cannot, a search looks at every name.
"""

import logging
from contextlib import closing
from typing import Any

from storage.sqlite_connection import driver

LOG = logging.getLogger("server")

NAME = "customer_names"
# Its own copy of the names makes a row known by its id alone, to change or delete it.
CREATE = f"""
CREATE VIRTUAL TABLE {NAME} USING fts5(name_folded,
    tokenize = 'trigram case_sensitive 1', detail = none, columnsize = 0)"""
ERASE_AT_ONCE = f"INSERT INTO {NAME} ({NAME}, rank) VALUES ('secure-delete', 1)"
"""What is deleted leaves nothing behind (sqlite.org/fts5.html, section 6.9)."""
OBJECTS = frozenset(
    {
        ("table", NAME, CREATE),
        (
            "table",
            f"{NAME}_data",
            f"CREATE TABLE '{NAME}_data'(id INTEGER PRIMARY KEY, block BLOB)",
        ),
        (
            "table",
            f"{NAME}_idx",
            f"CREATE TABLE '{NAME}_idx'(segid, term, pgno, PRIMARY KEY(segid, term)) "
            "WITHOUT ROWID",
        ),
        (
            "table",
            f"{NAME}_content",
            f"CREATE TABLE '{NAME}_content'(id INTEGER PRIMARY KEY, c0)",
        ),
        (
            "table",
            f"{NAME}_config",
            f"CREATE TABLE '{NAME}_config'(k PRIMARY KEY, v) WITHOUT ROWID",
        ),
    }
)
"""The objects of the schema that CREATE makes: type, name, SQL."""
STRUCTURE = 10
"""The id of the row of `customer_names_data` that every such table has."""


def _can_be_made() -> bool:
    with closing(driver.connect(":memory:")) as connection:
        try:
            connection.execute(CREATE)
            connection.execute(ERASE_AT_ONCE)
        except driver.Error:
            return False
    return True


AVAILABLE = _can_be_made()
"""Whether the library has FTS5 with trigrams, and erases what it deletes (3.42)."""


def is_of_index(name: str) -> bool:
    """Return whether an object of a schema is of the index, or looks so."""
    return name.lower() == NAME or name.lower().startswith(f"{NAME}_")


def prepare(connection: Any) -> None:
    """Make the index in a database, or empty one that this library cannot keep.

    Then it is void, since nobody would change it with the names; it is made anew by the
    next start that can.
    """
    if not AVAILABLE:
        LOG.warning(
            "SQLite %s cannot index names: a search looks at each",
            driver.sqlite_version,
        )
    if _is_as_wanted(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    if not _is_as_wanted(connection):  # another process may have been quicker
        if AVAILABLE:
            connection.execute(f"DROP TABLE IF EXISTS {NAME}")
            connection.execute(CREATE)
            connection.execute(ERASE_AT_ONCE)
        else:
            for part in ("data", "idx", "content"):
                connection.execute(f"DELETE FROM {NAME}_{part}")
    connection.execute("COMMIT")


def _is_as_wanted(connection: Any) -> bool:
    """Return whether the index is there and valid, or there is none where none can."""
    find = "SELECT 1 FROM sqlite_master WHERE name = ?"
    if not connection.execute(find, (NAME,)).fetchall():
        return not AVAILABLE
    find = f"SELECT 1 FROM {NAME}_data WHERE id = ?"
    is_valid = bool(connection.execute(find, (STRUCTURE,)).fetchall())
    return is_valid == AVAILABLE
