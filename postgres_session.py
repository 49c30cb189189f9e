"""A connection to PostgreSQL that runs units of work, over asyncpg."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any, TypeVarTuple
from urllib.parse import urlsplit

import db
from db import Row, T, Unit

try:
    import asyncpg
except ImportError as exc:
    raise db.RefusedError(
        "PostgreSQL is reached over asyncpg: pip install asyncpg==0.32.0"
    ) from exc

Ts = TypeVarTuple("Ts")

CONNECT_SECONDS = 2.0
"""How long one host may take to let a connection in."""
LOCK_SECONDS = 2.0
"""How long a statement waits for a row that another transaction holds."""
STATEMENT_SECONDS = 8.0
"""How long a statement may run until the server ends it."""
UNIT_SECONDS = 10.0
"""How long a unit may take with all its attempts; then its connection is given up."""

DURABLE = """
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') = 'off';
"""
"""A commit is on the disk, or on as many disks as the server was told to wait for."""
SESSION = f"""{DURABLE}
SET client_min_messages = 'warning';
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET default_transaction_isolation = 'read committed';
SET statement_timeout = '{STATEMENT_SECONDS}s';
SET lock_timeout = '{LOCK_SECONDS}s';
SET idle_in_transaction_session_timeout = '{UNIT_SECONDS}s';
"""
READING_SESSION = f"{SESSION} SET default_transaction_read_only = on;"

# Statements

OBJECTS = re.compile(r"json_group_array\(json_object\(.*?\)\)", re.DOTALL)
ROWS = "'[' || coalesce(string_agg(row_to_json(page)::text, ','), '') || ']'"
TIME = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US"+00:00"')"""

DIFFERENCES = {
    # A customer who is just being erased is waited for, and then not found.
    db.INSERT_PURCHASE: db.INSERT_PURCHASE.replace(
        "RETURNING", "FOR KEY SHARE RETURNING"
    ),
    **{
        sql: OBJECTS.sub(ROWS, sql)
        .replace("instr(", "strpos(")
        .replace("date_created AS", f"{TIME.format('date_created')} AS")
        .replace("last_updated AS", f"{TIME.format('last_updated')} AS")
        .replace("AS customer\n", "AS customer_id\n")
        for sql in (
            db.SELECT_CUSTOMERS,
            db.SELECT_PURCHASES,
            db.SELECT_CUSTOMER_PURCHASES,
        )
    },
    db.DELETE_PURCHASES: db.DELETE_PURCHASES.replace(
        "SELECT value FROM json_each(?)",
        "SELECT CAST(value AS bigint) FROM json_array_elements_text(?)",
    ),
}
"""The statements that PostgreSQL has in other words, by those of `db`."""
HOLDING = {
    sql: f"{sql} FOR UPDATE"
    for sql in (db.SELECT_CUSTOMER_VERSION, db.SELECT_PURCHASE_VERSION)
}
"""And those that keep a row as they found it until the unit that writes has ended.

SQLite needs no such thing: it has one writer at a time.
"""
SINGLE: tuple[Callable[..., Any], ...] = (db.add_customer, db.add_purchase)
"""Questions of one statement, which is a transaction without BEGIN and COMMIT."""


@cache
def dialect(sql: str, writing: bool) -> str:
    """Return a statement of `db` as PostgreSQL has it: `$1` for the first `?`."""
    sql = DIFFERENCES.get(sql, sql)
    if writing:
        sql = HOLDING.get(sql, sql)
    first, *rest = sql.split("?")
    return first + "".join(f"${number}{text}" for number, text in enumerate(rest, 1))


def time_text(text: str) -> str:
    """Return a time that PostgreSQL printed as `db.now` writes it."""
    time, _, fraction = text.removesuffix("+00").partition(".")
    return f"{time}.{fraction:0<6}+00:00"


# Errors

# postgresql.org/docs/current/errcodes-appendix.html: whole codes, and classes
TROUBLES = {
    "08": "the connection to the database was lost",
    "25006": "the database is read-only",
    "25P": "a transaction stood idle for too long",
    "28": "the database refuses its user or password",
    "3D": "there is no such database",
    "40": "too many writes collided",
    "42501": "the database user may not do this",
    "42P01": "a table is missing",
    "53": "the database has not enough of its resources left",
    "55P03": "the row is locked by another transaction",
    "57": "the database is starting or stopping",
    "57014": f"it took longer than {STATEMENT_SECONDS:.0f} seconds",
    "58": "the disk of the database failed",
    "XX001": "the database is damaged",
    "XX002": "the database is damaged",
}
FULL = {"53100", "2200H"}
"""The disk is, or the ids are."""
READ_ONLY = "25006"
COLLISIONS = {"40001", "40P01"}
"""Serialization failure and deadlock: undone, and worth another attempt."""
CUT_OFF = {"08003", "08006", "57P01", "57P02"}
"""The server let the connection go: before a commit was sent, nothing was stored."""
CROWDED = "53300"
"""The server lets no more connections in."""
UNRESOLVED = {"08007", "40003"}
LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
ERRORS = (*LOST, asyncpg.PostgresError)
"""All that the driver raises."""


class UncertainError(db.UnavailableError):
    """Nobody can say whether a commit was made."""


def code_of(exc: BaseException) -> str:
    """Return the SQLSTATE of an error that the server reported, "" of any other."""
    return exc.sqlstate or "" if isinstance(exc, asyncpg.PostgresError) else ""


def reason_of(exc: Exception) -> str | None:
    """Return why the database cannot do it now, None when that is not the matter."""
    if code := code_of(exc):
        found = (TROUBLES.get(code[:length]) for length in (5, 3, 2))
        return next(filter(None, found), None)
    match exc:
        case TimeoutError():
            return "the database did not answer in time"
        case asyncpg.TargetServerAttributeNotMatched():
            return "no server of the database takes this work now"
        case OSError():
            return "the database cannot be reached"
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return TROUBLES["08"]
    return None


def translated(exc: Exception) -> Exception | None:
    """Return what an error of the driver means to the caller; None for any other."""
    if code_of(exc) in FULL:
        return db.DiskFullError("the disk is full")
    reason = reason_of(exc)
    return db.UnavailableError(reason) if reason else None


def leaves_open(exc: BaseException) -> bool:
    """Return whether an error may have come after the statement was carried out.

    The connection is then of no more use. An ERROR of the server undoes the statement.
    """
    if code := code_of(exc):
        return code in UNRESOLVED or getattr(exc, "severity_en", None) != "ERROR"
    return isinstance(exc, (*LOST, asyncio.CancelledError, UncertainError))


# Connections


class Hosts:
    """The servers that a URL names, the one that let us in last first.

    asyncpg takes several hosts too, but has one time limit for all of them: a machine
    that has vanished would keep it from the next.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
        self.urls = [
            parts._replace(netloc=f"{user}{at}{host}").geturl()
            for host in hosts.split(",")
        ]
        # A standby lets us in too, and lags behind; the URL may ask for one.
        asks = "target_session_attrs=" in parts.query
        self.wanted = None if asks else "read-write"
        self.era = 0
        """Counts the times when all connections were found to be of no more use."""

    async def connect(self) -> Any:
        """Return a connection to the first host that serves. Errors of asyncpg."""
        trouble: Exception = OSError()
        for url in tuple(self.urls):
            try:
                connection = await asyncpg.connect(
                    url,
                    timeout=CONNECT_SECONDS,
                    max_cached_statement_lifetime=0,
                    server_settings={"application_name": "customer-purchase-server"},
                    target_session_attrs=self.wanted,
                )
            except ERRORS as exc:
                trouble = exc
            else:
                self.urls.remove(url)
                self.urls.insert(0, url)
                return connection
        raise trouble


class Session:
    """A connection, set up for a lane."""

    def __init__(self, connection: Any, era: int, writing: bool) -> None:
        self.connection = connection
        self.era = era
        self.writing = writing
        self.gave_up = False
        """Whether a commit no longer waited for its standby."""
        connection.add_log_listener(self._hear)

    def _hear(self, connection: Any, message: Any) -> None:
        # The text of the warning is translated, where it comes from is not.
        self.gave_up |= message.server_source_function == "SyncRepWaitForLSN"

    async def set_up(self) -> None:
        """Set limits, and have times come and go as text."""
        await self.connection.execute(SESSION if self.writing else READING_SESSION)
        await self.connection.set_type_codec(
            "timestamptz", schema="pg_catalog", encoder=str, decoder=time_text
        )

    async def run(self, question: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a unit; what it wrote is committed. UncertainError, errors of asyncpg."""
        unit = question(*args)
        if not self.writing:  # each statement sees what is committed
            return await self.drive(unit)
        if question in SINGLE:
            async with self.committing():
                return await self.drive(unit)
        await self.connection.execute("BEGIN")
        result = await self.drive(unit)
        async with self.committing():
            await self.connection.execute("COMMIT")
        return result

    async def drive(self, unit: Generator[tuple[str, Row], list[Row], T]) -> T:
        """Run one unit of work: send it the rows of each statement it yields."""
        fetch, writing = self.connection.fetch, self.writing
        try:
            sql, parameters = next(unit)
            while True:
                rows = await fetch(dialect(sql, writing), *parameters)
                sql, parameters = unit.send([tuple(row) for row in rows])
        except StopIteration as done:
            result: T = done.value
            return result

    @asynccontextmanager
    async def committing(self) -> AsyncIterator[None]:
        """Take no commit for made that may not be. UncertainError."""
        self.gave_up = False
        unknown = UncertainError(db.UNKNOWN)
        try:
            yield
        except (Exception, asyncio.CancelledError) as exc:
            if leaves_open(exc):
                raise unknown from exc
            raise
        if self.gave_up:
            raise unknown

    async def close(self) -> None:
        """Take leave of the server, without it where it does not answer."""
        with suppress(*ERRORS):
            await self.connection.close(timeout=CONNECT_SECONDS)

    async def recover(self, exc: Exception) -> bool:
        """End the transaction after an error; return whether the session is sound."""
        if leaves_open(exc) or code_of(exc) == READ_ONLY:
            return False
        try:
            if self.connection.is_in_transaction():
                await self.connection.execute("ROLLBACK")
        except ERRORS:
            return False
        return not self.connection.is_closed()
