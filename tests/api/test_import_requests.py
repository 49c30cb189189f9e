"""Imports as requests: what they add, refuse, repeat and undo."""

import asyncio
from typing import Any

import pytest

from api import imports
from tests.support import CSV, JSONL, ApiClient, list_ids, list_names, one_engine

HEAD = "customer_id,purchase_name,quantity,purchased_on"
PAIRS = "customer_name,customer_address,purchase_name,quantity"
IMPORTS = "POST /api/v1/imports"
TWO = f"{HEAD}\n1,Cup,2,2022-04-09\n1,Pen,1,2022-04-09T12:00:00+02:00\n".encode()


async def send(api: ApiClient, text: str, status: int = 201, **headers: str) -> Any:
    """Import CSV."""
    headers = {"Content_Type": CSV} | headers
    return await api(IMPORTS, text.encode(), status, **headers)


async def test_by_id(api: ApiClient, customer: int) -> None:
    reply = await api(IMPORTS, TWO, 201, Content_Type=CSV)
    number = reply.headers["Change"]
    assert reply.data == {"change": number, "customers": 0, "purchases": 2}
    assert reply.headers["Location"] == f"/api/v1/changes/{number}"
    listed = (await api(f"GET /api/v1/purchase/{customer}")).data
    assert [(row["purchase_name"], row["purchased_on"]) for row in listed] == [
        ("Cup", "2022-04-09 00:00:00.000000+00:00"),
        ("Pen", "2022-04-09 10:00:00.000000+00:00"),
    ]
    rows = (await api(f"GET /api/v1/changes/{number}")).data
    assert [row["action"] for row in rows] == ["purchase.added"] * 2
    await api(f"POST /api/v1/changes/{number}/undo", None, 201)
    assert await list_ids(api) == []


async def test_by_pair(api: ApiClient, customer: int) -> None:
    """Each pair that no customer has becomes one, once; undo and redo take all."""
    text = f'{PAIRS}\nJohn Doe,"Amsterdam, NL",Cup,1\nAda,,Cup,2\nAda,,Pen,3\n'
    reply = await send(api, text)
    assert reply.data["customers"] == 1
    assert await list_names(api) == ["John Doe", "Ada"]
    owners = [row["customer_id"] for row in (await api("GET /api/v1/customer")).data]
    assert owners == [str(customer), "2", "2"]
    rows = (await api(f"GET {reply.headers['Location']}")).data
    actions = ["customer.created", *["purchase.added"] * 3]
    assert [row["action"] for row in rows] == actions
    before = (await api("GET /api/v1/customer")).json
    undone = await api(f"POST {reply.headers['Location']}/undo", None, 201)
    assert (await list_names(api), await list_ids(api)) == (["John Doe"], [])
    await api(f"POST {undone.headers['Location']}/undo", None, 201)
    assert await list_names(api) == ["John Doe", "Ada"]
    assert (await api("GET /api/v1/customer")).json == before


@one_engine
async def test_faults_by_line(api: ApiClient, customer: int) -> None:
    """Those of the file and of the database come together, in the order of lines."""
    text = f"{HEAD}\n7,a,1,\n1,,1,\n8,b,1,\n1,c,1,2999-01-01\n"
    reply = await send(api, text, 422)
    assert [(error["line"], error["pointer"]) for error in reply.json["errors"]] == [
        *((2, "/customer_id"), (3, "/purchase_name"), (4, "/customer_id")),
        (5, "/purchased_on"),
    ]
    assert reply.json["detail"].endswith("see errors: 4 faults.")
    many = await send(api, f"{HEAD}\n" + "9,a,1,\n" * 150, 422)
    assert len(many.json["errors"]) == 100
    assert "150 faults, of which these are the first 100" in many.json["detail"]
    assert await list_ids(api) == []


@one_engine
async def test_dry_run(api: ApiClient, customer: int) -> None:
    reply = await api(f"{IMPORTS}?dry_run=true", TWO, 200, Content_Type=CSV)
    assert reply.data == {"change": None, "customers": 0, "purchases": 2}
    assert "Change" not in reply.headers
    assert await list_ids(api) == []
    await api(f"{IMPORTS}?dry_run=1", TWO, 422, Content_Type=CSV)


@one_engine
@pytest.mark.parametrize(
    ("kind", "text", "status"),
    [
        ("application/x-ndjson", '{"name": "x", "address": ""}', 201),
        ("application/octet-stream", '\n{"name": "x", "address": ""}', 201),
        ("application/octet-stream", "name,address\nx,\n", 201),
        ("text/csv; charset=UTF-8; header=present", "name,address\nx,\n", 201),
        ("text/csv; charset=latin1", "name,address\nx,\n", 415),
        ("application/json", '{"name": "x", "address": ""}', 415),
        ("", "name,address\nx,\n", 415),
    ],
)
async def test_media_types(api: ApiClient, kind: str, text: str, status: int) -> None:
    await api(IMPORTS, text.encode(), status, Content_Type=kind)
    assert await list_names(api) == ["x"] * (status == 201)


@one_engine
async def test_size(api: ApiClient, customer: int) -> None:
    """A file holds 16 MiB, whatever else a body may hold."""
    row = "1," + "x" * 190 + ",1,\n"
    text = f"{HEAD}\n" + row * 60_000
    text += "\n" * (imports.MAX_FILE - len(text))
    for more, status in (("", 201), ("\n", 413)):
        body = (text + more).encode()
        head = f"Content-Type: {CSV}\r\nContent-Length: {len(body)}\r\n\r\n"
        request = f"POST /api/v1/imports HTTP/1.1\r\nHost: x\r\n{head}".encode()
        reply = await api.raw(request + (body if status == 201 else b""), status)
        assert status == 413 or reply.data["purchases"] == 60_000


@one_engine
async def test_asked_before_it_comes(api: ApiClient, customer: int) -> None:
    """A file larger than other bodies is waited for (RFC 9110, 10.1.1)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(
        b"POST /api/v1/imports HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"
        b"Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"
    )
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    writer.write(TWO.ljust(1_000_000, b"\n"))
    assert await reader.readline() == b"\r\n"
    assert await reader.readline() == b"HTTP/1.1 201 Created\r\n"
    writer.close()
    await writer.wait_closed()


async def test_repeated(api: ApiClient, customer: int) -> None:
    """A key is good for one import; its customer may be gone meanwhile."""
    headers = {"Content_Type": CSV, "Idempotency_Key": "k"}
    first = await api(IMPORTS, TWO, 201, **headers)
    await api(f"DELETE /api/v1/customer/{customer}")
    again = await api(IMPORTS, TWO, 201, **headers)
    assert again.text == first.text
    assert again.headers["Idempotency-Replayed"] == "true"
    path = f"{IMPORTS}?dry_run=true"
    assert (await api(path, b"name,address\nx,\n", 200, **headers)).data["customers"]
    other = await api(IMPORTS, TWO + b"1,x,1,\n", 422, **headers)
    assert "Idempotency-Key" in other.json["errors"][0]["detail"]
    await api(IMPORTS, TWO, 422, Content_Type=CSV)


async def test_preconditions(api: ApiClient, customer: int) -> None:
    await api(IMPORTS, TWO, 412, Content_Type=CSV, If_Match='"1"')
    path = f"{IMPORTS}?dry_run=true"
    await api(path, TWO, 412, Content_Type=CSV, If_None_Match="*")
    assert await list_ids(api) == []
    await api(IMPORTS, TWO, 201, Content_Type=CSV, If_Match="*")


async def test_nothing_to_add(api: ApiClient, customer: int) -> None:
    text = 'name,address\nJohn Doe,"Amsterdam, NL"\n'
    reply = await send(api, text, 200)
    assert reply.data == {"change": None, "customers": 0, "purchases": 0}
    assert "Change" not in reply.headers
    assert "Location" not in reply.headers


async def test_ids_are_kept(api: ApiClient) -> None:
    """Where none of them was ever given, and no number is too large for a client."""
    people = '{"id":5,"name":"a","address":""}\n{"id":9,"name":"b","address":""}\n'
    await api(IMPORTS, people.encode(), 201, Content_Type=JSONL)
    listed = (await api("GET /api/v1/customers")).data
    assert [row["id"] for row in listed] == [5, 9]
    bought = "purchase_id,customer_id,purchase_name,quantity\n7,9,x,1\n4,5,y,1\n"
    await send(api, bought)
    assert await list_ids(api) == [4, 7]
    await send(api, bought)
    assert await list_ids(api) == [4, 7, 8, 9]
    await send(api, f"purchase_id,customer_id,purchase_name,quantity\n{2**53},9,x,1\n")
    assert (await list_ids(api))[-1] == 10
    await api("POST /api/v1/customer", {"name": "c", "address": ""}, 201)
    assert (await api("GET /api/v1/customers?order=desc&limit=1")).data[0]["id"] == 10


async def test_changed_meanwhile(
    api: ApiClient, customer: int, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Customers who go or come after the look are looked for again."""
    deletions = [f"DELETE /api/v1/customer/{customer}"]
    write = engine.write_alone

    async def late(*args: Any) -> Any:
        while deletions:
            await api(deletions.pop())
        return await write(*args)

    monkeypatch.setattr(engine, "write_alone", late)
    before = await list_ids(api)
    refused = await api(IMPORTS, TWO, 422, Content_Type=CSV)
    assert refused.pointers == ["/customer_id"] * 2
    assert await list_ids(api) == before
    comers = ["Ada"]

    async def later(*args: Any) -> Any:
        for name in comers:
            comers.clear()
            await api("POST /api/v1/customer", {"name": name, "address": ""}, 201)
        return await write(*args)

    monkeypatch.setattr(engine, "write_alone", later)
    reply = await send(api, f"{PAIRS}\nAda,,Cup,1\n")
    assert reply.data["customers"] == 0
    assert await list_names(api) == ["Ada"]


@one_engine
async def test_staged_rows_are_gone(
    api: ApiClient, customer: int, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was opened anew between: nothing is stored, and 503 says so."""
    write = engine.write_alone

    async def later(*args: Any) -> Any:
        engine.health.stale = True
        return await write(*args)

    monkeypatch.setattr(engine, "write_alone", later)
    reply = await api(IMPORTS, TWO, 503, Content_Type=CSV)
    assert "send the file again" in reply.json["detail"]
    assert await list_ids(api) == []
    monkeypatch.undo()
    await api(IMPORTS, TWO, 201, Content_Type=CSV)
