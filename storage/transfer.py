"""Copy a SQLite database into an empty PostgreSQL one, all of it or nothing."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

from tqdm import tqdm

from storage import postgres_schema
from storage.engine import Row, StartupError, is_postgres, sqlite_path
from storage.schema import APPLICATION_ID, MIGRATIONS
from storage.sqlite_connection import driver
from storage.sqlite_file import read_identity
from storage.sqlite_identity import check_schema

LOG = logging.getLogger("server")

Columns = dict[str, str]
"""The columns of a table in PostgreSQL's order, with their types."""

COLUMN_TYPES = {
    "bigint": "integer",
    "smallint": "integer",
    "timestamp with time zone": "time",
}
SUMS = {
    "integer": "sum({})",
    "text": "sum(octet_length({}))",
    "bytea": "sum(octet_length({}))",
    "time": "sum(CAST(extract(epoch FROM {}) * 1000000 AS bigint))",
}
"""The sum of a column of each type that both databases must agree on; `_weigh` has the
same for a value of SQLite."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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
SELECT_SEQUENCES = """
SELECT name, seq FROM sqlite_sequence
WHERE name IN ('customer', 'purchases', 'history')"""
SET_NEXT_ID = """
SELECT setval('{0}_id_seq', greatest(last_value, $1), is_called OR $1 > 0)
FROM {0}_id_seq"""


async def copy(source_url: str, dest_url: str) -> None:
    """Copy a database: rows, ids, times, versions, history, idempotency keys, next ids.

    StartupError. Counts and sums of every column are compared before the commit. A
    server may go on using the source; its writes after the start are not copied.
    """
    path = sqlite_path(source_url)
    if not is_postgres(dest_url):
        raise StartupError("the destination is no postgresql:// URL")
    if not path.is_file():
        raise StartupError(f"{path}: not a file")
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(driver.connect(uri, uri=True, isolation_level=None)) as source:
            source.execute("BEGIN")
            if read_identity(source) != (APPLICATION_ID, len(MIGRATIONS)):
                raise StartupError(
                    "the source is not up to date: "
                    "start this version of the server on it once"
                )
            check_schema(path, source)
            async with postgres_schema.transaction(dest_url) as destination:
                await postgres_schema.migrate(destination)
                await _copy_all(source, destination)
    except driver.Error as exc:
        raise StartupError(f"{path}: {exc}") from exc


async def _copy_all(source: Any, destination: Any) -> None:
    """Copy all tables and what the next ids will be. StartupError unless empty."""
    tables = ", ".join(postgres_schema.TABLES)
    await destination.execute(f"LOCK TABLE {tables}")
    for table in postgres_schema.TABLES:
        if await destination.fetch(f"SELECT FROM {table} LIMIT 1"):
            raise StartupError(f"it is not empty: table {table} has rows")
    await destination.execute(DROP_CONSTRAINT)
    for table in postgres_schema.TABLES:
        await _copy_table(source, destination, table)
    await destination.execute(f"DELETE FROM {postgres_schema.START_TABLE}")  # noqa: S608
    await _copy_table(source, destination, postgres_schema.START_TABLE)
    await destination.execute(ADD_CONSTRAINT)
    if not await destination.fetch(SELECT_ORPHAN):
        await destination.execute(VALIDATE_CONSTRAINT)
    for table, last in source.execute(SELECT_SEQUENCES):
        await destination.execute(SET_NEXT_ID.format(table), last)
    await destination.execute(f"ANALYZE {tables}")


async def _copy_table(source: Any, destination: Any, table: str) -> None:
    """Copy the rows of a table. StartupError when they do not all arrive."""
    found = await destination.fetch(SELECT_COLUMNS, table)
    columns = {name: COLUMN_TYPES.get(kind, kind) for name, kind in found}
    # ruff S608: the names are those of our own schema.
    (count,) = source.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    rows = source.execute(f"SELECT {', '.join(columns)} FROM {table}")  # noqa: S608
    sums = dict.fromkeys(columns, 0)
    progress = tqdm(rows, table, count, leave=False, disable=None, unit=" rows")
    records = _records(table, progress, columns, sums)
    await destination.copy_records_to_table(table, records=records, columns=[*columns])
    parts = [SUMS[kind].format(name) for name, kind in columns.items()]
    select = f"SELECT count(*), {', '.join(parts)} FROM {table}"  # noqa: S608
    arrived = [int(value or 0) for value in await destination.fetchrow(select)]
    sent = [count, *sums.values()]
    if arrived != sent:
        raise StartupError(f"{table} did not arrive whole: {arrived}, not {sent}")
    LOG.info("%s: %s rows copied", table, count)


def _records(
    table: str, rows: Iterable[Row], columns: Columns, sums: dict[str, int]
) -> Iterator[list[Any]]:
    """Yield rows of SQLite as PostgreSQL takes them, and add them up. StartupError."""
    for row in rows:
        record: list[Any] = []
        for value, (name, kind) in zip(row, columns.items(), strict=True):
            try:
                taken, weight = (None, 0) if value is None else _weigh(kind, value)
            except ValueError as exc:
                raise StartupError(f"{table}.{name} of row {row[0]}: {exc}") from None
            record.append(taken)
            sums[name] += weight
        yield record


def _weigh(kind: str, value: Any) -> tuple[Any, int]:
    """Return a value for PostgreSQL, and what it adds to its sum. ValueError."""
    if kind == "integer" and isinstance(value, int):
        return value, value
    if kind == "bytea" and isinstance(value, bytes):
        return value, len(value)
    if kind in ("integer", "bytea") or not isinstance(value, str):
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
