"""The PostgreSQL engine: lanes of a few connections each, over asyncpg."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from functools import cache
from math import ceil
from typing import Any, TypeVarTuple
from urllib.parse import urlsplit

import db
import schema
from db import Row, T, Unit

try:
    import asyncpg
except ImportError as exc:
    raise db.RefusedError(
        "PostgreSQL is reached over asyncpg: pip install asyncpg==0.32.0"
    ) from exc

Ts = TypeVarTuple("Ts")

WRITERS, READERS, SCANNERS = 8, 4, 2
"""How many connections each lane opens at the most."""

CONNECT_SECONDS = 2.0
"""How long one host may take to let a connection in."""
LOCK_SECONDS = 2.0
"""How long a statement waits for a row that another transaction holds."""
STATEMENT_SECONDS = 8.0
"""How long a statement may run until the server ends it."""
UNIT_SECONDS = 10.0
"""How long a unit may take with all its attempts; then its connection is given up."""
QUEUE_SECONDS = 1.0
"""The estimated wait past which a lane takes no more units."""
TURN_SECONDS = 5.0
"""How long a unit waits for its turn before it is dropped."""
ATTEMPTS = 5
"""How often a unit is run that collides with others or is cut off."""
RETRY_SECONDS = 0.01
SIZE_SECONDS = 10.0
"""How old the size that the metrics show may become."""
MIGRATION_SECONDS = 600.0

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
DISK_FULL = "53100"
READ_ONLY = "25006"
COLLISIONS = {"40001", "40P01"}
"""Serialization failure and deadlock: undone, and worth another attempt."""
CUT_OFF = {"08003", "08006", "57P01", "57P02"}
"""The server let the connection go: before a commit was sent, nothing was stored."""
UNRESOLVED = {"08007", "40003"}
LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)


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
    if code_of(exc) == DISK_FULL:
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
            except (*LOST, asyncpg.PostgresError) as exc:
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
        with suppress(*LOST, asyncpg.PostgresError):
            await self.connection.close(timeout=CONNECT_SECONDS)

    async def recover(self, exc: Exception) -> bool:
        """End the transaction after an error; return whether the session is sound."""
        if leaves_open(exc) or code_of(exc) == READ_ONLY:
            return False
        try:
            if self.connection.is_in_transaction():
                await self.connection.execute("ROLLBACK")
        except (*LOST, asyncpg.PostgresError):
            return False
        return not self.connection.is_closed()


# Lanes


class Lane:
    """Connections that take units of work in turn."""

    def __init__(self, hosts: Hosts, size: int, writing: bool = False) -> None:
        self.hosts = hosts
        self.size = size
        self.writing = writing
        self.idle: list[Session] = []
        self.waiting = 0
        self.units = 0
        self.unit_seconds = 0.0
        self._free = asyncio.Semaphore(size)
        self._tasks: set[asyncio.Task[Any]] = set()

    def submit(
        self, question: Callable[[*Ts], Unit[T]], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a unit in its turn, also when its caller goes away meanwhile.

        OverloadedError when it would wait too long.
        """
        if self.waiting:
            wait = self.unit_seconds * (1 + self.waiting) / self.size
            if wait > QUEUE_SECONDS:
                raise db.OverloadedError("too many requests are waiting", ceil(wait))
        self.waiting += 1
        task = asyncio.create_task(self._take_turn(question, *args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)

    async def _take_turn(self, question: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._free.acquire()
        except TimeoutError as exc:
            raise db.UnavailableError("it waited too long for its turn") from exc
        finally:
            self.waiting -= 1
        try:
            async with asyncio.timeout(UNIT_SECONDS):
                return await self._run_again(question, *args)
        except Exception as exc:
            if meaning := translated(exc):
                raise meaning from exc
            raise
        finally:
            self._free.release()

    async def _run_again(self, question: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a unit, again where that can help."""
        for attempt in range(1, ATTEMPTS):
            try:
                return await self._run(question, *args)
            except asyncpg.PostgresError as exc:
                if code_of(exc) not in COLLISIONS | CUT_OFF:
                    raise
            await asyncio.sleep(RETRY_SECONDS * attempt)
        return await self._run(question, *args)

    async def _run(self, question: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        time = asyncio.get_running_loop().time
        session, sound, began = None, False, time()
        try:
            session = await self._session()
            began = time()  # a new connection is no part of what units take
            result = await session.run(question, *args)
            sound = True
        except Exception as exc:
            sound = session is not None and await session.recover(exc)
            raise
        finally:  # a time limit comes as a cancellation, and leaves it unsound
            self.unit_seconds += (time() - began - self.unit_seconds) / 8
            if session is not None:
                self._put_back(session, sound)
        self.units += 1
        return result

    async def _session(self) -> Session:
        """Return a session that nobody uses, or a new one. Errors of asyncpg."""
        while self.idle:
            session = self.idle.pop()
            if session.era == self.hosts.era and not session.connection.is_closed():
                return session
            session.connection.terminate()
        era = self.hosts.era
        session = Session(await self.hosts.connect(), era, self.writing)
        try:
            await session.set_up()
        except BaseException:
            session.connection.terminate()
            raise
        return session

    def _put_back(self, session: Session, sound: bool) -> None:
        """Keep a session, or close it and let no lane use those of its age.

        What one connection found out, a host that is gone or became a standby, the
        others need not find out one by one.
        """
        if sound:
            self.idle.append(session)
            return
        session.connection.terminate()
        if session.era == self.hosts.era:
            self.hosts.era += 1

    async def close(self) -> None:
        """Finish the units that were accepted, then close the connections."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(session.close() for session in self.idle))
        self.idle.clear()


# The engine


class Engine:
    """A PostgreSQL database: units of work on lanes of connections."""

    def __init__(self, url: str) -> None:
        self.hosts = Hosts(url)
        self.writer = Lane(self.hosts, WRITERS, writing=True)
        self.reader = Lane(self.hosts, READERS)
        # long lists do not hold up short reads
        self.scanner = Lane(self.hosts, SCANNERS)
        self.read = self.reader.submit
        self.scan = self.scanner.submit
        self.write = self.writer.submit
        self.name = "PostgreSQL"
        self._size = 0
        self._size_due = 0.0

    def measures(self) -> db.Measures:
        """Return what the metrics show; the size as it was a few seconds ago."""
        time = asyncio.get_running_loop().time()
        if self._size_due < time and not self.scanner.waiting:
            self._size_due = time + SIZE_SECONDS
            self.scan(_read_size).add_done_callback(self._keep_size)
        lanes = {"write": self.writer, "read": self.reader, "scan": self.scanner}
        waiting = {name: lane.waiting for name, lane in lanes.items()}
        return db.Measures(self.writer.units, self.writer.units, waiting, self._size)

    def _keep_size(self, size: asyncio.Future[int]) -> None:
        if not size.cancelled() and size.exception() is None:
            self._size = size.result()

    async def check(self) -> None:
        """Try to read and to begin writing. UnavailableError says what is wrong."""
        await self.write(db.read_anything)
        version = await self.read(_read_version)
        self.name = f"PostgreSQL {version}"

    async def close(self) -> None:
        """Close the lanes."""
        lanes = (self.scanner, self.reader, self.writer)
        await asyncio.gather(*(lane.close() for lane in lanes))


def _read_size() -> Unit[int]:
    """Return the bytes of the database."""
    rows = yield "SELECT pg_database_size(current_database())", ()
    size: int = rows[0][0]
    return size


def _read_version() -> Unit[str]:
    """Return the version of the server as `17.10`."""
    rows = yield "SHOW server_version", ()
    version: str = rows[0][0].partition(" ")[0]
    return version


async def connect(url: str) -> Engine:
    """Open a database that `make` has made or found well; it may be away just now."""
    engine = Engine(url)
    with suppress(db.UnavailableError):
        await engine.check()
    return engine


# Making and migrating

LOCK_KEY = schema.APPLICATION_ID
"""The advisory lock under which one process at a time looks and migrates."""
SCHEMA_TABLE = "customer_purchase_schema"
TABLES = ("customer", "purchases", "idempotency")
SELECT_RELATIONS = """
SELECT relname FROM pg_class WHERE relnamespace = CAST(current_schema() AS regnamespace)
"""


async def make(url: str) -> None:
    """Create the tables, or bring those that are there up to date. RefusedError."""
    async with transaction(url) as connection, asyncio.timeout(MIGRATION_SECONDS):
        await migrate(connection)


@asynccontextmanager
async def transaction(url: str) -> AsyncIterator[Any]:
    """Give a connection whose transaction is committed in the end. RefusedError."""
    try:
        connection = await Hosts(url).connect()
        try:
            await connection.execute(f"{DURABLE} SET statement_timeout = 0")
            async with connection.transaction():
                yield connection
        finally:
            connection.terminate()
    except (*LOST, ValueError, asyncpg.PostgresError, db.RefusedError) as exc:
        raise _refused(url, exc) from exc


def _refused(url: str, exc: Exception) -> db.RefusedError:
    """Return an error in one line, without the password of the URL."""
    line = str(exc).partition("\n")[0]
    if isinstance(exc, ValueError) and "@" in url:
        line = "it cannot be read: what is special in a password is percent-encoded"
    elif not isinstance(exc, (db.RefusedError, ValueError)):
        line = f"{reason_of(exc) or 'it is refused'} ({line})"
    return db.RefusedError(f"{db.without_password(url)}: {line}")


async def migrate(connection: Any) -> None:
    """Bring a database to the newest version. RefusedError for one that is not ours."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise db.RefusedError(f"its encoding is {encoding}, not UTF8")
    names = {row[0] for row in await connection.fetch(SELECT_RELATIONS)}
    version, newest = 0, len(schema.POSTGRES_MIGRATIONS)
    if SCHEMA_TABLE in names:
        version = await connection.fetchval(f"SELECT version FROM {SCHEMA_TABLE}")  # noqa: S608 - a literal
    elif foreign := names & {*TABLES}:
        raise db.RefusedError(f"table {min(foreign)} is of another program")
    if version not in range(newest + 1):
        raise db.RefusedError("made by a newer version of this server")
    if version < newest:
        for script in schema.POSTGRES_MIGRATIONS[version:]:
            await connection.execute(script)
        await connection.execute(f"UPDATE {SCHEMA_TABLE} SET version = $1", newest)  # noqa: S608 - a literal
