"""What all engines share: statements, units of work, errors, the Engine protocol."""

import re
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, TypeVarTuple

QUEUE_SECONDS = 1.0
"""The estimated wait past which a queue accepts no more units."""
TURN_SECONDS = 5.0
"""How long a unit waits for its turn before it is dropped."""

CACHE_MIB = 16
"""The pages of SQLite that a connection keeps, unless it is told otherwise."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Row = tuple[Any, ...]


class Statement:
    """SQL with `?` for each parameter, its variants for the engines side by side.

    Where one engine has nothing to do, its variant is empty and has no rows. An INSERT
    for SQLite without RETURNING returns the id of its last row all the same; SQLite
    runs that sooner, since RETURNING makes a table of what it returns.
    """

    __slots__ = ("inserts", "postgres", "sqlite")

    def __init__(self, sql: str = "", *, sqlite: str = "", postgres: str = "") -> None:
        self.sqlite = sqlite or sql
        self.inserts = "INSERT" in self.sqlite and "RETURNING" not in self.sqlite
        first, *rest = (postgres or sql).split("?")
        numbered = (f"${number}{text}" for number, text in enumerate(rest, 1))
        self.postgres = first + "".join(numbered)


class RecordedInsert(Statement):
    """An INSERT of one row and of its row of the history.

    Returns the ids of both, or no row where that which it refers to is not there. The
    last two parameters are of the history: the time and the caller. SQLite inserts
    several rows with one statement, and records those of one caller with another,
    `record`, whose parameters are the two and the first and the last id. On PostgreSQL
    a function does both; `several` calls it for each of some rows of parameters, a JSON
    array, and returns the place of each row from 1 on, and its ids.
    """

    __slots__ = ("record", "several")

    def __init__(
        self, *, sqlite: str, record: str, postgres: str, several: str
    ) -> None:
        super().__init__(sqlite=sqlite, postgres=postgres)
        self.record = record
        self.several = Statement(postgres=several)


class HorizonStatement(Statement):
    """A SELECT of how far the ids of some tables are settled, and the last ones drawn.

    It has no parameters, and a row of two columns for each table. Only a primary of
    PostgreSQL can tell.
    """

    __slots__ = ("tables",)

    def __init__(self, *tables: str, sqlite: str = "", postgres: str) -> None:
        super().__init__(sqlite=sqlite, postgres=postgres)
        self.tables = tables


class RecentStatement(HorizonStatement):
    """One whose rows may be a moment old."""

    __slots__ = ()


SLEEP = Statement(postgres="SELECT pg_sleep(?)")
"""Waits some seconds for the writers that are under way."""


Unit = Generator[tuple[Statement, Row], list[Row], T]
"""A unit of work: yields statements with their parameters, is sent the rows of each."""

Query = TypeVar("Query", bound=Callable[..., Unit[Any]])
SINGLE_QUERIES: set[Callable[..., Any]] = set()
"""The queries that are marked with `single`."""


def single(query: Query) -> Query:
    """Mark a query whose units consist of one statement, a RecordedInsert."""
    # Such units are inserted together on SQLite, and need no BEGIN on PostgreSQL.
    SINGLE_QUERIES.add(query)
    return query


class KeyLookup(Statement):
    """A SELECT of what is stored under a key, its first parameter.

    `keys` is the start of a SELECT for SQLite of those keys that have a row among some,
    which are to follow in parentheses.
    """

    __slots__ = ("keys",)

    def __init__(self, *, sqlite: str, postgres: str, keys: str) -> None:
        super().__init__(sqlite=sqlite, postgres=postgres)
        self.keys = keys


GUARDED_QUERIES: set[Callable[..., Any]] = set()
"""The queries that are marked with `guarded`."""


def guarded(query: Query) -> Query:
    """Mark a query that does once what another does, under a key.

    Its units begin with a KeyLookup. Where that finds nothing they go on with the other
    query, and end with an INSERT, which stores the key.
    """
    # Where the other is marked with `single`, they are inserted together on SQLite.
    GUARDED_QUERIES.add(query)
    return query


SELECT_ANYTHING = Statement("SELECT id FROM customer LIMIT 1")


def read_anything() -> Unit[None]:
    """Read something of the database, to see whether that works."""
    yield SELECT_ANYTHING, ()


def read_row(statement: Statement) -> Unit[Row]:
    """Return the only row of a statement without parameters."""
    [row] = yield statement, ()
    return row


class StartupError(Exception):
    """The server may not start so; one line says why."""


class UnavailableError(Exception):
    """The database cannot do it now; the text says why, for an operator."""


UNKNOWN_OUTCOME = "it is not known whether this was stored"
"""Why a write is answered as if it had failed, where it may have been committed."""


class OverloadedError(UnavailableError):
    """Too many units wait; the second argument is the seconds until a retry."""


class DiskFullError(Exception):
    """There is no space for the write, and it was undone."""


def check_wait(seconds: float) -> None:
    """Raise OverloadedError for a unit that would wait longer than QUEUE_SECONDS."""
    if seconds > QUEUE_SECONDS:
        raise OverloadedError("too many requests are waiting", ceil(seconds))


class Reading:
    """What the reads of one request must show, and how old that was what they found."""

    __slots__ = ("age", "change", "primary_read")

    def __init__(self) -> None:
        self.change: int | None = None
        """A change that must be there."""
        self.age: float | None = None
        """Seconds since the primary answered last; None where it was asked."""
        self.primary_read = 0.0
        """When one of the reads was from the primary, by the loop's clock."""


READING: ContextVar[Reading | None] = ContextVar("reading", default=None)
"""That of the request under way; without it nothing is read from a replica."""


class EngineStats(NamedTuple):
    """Units written, commits, units waiting by queue, bytes of the database.

    And when it was backed up last, seconds since 1970; None where that is not known.
    """

    units: int
    commits: int
    waiting: dict[str, int]
    size: int
    last_backup: float | None = None


class Engine(Protocol):
    """Runs queries as units of work on one database."""

    name: str

    def read(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> Awaitable[T]:
        """Run a query that changes nothing and is soon done."""

    def scan(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> Awaitable[T]:
        """Run a query that changes nothing and may take long."""

    def report(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> Awaitable[T]:
        """Run a query that looks at any number of rows, all of them as of one moment.

        It ends with its caller: to cancel the awaitable stops the query.
        """

    def write(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> Awaitable[T]:
        """Run a query; once it returns, its changes are on disk."""

    def write_alone(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> Awaitable[T]:
        """Run a query that writes much, and is not to be run again for others."""

    def stats(self) -> EngineStats:
        """Return the figures for the metrics."""

    async def check(self) -> None:
        """Try the database. UnavailableError."""

    async def close(self) -> None:
        """Finish the units that were accepted and close the database."""


def is_postgres(url: str) -> bool:
    """Return whether a URL names a PostgreSQL database."""
    return url.startswith(("postgresql://", "postgres://"))


def sqlite_path(url: str) -> Path:
    """Return the file that `sqlite:///NAME` names. StartupError."""
    name = url.removeprefix("sqlite:///")
    if name == url or not name or name == ":memory:":
        right = "postgresql://USER@HOST/NAME" if "postgres" in url else "sqlite:///NAME"
        raise StartupError(f"{without_password(url)} names no database: {right} does")
    return Path(name)


HOSTS = re.compile(
    r"(\w+://)(?:.*@)?((?:[\w.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    r"(?:,(?:[\w.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)*)(/[\w.-]*)?(?:\?.*)?",
    re.DOTALL,
)


def without_password(url: str) -> str:
    """Return a database URL as a log may show it: scheme, hosts and database alone."""
    # Whatever is not as it should be may be a part of a password.
    if url.startswith("sqlite:///"):
        return url
    if found := HOSTS.fullmatch(url):
        return f"{found[1]}{found[2]}{found[3] or ''}"
    scheme = re.match(r"[a-z][a-z0-9+]{0,20}:", url)
    return f"{scheme[0] if scheme else ''}…"
