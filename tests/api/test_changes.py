"""The history as its readers see it, and what an undo refuses."""

import csv
import io
import json
from typing import Any

import pytest

from tests.support import CSV, IDS, JOHN, JSONL, PHONE, ApiClient, one_engine

COLUMNS = [
    *("cursor", "change", "at", "caller", "action", "customer_id", "purchase_id"),
    *("before", "now", "purchases"),
]
FORMULA = {"name": '=1,"x"\r\n', "address": ""}


async def undo(
    api: ApiClient, change: str, status: int = 201, /, **headers: str
) -> Any:
    """Undo a change, and return what the reply tells."""
    reply = await api(f"POST /api/v1/changes/{change}/undo", None, status, **headers)
    return reply.data if status == 201 else reply.json


async def actions(api: ApiClient) -> list[str]:
    """Return the actions of all rows of the feed."""
    return [row["action"] for row in (await api("GET /api/v1/changes")).data]


async def write_history(api: ApiClient) -> list[str]:
    """Write rows of every kind of state; return the paths that show them."""
    await api("POST /api/v1/customer", FORMULA, 201)
    for _ in range(2):
        await api("POST /api/v1/purchase/1", PHONE, 201)
    await api("PATCH /api/v1/purchase/1", {"quantity": 5})
    await api("PATCH /api/v1/customer/1", {"address": "a"})
    cleared = await api("DELETE /api/v1/purchase/1", {"delete_all": True})
    return ["/api/v1/changes", f"/api/v1/changes/{cleared.headers['Change']}"]


async def test_history_as_csv(api: ApiClient) -> None:
    """States are cells of JSON, which no spreadsheet computes."""
    for path in await write_history(api):
        reply = await api(f"GET {path}", Accept=CSV)
        header, *lines = csv.reader(io.StringIO(reply.text, newline=""))
        assert header == COLUMNS
        rows = [dict(zip(COLUMNS, line, strict=True)) for line in lines]
        data = (await api(f"GET {path}")).data
        assert len(rows) == len(data) > 0
        for row, shown in zip(rows, data, strict=True):
            for name in ("before", "now"):
                assert (json.loads(row[name]) if row[name] else None) == shown[name]
            for name in set(COLUMNS) - {"before", "now"}:
                value = shown.get(name)
                assert row[name] == ("" if value is None else str(value)), name
    assert rows[0]["purchases"] == "2"


async def test_history_as_json_lines(api: ApiClient) -> None:
    for path in await write_history(api):
        reply = await api(f"GET {path}", Accept=JSONL)
        assert reply.headers["Content-Type"] == f"{JSONL}; charset=utf-8"
        lines = [json.loads(line) for line in reply.text.splitlines()]
        assert lines == (await api(f"GET {path}")).data
        assert lines


async def test_pages_of_other_formats(api: ApiClient) -> None:
    """A page of CSV names the next one, as a page of JSON does."""
    await write_history(api)
    for accepted in (CSV, JSONL):
        path, cursors = "/api/v1/changes?limit=4", []
        while path:
            rows = (await api(f"GET {path}")).data
            cursors += [row["cursor"] for row in rows]
            reply = await api(f"GET {path}", Accept=accepted)
            assert len(reply.text.splitlines()) == len(rows) + (accepted == CSV)
            path = reply.headers.get("Link", "")[1:].partition(">")[0]
        assert len(cursors) == 6


async def test_pages_of_no_change(api: ApiClient) -> None:
    """What is not there has no second page either."""
    await api("POST /api/v1/customer", JOHN, 201)
    assert (await api("GET /api/v1/changes/1?after=1")).data == []
    for query in ("", "?after=1", "?limit=1&after=99"):
        await api(f"GET /api/v1/changes/99{query}", None, 404)


async def test_creation_is_undone_again_and_again(api: ApiClient) -> None:
    """An undo is a change like others, also that of a customer without purchases."""
    change = (await api("POST /api/v1/customer", JOHN, 201)).headers["Change"]
    for status in (404, 200, 404, 200):
        change = (await undo(api, change))["change"]
        await api("GET /api/v1/customer/1", None, status)
    assert await actions(api) == [
        "customer.created",
        *("customer.deleted", "customer.restored") * 2,
    ]
    await api("POST /api/v1/purchase/1", PHONE, 201)


async def test_erased_is_not_too_old(api: ApiClient) -> None:
    """The answer names the reason, of an update as of a deletion."""
    created = await api("POST /api/v1/customer", JOHN, 201)
    updated = await api("PATCH /api/v1/customer/1", {"name": "Jane"})
    erased = await api("DELETE /api/v1/customer/1?purge=true")
    for reply in (created, updated, erased):
        problem = await undo(api, reply.headers["Change"], 410)
        assert problem["detail"] == "What this was about was deleted or erased since."


@one_engine
@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b" " * 300_000, "application/json", 413),
        (b"{}", "text/plain", 415),
        (b'{"rows": [1]}', "application/json", 422),
        (b"[]", "application/json", 422),
    ],
)
async def test_undo_takes_no_body(
    api: ApiClient, body: bytes, kind: str, status: int
) -> None:
    """Who asks for less than all of a change is not told that this was done."""
    await api("POST /api/v1/customer", JOHN, 201)
    target, headers = "POST /api/v1/changes/1/undo", {"Content-Type": kind}
    refused = await api(target, body, status, **headers)
    if status == 422:
        assert refused.pointers == (["/rows"] if body != b"[]" else [""])
    await api("GET /api/v1/customer/1")
    assert await actions(api) == ["customer.created"]
    await api(target, {}, 201)  # which many clients always send


@one_engine
async def test_undo_with_a_condition(api: ApiClient) -> None:
    """It holds for a first answer and for a repeated one."""
    await api("POST /api/v1/customer", JOHN, 201)
    one, any_row = {"If-Match": '"1"'}, {"If-Match": "*"}
    await undo(api, "1", 412, **one)
    await undo(api, "99", 404, **one)
    assert await actions(api) == ["customer.created"]
    key = {"Idempotency-Key": "k"}
    done = await undo(api, "1", **any_row, **key)
    await undo(api, "1", 412, **one, **key)
    assert await undo(api, "1", **any_row, **key) == done
    assert (await undo(api, "1", 409))["detail"] == (
        f"It was undone already, by change {done['change']}."
    )


async def test_conflicts_name_rows(api: ApiClient) -> None:
    """The pointers of a 409 are those of the rows, by their numbers."""
    await api("POST /api/v1/customer", JOHN, 201)
    added = await api("POST /api/v1/purchase/1", PHONE, 201)
    deleted = await api("DELETE /api/v1/purchase/1", {IDS[1:]: [1]})
    await api("POST /api/v1/purchase/1", PHONE, 201)
    problem = await undo(api, added.headers["Change"], 409)
    assert problem["errors"] == [
        {"pointer": "/purchases/1", "detail": "It is not there."}
    ]
    problem = await undo(api, "1", 409)
    assert [error["pointer"] for error in problem["errors"]] == ["/purchases/2"]
    await undo(api, deleted.headers["Change"])
