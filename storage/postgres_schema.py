"""The tables of a PostgreSQL database: created and migrated, one process at a time."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from storage.engine import StartupError, without_password
from storage.postgres_connection import code_of, reason_of
from storage.postgres_hosts import ERRORS, HostList, asyncpg
from storage.postgres_settings import (
    DURABLE_SESSION,
    NO_LIMITS,
    READ_COMMITTED,
    begin,
    session,
)
from storage.schema import APPLICATION_ID, POSTGRES_MIGRATIONS, fold_name

LOG = logging.getLogger("server")

MIGRATION_SECONDS = 600.0
LOCK_KEY = APPLICATION_ID
"""The advisory lock under which one process at a time migrates."""
SCHEMA_TABLE = "customer_purchase_schema"
TABLES = ("customer", "purchases", "idempotency", "history", "hidden")
START_TABLE = "history_start"
"""Of one row: up to where the history was forgotten."""
# current_schema() as text would have to be quoted to become a regnamespace.
SELECT_RELATIONS = """
SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = current_schema()"""
SELECT_OTHER_ALPHABETS = """
SELECT id, name, name_folded FROM customer
WHERE id > $1 AND octet_length(name) <> char_length(name) ORDER BY id LIMIT 1000"""
UPDATE_FOLDED = "UPDATE customer SET name_folded = $2 WHERE id = $1"
# transaction_timeout is of PostgreSQL 17
NO_TIMEOUT = """
SELECT set_config(name, '0', {}) FROM pg_settings WHERE name = 'transaction_timeout';
"""
SESSION = (
    DURABLE_SESSION
    + session({**READ_COMMITTED, **NO_LIMITS})
    + NO_TIMEOUT.format(False)
)
"""A migration takes its time, and sees what another process has just done."""
FOLDED_ANEW = 3
"""The version from which on names are folded canonically, by `fold_name`."""

REMEDIES = {
    "statement pooling mode": "a pooler must be in transaction or session mode",
    "startup parameter": "a pooler refuses a parameter of the URL: leave it out, or "
    "set it for the role (ALTER ROLE … SET …)",
}
"""What to do about what pgbouncer says."""
REFUSED = "it is refused"
AT_START = {"0A000": "this server cannot run on this engine", "08P01": REFUSED}
"""What some codes mean at the start; 08P01 is of poolers."""

NAME_INDEX = "customer_name_trigrams"
# The extension may be in a schema that is not searched.
SELECT_OPERATOR_CLASS = """
SELECT quote_ident(nspname) || '.gin_trgm_ops' FROM pg_opclass
JOIN pg_namespace n ON n.oid = opcnamespace
WHERE opcname = 'gin_trgm_ops' AND opcmethod = (
    SELECT oid FROM pg_am WHERE amname = 'gin'
)"""
CREATE_NAME_INDEX = f"""
CREATE INDEX {NAME_INDEX} ON customer USING gin (name_folded {{}})"""


async def create_or_migrate(url: str) -> None:
    """Create the tables, or migrate those that are there. StartupError."""
    async with transaction(url) as connection, asyncio.timeout(MIGRATION_SECONDS):
        await migrate(connection)
        await index_names(connection)


async def index_names(connection: Any) -> None:
    """Make the index that finds a part of a name, where the role may.

    It needs the extension pg_trgm, which a role may create that may create schemas in
    the database (postgresql.org/docs/current/pgtrgm.html).
    """
    names = {row[0] for row in await connection.fetch(SELECT_RELATIONS)}
    if NAME_INDEX in names:
        return
    await connection.execute("SAVEPOINT name_index")
    try:
        if await connection.fetchval(SELECT_OPERATOR_CLASS) is None:
            await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        operators = await connection.fetchval(SELECT_OPERATOR_CLASS)
        await connection.execute(CREATE_NAME_INDEX.format(operators))
    except asyncpg.PostgresError as exc:
        await connection.execute("ROLLBACK TO name_index")
        reason = str(exc).partition("\n")[0]
        LOG.info("PostgreSQL has no index for names: searches scan them (%s)", reason)


@asynccontextmanager
async def transaction(url: str) -> AsyncIterator[Any]:
    """Yield a connection whose transaction is committed in the end. StartupError."""
    try:
        hosts = HostList(url)
        connection = await hosts.connect()
        try:
            if hosts.pooler.found:
                await connection.execute(begin(hosts.pooler.settings, NO_LIMITS))
                await connection.execute(NO_TIMEOUT.format(True))
            else:
                await connection.execute(SESSION)
                await connection.execute("BEGIN")
            yield connection
            await connection.execute("COMMIT")
        finally:  # what was not committed is rolled back, and the first error told
            connection.terminate()
    except (*ERRORS, ValueError, OverflowError, StartupError) as exc:
        raise _startup_error(url, exc) from exc


def _startup_error(url: str, exc: Exception) -> StartupError:
    """Return an error in one line, without the password of the URL."""
    line = str(exc).partition("\n")[0]
    if isinstance(exc, ValueError) and not isinstance(exc, ERRORS) and "@" in url:
        line = "it cannot be read: what is special in a password is percent-encoded"
    elif not isinstance(exc, (StartupError, ValueError)):
        remedies = (text for said, text in REMEDIES.items() if said in line)
        reason = next(remedies, AT_START.get(code_of(exc)) or reason_of(exc) or REFUSED)
        line = f"{reason} ({line})" if line else reason
    return StartupError(f"{without_password(url)}: {line}")


async def migrate(connection: Any) -> None:
    """Bring a database to the newest version. StartupError for one that is not ours."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise StartupError(f"its encoding is {encoding}, not UTF8")
    names = {row[0] for row in await connection.fetch(SELECT_RELATIONS)}
    version, newest = 0, len(POSTGRES_MIGRATIONS)
    if SCHEMA_TABLE in names:
        version = await connection.fetchval(f"SELECT version FROM {SCHEMA_TABLE}")  # noqa: S608 - a literal
    elif foreign := names & {*TABLES, START_TABLE}:
        raise StartupError(f"table {min(foreign)} is of another program")
    if version not in range(newest + 1):
        raise StartupError("made by a newer version of this server")
    if version < newest:
        for script in POSTGRES_MIGRATIONS[version:]:
            await connection.execute(script)
        if 0 < version < FOLDED_ANEW:
            await _fold_names(connection)
        await connection.execute(f"UPDATE {SCHEMA_TABLE} SET version = $1", newest)  # noqa: S608 - a literal


async def _fold_names(connection: Any) -> None:
    """Fold the names again that an older version folded in another way."""
    last = 0
    while rows := await connection.fetch(SELECT_OTHER_ALPHABETS, last):
        folded = [(number, fold_name(name), before) for number, name, before in rows]
        changed = [(number, now) for number, now, before in folded if now != before]
        await connection.executemany(UPDATE_FOLDED, changed)
        last = rows[-1][0]
