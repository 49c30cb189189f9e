"""The index of customers' names by three characters each, in a SQLite file.

An FTS5 table (sqlite.org/fts5.html#the_trigram_tokenizer) with a copy of `name_folded`
under the id of each customer, up to some id: names of later ones are added by and by.
It is no migration, since a library that cannot have it serves the same file without:
it empties the index, which is then made anew by the next one that can.
"""

import logging
from typing import Any

from storage.sqlite_connection import VERSION, driver

LOG = logging.getLogger("server")

FIRST_VERSION = (3, 42, 0)
"""The first SQLite whose FTS5 leaves nothing of what is deleted (secure-delete)."""
NAME = "customer_names"
CREATE = f"""
CREATE VIRTUAL TABLE {NAME} USING fts5(name_folded,
    tokenize='trigram case_sensitive 1', detail=none, columnsize=0)"""
DELETE_SECURELY = f"INSERT INTO {NAME}({NAME}, rank) VALUES('secure-delete', 1)"
SHADOWS = {
    "data": "(id INTEGER PRIMARY KEY, block BLOB)",
    "idx": "(segid, term, pgno, PRIMARY KEY(segid, term)) WITHOUT ROWID",
    "content": "(id INTEGER PRIMARY KEY, c0)",
    "config": "(k PRIMARY KEY, v) WITHOUT ROWID",
}
"""The tables that FTS5 keeps the index in, and their columns."""
OBJECTS = {
    NAME: CREATE,
    **{
        f"{NAME}_{end}": f"CREATE TABLE '{NAME}_{end}'{SHADOWS[end]}" for end in SHADOWS
    },
}
"""All tables of the index, and the SQL that made them."""

SELECT_TABLE = f"SELECT name FROM sqlite_master WHERE name = '{NAME}'"
# Row 10 tells what the index consists of; without it, FTS5 takes it for damaged.
SELECT_STRUCTURE = f"SELECT id FROM {NAME}_data WHERE id = 10"
IS_EMPTIED = f"""
SELECT NOT EXISTS (SELECT 1 FROM {NAME}_data)
    AND NOT EXISTS (SELECT 1 FROM {NAME}_content)"""
EMPTY = [f"DELETE FROM {NAME}_{end}" for end in ("data", "idx", "content")]


def _can_make() -> bool:
    """Return whether this SQLite has what the index needs."""
    if VERSION < FIRST_VERSION:
        return False
    connection = driver.connect(":memory:")
    try:
        connection.execute(CREATE)
        connection.execute(DELETE_SECURELY)
    except driver.Error:  # FTS5 was left out, or an old one put in
        return False
    finally:
        connection.close()
    return True


AVAILABLE = _can_make()
"""Whether this process keeps the index, or scans all names."""


def is_as_wanted(connection: Any) -> bool:
    """Return whether a database has the index, or has none where none can be."""
    table = connection.execute(SELECT_TABLE).fetchone()
    filled = table is not None and connection.execute(SELECT_STRUCTURE).fetchone()
    return bool(filled) == AVAILABLE


def is_emptied(connection: Any) -> bool:
    """Return whether a library that cannot have it has emptied the index."""
    try:
        return bool(connection.execute(IS_EMPTIED).fetchone()[0])
    except driver.OperationalError:  # there is none
        return False


def renew(connection: Any) -> None:
    """Make an empty index in the place of any other, or none where none can be.

    In the transaction of a connection that overwrites what it deletes.
    """
    if AVAILABLE:
        for statement in (f"DROP TABLE IF EXISTS {NAME}", CREATE, DELETE_SECURELY):
            connection.execute(statement)
    elif connection.execute(SELECT_TABLE).fetchone():
        # Nobody would keep it up to date: it must not be taken for one that is.
        for statement in EMPTY:
            connection.execute(statement)


def tell() -> None:
    """Log it where searches have no index."""
    if not AVAILABLE:
        version = driver.sqlite_version
        LOG.info("SQLite %s has no index for names: searches scan them", version)
