"""Another client of the pooler, which leaves its sessions as it should not."""

import asyncio
from contextlib import suppress

import asyncpg

PAUSE_SECONDS = 0.01
ROLE = "careless"
LEFT = (
    "SET default_transaction_read_only = on",
    "SET default_transaction_isolation = 'serializable'",
    "SET search_path = nowhere",
    "SET timezone = 'Asia/Tokyo'",
    "SET datestyle = 'SQL, DMY'",
    "SET synchronous_commit = off",
    "SET standard_conforming_strings = off",
    f"SET role = {ROLE}",
    # what the driver of another server would prepare
    *(f"PREPARE __asyncpg_stmt_{number:x}__ AS SELECT 1" for number in range(1, 40)),
    "DISCARD ALL",
)


async def leave_sessions(url: str, stop: asyncio.Event) -> int:
    """Leave one thing after the other in whichever session comes; return how many.

    A pooler that goes away is waited for.
    """
    left = 0
    while not stop.is_set():
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            raw = await asyncpg.connect(url, timeout=2.0, statement_cache_size=0)
            try:
                while not stop.is_set():
                    left += await _leave(raw, LEFT[left % len(LEFT)])
            finally:
                raw.terminate()
        await asyncio.sleep(PAUSE_SECONDS)
    return left


async def _leave(raw: asyncpg.Connection, sql: str) -> int:
    # The same name may be there already, and the role that is set may do nothing.
    with suppress(asyncpg.DuplicatePreparedStatementError):
        await raw.execute(sql)
    await asyncio.sleep(PAUSE_SECONDS)
    return 1
