"""Lists: pages, streams and formats."""

import asyncio
import csv
import io
import json
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

import db
from api import listing
from tests.support import (
    CSV,
    JOHN,
    JSON,
    JSONL,
    MAX_ID,
    PHONE,
    ApiClient,
    add_many,
    list_ids,
    one_engine,
    walk,
)


@pytest.mark.parametrize("path", ["/api/v1/customer", "/api/v1/purchase/1"])
async def test_pages(api: ApiClient, engine: Any, customer: int, path: str) -> None:
    await engine.write(add_many, customer, 7)
    reply = await api(f"GET {path}?limit=3")
    assert [row["purchase_id"] for row in reply.data] == [1, 2, 3]
    assert reply.headers["Link"] == f'<{path}?limit=3&after=3>; rel="next"'
    for query in ("?limit=7", "?limit=1000", "?limit=4&after=3", ""):
        assert "Link" not in (await api(f"GET {path}{query}")).headers
    for after, number in ((0, 7), (6, 1), (7, 0), (MAX_ID, 0)):
        assert len((await api(f"GET {path}?after={after}")).data) == number
    assert await walk(api, f"{path}?limit=2") == [*range(1, 8)]


async def test_pages_of_found_customers(api: ApiClient) -> None:
    for number in range(5):
        name = "Ünal & Söhne" if number % 2 == 0 else "x"
        await api("POST /api/v1/customer", {"name": name, "address": ""}, 201)
    path = f"/api/v1/customers?limit=2&name={quote('l & S')}"
    reply = await api(f"GET {path}")
    assert [row["id"] for row in reply.data] == [1, 3]
    follow = reply.headers["Link"].partition(">")[0].removeprefix("<")
    reply = await api(f"GET {follow}")
    assert [row["id"] for row in reply.data] == [5]
    assert "Link" not in reply.headers


async def test_pages_while_rows_change(
    api: ApiClient, engine: Any, customer: int
) -> None:
    """What was there throughout is seen once, whatever comes and goes meanwhile."""
    await engine.write(add_many, customer, 60)
    doomed = iter(range(1, 61, 3))

    async def change() -> None:
        gone = {"purchase_ids": [next(doomed), next(doomed)]}
        await api("DELETE /api/v1/purchase/1", gone)
        await api("POST /api/v1/purchase/1", PHONE, 201)

    seen = await walk(api, "/api/v1/customer?limit=7", change)
    assert seen == sorted(set(seen))
    assert {number for number in range(1, 61) if number % 3 != 1} <= set(seen)


@pytest.mark.parametrize("accept", [JSON, JSONL, CSV])
async def test_long_list(
    api: ApiClient, engine: Any, customer: int, accept: str
) -> None:
    """A list of more than one hop to the database is streamed, whole."""
    number = 2 * listing.PAGE_ROWS + 1
    await engine.write(add_many, customer, number)
    reply = await api("GET /api/v1/customer", Accept=accept)
    assert reply.headers["Transfer-Encoding"] == "chunked"
    assert "Server" not in reply.headers
    assert reply.headers["Vary"] == "Accept"
    assert reply.headers["Cache-Control"] == "private, no-cache"
    limited = await api("GET /api/v1/purchase/1?limit=1000", Accept=accept)
    assert reply.text.startswith(limited.text.rstrip("]}"))
    if accept == CSV:
        ids = [row["purchase_id"] for row in csv.DictReader(io.StringIO(reply.text))]
    elif accept == JSONL:
        ids = [json.loads(row)["purchase_id"] for row in reply.text.splitlines()]
    else:
        ids = [row["purchase_id"] for row in reply.data]
    assert [int(text) for text in ids] == [*range(1, number + 1)]
    head = await api("HEAD /api/v1/customer", Accept=accept)
    assert head.headers["Content-Type"] == reply.headers["Content-Type"]


@pytest.mark.parametrize("rows", [3, 4, 6])
async def test_list_of_whole_hops(
    api: ApiClient,
    engine: Any,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
) -> None:
    monkeypatch.setattr(listing, "PAGE_ROWS", 3)
    await engine.write(add_many, customer, rows)
    assert await list_ids(api) == [*range(1, rows + 1)]


async def test_list_breaks_off_visibly(
    api: ApiClient,
    engine: Any,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listing, "PAGE_ROWS", 3)
    await engine.write(add_many, customer, 9)

    async def broken(*_: object) -> db.Page:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(engine, "scan", broken)
    with pytest.raises(aiohttp.ClientPayloadError):
        await api("GET /api/v1/customer")
    [record] = caplog.records
    assert record.getMessage().startswith("a list broke off")
    monkeypatch.undo()
    assert len(await list_ids(api)) == 9


@one_engine
@pytest.mark.parametrize("cause", ["fault", "stop"])
@pytest.mark.parametrize("path", ["/api/v1/customer", "/api/v1/purchases.csv"])
async def test_old_list_breaks_off_visibly(
    api: ApiClient,
    engine: Any,
    customer: int,
    monkeypatch: pytest.MonkeyPatch,
    cause: str,
    path: str,
) -> None:
    """HTTP/1.0 has no sign of an end, so the connection is reset in its place."""
    monkeypatch.setattr(listing, "PAGE_ROWS", 3)
    await engine.write(add_many, customer, 9)
    reached = asyncio.Event()

    async def broken(*_: object) -> db.Page:
        reached.set()
        if cause == "stop":
            await asyncio.sleep(60)
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(engine, "scan", broken)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    await asyncio.wait_for(reached.wait(), 10)
    if cause == "stop":
        runner: Any = api.client.server.runner
        await runner.cleanup()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 10)
    writer.close()
    monkeypatch.undo()
    if cause == "fault":
        whole = await api.raw(f"GET {path} HTTP/1.0\r\n\r\n".encode(), 200)
        assert whole.headers["Connection"] == "close"
        assert '"purchase_id":9' in whole.text or "\r\n9," in whole.text


@pytest.mark.parametrize("path", ["/api/v1/customer", "/api/v1/customers?name=none"])
@pytest.mark.parametrize(("accept", "lines"), [(CSV, 1), (JSONL, 0), (JSON, 1)])
async def test_empty_list(api: ApiClient, path: str, accept: str, lines: int) -> None:
    reply = await api(f"GET {path}", Accept=accept)
    assert len(reply.text.splitlines()) == lines
    assert reply.headers["Content-Type"].startswith(accept)
    assert accept != JSON or reply.data == []


@one_engine
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/*", CSV),
        ("TEXT/CSV", CSV),
        ("text/csv, application/json", JSON),
        ("text/csv;q=0.5, application/json;q=0.4", CSV),
        ("text/csv;q=0.5, application/jsonl;q=0.6, */*;q=0.1", JSONL),
        ("application/json;q=0, */*", JSONL),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        ("text/csv; header=present; q=0.9, application/json;q=0.8", CSV),
        ("text/html", None),
        ("text/csv;q=0", None),
        ("application/json;q=0.0, image/*", None),
        ("*/*;q=0", None),
        ("text/csv;q=often", None),
    ],
)
async def test_accept(
    api: ApiClient, purchase: int, accept: str, kind: str | None
) -> None:
    reply = await api("GET /api/v1/customer", None, 200 if kind else 406, Accept=accept)
    written = reply.headers["Content-Type"].partition(";")[0]
    assert written == (kind or "application/problem+json")
    await api("GET /api/v1/purchase/7", None, 404 if kind else 406, Accept=accept)


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        (JSON, '{"status":"ok","data":[]}'),
        (JSONL, ""),
        (CSV, "id,name,address,created_on\r\n"),
    ],
)
async def test_search_without_a_match(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch, accept: str, text: str
) -> None:
    """A search that takes several units of work and finds nothing is a whole list."""
    monkeypatch.setattr("queries.lists.SCAN_ROWS", 3)
    for _ in range(7):
        await api("POST /api/v1/customer", JOHN, 201)
    reply = await api("GET /api/v1/customers?name=nobody", Accept=accept)
    assert reply.text == text


@one_engine
async def test_cells_of_formulas(api: ApiClient) -> None:
    """They are guarded so that no two texts have the same cell."""
    texts = ["=1", "'=1", "''\n", "'x", "\uff0b"]
    for text in texts:
        await api("POST /api/v1/customer", {"name": "x", "address": text}, 201)
    reply = await api("GET /api/v1/customers", Accept=CSV)
    rows = csv.DictReader(io.StringIO(reply.text, newline=""))
    cells = [row["address"] for row in rows]
    assert cells == ["'=1", "''=1", "'''\n", "'x", "'\uff0b"]
    assert [listing.unguard(cell) for cell in cells] == texts


@pytest.mark.parametrize("name", ["customers", "purchases"])
async def test_download(api: ApiClient, four_purchases: list[int], name: str) -> None:
    """A link of a browser, which accepts neither, gets the list as a file."""
    path = "customers" if name == "customers" else "customer"
    for query in ("", "?limit=2", "?after=1"):
        for suffix, kind in (("csv", CSV), ("jsonl", JSONL)):
            file = f"{name}.{suffix}"
            reply = await api(f"GET /api/v1/{file}{query}", Accept="text/html")
            disposition = reply.headers["Content-Disposition"]
            assert disposition == f'attachment; filename="{file}"'
            assert reply.headers["Content-Type"].startswith(kind)
            listed = await api(f"GET /api/v1/{path}{query}", Accept=kind)
            bom = "\ufeff" if suffix == "csv" else ""
            assert reply.text == bom + listed.text
            link = reply.headers.get("Link", "")
            assert link == listed.headers.get("Link", "").replace(path, file, 1)
    await api(f"GET /api/v1/{name}.pdf", None, 404)
    await api(f"POST /api/v1/{name}.csv", {}, 405)
    await api(f"GET /api/v1/{name}.csv?limit=0", None, 422)
