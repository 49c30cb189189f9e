"""Reads from a replica while the primary is away, as clients see them."""

import asyncio
import importlib

import pytest

import db
from tests.storage.replicas import (
    AGE,
    READS,
    SAMPLES,
    Pair,
    Serve,
    add,
    engine_of,
    names_on,
    slow_writer,
)
from tests.support import JOHN, PHONE, POSTGRES_POOL, list_names, wait_until


async def test_own_writes(pair: Pair, serve: Serve) -> None:
    """What a replica does not have yet is read from the primary, or not at all."""
    api = await serve(*pair.urls())
    await add(api, "first")
    pair.pause()
    number, _ = await add(api, "second")
    assert await list_names(api) == ["first", "second"]
    assert (await api("GET /api/v1/customers?order=desc")).data[0]["id"] == number
    counted = await api("GET /api/v1/customers?name=s", Prefer="count=exact")
    assert counted.headers["Total-Count"] == "2"
    pair.primary.kill()
    for path in (f"customer/{number}", "customers", "customer/1", "summary?by=day"):
        reply = await api(f"GET /api/v1/{path}", None, 503)
        assert "Age" not in reply.headers
    pair.resume()
    assert wait_until(lambda: "second" in names_on(pair.standby, api))
    reply = await api(f"GET /api/v1/customer/{number}")
    assert reply.headers["Age"] == AGE


async def test_reads_go_on(pair: Pair, serve: Serve) -> None:
    """While the primary is away they say how old they are; afterwards no more."""
    api = await serve(*pair.urls())
    number, change = await add(api)
    for _ in range(3):
        await api(f"POST /api/v1/purchase/{number}", PHONE, 201)
    await engine_of(api).state.sample()
    pair.catch_up()
    pair.primary.kill()
    for path in (
        f"customer/{number}",
        f"purchase/{number}",
        f"customer/{number}/purchase/1",
        "customer?limit=2",
        "customer?order=desc",
        "customers?name=ohn",
        "purchases.csv",
        "summary?by=purchase_name",
        "changes",
        f"changes/{change}",
    ):
        reply = await api(f"GET /api/v1/{path}", Change=change)
        assert reply.headers["Age"] == AGE, path
    assert len((await api("GET /api/v1/customer")).data) == 3
    missing = await api("GET /api/v1/customer/99", None, 404)
    assert missing.headers["Age"] == AGE
    await api("POST /api/v1/customer", JOHN, 503)
    await api("GET /readyz", None, 503)
    await api("GET /livez")
    pair.primary.start()
    await add(api, "Jane")
    reply = await api("GET /api/v1/customers")
    assert len(reply.data) == 2
    assert "Age" not in reply.headers


async def test_long_list(pair: Pair, serve: Serve) -> None:
    """A list of several pages says its age in the head."""
    api = await serve(*pair.urls())
    number, _ = await add(api)
    engine = engine_of(api)

    def fill() -> db.Unit[None]:
        for _ in range(700):
            yield db.INSERT_PURCHASE, ("x", 1, db.now(), number, db.now(), "")

    await engine.write(fill)
    await engine.state.sample()
    pair.catch_up()
    pair.primary.kill()
    reply = await api("GET /api/v1/customer")
    assert reply.headers["Age"] == AGE
    assert len(reply.data) == 700


async def test_bound(pair: Pair, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    api = await serve(*pair.urls())
    number, _ = await add(api)
    await engine_of(api).state.sample()
    pair.catch_up()
    pair.primary.kill()
    await api(f"GET /api/v1/customer/{number}")
    monkeypatch.setattr(importlib.import_module(READS), "STALE_SECONDS", 0.0)
    for path in (f"customer/{number}", "customers"):
        reply = await api(f"GET /api/v1/{path}", None, 503)
        assert "too old" in reply.json["detail"]
        assert "Age" not in reply.headers


async def test_change_of_another_server(
    pair: Pair, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names the change that it got is not shown anything older."""
    monkeypatch.setattr(importlib.import_module(SAMPLES), "WATCH_SECONDS", 60.0)
    urls = pair.urls()
    one, other = await serve(*urls), await serve(*urls)
    await add(one)
    sample = await engine_of(other).state.sample()
    pair.pause()
    number, change = await add(one)
    pair.primary.kill()
    assert engine_of(other).state.last is sample
    assert len((await other("GET /api/v1/customers")).data) == 1
    for path in ("customers", "changes", f"customer/{number}", "summary?by=day"):
        reply = await other(f"GET /api/v1/{path}", None, 503, Change=change)
        assert "lacks what was acknowledged" in reply.json["detail"]
    await other(f"GET /api/v1/customer/{number}", None, 404)
    pair.resume()
    assert wait_until(lambda: len(names_on(pair.standby, other)) == 4)
    await other(f"GET /api/v1/customer/{number}", Change=change)
    # Whether rows before it are still to come nobody knows.
    for path in ("customers", "changes"):
        await other(f"GET /api/v1/{path}", None, 503, Change=change)
    assert len((await other("GET /api/v1/customers")).data) == 1


async def test_writers_of_a_primary_that_goes(pair: Pair, serve: Serve) -> None:
    """What another would have to come before is left out, and an own write never."""
    urls = pair.urls()
    api, other = await serve(*urls), await serve(*urls)
    await add(api, "first")
    async with slow_writer(api):
        number, _ = await add(api, "third")
        for one in (api, other):
            await engine_of(one).state.sample()
        pair.catch_up()
        pair.primary.kill()
    assert await list_names(other) == ["first"]
    assert len((await other("GET /api/v1/changes")).data) == 1
    await api("GET /api/v1/customers", None, 503)
    assert (await api(f"GET /api/v1/customer/{number}")).headers["Age"] == AGE


async def test_sample_that_was_never_sent(pair: Pair, serve: Serve) -> None:
    """A replica goes on from the one before, which it is known to hold."""
    api = await serve(*pair.urls())
    await add(api)
    state = engine_of(api).state
    held = await state.sample()
    assert await asyncio.to_thread(
        wait_until, lambda: state.held is not None and state.held.asked >= held.asked
    )
    pair.pause()
    pair.primary.sql("SELECT pg_logical_emit_message(false, 'x', 'y')")
    await state.sample()
    pair.primary.kill()
    for path in ("customers", "customer", "summary?by=day"):
        assert (await api(f"GET /api/v1/{path}")).headers["Age"] == AGE


async def test_promotion(own_pair: Pair, serve: Serve) -> None:
    url, replica_url = own_pair.urls()
    both = url.replace(
        own_pair.primary.host, f"{own_pair.primary.host},{own_pair.standby.host}"
    )
    api = await serve(both, replica_url)
    await add(api)
    await engine_of(api).state.sample()
    own_pair.catch_up()
    own_pair.primary.kill()
    assert (await api("GET /api/v1/customers")).headers["Age"] == AGE
    await asyncio.to_thread(own_pair.standby.promote)
    number, _ = await add(api, "Jane")
    for path in ("customers", f"customer/{number}", "changes"):
        assert "Age" not in (await api(f"GET /api/v1/{path}")).headers
    assert len(await list_names(api)) == 2


async def test_frozen_primary(
    pair: Pair, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answers, and nobody says so: no read waits for what it has asked."""
    monkeypatch.setattr(importlib.import_module(POSTGRES_POOL), "UNIT_SECONDS", 600.0)
    api = await serve(*pair.urls())
    number, _ = await add(api)
    await engine_of(api).state.sample()
    pair.catch_up()
    pair.primary.freeze()
    try:
        async with asyncio.timeout(60):
            for path in (f"customer/{number}", "customers"):
                assert (await api(f"GET /api/v1/{path}")).headers["Age"] == AGE
    finally:
        pair.primary.kill()


async def test_list_that_a_page_is_missing_of(pair: Pair, serve: Serve) -> None:
    """A list that the primary began goes on from no older replica."""
    api = await serve(*pair.urls())
    await add(api)
    engine = engine_of(api)
    reading = db.Reading()
    token = db.READING.set(reading)
    try:
        await engine.state.sample()
        await engine.read(db.list_purchases, 0, 10)
        pair.catch_up()
        pair.primary.kill()
        with pytest.raises(db.UnavailableError, match="too old"):
            await engine.scan(db.list_purchases, 0, 10)
    finally:
        db.READING.reset(token)


async def test_another_branch(own_pair: Pair, serve: Serve) -> None:
    """A standby that was promoted beside the primary is no replica of it any more."""
    api = await serve(*own_pair.urls())
    await add(api, "first")
    own_pair.catch_up()
    await asyncio.to_thread(own_pair.standby.promote)
    own_pair.standby.sql("CREATE TABLE filler AS SELECT generate_series(1, 100000)")
    await add(api, "second")
    for _ in range(3):
        assert await list_names(api) == ["first", "second"]
    await engine_of(api).state.sample()
    own_pair.primary.kill()
    await api("GET /api/v1/customers", None, 503)
