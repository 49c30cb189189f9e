"""Erasure: by request, by age, and where nothing is kept at all."""

import asyncio
from typing import Any

import pytest

import db
from api import upkeep
from api.database import DATABASE
from queries import erasure
from queries.packed_responses import unpack
from storage.engine import Statement
from tests.support import JOHN, PHONE, ApiClient, Opener, count, list_ids

FORGET = upkeep.forget


@pytest.fixture(autouse=True)
def no_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be removed but by the tests themselves."""

    async def wait(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(upkeep, "forget", wait)


async def undo(api: ApiClient, change: str, status: int) -> None:
    """Undo a change."""
    await api(f"POST /api/v1/changes/{change}/undo", None, status)


TEXTS = {
    "customer": ("name", "address"),
    "purchases": ("purchase_name",),
    "history": ("before",),
    "idempotency": ("response",),
}


async def texts_of(engine: Any) -> str:
    """Return all that a client has sent and the database holds."""

    def read(table: str, column: str) -> db.Unit[list[str]]:
        rows = yield Statement(f"SELECT {column} FROM {table}"), ()
        values = [
            unpack(one) if one and table == "idempotency" else one for (one,) in rows
        ]
        return [str(value) for value in values]

    found = []
    for table, columns in TEXTS.items():
        for column in columns:
            found += await engine.read(read, table, column)
    return " ".join(found)


SECRETS = ("Marker", "Lane", "Thing")


@pytest.mark.parametrize("deleted", [False, True])
async def test_purge(
    api: ApiClient,
    engine: Any,
    monkeypatch: pytest.MonkeyPatch,
    customer: int,
    deleted: bool,
) -> None:
    """Nothing of a customer is left, and a delayed retry creates nobody."""
    monkeypatch.setattr(erasure, "STEP_ROWS", 1)
    person = {"name": "Marker", "address": "Lane 1"}
    await api("POST /api/v1/customer", person, 201, Idempotency_Key="k")
    thing = {"purchase_name": "Thing", "quantity": 1}
    for key in ("a", "b", "c"):
        await api("POST /api/v1/purchase/2", thing, 201, Idempotency_Key=key)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    await api("PATCH /api/v1/customer/2", {"address": "Lane 2"})
    changed = await api("PATCH /api/v1/purchase/1", {"quantity": 2})
    await api("DELETE /api/v1/purchase/2?purchase_id=2")
    cleared = await api("DELETE /api/v1/purchase/2?delete_all=true")
    await undo(api, cleared.headers["Change"], 201)
    if deleted:
        gone = await api("DELETE /api/v1/customer/2")
        found = await texts_of(engine)
        assert all(text in found for text in SECRETS)
    reply = await api("DELETE /api/v1/customer/2?purge=true")
    assert reply.json["deleted_count"] == (0 if deleted else 2)
    found = await texts_of(engine)
    assert not [text for text in SECRETS if text in found]
    assert await engine.read(count, "purchases") == 1
    assert await engine.read(count, "customer") == 1
    rows = (await api("GET /api/v1/changes?customer_id=2")).data
    assert {one["purchases"] for one in rows if "purchases" in one} == {2}
    assert not [one for one in rows if one["before"] or one["now"]]
    last = (await api("GET /api/v1/changes?order=desc&limit=1")).data[0]
    assert (last["action"], last["customer_id"]) == ("customer.erased", "2")
    await api("DELETE /api/v1/customer/2?purge=true", None, 404)
    await api("POST /api/v1/customer", person, 410, Idempotency_Key="k")
    for change in (changed.headers["Change"], reply.headers["Change"], "2"):
        await undo(api, change, 410)
    if deleted:
        await undo(api, gone.headers["Change"], 410)
    assert await list_ids(api) == [4]


async def test_purge_in_small_units(
    api: ApiClient, engine: Any, monkeypatch: pytest.MonkeyPatch, purchase: int
) -> None:
    """Nobody sees the rest of it between them."""
    monkeypatch.setattr(erasure, "STEP_ROWS", 2)
    for _ in range(6):
        await api("POST /api/v1/purchase/1", PHONE, 201)
    await engine.write(db.purge_customer, 1, db.Author("", db.now(), True), None)
    left, steps = [], 0
    while await engine.write(db.purge_step):
        steps += 1
        left.append(await engine.read(count, "purchases"))
        assert await list_ids(api) == []
        assert (await api("GET /api/v1/customers")).data == []
    assert left[:3] == [5, 3, 1]
    assert not await engine.write(db.purge_step)
    assert await engine.read(count, "hidden") == 0


async def test_history_days(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too old is forgotten, and what it deleted is erased."""
    api = await opened(history_days=2)
    served: Any = api.client.server
    engine = served.app[DATABASE]
    today = db.now
    monkeypatch.setattr(db, "now", lambda ago=0: today(ago + 3 * 24 * 3600))
    await api("POST /api/v1/customer", JOHN, 201)
    await api("POST /api/v1/customer", {"name": "Marker", "address": "x"}, 201)
    for owner in (1, 2):
        await api(f"POST /api/v1/purchase/{owner}", PHONE, 201)
    cleared = await api("DELETE /api/v1/purchase/1?delete_all=true")
    await api("DELETE /api/v1/customer/2")
    monkeypatch.undo()
    await undo(api, cleared.headers["Change"], 410)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    assert len((await api("GET /api/v1/changes")).data) == 7
    while await engine.write(db.forget_some, db.now(2 * 24 * 3600)):
        pass
    assert "Marker" not in await texts_of(engine)
    assert await list_ids(api) == [3]
    found = [one["action"] for one in (await api("GET /api/v1/changes")).data]
    assert found == ["purchase.added", "customer.erased"]
    await api("GET /api/v1/changes?after=3", None, 410)
    await api("GET /api/v1/changes/3", None, 410)
    assert len((await api("GET /api/v1/changes?after=6")).data) == 2
    assert await engine.read(count, "purchases") == 1


async def test_no_history_days(opened: Opener) -> None:
    """No value is kept, nothing can be undone, and the feed goes on."""
    api = await opened(history_days=0)
    served: Any = api.client.server
    engine = served.app[DATABASE]
    await api("POST /api/v1/customer", JOHN, 201)
    for _ in range(3):
        await api("POST /api/v1/purchase/1", PHONE, 201)
    changes = [
        await api("PATCH /api/v1/purchase/1", {"quantity": 1}),
        await api("PATCH /api/v1/customer/1", {"address": "x"}),
        await api("DELETE /api/v1/purchase/1?purchase_id=1"),
        await api("DELETE /api/v1/purchase/1?delete_all=true"),
        await api("DELETE /api/v1/customer/1"),
    ]
    for change in changes:
        await undo(api, change.headers["Change"], 410)
    rows = (await api("GET /api/v1/changes")).data
    assert [one["before"] for one in rows] == [None] * 9
    while await engine.write(db.purge_step):
        pass
    assert await engine.read(count, "purchases") == 0
    assert await engine.read(count, "customer") == 0


async def test_background(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server removes what is old without being asked."""
    api = await opened()
    today = db.now
    monkeypatch.setattr(db, "now", lambda ago=0: today(ago + 31 * 24 * 3600))
    await api("POST /api/v1/customer", JOHN, 201)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    await api("DELETE /api/v1/customer/1")
    monkeypatch.undo()
    assert upkeep.forget is FORGET
    monkeypatch.setattr(upkeep, "FORGET_SECONDS", 0.05)
    again = await opened()
    served: Any = again.client.server
    engine = served.app[DATABASE]
    for _ in range(200):
        await asyncio.sleep(0.05)
        if await engine.read(count, "customer") == 0:
            break
    assert await engine.read(count, "purchases") == 0
    assert await engine.read(count, "customer") == 0
