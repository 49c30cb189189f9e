"""Poolers between the server and PostgreSQL: how one is found, and connected to."""

import asyncio
import re
from typing import Any, NamedTuple

from storage.engine import StartupError
from storage.postgres_settings import split

try:
    import asyncpg as asyncpg
except ImportError as exc:
    raise StartupError(
        "PostgreSQL is reached over asyncpg: pip install asyncpg==0.32.0"
    ) from exc

BEGIN_ANYWHERE = "BEGIN; SET LOCAL default_transaction_read_only TO DEFAULT"
"""A pooler may give each transaction another session, as somebody left it."""
PROBE = """
SELECT pg_backend_pid(), NOT pg_is_in_recovery(),
    current_setting('default_transaction_read_only') = 'off', {}"""
# The first eight hexadecimal digits of a WAL file's name are its timeline: every
# promotion begins a higher one.
TIMELINE = """CASE WHEN pg_is_in_recovery() THEN '0'
ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"""
PROBES = (PROBE.format(TIMELINE), PROBE.format("'0'"))
"""The second is for an engine or a user that knows no timelines."""
WITHOUT_TIMELINE = (
    asyncpg.UndefinedFunctionError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.FeatureNotSupportedError,
)
WANDERED = {"26000", "42P05"}
"""A prepared statement is gone, or there already: this is the session of another."""
PARAMETER_REFUSED = "unsupported startup parameter"
"""What pgbouncer says to settings in the URL."""

FULL = re.compile("no more connections|connections exceeded|max client", re.IGNORECASE)
"""What pgbouncer and Supavisor say to one connection too many, under general codes."""


class HostState(NamedTuple):
    """What a host says it is."""

    pid: int
    """Of the process that serves a transaction; a pooler announces another one."""
    is_primary: bool
    is_writable: bool
    """Whether what begins with no other word may write, on a primary."""
    timeline: int
    """0 where it is not known, and of a standby."""

    @property
    def rank(self) -> tuple[int, bool]:
        """Return what makes one primary better than another."""
        return self.timeline, self.is_writable


async def probe(raw: Any) -> HostState:
    """Ask a host what it is, in a transaction. Errors of asyncpg."""
    for query in PROBES:
        await raw.execute(BEGIN_ANYWHERE)
        try:
            statement = await raw.prepare(query, name="")
            pid, is_primary, is_writable, timeline = await statement.fetchrow()
        except WITHOUT_TIMELINE:
            await raw.execute("ROLLBACK")
            if query is PROBES[-1]:
                raise
        else:
            await raw.execute("COMMIT")
            break
    return HostState(pid, is_primary, is_writable, int(timeline, 16))


class Pooler:
    """What is known of a pooler before the servers of a URL."""

    def __init__(self, url: str, found: bool = False) -> None:
        self.found = found
        """Whether there is one, so that no transaction relies on its session."""
        _, self.settings = split(url)
        """The settings of the URL, for each transaction."""

    async def connect(
        self, url: str, seconds: float, **options: Any
    ) -> tuple[Any, HostState]:
        """Return a connection to a host, and what that is. Errors of asyncpg.

        The first connection through a pooler is given up for one that prepares nothing.
        Each may take so many seconds, until it has said what it is.
        """
        if not self.found:
            try:
                raw, state = await _open(url, seconds, options)
            except asyncpg.PostgresError as exc:
                if not is_sign(exc):
                    raise
            else:
                if state.pid == raw.get_server_pid():
                    return raw, state
                await raw.close(timeout=seconds)
            self.found = True
        # What the driver itself would ask for, it asks outside a transaction.
        options |= {"statement_cache_size": 0, "target_session_attrs": "any"}
        return await _open(split(url)[0], seconds, options)


async def _open(
    url: str, seconds: float, options: dict[str, Any]
) -> tuple[Any, HostState]:
    """Return a connection, and what its host is. Errors of asyncpg."""
    async with asyncio.timeout(seconds):
        raw = await asyncpg.connect(url, **options)
        try:
            return raw, await probe(raw)
        except BaseException:
            raw.terminate()
            raise


def is_sign(exc: asyncpg.PostgresError) -> bool:
    """Return whether an error comes of a pooler that was taken for the server."""
    return exc.sqlstate in WANDERED or PARAMETER_REFUSED in str(exc)


def is_pooler_full(exc: asyncpg.PostgresError) -> bool:
    """Return whether a pooler lets in no more connections."""
    return FULL.search(str(exc)) is not None
