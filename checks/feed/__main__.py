"""Follow the feed while many write, and look for what it left out.

    python -m checks.feed [--seconds 5] [--only sqlite,workers,postgres,replica]

Writers add, update, delete and undo, all on the same few customers, through one SQLite
process, two SQLite processes, or two processes on PostgreSQL, also with a replica that
they read from. Readers follow the feed
in pages and as server-sent events, lose their connections in the middle of replies and
go on from the last cursor that they had seen. Each must have every row of every
acknowledged write once, all in the same order, and each row must say of before what
the rows before it have left. Others follow lists by `after`, or go on from a list's
`Feed-Cursor`; they must miss nothing either.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from pathlib import Path

import aiohttp

from checks.feed.lists import ListFollower, SnapshotReader
from checks.feed.verdict import Verdict, judge
from checks.feed.writers import World, Writer
from checks.support.feed_reader import FeedReader
from checks.support.postgres_cluster import cluster, folders
from checks.support.report import print_breaches, print_table
from checks.support.server_process import serving
from checks.support.write_log import new_session

WRITERS, READERS = 24, 4
TRANSPORTS = {
    "pages": ("pages",) * READERS,
    "sse": ("sse",) * READERS,
    "both": ("pages", "sse") * (READERS // 2),
}

Urls = list[str]


@contextmanager
def one_process() -> Iterator[Urls]:
    """Serve a SQLite file by one process."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        yield [server.url]


@contextmanager
def two_workers() -> Iterator[Urls]:
    """Serve a SQLite file by two processes."""
    env = {"WORKERS": "2"}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), env) as server:
        yield [server.url]


@contextmanager
def _two(env: dict[str, str]) -> Iterator[Urls]:
    """Serve a database by two processes."""
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as two,
        serving(Path(one), env) as first,
        serving(Path(two), env) as second,
    ):
        yield [first.url, second.url]


@contextmanager
def two_servers() -> Iterator[Urls]:
    """Serve a PostgreSQL database by two processes."""
    with cluster() as postgres, _two({"DATABASE_URL": postgres.new_schema()}) as urls:
        yield urls


@contextmanager
def two_servers_and_a_replica() -> Iterator[Urls]:
    """Serve a PostgreSQL database by two processes that read from its standby."""
    with cluster() as postgres, folders() as folder:
        standby = postgres.new_standby(folder, "standby")
        url = postgres.new_schema()
        replica_url = url.replace(postgres.host, standby.host)
        try:
            with _two({"DATABASE_URL": url, "READ_DATABASE_URL": replica_url}) as urls:
                yield urls
        finally:
            standby.kill()


ENGINES: dict[str, Callable[[], AbstractContextManager[Urls]]] = {
    "sqlite": one_process,
    "workers": two_workers,
    "postgres": two_servers,
    "replica": two_servers_and_a_replica,
}


async def begin(session: aiohttp.ClientSession, urls: Urls, world: World) -> Writer:
    """Create the first customers; return who writes the last change."""
    writer = Writer(session, urls, world)
    while len(world.customers) < 5:
        await writer.create_customer()
    world.kept = world.customers[0]
    return writer


async def follow(urls: Urls, seconds: float, transports: Sequence[str]) -> Verdict:
    """Let all write and read for some seconds, and judge what they saw."""
    world, stop_writers, stop = World(), asyncio.Event(), asyncio.Event()
    readers = [FeedReader(urls, transport) for transport in transports]
    snapshots = SnapshotReader(urls, world)
    last: list[str] = []
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(new_session()) for _ in range(3)]
        first = await begin(sessions[0], urls, world)
        followers = [
            ListFollower(urls, "/api/v1/customer", "purchase_id"),
            ListFollower(urls, "/api/v1/customer", "purchase_id"),
            ListFollower(urls, "/api/v1/customers", "id"),
            ListFollower(urls, f"/api/v1/purchase/{world.kept}", "purchase_id"),
        ]
        reading = [
            *(reader.run(sessions[1], stop, last) for reader in readers),
            *(follower.run(sessions[2], stop) for follower in followers),
            snapshots.run(sessions[2], stop_writers),
        ]
        tasks = [asyncio.create_task(one) for one in reading]
        writers = [Writer(sessions[0], urls, world) for _ in range(WRITERS)]
        writing = [asyncio.create_task(one.run(stop_writers)) for one in writers]
        began = time.monotonic()
        await asyncio.sleep(seconds)
        stop_writers.set()
        await asyncio.gather(*writing)
        elapsed = time.monotonic() - began
        await first.create_customer()
        last.append(world.changes[-1])
        stop.set()
        await asyncio.gather(*tasks)
        return await judge(
            sessions[1], urls[0], world, readers, followers, snapshots, elapsed
        )


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", default=",".join(ENGINES))
    parser.add_argument("--transport", choices=[*TRANSPORTS], default="both")
    options = parser.parse_args()
    verdicts = {}
    for name in options.only.split(","):
        with ENGINES[name]() as urls:
            work = follow(urls, options.seconds, TRANSPORTS[options.transport])
            verdicts[name] = asyncio.run(work)
    columns = [[*verdict.figures.values()] for verdict in verdicts.values()]
    names = [*next(iter(verdicts.values())).figures]
    rows = [(name, *row) for name, *row in zip(names, *columns, strict=True)]
    print_table(("the feed under load", *verdicts), rows)
    breaches = [
        f"{name}: {breach}"
        for name, verdict in verdicts.items()
        for breach in verdict.breaches
    ]
    return print_breaches(breaches)


if __name__ == "__main__":
    sys.exit(main())
