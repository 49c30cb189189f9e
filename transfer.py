"""Copy a SQLite database into an empty PostgreSQL one, all of it or nothing."""

import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import db
import postgres
import schema
import sqlite
import sqlite_lane
from db import Row

Columns = dict[str, str]
"""The columns of a table in PostgreSQL's order, and their kinds."""

KINDS = {"bigint": "integer", "timestamp with time zone": "time"}
SUMS = {
    "integer": "sum({})",
    "text": "sum(octet_length({}))",
    "time": "sum(CAST(extract(epoch FROM {}) * 1000000 AS bigint))",
}
"""What is added up of a column of each kind at either end; `_weigh` does the same."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BAR = 30
"""Characters of the progress bar."""

SELECT_COLUMNS = """
SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position"""
# A database of the described server may hold purchases whose customer is gone.
DROP_CONSTRAINT = """
ALTER TABLE purchases DROP CONSTRAINT purchases_customer"""
ADD_CONSTRAINT = """
ALTER TABLE purchases ADD CONSTRAINT purchases_customer
    FOREIGN KEY (customer_id) REFERENCES customer (id) NOT VALID"""
SELECT_ORPHAN = """
SELECT id FROM purchases p
WHERE NOT EXISTS (SELECT FROM customer c WHERE c.id = p.customer_id) LIMIT 1"""
VALIDATE_CONSTRAINT = """
ALTER TABLE purchases VALIDATE CONSTRAINT purchases_customer"""
SET_NEXT_ID = """
SELECT setval('{0}_id_seq', greatest(last_value, $1), is_called OR $1 > 0)
FROM {0}_id_seq"""


async def copy(source_url: str, dest_url: str) -> None:
    """Copy a database: rows, ids, times, versions, idempotency keys, next ids.

    RefusedError. Counts and sums of every column are held against each other before
    the commit. A server may go on using the source; what it writes after the start is
    not copied.
    """
    path = sqlite.path_of(source_url)
    if not db.is_postgres(dest_url):
        raise db.RefusedError("the destination is no postgresql:// URL")
    if not path.is_file():
        raise db.RefusedError(f"{path}: not a file")
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(
            sqlite_lane.driver.connect(uri, uri=True, isolation_level=None)
        ) as source:
            _recognise(source)
            async with postgres.transaction(dest_url) as destination:
                await postgres.migrate(destination)
                await _copy_all(source, destination)
    except sqlite_lane.driver.Error as exc:
        raise db.RefusedError(f"{path}: {exc}") from exc


def _recognise(source: Any) -> None:
    """Begin to read a database that is ours and up to date. RefusedError."""
    source.execute("BEGIN")
    (application_id,) = source.execute("PRAGMA application_id").fetchone()
    (version,) = source.execute("PRAGMA user_version").fetchone()
    if application_id != schema.APPLICATION_ID or version != len(schema.MIGRATIONS):
        raise db.RefusedError(
            "the source is not up to date: start this version of the server on it once"
        )


async def _copy_all(source: Any, destination: Any) -> None:
    """Copy all tables and what the next ids will be. RefusedError unless empty."""
    tables = ", ".join(postgres.TABLES)
    await destination.execute(f"LOCK TABLE {tables}")
    for table in postgres.TABLES:
        if await destination.fetch(f"SELECT FROM {table} LIMIT 1"):
            raise db.RefusedError(f"it is not empty: table {table} has rows")
    await destination.execute(DROP_CONSTRAINT)
    for table in postgres.TABLES:
        await _copy_table(source, destination, table)
    await destination.execute(ADD_CONSTRAINT)
    if not await destination.fetch(SELECT_ORPHAN):
        await destination.execute(VALIDATE_CONSTRAINT)
    for table, last in source.execute("SELECT name, seq FROM sqlite_sequence"):
        await destination.execute(SET_NEXT_ID.format(table), last)
    await destination.execute(f"ANALYZE {tables}")


async def _copy_table(source: Any, destination: Any, table: str) -> None:
    """Copy the rows of a table. RefusedError when they do not all arrive."""
    found = await destination.fetch(SELECT_COLUMNS, table)
    columns = {name: KINDS.get(kind, kind) for name, kind in found}
    # ruff S608: the names are those of our own schema.
    (count,) = source.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    rows = source.execute(f"SELECT {', '.join(columns)} FROM {table}")  # noqa: S608
    sums = dict.fromkeys(columns, 0)
    records = _records(_shown(rows, table, count), columns, sums)
    await destination.copy_records_to_table(table, records=records, columns=[*columns])
    parts = [SUMS[kind].format(name) for name, kind in columns.items()]
    select = f"SELECT count(*), {', '.join(parts)} FROM {table}"  # noqa: S608
    arrived = [int(value or 0) for value in await destination.fetchrow(select)]
    sent = [count, *sums.values()]
    if arrived != sent:
        raise db.RefusedError(f"{table} did not arrive whole: {arrived}, not {sent}")


def _records(
    rows: Iterator[Row], columns: Columns, sums: dict[str, int]
) -> Iterator[list[Any]]:
    """Yield rows of SQLite as PostgreSQL takes them, and add them up. RefusedError."""
    for row in rows:
        record: list[Any] = []
        for value, (name, kind) in zip(row, columns.items(), strict=True):
            try:
                taken, weight = (None, 0) if value is None else _weigh(kind, value)
            except ValueError as exc:
                raise db.RefusedError(f"{name} of row {row[0]}: {exc}") from None
            record.append(taken)
            sums[name] += weight
        yield record


def _weigh(kind: str, value: Any) -> tuple[Any, int]:
    """Return a value for PostgreSQL, and what it adds to its sum. ValueError."""
    if kind == "integer" and isinstance(value, int):
        return value, value
    if kind == "integer" or not isinstance(value, str):
        raise ValueError(f"{value!r} is not {kind}")
    if kind == "text":
        if "\0" in value:
            raise ValueError("PostgreSQL holds no text with U+0000")
        return value, len(value.encode())
    if value.startswith(("0001-01-01", "9999-12-31")):  # infinity, to the driver
        raise ValueError(f"{value!r} is too far from now")
    time = datetime.fromisoformat(value)
    if time.isoformat(" ", "microseconds") != value:
        raise ValueError(f"{value!r} is not a time as this server writes it")
    return time, (time - EPOCH) // timedelta(microseconds=1)


def _shown(rows: Iterator[Row], table: str, count: int) -> Iterator[Row]:
    """Yield rows, and draw a bar on stderr: all the way only on a terminal."""
    step = max(count // 100, 1) if sys.stderr.isatty() else count
    for number, row in enumerate(rows):
        if number % step == 0 and number:
            _show(table, number, count)
        yield row
    _show(table, count, count)


def _show(table: str, number: int, count: int) -> None:
    share = number / count if count else 1.0
    bar = "#" * int(BAR * share)
    end = "\n" if number == count else "\r"
    sys.stderr.write(f"{table:12}[{bar:{BAR}}] {share:4.0%} of {count:,} rows{end}")
    sys.stderr.flush()
