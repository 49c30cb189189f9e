"""The history of writes: what is recorded, what undo brings back, what is erased."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import db
from api.auth import Authenticator, read_tokens
from queries import history
from storage.engine import Statement
from tests.support import (
    JOHN,
    PHONE,
    ApiClient,
    ClientReply,
    Like,
    Opener,
    digest,
    list_ids,
)

RFC3339 = Like(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
PURCHASE = {
    "id": "1",
    "purchase_name": "Iphone 10 Pro",
    "quantity": 4,
    "purchased_on": RFC3339,
    "last_updated_on": None,
    "customer_id": "1",
}
CUSTOMER = {"id": "1", **JOHN, "created_on": RFC3339}


def row(action: str, purchase_id: str | None, **more: Any) -> dict[str, Any]:
    """Return what a row of the feed is, but for its numbers."""
    return {
        "at": RFC3339,
        "caller": None,
        "action": action,
        "customer_id": "1",
        "purchase_id": purchase_id,
        "before": None,
        "now": None,
    } | more


async def read_feed(api: ApiClient, after: str = "0") -> list[dict[str, Any]]:
    """Return the rows of the feed after checking their numbers, without these."""
    rows: list[dict[str, Any]] = (await api(f"GET /api/v1/changes?after={after}")).data
    cursors = [int(one.pop("cursor")) for one in rows]
    assert cursors == sorted({*cursors})
    assert all(int(one.pop("change")) > 0 for one in rows)
    return rows


async def read_all(api: ApiClient) -> list[object]:
    """Return everything that a client can see, with all entity tags."""
    people = (await api("GET /api/v1/customers")).data
    bought = (await api("GET /api/v1/customer")).data
    rows = [f"/api/v1/customer/{one['id']}" for one in people]
    rows += [
        f"/api/v1/customer/{one['customer_id']}/purchase/{one['purchase_id']}"
        for one in bought
    ]
    tags = [(await api(f"GET {path}")).headers["ETag"] for path in rows]
    return [people, bought, tags]


async def undo(api: ApiClient, change: str, status: int = 201) -> ClientReply:
    """Undo a change."""
    return await api(f"POST /api/v1/changes/{change}/undo", None, status)


async def test_rows_of_the_feed(api: ApiClient, purchase: int) -> None:
    await api("PATCH /api/v1/purchase/1", {"quantity": 5})
    last = await api("PATCH /api/v1/customer/1", {"address": "x"})
    now = PURCHASE | {"quantity": 5, "last_updated_on": RFC3339}
    moved = CUSTOMER | {"address": "x"}
    assert await read_feed(api) == [
        row("customer.created", None, now=moved),
        row("purchase.added", "1", now=now),
        row("purchase.updated", "1", before=PURCHASE, now=now),
        row("customer.updated", None, before=CUSTOMER, now=moved),
    ]
    await api("DELETE /api/v1/purchase/1", {"purchase_ids": [1, 1, 7]})
    await api("POST /api/v1/purchase/1", PHONE, 201)
    await api("DELETE /api/v1/purchase/1?delete_all=true")
    await api("DELETE /api/v1/customer/1")
    assert await read_feed(api, last.headers["Change"]) == [
        row("purchase.deleted", "1", before=now),
        row("purchase.added", "2"),
        row("purchases.cleared", None, purchases=1),
        row("customer.deleted", None, before=moved, purchases=0),
    ]


FILTERS = {
    "customer_id=2": [4],
    "purchase_id=1": [2],
    "action=purchase.added": [2, 3],
    "action=purchase.added&customer_id=1&limit=1": [2],
    "action=purchase.added&limit=1&order=desc": [3],
    "action=purchases.restored": [],
    "caller=nobody": [],
    "order=desc": [4, 3, 2, 1],
    "order=desc&after=3": [2, 1],
    "order=asc&after=3": [4],
    "after=4": [],
    "after=99": [],
}


@pytest.mark.parametrize("query", FILTERS)
async def test_filters_of_the_feed(
    api: ApiClient, purchase: int, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    """Also where a page looks at few rows."""
    await api("POST /api/v1/purchase/1", PHONE, 201)
    await api("POST /api/v1/customer", JOHN, 201)
    for rows in (20_000, 2, 1):
        monkeypatch.setattr("queries.feed.SCAN_ROWS", rows)
        found = (await api(f"GET /api/v1/changes?{query}")).data
        assert [int(one["cursor"]) for one in found] == FILTERS[query]


async def test_pages_of_the_feed(api: ApiClient, purchase: int) -> None:
    """They can be walked by their links, or by the last cursor."""
    for _ in range(5):
        await api("POST /api/v1/purchase/1", PHONE, 201)
    for query, step in (("limit=2", 1), ("limit=3&order=desc", -1)):
        found, path = [], f"/api/v1/changes?{query}"
        while path:
            reply = await api(f"GET {path}")
            found += [int(one["cursor"]) for one in reply.data]
            path = reply.headers.get("Link", "<>").partition(">")[0][1:]
        assert found == [*range(1, 8)][::step]


WRITES: dict[str, Any] = {
    "POST /api/v1/customer": JOHN,
    "POST /api/v1/purchase/1": PHONE,
    "PATCH /api/v1/purchase/1": {"quantity": 9},
    "PUT /api/v1/purchase/1": {"purchase_name": "x", "quantity": 1},
    "PATCH /api/v1/customer/1/purchase/1": {"quantity": 10},
    "DELETE /api/v1/purchase/2": {"purchase_name": "y", "quantity": 2},
    "PATCH /api/v1/customer/1": {"name": "Ann", "address": ""},
    "DELETE /api/v1/purchase/1": {"purchase_ids": [3, 1, 99]},
    "DELETE /api/v1/purchase/1?purchase_id=2": None,
    "DELETE /api/v1/purchase/1?delete_all=true": None,
    "DELETE /api/v1/customer/1": None,
}
"""One of each kind."""


@pytest.mark.parametrize("line", WRITES)
async def test_undo(api: ApiClient, four_purchases: list[int], line: str) -> None:
    """All is as before; undone again, all is as after; and so on."""
    await api("PATCH /api/v1/purchase/1", {"quantity": 8})
    before = await read_all(api)
    reply = await api(line, WRITES[line], 201 if line.startswith("POST") else 200)
    change, after = reply.headers["Change"], await read_all(api)
    assert before != after
    rows = (await api(f"GET /api/v1/changes/{change}")).data
    assert {one["change"] for one in rows} == {change}
    for turn in range(4):
        reply = await undo(api, change)
        new = reply.headers["Change"]
        assert reply.data == {"change": new, "undoes": change, "rows": len(rows)}
        assert reply.headers["Location"] == f"/api/v1/changes/{new}"
        assert len((await api(f"GET /api/v1/changes/{new}")).data) == len(rows)
        found = await read_all(api)
        assert found[:2] == (before if turn % 2 == 0 else after)[:2], turn
        again = await undo(api, change, 409)
        assert f"by change {new}." in again.json["detail"]
        change = new


async def test_undo_in_reverse(api: ApiClient) -> None:
    """Whatever was written comes back, step by step."""
    states, changes = [], []
    lines = [*WRITES.items()]
    setup: list[Any] = [("POST /api/v1/customer", JOHN)]
    setup += [("POST /api/v1/purchase/1", PHONE) for _ in range(3)]
    for line, body in [*setup, *lines]:
        states.append((await read_all(api))[:2])
        status = 201 if line.startswith("POST") else 200
        changes.append((await api(line, body, status)).headers["Change"])
    undone = []
    for change, state in zip(reversed(changes), reversed(states), strict=True):
        undone.append((await undo(api, change)).headers["Change"])
        assert (await read_all(api))[:2] == state
    for change, state in zip(reversed(undone), states[1:], strict=False):
        await undo(api, change)
        assert (await read_all(api))[:2] == state


async def test_undo_of_what_changed_since(
    api: ApiClient, four_purchases: list[int]
) -> None:
    """It changes nothing, and names the rows."""
    first = await api("PATCH /api/v1/purchase/1", {"quantity": 5})
    second = await api("PATCH /api/v1/purchase/1", {"quantity": 6})
    before = await read_all(api)
    reply = await undo(api, first.headers["Change"], 409)
    assert reply.json["errors"] == [
        {"pointer": "/purchases/1", "detail": "It has changed since."}
    ]
    assert await read_all(api) == before
    await undo(api, second.headers["Change"])
    await undo(api, first.headers["Change"])
    shown = (await api("GET /api/v1/customer/1/purchase/1")).data
    assert (shown["quantity"], shown["last_updated_on"]) == (4, None)


async def test_tags_never_come_back(api: ApiClient, purchase: int) -> None:
    """A tag names one content, whatever was undone between."""
    path = "GET /api/v1/customer/1/purchase/1"
    seen: dict[str, int] = {}
    for quantity in (5, 6, 5):
        reply = await api("PATCH /api/v1/purchase/1", {"quantity": quantity})
        await undo(api, reply.headers["Change"])
        for _ in range(2):
            shown = await api(path)
            tag = shown.headers["ETag"]
            assert seen.setdefault(tag, shown.data["quantity"]) == 4
    old = await api("PATCH /api/v1/purchase/1", {"quantity": 9})
    await undo(api, old.headers["Change"])
    tag = old.headers["ETag"]
    await api("PATCH /api/v1/purchase/1", {"quantity": 1}, 412, If_Match=tag)


async def test_purchase_without_its_customer(api: ApiClient, purchase: int) -> None:
    gone = await api("DELETE /api/v1/purchase/1?purchase_id=1")
    await api("DELETE /api/v1/customer/1")
    reply = await undo(api, gone.headers["Change"], 409)
    assert reply.json["errors"] == [
        {"pointer": "/customers/1", "detail": "It is not there."}
    ]
    assert not await list_ids(api)


async def test_customer_with_purchases(api: ApiClient, purchase: int) -> None:
    reply = await undo(api, "1", 409)
    assert reply.json["errors"] == [
        {"pointer": "/purchases/1", "detail": "Its customer would go."}
    ]
    await undo(api, "2")
    await undo(api, "1")
    await api("GET /api/v1/customer/1", None, 404)
    await api("POST /api/v1/purchase/1", PHONE, 404)


async def test_purchase_back_among_deleted_ones(
    api: ApiClient, four_purchases: list[int]
) -> None:
    """It is seen, and those that were deleted with the rest are not."""
    alone = await api("DELETE /api/v1/purchase/1?purchase_id=2")
    rest = await api("DELETE /api/v1/purchase/1?delete_all=true")
    await undo(api, alone.headers["Change"])
    assert await list_ids(api) == [2, 4]
    assert [one["purchase_id"] for one in (await api("GET /api/v1/purchase/1")).data]
    both = await api("DELETE /api/v1/purchase/1?delete_all=true")
    assert both.json["deleted_count"] == 1
    await undo(api, rest.headers["Change"])
    assert await list_ids(api) == [1, 3, 4]
    await undo(api, both.headers["Change"])
    assert await list_ids(api) == [1, 2, 3, 4]


async def test_redo_beside_additions(api: ApiClient, four_purchases: list[int]) -> None:
    """What was added since stays, also where it was changed."""
    cleared = await api("DELETE /api/v1/purchase/1?delete_all=true")
    undone = await undo(api, cleared.headers["Change"])
    await api("POST /api/v1/purchase/1", PHONE, 201)
    await api("PATCH /api/v1/purchase/5", {"quantity": 1})
    await undo(api, undone.headers["Change"])
    assert await list_ids(api) == [4, 5]


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("PATCH /api/v1/purchase/2", {"quantity": 1}),
        ("DELETE /api/v1/purchase/1?purchase_id=2", None),
        ("DELETE /api/v1/purchase/1?delete_all=true", None),
    ],
)
async def test_redo_of_what_changed_since(
    api: ApiClient, four_purchases: list[int], line: str, body: object
) -> None:
    """Unless that was undone too."""
    cleared = await api("DELETE /api/v1/purchase/1?delete_all=true")
    undone = await undo(api, cleared.headers["Change"])
    changed = await api(line, body)
    before = await read_all(api)
    reply = await undo(api, undone.headers["Change"], 409)
    assert reply.json["errors"]
    assert await read_all(api) == before
    await undo(api, changed.headers["Change"])
    await undo(api, undone.headers["Change"])
    assert await list_ids(api) == [4]


async def test_redo_of_a_deletion_with_additions(
    api: ApiClient, four_purchases: list[int]
) -> None:
    """Nothing goes that was not deleted before."""
    gone = await api("DELETE /api/v1/customer/1")
    undone = await undo(api, gone.headers["Change"])
    await api("POST /api/v1/purchase/1", PHONE, 201)
    reply = await undo(api, undone.headers["Change"], 409)
    assert reply.json["errors"] == [
        {"pointer": "/customers/1", "detail": "It has other purchases now."}
    ]
    assert await list_ids(api) == [1, 2, 3, 4, 5]


async def test_unknown_change(api: ApiClient, purchase: int) -> None:
    await undo(api, "99", 404)
    await api("GET /api/v1/changes/99", None, 404)
    await api("GET /api/v1/changes/9223372036854775808", None, 404)
    await undo(api, "0", 404)


async def test_undo_under_a_key(api: ApiClient, purchase: int) -> None:
    line = "POST /api/v1/changes/2/undo"
    first = await api(line, None, 201, Idempotency_Key="k")
    again = await api(line, None, 201, Idempotency_Key="k")
    assert again.headers["Idempotency-Replayed"] == "true"
    for name in ("Location", "Change"):
        assert first.headers[name] == again.headers[name]
    assert first.text == again.text
    assert "ETag" not in first.headers
    await api(line, None, 409, Idempotency_Key="other")


async def test_condition_of_an_undo(api: ApiClient, purchase: int) -> None:
    line, before = "POST /api/v1/changes/2/undo", await list_ids(api)
    await api(line, None, 412, If_Match='"1"')
    await api("POST /api/v1/changes/99/undo", None, 404, If_Match='"1"')
    assert await list_ids(api) == before
    await api(line, None, 201, If_Match="*")


async def test_callers(opened: Opener, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"ann {digest('a')} write\nbob {digest('b')} read\n")
    file.chmod(0o600)
    api = await opened(Authenticator(read_tokens(file)))
    ann, bob = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}
    await api("POST /api/v1/customer", JOHN, 201, **ann)
    assert (await api("GET /api/v1/changes", **bob)).data[0]["caller"] == "ann"
    assert len((await api("GET /api/v1/changes?caller=ann", **bob)).data) == 1
    await api("POST /api/v1/changes/1/undo", None, 403, **bob)
    await api("GET /api/v1/changes", None, 401)
    await api("POST /api/v1/changes/1/undo", None, 201, **ann)


async def test_nothing_to_delete(api: ApiClient, purchase: int) -> None:
    """What changed nothing is no change."""
    reply = await api("DELETE /api/v1/purchase/1", {"purchase_ids": [7]})
    assert "Change" not in reply.headers
    assert len((await api("GET /api/v1/changes")).data) == 2


async def test_old_versions_of_a_key(api: ApiClient, customer: int) -> None:
    """What is answered again tells of the same change."""
    line = "POST /api/v1/purchase/1"
    first = await api(line, PHONE, 201, Idempotency_Key="k")
    again = await api(line, PHONE, 201, Idempotency_Key="k")
    assert first.headers["Change"] == again.headers["Change"]


async def test_lists_and_feed(api: ApiClient, purchase: int) -> None:
    """What comes after a list is in the feed from its cursor on.

    What the list shows may be told again.
    """
    for path in ("customers", "customer", "purchase/1", "purchases.csv"):
        cursor = (await api(f"GET /api/v1/{path}")).headers["Feed-Cursor"]
        added = await api("POST /api/v1/purchase/1", PHONE, 201)
        rows = (await api(f"GET /api/v1/changes?after={cursor}")).data
        assert rows[-1]["change"] == added.headers["Change"]


def add_slowly(seconds: float) -> db.Unit[None]:
    """Add a purchase, and take some time until the commit."""
    at = db.now()
    yield db.INSERT_PURCHASE, ("slow", 1, at, 1, at, "")
    yield Statement(postgres="SELECT pg_sleep(?)"), (seconds,)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_writer_that_takes_long(api: ApiClient, engine: Any) -> None:
    """Neither the feed nor a list goes past it before it has ended."""
    await api("POST /api/v1/customer", JOHN, 201)
    slow = asyncio.ensure_future(engine.write(add_slowly, 0.5))
    await asyncio.sleep(0.2)
    quick = await api("POST /api/v1/purchase/1", PHONE, 201)
    assert not slow.done()
    rows, ids = await asyncio.gather(api("GET /api/v1/changes"), list_ids(api))
    await slow
    cursors = [int(one["cursor"]) for one in rows.data]
    assert cursors == [1, 2, 3]
    assert ids == [1, 2]
    assert quick.headers["Change"] == "3"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_writer_that_never_ends(
    api: ApiClient, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after it is left to a later page."""
    monkeypatch.setattr(history, "WAITS", 3)
    await api("POST /api/v1/customer", JOHN, 201)
    slow = asyncio.ensure_future(engine.write(add_slowly, 1.5))
    await asyncio.sleep(0.2)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    reply = await api("GET /api/v1/changes")
    assert [one["cursor"] for one in reply.data] == ["1"]
    listed = await api("GET /api/v1/purchase/1")
    assert listed.data == []
    assert listed.headers["Feed-Cursor"] == "1"
    assert not slow.done()
    await slow
    assert await list_ids(api) == [1, 2]
