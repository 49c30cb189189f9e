"""What is added at once on PostgreSQL shares commits while no connection is free."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

import db
import server
from tests.storage.test_postgres_units import Raw, error
from tests.support import POSTGRES, by


@pytest.fixture
async def place(postgresql_cluster: Any) -> str:
    """Return the URL of a database."""
    url: str = postgresql_cluster.new_schema()
    await asyncio.to_thread(server.try_make_db, url)
    return url


@pytest.fixture(params=["", "&pgbouncer=true"], ids=["direct", "pooled"])
async def engine(
    request: pytest.FixtureRequest, place: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """Return an engine that writes on one connection, with customers 1 to 3."""
    monkeypatch.setattr(f"{POSTGRES}.WRITERS", 1)
    opened = importlib.import_module(POSTGRES).PostgresEngine.open
    engine = await opened(place + request.param)
    for name in "abc":
        await engine.write(db.add_customer, name, "", *by())
    yield engine
    await engine.close()


def add(engine: Any, customer: int, name: str = "x") -> Any:
    """Begin to add a purchase."""
    return engine.write(db.add_purchase, customer, name, 1, None, *by())


async def names(engine: Any) -> list[str]:
    """Return the names of all purchases."""
    page = await engine.read(db.list_purchases, 0, 1000)
    return [name for name in "abcdefghijkl" if f'"{name}"' in page.json]


async def test_one_among_others(engine: Any) -> None:
    """A customer who is not there is an error of its own; the others are added."""
    before = engine.stats()
    await engine.writer._free.acquire()
    adding = [add(engine, 9 if name == "d" else 1, name) for name in "abcdefghi"]
    adding += [engine.write(db.add_customer, name, "", *by()) for name in "de"]
    engine.writer._free.release()
    outcomes: list[Any] = await asyncio.gather(*adding, return_exceptions=True)
    assert isinstance(outcomes.pop(3), db.NotFoundError)
    assert [one.result.name for one in outcomes[8:]] == ["d", "e"]
    rows = [one.result for one in outcomes[:8]]
    assert [row.purchase_name for row in rows] == [*"abcefghi"]
    assert len({row.id for row in rows}) == 8
    assert await names(engine) == [*"abcefghi"]
    after = engine.stats()
    assert after.units - before.units == 11
    assert after.commits - before.commits == 2  # one for those of each statement


async def test_locked_customer(engine: Any, place: str) -> None:
    """Who adds for another customer waits no longer for it than for a moment."""
    raw = await importlib.import_module("asyncpg").connect(place)
    async with raw.transaction():
        await raw.fetch("SELECT id FROM customer WHERE id = 2 FOR UPDATE")
        adding = [add(engine, number, name) for number, name in enumerate("abc", 1)]
        await asyncio.wait(adding, timeout=1.5, return_when=asyncio.FIRST_COMPLETED)
        assert adding[0].done()
    await asyncio.gather(*adding)
    await raw.close()
    assert await names(engine) == ["a", "b", "c"]


async def test_refused_by_the_database(engine: Any) -> None:
    """Of several, one that the database refuses fails alone."""
    adding = [add(engine, 1, "\0" if name == "b" else name) for name in "abc"]
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert isinstance(outcomes.pop(1), importlib.import_module("asyncpg").DataError)
    assert all(isinstance(one, db.Written) for one in outcomes)
    assert await names(engine) == ["a", "c"]


async def test_unknown_outcome(engine: Any) -> None:
    """It is unknown for all who share the commit, and all of them are there or none."""
    [connection] = engine.writer.idle
    fault = error("ConnectionDoesNotExistError", "FATAL")
    is_pooled = engine.hosts.pooler.found
    connection.raw = Raw(connection.raw, fault, "COMMIT" if is_pooled else "fetch")
    adding = [add(engine, 1, name) for name in "abc"]
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert all(isinstance(one, db.UnavailableError) for one in outcomes)
    assert {str(one) for one in outcomes} == {"it is not known whether this was stored"}
    assert await names(engine) == (["a", "b", "c"] if is_pooled else [])


async def test_turn_that_does_not_come(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is given up when it has waited too long, and nothing of it is done later."""
    monkeypatch.setattr("storage.postgres_batches.TURN_SECONDS", 0.1)
    await engine.writer._free.acquire()
    adding = [add(engine, 1, name) for name in "ab"]
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert {str(one) for one in outcomes} == {"it waited too long for its turn"}
    engine.writer._free.release()
    monkeypatch.undo()
    await add(engine, 1, "c")
    assert await names(engine) == ["c"]
    assert engine.writer.waiting == engine.writer.taken == 0


async def test_callers_who_go_away(engine: Any) -> None:
    """What they wanted is added all the same."""
    adding = [asyncio.ensure_future(add(engine, 1, name)) for name in "abc"]
    await asyncio.sleep(0)
    for one in adding:
        one.cancel()
    await asyncio.gather(*adding, return_exceptions=True)
    await engine.close()
    assert await names(engine) == ["a", "b", "c"]


async def test_part_of_the_database_fails(engine: Any) -> None:
    """What the server refuses, as for a shard that is full, is tried one by one."""
    [connection] = engine.writer.idle
    full = error("InsufficientResourcesError")
    connection.raw = Raw(connection.raw, full, "fetch")
    outcomes = await asyncio.gather(*(add(engine, 1, name) for name in "abc"))
    assert all(isinstance(one, db.Written) for one in outcomes)
    assert await names(engine) == ["a", "b", "c"]
