"""Connections to PostgreSQL that run units of work, over asyncpg."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

from storage.engine import (
    SINGLE_QUERIES,
    UNKNOWN_OUTCOME,
    DiskFullError,
    RecentStatement,
    T,
    Ts,
    UnavailableError,
    Unit,
)
from storage.postgres_hosts import (
    CONNECT_SECONDS,
    ERRORS,
    LOST,
    StalePrimaryError,
    asyncpg,
)
from storage.postgres_pooler import WANDERED, is_pooler_full
from storage.postgres_settings import (
    DURABLE_SESSION,
    LIMITS,
    READ_COMMITTED,
    STATEMENT_SECONDS,
    TEXT,
    Settings,
    begin,
    session,
)

RECENT_SECONDS = 0.1
"""How old the rows of a RecentStatement may be."""

SESSION = DURABLE_SESSION + session({**TEXT, **READ_COMMITTED, **LIMITS})
READ_SESSION = f"{SESSION} SET default_transaction_read_only = on;"
SNAPSHOT = "REPEATABLE READ"
BEGIN_SNAPSHOT = f"BEGIN ISOLATION LEVEL {SNAPSHOT} READ ONLY"


def time_text(text: str) -> str:
    """Return a time that PostgreSQL wrote as this server does: six digits, +00:00."""
    time, _, fraction = text.removesuffix("+00").partition(".")
    return f"{time}.{fraction:0<6}+00:00"


# postgresql.org/docs/current/errcodes-appendix.html: whole codes, and classes
ERROR_MESSAGES = {
    "0A": "the database cannot do this",
    "08": "the connection to the database was lost",
    "25006": "the database is read-only",
    "25P": "a transaction stood idle for too long",
    "26000": "its sessions change between statements",
    "28": "the database refuses its user or password",
    "3D": "there is no such database",
    "40": "too many writes collided",
    "42501": "the database user may not do this",
    "42P01": "a table is missing",
    "42P05": "its sessions change between statements",
    "53": "the database has not enough of its resources left",
    "55P03": "the row is locked by another transaction",
    "57": "the database is starting or stopping",
    "57014": f"it took longer than {STATEMENT_SECONDS:.0f} seconds",
    "58": "the disk of the database failed",
    "58000": "the system of the database failed",
    "XX001": "the database is damaged",
    "XX002": "the database is damaged",
}
FULL = {"53100", "2200H"}
"""The disk is full, or the last id was given."""
READ_ONLY = "25006"
NOT_PERMITTED = "42501"
COLLISIONS = {"40001", "40P01", "23503", *WANDERED}
"""Serialization failure, deadlock, a customer who is erased while purchases are added,
another's session: undone, worth another try."""
CUT_OFF = {"08003", "08006", "08P01", "57P01", "57P02"}
"""The server or a pooler (08P01) closed the connection: before a commit was sent,
nothing was stored."""
TOO_MANY_CONNECTIONS = "53300"
ENDED = {"FATAL", "PANIC"}
"""The severities of an error that ends the connection, or lets none begin."""
UNRESOLVED = {"08007", "40003"}
"""The server does not know whether the transaction was committed."""


class UncertainError(UnavailableError):
    """The outcome of a commit is unknown."""


def code_of(exc: BaseException) -> str:
    """Return the SQLSTATE of an error that the server reported, "" of any other."""
    return exc.sqlstate or "" if isinstance(exc, asyncpg.PostgresError) else ""


def reason_of(exc: Exception) -> str | None:
    """Return why the database cannot do it now; None for an error of another kind."""
    if code := code_of(exc):
        found = [ERROR_MESSAGES.get(code[:length]) for length in (5, 3, 2)]
        if {getattr(exc, "severity", ""), getattr(exc, "severity_en", "")} & ENDED:
            found.append(ERROR_MESSAGES["08"])
        return next(filter(None, found), None)
    match exc:
        case TimeoutError():
            return "the database did not answer in time"
        case asyncpg.TargetServerAttributeNotMatched():
            return "no server of the database takes this work now"
        case StalePrimaryError():
            return str(exc)
        case OSError():
            return "the database cannot be reached"
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return ERROR_MESSAGES["08"]
    return None


def translate(exc: Exception) -> Exception | None:
    """Return the error that the caller sees for one of the driver; None for others."""
    if code_of(exc) in FULL:
        return DiskFullError("the disk is full")
    reason = reason_of(exc)
    return UnavailableError(reason) if reason else None


def is_full(exc: BaseException) -> bool:
    """Return whether the server, or a pooler, lets in no more connections."""
    full = is_pooler_full(exc) if isinstance(exc, asyncpg.PostgresError) else False
    return full or code_of(exc) == TOO_MANY_CONNECTIONS


def is_collision(exc: Exception) -> bool:
    """Return whether a unit was undone and is worth another attempt."""
    # "cached plan must not change result type": asyncpg has forgotten the plan.
    changed = isinstance(exc, asyncpg.InvalidCachedStatementError)
    return changed or code_of(exc) in COLLISIONS


def is_uncertain(exc: BaseException) -> bool:
    """Return whether the statement may have been carried out in spite of an error.

    The connection is then of no more use. An ERROR of the server undoes the statement.
    """
    if code := code_of(exc):
        return code in UNRESOLVED or getattr(exc, "severity_en", None) != "ERROR"
    return isinstance(exc, (*LOST, asyncio.CancelledError, UncertainError))


class PostgresConnection:
    """A connection that runs units of work, for a pool."""

    def __init__(
        self, raw: Any, generation: int, writing: bool, reporting: bool = False
    ) -> None:
        self.raw = raw
        """The connection of asyncpg."""
        self.generation = generation
        self.writing = writing
        self.reporting = reporting
        self.idle_since = 0.0
        """Since when it is not used, by the loop's clock."""
        self.standby_missed = False
        """Whether a commit no longer waited for its standby."""
        self.recent: dict[RecentStatement, tuple[float, Any]] = {}
        """Rows of statements, and when they were asked for."""
        raw.add_log_listener(self._hear)

    def _hear(self, raw: Any, message: Any) -> None:
        # The text of the warning is translated, the name of its source is not.
        self.standby_missed |= message.server_source_function == "SyncRepWaitForLSN"

    async def set_up(self) -> None:
        """Set limits, and have times come and go as text."""
        await self.raw.execute(SESSION if self.writing else READ_SESSION)
        await self._take_times_as_text()

    async def _take_times_as_text(self) -> None:
        # The driver knows this type: it asks the server for nothing.
        await self.raw.set_type_codec(
            "timestamptz", schema="pg_catalog", encoder=str, decoder=time_text
        )

    async def run(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a unit and commit it. UncertainError, errors of asyncpg."""
        unit = query(*args)
        if self.reporting:
            return await self._run_between(BEGIN_SNAPSHOT, unit)
        if not self.writing:  # each statement sees what is committed
            return await self._run_unit(unit)
        if query in SINGLE_QUERIES:  # a statement is a transaction
            async with self._committing():
                return await self._run_unit(unit)
        return await self._run_between("BEGIN", unit)

    async def _run_between(self, begin: str, unit: Unit[T]) -> T:
        """Run a unit as one transaction. UncertainError, errors of asyncpg."""
        await self._begin(begin)
        result = await self._run_unit(unit)
        async with self._committing() if self.writing else nullcontext():
            await self.raw.execute("COMMIT")
        return result

    async def _begin(self, begin: str) -> None:
        await self.raw.execute(begin)

    async def _run_unit(self, unit: Unit[T]) -> T:
        """Run one unit of work: send it the rows of each statement it yields."""
        fetch = self.raw.fetch
        try:
            statement, parameters = next(unit)
            while True:
                if not statement.postgres:
                    rows = []
                elif isinstance(statement, RecentStatement):
                    rows = await self._fetch_recent(statement)
                else:
                    rows = await fetch(statement.postgres, *parameters)
                statement, parameters = unit.send([tuple(row) for row in rows])
        except StopIteration as done:
            result: T = done.value
            return result

    async def _fetch_recent(self, statement: RecentStatement) -> Any:
        """Return the rows of a statement, perhaps those of RECENT_SECONDS ago."""
        time = asyncio.get_running_loop().time()
        since, rows = self.recent.get(statement, (0.0, ()))
        if time - since > RECENT_SECONDS:
            rows = await self.raw.fetch(statement.postgres)
            self.recent[statement] = time, rows
        return rows

    @asynccontextmanager
    async def _committing(self) -> AsyncIterator[None]:
        """Raise UncertainError if the outcome of the commit is unknown."""
        self.standby_missed = False
        unknown = UncertainError(UNKNOWN_OUTCOME)
        try:
            yield
        except (Exception, asyncio.CancelledError) as exc:
            if is_uncertain(exc):
                raise unknown from exc
            raise
        if self.standby_missed:
            raise unknown

    async def close(self) -> None:
        """Close the connection; cut it where the server does not answer."""
        with suppress(*ERRORS):
            await self.raw.close(timeout=CONNECT_SECONDS)

    async def recover(self, exc: Exception) -> bool:
        """End the transaction after an error; return whether that worked."""
        if is_uncertain(exc) or code_of(exc) in {READ_ONLY, *WANDERED}:
            return False
        try:
            if self.raw.is_in_transaction():
                await self.raw.execute("ROLLBACK")
        except ERRORS:
            return False
        closed: bool = self.raw.is_closed()
        return not closed


class PooledConnection(PostgresConnection):
    """A connection to a pooler, whose every transaction may be in another session."""

    def __init__(
        self,
        settings: Settings,
        raw: Any,
        generation: int,
        writing: bool,
        reporting: bool,
    ) -> None:
        super().__init__(raw, generation, writing, reporting)
        isolation = SNAPSHOT if reporting else "READ COMMITTED"
        self.begin = begin(settings, LIMITS, writing, isolation)

    async def set_up(self) -> None:
        """Have times come and go as text."""
        await self._take_times_as_text()

    async def run(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a unit as one transaction. UncertainError, errors of asyncpg."""
        return await self._run_between(self.begin, query(*args))

    async def _begin(self, begin: str) -> None:
        try:
            await super()._begin(begin)
        except asyncpg.FeatureNotSupportedError as exc:
            if self.writing:  # so says a standby
                raise asyncpg.ReadOnlySQLTransactionError(str(exc)) from exc
            raise
