"""Which of several PostgreSQL servers is used, and whether it is ready."""

import asyncio
import importlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import db
import server
from storage.engine import UNKNOWN_OUTCOME, Statement
from tests.storage.test_postgres_faults import add, new_role, opened
from tests.support import POSTGRES, POSTGRES_POOL, by, wait_until

HOSTS = "storage.postgres_hosts"
STALE = "behind one seen before"


class Zombie:
    """A primary and a standby that is promoted while the primary lives on."""

    def __init__(self, folder: Path) -> None:
        clusters = importlib.import_module("checks.support.postgres_cluster")
        places = folder / "old", folder / "new"
        for place in places:
            place.mkdir()
        self.old = clusters.Cluster(places[0], clusters.NO_FSYNC)
        self.old.create()
        self.old.start()
        server.try_make_db(self.old.url)
        self.new = self.old.new_standby(places[1], "standby")

    def url(self, *hosts: str) -> str:
        """Return the URL of several hosts."""
        url: str = self.old.url.replace(self.old.host, ",".join(hosts))
        return url

    def end(self) -> None:
        """Kill both."""
        self.old.kill()
        self.new.kill()


@pytest.fixture
def zombie() -> Iterator[Zombie]:
    """Run two servers, the one following the other."""
    clusters = importlib.import_module("checks.support.postgres_cluster")
    with clusters.folders() as folder:
        both = Zombie(folder)
        try:
            yield both
        finally:
            both.end()


def count(cluster: Any) -> int:
    """Return how many customers a server has."""
    return int(cluster.sql("SELECT count(*) FROM customer"))


@pytest.mark.parametrize("old_first", [True, False])
async def test_zombie_primary(
    zombie: Zombie, old_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one promoted last is used, and no other any more."""
    monkeypatch.setattr(importlib.import_module(HOSTS), "WATCH_SECONDS", 0.1)
    hosts = [zombie.old.host, zombie.new.host][:: 1 if old_first else -1]
    async with opened(zombie.url(*hosts), create=False) as engine:
        await add(engine)
        assert zombie.old.host in engine.hosts.urls[0]
        await asyncio.to_thread(zombie.new.promote)
        assert await asyncio.to_thread(wait_until, lambda: engine.hosts.generation)
        await asyncio.gather(*(add(engine) for _ in range(20)))
        assert await engine.read(read_timeline) == 2
        await engine.check()
        assert (count(zombie.old), count(zombie.new)) == (1, 21)
        engine.hosts.generation += 1
        await add(engine)
        zombie.new.kill()
        for _ in range(2):
            with pytest.raises(db.UnavailableError):
                await add(engine)
        with pytest.raises(db.UnavailableError, match=STALE):
            await engine.check()
    assert count(zombie.old) == 1


async def test_zombie_primary_at_the_start(zombie: Zombie) -> None:
    """All hosts are asked before one is used."""
    zombie.new.promote()
    for hosts in ((zombie.old, zombie.new), (zombie.new, zombie.old)):
        url = zombie.url(*(one.host for one in hosts))
        async with opened(url, create=False) as engine:
            await add(engine)
            assert await engine.read(read_timeline) == 2
    assert (count(zombie.old), count(zombie.new)) == (0, 2)


async def test_zombie_primary_that_writes_wait_for(
    zombie: Zombie, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes that wait for a standby are cut off once another one is promoted."""
    monkeypatch.setattr(importlib.import_module(HOSTS), "WATCH_SECONDS", 0.1)
    zombie.old.wait_for("standby")
    url = zombie.url(zombie.old.host, zombie.new.host)
    async with opened(url, create=False) as engine:
        await add(engine)
        zombie.old.change("synchronous_standby_names", "nobody")
        writes = [asyncio.create_task(add(engine, str(number))) for number in range(8)]
        assert await asyncio.to_thread(
            wait_until, lambda: len(engine.writer.running) == 8
        )
        began = asyncio.get_running_loop().time()
        await asyncio.to_thread(zombie.new.promote)
        ends = await asyncio.gather(*writes, return_exceptions=True)
        took = asyncio.get_running_loop().time() - began
        assert {str(end) for end in ends} == {UNKNOWN_OUTCOME}
        assert took < importlib.import_module(POSTGRES_POOL).UNIT_SECONDS / 2
        await engine.check()
        await add(engine)


async def test_primary_that_is_frozen(
    zombie: Zombie, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that hangs on it is made where another one was promoted."""
    monkeypatch.setattr(importlib.import_module(HOSTS), "WATCH_SECONDS", 0.1)
    url = zombie.url(zombie.old.host, zombie.new.host)
    async with opened(url, create=False) as engine:
        assert await engine.read(read_timeline) == 1
        zombie.old.freeze()
        read = asyncio.ensure_future(engine.read(read_timeline))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(zombie.new.promote)
        assert await read == 2


async def test_host_that_is_silent(
    postgresql_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a host may take, a primary is not kept waiting for it as long."""
    monkeypatch.setattr(importlib.import_module(HOSTS), "CONNECT_SECONDS", 0.2)
    role = new_role(postgresql_cluster)
    await asyncio.to_thread(server.try_make_db, role.url)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},{postgresql_cluster.host}"
        url = role.url.replace(postgresql_cluster.host, hosts)
        async with opened(f"{url}?connect_timeout=60", create=False) as engine:
            await add(engine)
            engine.hosts.generation += 1
            await add(engine)
            await engine.check()


async def test_lower_timeline_of_one_host(postgresql_cluster: Any) -> None:
    """What a proxy leads to may be a primary that was replaced."""
    role = new_role(postgresql_cluster)
    async with opened(role.url) as engine:
        engine.hosts.timeline = 7
        engine.hosts.generation += 1
        for attempt in (add(engine), engine.read(read_timeline), engine.check()):
            with pytest.raises(db.UnavailableError, match=STALE):
                await attempt
    async with opened(role.url) as engine:
        await add(engine)


async def test_timeline_that_is_not_told(postgresql_cluster: Any) -> None:
    """A user who may not ask for it does without."""
    role = new_role(postgresql_cluster)
    name = "FUNCTION pg_walfile_name(pg_lsn)"
    postgresql_cluster.sql(f"REVOKE EXECUTE ON {name} FROM public")
    try:
        hosts = f"127.0.0.1:1,{postgresql_cluster.host}"
        for url in (role.url, role.url.replace(postgresql_cluster.host, hosts)):
            async with opened(url) as engine:
                await add(engine)
                assert engine.hosts.timeline == 0
    finally:
        postgresql_cluster.sql(f"GRANT EXECUTE ON {name} TO public")


def read_timeline() -> db.Unit[int]:
    """Return the timeline of a primary."""
    name = Statement("SELECT pg_walfile_name(pg_current_wal_lsn())")
    rows = yield name, ()
    return int(rows[0][0][:8], 16)


async def add_often(engine: Any) -> None:
    """Add customers: the server takes a moment to read its settings."""
    for _ in range(100):
        await add(engine)


@asynccontextmanager
async def nobody_vouching(cluster: Any, engine: Any) -> AsyncIterator[None]:
    """Let commits wait for a standby that is not there for the length of a block."""
    cluster.change("synchronous_standby_names", "nobody")
    try:
        with pytest.raises(db.UnavailableError):
            await add_often(engine)
        yield
    finally:
        cluster.change("synchronous_standby_names", "")


async def test_ready_only_once_commits_end(
    postgresql_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a standby is missing, writes begin as ever and nobody vouches for them."""
    module = importlib.import_module(POSTGRES)
    monkeypatch.setattr(f"{POSTGRES_POOL}.UNIT_SECONDS", 1.0)
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.4)
    role = new_role(postgresql_cluster)
    async with opened(role.url) as engine:
        async with nobody_vouching(postgresql_cluster, engine):
            for _ in range(4):
                with pytest.raises(db.UnavailableError):
                    await engine.check()
                await asyncio.sleep(0.3)
        assert await asyncio.to_thread(wait_until, lambda: engine._checking.done())
        monkeypatch.setattr(module, "CHECK_SECONDS", 20.0)
        await engine.check()
        assert not engine.writer.is_doubtful()


async def test_ready_only_while_commits_end(
    postgresql_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that takes long is doubted before it has come to its end."""
    module = importlib.import_module(POSTGRES)
    monkeypatch.setattr(f"{POSTGRES_POOL}.UNIT_SECONDS", 2.0)
    monkeypatch.setattr(f"{POSTGRES_POOL}.SLOW_SECONDS", 0.2)
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.8)
    role = new_role(postgresql_cluster)
    async with opened(role.url) as engine:
        await engine.check()
        async with nobody_vouching(postgresql_cluster, engine):
            engine.writer.doubtful = False
            write = asyncio.create_task(add(engine))
            await asyncio.sleep(0.4)
            with pytest.raises(db.UnavailableError):
                await engine.check()
            assert not write.done()
            with pytest.raises(db.UnavailableError):
                await write


async def test_repetition_that_nobody_vouches_for(
    postgresql_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response stored where no standby has it is no more certain than the write."""
    monkeypatch.setattr(importlib.import_module(POSTGRES_POOL), "UNIT_SECONDS", 3.0)
    role = new_role(postgresql_cluster)
    waiting = f"usename = '{role.name}' AND wait_event = 'SyncRep'"
    stop = f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {waiting}"
    key = db.IdempotencyKey("caller", "POST", "/path", "key", b"fingerprint")
    write = (db.run_idempotent, key, render, db.add_customer, "x", "", *by())
    async with opened(role.url) as engine:
        async with nobody_vouching(postgresql_cluster, engine):
            first = asyncio.ensure_future(engine.write(*write))
            while not first.done():  # it stays in spite of that, as a warning says
                await asyncio.to_thread(postgresql_cluster.sql, stop)
            for attempt in (first, engine.write(*write)):
                with pytest.raises(db.UnavailableError):
                    await attempt
        assert (await engine.write(*write)).replayed


def render(written: db.Written[db.Customer]) -> db.StoredResponse:
    """Return a response to an addition."""
    return db.StoredResponse(201, "", "", b"{}", written.result.id, None)


async def test_ready_without_the_right_to_try(postgresql_cluster: Any) -> None:
    """A user who may not write the table that is tried is no reason to be away."""
    role = new_role(postgresql_cluster)
    async with opened(role.url) as engine:
        table = f'"{role.name}".customer_purchase_schema'
        postgresql_cluster.sql(f'REVOKE UPDATE ON {table} FROM "{role.name}"')
        engine.writer.doubtful = True
        await engine.check()
        assert engine.writer.doubtful
        postgresql_cluster.sql(f'GRANT UPDATE ON {table} TO "{role.name}"')
        await engine.check()
        assert not engine.writer.doubtful
