"""Imports while others write, and while what they prepared is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import db
from api import imports
from queries import imports as queries
from storage.engine import Unit
from tests.import_requests import (
    FILE,
    HEAD,
    HEADER,
    PEOPLE,
    everything,
    numbers,
    send,
    undo,
)
from tests.support import (
    JOHN,
    PHONE,
    ApiClient,
    add_many,
    author,
    list_ids,
    list_names,
    one_engine,
)


def before_the_write(
    monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Awaitable[object]]
) -> None:
    """Have something done between the first look at the database and the write."""
    look, done = imports.look, list[int]()

    async def look_first(*args: Any) -> db.ImportRows:
        rows = await look(*args)
        if not done:
            done.append(1)
            await meanwhile()
        return rows

    monkeypatch.setattr(imports, "look", look_first)


@pytest.mark.parametrize("purge", ["", "?purge=true"])
async def test_customer_deleted_meanwhile(
    api: ApiClient, customer: int, monkeypatch: pytest.MonkeyPatch, purge: str
) -> None:
    """The file is looked at again, and the line is named."""
    line = f"DELETE /api/v1/customer/1{purge}"
    before_the_write(monkeypatch, lambda: api(line))
    await api("POST /api/v1/customer", JOHN, 201)
    reply = await send(api, f"{HEADER}2,Tea,1\n1,Tea,1\n", 422)
    assert [e["line"] for e in reply.json["errors"]] == [3]
    assert await list_ids(api) == []
    await send(api, f"{HEADER}2,Tea,1\n")
    assert await list_ids(api) == [1]


@pytest.mark.parametrize(
    ("line", "body", "customers"),
    [
        ("POST /api/v1/customer", {"name": "Ada", "address": "Lane 1"}, 1),
        ("PATCH /api/v1/customer/1", {"name": "Bob", "address": ""}, 1),
        ("POST /api/v1/customer", JOHN, 2),
        ("PATCH /api/v1/customer/1", {"address": "Lane 2"}, 2),
    ],
)
async def test_pairs_that_change_meanwhile(
    api: ApiClient,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    body: object,
    customers: int,
) -> None:
    """A customer who has come is not created a second time."""
    status = 201 if "POST" in line else 200
    before_the_write(monkeypatch, lambda: api(line, body, status))
    reply = await send(api, FILE)
    assert reply.data == numbers(customers, 3, reply.headers["Change"])
    people = (await api("GET /api/v1/customers")).data
    pairs = [(one["name"], one["address"]) for one in people]
    assert pairs.count(("Ada", "Lane 1")) == pairs.count(("Bob", "")) == 1
    names = {str(one["id"]): one["name"] for one in people}
    rows = (await api("GET /api/v1/customer")).data
    assert [names[row["customer_id"]] for row in rows] == ["Ada", "Bob", "Ada"]


async def test_pair_that_is_corrected_meanwhile(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purchase does not go to whom its line no longer names."""
    ada = {"name": "Ada", "address": "Lane 1"}
    await api("POST /api/v1/customer", ada, 201)
    change = {"name": "Eve"}
    before_the_write(monkeypatch, lambda: api("PATCH /api/v1/customer/1", change))
    assert (await send(api, FILE)).data["customers"] == 2
    assert await list_names(api) == ["Eve", "Ada", "Bob"]
    assert (await api("GET /api/v1/purchase/1")).data == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("query", [db.delete_all_purchases, db.delete_customer])
async def test_purchases_deleted_once_ids_are_drawn(
    api: ApiClient,
    purchase: int,
    monkeypatch: pytest.MonkeyPatch,
    query: Callable[..., Unit[Any]],
) -> None:
    """The ids lie in what was hidden then: it is not what the file adds that goes."""
    draw, done = queries._draw, list[int]()

    def draw_first(table: str, count: int) -> Unit[Any]:
        ids = yield from draw(table, count)
        if table == "purchases" and not done:
            done.append(1)
            yield from add_many(1, 1)  # another's, with a higher id
            checks = (None,) if query is db.delete_customer else ()
            yield from query(1, author(), *checks)
        return ids

    monkeypatch.setattr(queries, "_draw", draw_first)
    await send(api, f"{HEADER}1,Tea,1\n")
    names = [row["purchase_name"] for row in (await api("GET /api/v1/customer")).data]
    assert names == [PHONE["purchase_name"], "Tea"]


async def test_customers_that_never_rest(
    api: ApiClient, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: object) -> Unit[None]:
        raise db.StaleError
        yield

    monkeypatch.setattr(queries, "_check", stale)
    reply = await send(api, FILE, 503, Idempotency_Key="k")
    assert "try again" in reply.json["detail"]
    assert await list_names(api) == ["John Doe"]


async def test_several_at_once(api: ApiClient) -> None:
    """Each is whole and in one piece, and no customer is created twice."""
    row = "Eve {},,Thing {},1\n"
    files = [
        FILE + "".join(row.format(n % 9, n) for n in range(start, 3000)).encode()
        for start in (0, 1, 2)
    ]
    replies = await asyncio.gather(*(send(api, file) for file in files))
    people = (await api("GET /api/v1/customers")).data
    names = [one["name"] for one in people]
    assert sorted(names) == sorted(["Ada", "Bob", *(f"Eve {n}" for n in range(9))])
    assert sum(reply.data["customers"] for reply in replies) == 11
    rows = (await api("GET /api/v1/customer")).data
    assert len(rows) == 3003 + 3002 + 3001
    feed = (await api("GET /api/v1/changes")).data
    changes = [row["change"] for row in feed]
    assert len({*changes}) == 3
    assert changes == sorted(changes, key=int)
    first = min(replies, key=lambda reply: int(reply.headers["Change"]))
    assert first.data["customers"] == 11
    await undo(api, first.headers["Change"], 409)
    for reply in [one for one in replies if one is not first]:
        await undo(api, reply.headers["Change"])
    await undo(api, first.headers["Change"])
    assert await list_names(api) == []


async def test_others_add_meanwhile(api: ApiClient, customer: int) -> None:
    """Their writes go on between its steps, and get ids of their own."""
    file = HEADER + "".join(f"1,Thing {n},1\n" for n in range(9000))
    running = asyncio.ensure_future(send(api, file))
    added = []
    while not running.done():
        reply = await api("POST /api/v1/purchase/1", PHONE, 201)
        added.append(reply.data["id"])
    reply = await running
    assert len(added) > 2
    rows = (await api("GET /api/v1/customer")).data
    assert len({row["purchase_id"] for row in rows}) == len(rows) == 9000 + len(added)
    names = [row["purchase_name"] for row in rows if row["purchase_id"] not in added]
    assert names == [f"Thing {n}" for n in range(9000)]
    await undo(api, reply.headers["Change"])
    assert await list_ids(api) == added


@one_engine
@pytest.mark.parametrize("file", [FILE, f"{HEADER}1,Tea,1\n".encode()])
@pytest.mark.parametrize("lost", ["reopened", "emptied"])
async def test_staged_rows_that_are_lost(
    api: ApiClient,
    engine: Any,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    file: bytes,
    lost: str,
) -> None:
    """The connection that has them may be opened anew: nothing is done, not a part."""
    before = await everything(api)
    submit_alone = engine.write_alone

    async def lose(*args: Any) -> Any:
        if lost == "reopened":
            engine.health.stale = True
        else:
            await engine.write(queries.clear_stage)
            await engine.write(queries.stage_rows, 1, "[[1,2,3,4,5,6],[1,2,3,4,5,6]]")
        return await submit_alone(*args)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "write_alone", lose)
        reply = await send(api, file, 503, Idempotency_Key="k")
    assert "again" in reply.json["detail"]
    assert await everything(api) == before
    await send(api, file, Idempotency_Key="k")


@one_engine
async def test_staged_rows_of_another(
    api: ApiClient, engine: Any, customer: int
) -> None:
    """What an import left that was cut off is not taken for the next one's."""
    await engine.write(queries.stage_rows, 0, "[[1,2,3,4,5,6]]")
    await send(api, f"{PEOPLE}Ada,\n")
    await send(api, f"{HEADER}1,Tea,1\n")
    rows = (await api("GET /api/v1/customer")).data
    assert [row["purchase_name"] for row in rows] == ["Tea"]


@one_engine
async def test_too_many_files(api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "TURN_SECONDS", 0.1)
    writers = []
    for _ in range(imports.FILES):
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(HEAD + b"Content-Length: 9\r\n\r\nx")
        writers.append(writer)
    await asyncio.sleep(0.1)
    reply = await send(api, FILE, 503)
    assert reply.headers["Retry-After"] == "5"
    for writer in writers:
        writer.close()
    await asyncio.sleep(0.1)
    await send(api, FILE)
