"""What pgbouncer refuses by itself, and how the server answers then."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress

import aiohttp
import asyncpg

from checks.pooler.bouncer import Bouncer
from checks.support.postgres_cluster import Cluster
from checks.support.report import Figures
from checks.support.server_process import Server, call, serving
from checks.support.write_log import new_session

REQUESTS = 24
BEFORE_SECONDS = 0.2
HELD_SECONDS = 3.0
IDLE_SECONDS = 2.5
ADD = {"name": "x", "address": ""}
CASES = {
    "max_client_conn": {"max_client_conn": "4"},
    "query_wait_timeout": {"query_wait_timeout": "1", "default_pool_size": "1"},
    "query_timeout": {"query_timeout": "1", "default_pool_size": "1"},
    "client_idle_timeout": {"client_idle_timeout": "1"},
}
"""Settings of pgbouncer by what it then refuses, or ends."""


async def ask(session: aiohttp.ClientSession, server: Server) -> Counter[int]:
    """Send additions and lists all at once; return the statuses."""

    async def one(number: int) -> int:
        path = f"{server.url}/api/v1/customer"
        if number % 2:
            async with session.get(f"{path}s") as reply:
                return reply.status
        async with session.post(path, json=ADD) as reply:
            return reply.status

    return Counter(await asyncio.gather(*map(one, range(REQUESTS))))


async def hold(url: str) -> None:
    """Keep a session of the pooler from all others for a while."""
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        raw = await asyncpg.connect(url, statement_cache_size=0)
        try:
            await raw.execute(f"BEGIN; SELECT pg_sleep({HELD_SECONDS})")
        finally:
            raw.terminate()


def start(main: Cluster, stack: ExitStack, **settings: str) -> tuple[Server, str]:
    """Start a pooler and a server behind it; return it, and the URL it has."""
    bouncer = Bouncer(main, settings).start()
    stack.callback(bouncer.stop)
    place = bouncer.folder / "server"
    place.mkdir()
    url = bouncer.through(main.url)
    return stack.enter_context(serving(place, {"DATABASE_URL": url})), url


async def try_case(what: str, main: Cluster, figures: Figures) -> None:
    """Ask while pgbouncer refuses, and once it no longer has a reason to."""
    with ExitStack() as stack:
        server, url = await asyncio.to_thread(start, main, stack, **CASES[what])
        async with new_session() as session:
            held = asyncio.create_task(hold(url))
            await asyncio.sleep(BEFORE_SECONDS)
            seen = await ask(session, server)
            await held
            await asyncio.sleep(IDLE_SECONDS)
            after = await ask(session, server)
        said = f"{dict(seen)}, then {dict(after)}"
        right = {*seen, *after} <= {200, 201, 503} and 503 not in after
        figures.judge(what, "200, 201, 503; then no 503", said, right)


async def _until(condition: Callable[[], str]) -> str:
    """Return what a condition finds, once it finds something. RuntimeError."""
    end = time.monotonic() + 20.0
    while time.monotonic() < end:
        if found := await asyncio.to_thread(condition):
            return found
        await asyncio.sleep(0.02)
    raise RuntimeError("nothing was found")


async def miss_standby(main: Cluster, figures: Figures) -> None:
    """Let a commit end without its standby: its warning comes through the pooler."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with ExitStack() as stack:
        server, _ = await asyncio.to_thread(start, main, stack)
        main.change("synchronous_standby_names", "nobody")
        stack.callback(main.change, "synchronous_standby_names", "")
        add = asyncio.to_thread(call, server, "POST", "/api/v1/customer", ADD)
        adding = asyncio.create_task(add)
        pid = (await _until(lambda: main.sql(waiting).strip())).split()[0]
        main.sql(f"SELECT pg_cancel_backend({pid})")
        reply = await adding
        right = reply.status == 503 and b"not known" in reply.body
        figures.judge("commit without its standby", 503, reply.status, right)
