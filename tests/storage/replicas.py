"""A primary and its standby, and servers that read from it, for tests."""

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import db
from api.database import DATABASE
from tests.support import JOHN, ApiClient, Like, LimitedServer, wait_until

AGE = Like(r"\d{1,3}")
"""The header of what is read while the primary is away."""
SAMPLES = "storage.primary_samples"
READS = "storage.replica_reads"
Serve = Callable[[str, str], Awaitable[ApiClient]]
"""Serves a database and its replica; returns a client."""


class Pair(NamedTuple):
    """A primary and a standby that follows it, both running."""

    primary: Any
    standby: Any

    def urls(self) -> tuple[str, str]:
        """Return the URLs of an empty schema on both."""
        url: str = self.primary.new_schema()
        return url, url.replace(self.primary.host, self.standby.host)

    def catch_up(self) -> None:
        """Wait until the standby has all that the primary has."""
        end = self.primary.sql("SELECT pg_current_wal_insert_lsn()").strip()
        behind = f"SELECT pg_last_wal_replay_lsn() >= '{end}'"
        assert wait_until(lambda: self.standby.sql(behind).strip() == "t")

    def pause(self) -> None:
        """Keep the standby as it is, though it receives what comes."""
        self.catch_up()
        self.standby.sql("SELECT pg_wal_replay_pause()")

    def resume(self) -> None:
        """Let the standby go on."""
        self.standby.sql("SELECT pg_wal_replay_resume()")


def new_pair() -> Iterator[Pair]:
    """Run a primary and a standby."""
    postgresql = importlib.import_module("checks.support.postgres_cluster")
    settings = {**postgresql.NO_FSYNC, "wal_retrieve_retry_interval": "50ms"}
    with postgresql.cluster(settings) as primary, postgresql.folders() as folder:
        standby = primary.new_standby(folder, "standby")
        try:
            yield Pair(primary, standby)
        finally:
            standby.kill()


def engine_of(api: ApiClient) -> Any:
    """Return the engine under a server."""
    served = api.client.server
    assert isinstance(served, LimitedServer)
    return served.app[DATABASE]


async def add(api: ApiClient, name: str = "John Doe") -> tuple[int, str]:
    """Add a customer; return its id and its change."""
    reply = await api("POST /api/v1/customer", {**JOHN, "name": name}, 201)
    return reply.data["id"], reply.headers["Change"]


def names_on(cluster: Any, api: ApiClient) -> list[str]:
    """Return the names of the customers that a server of PostgreSQL has."""
    schema = engine_of(api).primary.hosts.urls[0].rpartition("search_path=")[2]
    names: list[str] = cluster.sql(f"SELECT name FROM {schema}.customer").split()
    return names


@asynccontextmanager
async def slow_writer(api: ApiClient) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Add a customer in a transaction; yield what commits it."""
    raw = await engine_of(api).primary.hosts.connect()
    codec = {"schema": "pg_catalog", "encoder": str, "decoder": str}
    await raw.set_type_codec("timestamptz", **codec)
    await raw.execute("BEGIN")
    at = db.now()
    await raw.fetch(db.INSERT_CUSTOMER.postgres, "slow", "", at, "slow", at, "")

    async def commit() -> None:
        await raw.execute("COMMIT")

    try:
        yield commit
    finally:
        raw.terminate()
