"""Imports through the API: all of a file or nothing, in one change."""

import asyncio
import json
from pathlib import Path

import pytest
from pytest_aiohttp import AiohttpClient

import server
from api.auth import Authenticator, read_tokens
from runtime.settings import Settings
from tests.import_requests import (
    FILE,
    HEAD,
    HEADER,
    IDS,
    IMPORT,
    PAIRS,
    PEOPLE,
    everything,
    numbers,
    send,
    undo,
)
from tests.support import (
    JOHN,
    MAX_ID,
    PHONE,
    ApiClient,
    LimitedServer,
    Opener,
    digest,
    list_ids,
    list_names,
    one_engine,
)

MAX_FILE = 16 * 1024 * 1024


# The request


@one_engine
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        *[("text/csv", 201), ("Text/CSV;Charset=UTF-8", 201)],
        *[("text/csv; header=present", 201), ('text/csv ; charset="utf-8"', 201)],
        *[(f"text/csv; charset={name}", 415) for name in ("latin-1", "utf-16", "")],
        *[(kind, 415) for kind in ("application/json", "text/plain", "", "csv")],
        ("multipart/form-data; boundary=x", 415),
        ("application/vnd.ms-excel", 415),
    ],
)
async def test_content_types(
    api: ApiClient, customer: int, kind: str, status: int
) -> None:
    await send(api, f"{HEADER}1,Tea,2\n", status, Content_Type=kind)
    assert await list_ids(api) == [1] * (status == 201)


@one_engine
@pytest.mark.parametrize("kind", ["application/jsonl", "application/x-ndjson"])
async def test_jsonl(api: ApiClient, customer: int, kind: str) -> None:
    row = {"customer_id": 1, "purchase_name": "Tea", "quantity": 2}
    lines = f"{json.dumps(row)}\n\n{json.dumps(row | {'customer_id': '1'})}"
    await send(api, lines, Content_Type=kind)
    assert await list_ids(api) == [1, 2]


@one_engine
@pytest.mark.parametrize(
    "content", ["name,address\nx,\n", '\ufeff\n{"name": "x", "address": ""}']
)
async def test_any_file(api: ApiClient, content: str) -> None:
    """What has no media type of its own is judged by its beginning."""
    await send(api, content, Content_Type="application/octet-stream")
    assert await list_names(api) == ["x"]


@one_engine
async def test_encoding_of_content(api: ApiClient) -> None:
    await send(api, FILE, 415, Content_Encoding="gzip")
    await send(api, FILE.decode().encode("utf-16"), 400)
    await send(api, f"{PEOPLE}Zo\u00eb,\n".encode("latin-1"), 400)
    assert await list_names(api) == []


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
async def test_separators(api: ApiClient, separator: str, mark: bytes) -> None:
    file = f'{PAIRS}"Ada; Lovelace, ""Countess""","Lane\r\n1",Tea,2.0\r\n'
    if separator == ";":
        file = file.replace(PAIRS, PAIRS.replace(",", ";"))
        file = file.replace('","', '";"').replace(",Tea,", ";Tea;")
    await send(api, mark + file.encode())
    [person] = (await api("GET /api/v1/customers")).data
    assert person["name"] == 'Ada; Lovelace, "Countess"'
    assert person["address"] == "Lane\r\n1"
    [row] = (await api("GET /api/v1/customer")).data
    assert (row["purchase_name"], row["quantity"]) == ("Tea", 2)


def large_file(size: int) -> bytes:
    """Return a file of JSON Lines of so many bytes: one row, and blank lines."""
    file = b'{"customer_id":1,"purchase_name":"Tea","quantity":2}\n'
    blank = b" " * 30_000 + b"\n"
    return (file + blank * (size // len(blank) + 1))[:size]


@one_engine
async def test_largest_file(api: ApiClient, customer: int) -> None:
    for size, status in ((MAX_FILE, 201), (MAX_FILE + 1, 413)):
        length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % size
        reply = await api.raw([HEAD + length, large_file(size)], status)
    assert f"{MAX_FILE} bytes" in reply.json["detail"]
    assert await list_ids(api) == [1]


def chunked(content: bytes, size: int) -> bytes:
    """Return a body in chunks."""
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    pieces = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]
    return b"".join([*pieces, b"0\r\n\r\n"])


@one_engine
async def test_chunked_file(api: ApiClient, customer: int) -> None:
    """Its length is counted as it comes."""
    head = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    await api.raw(head + chunked(large_file(100), 7), 201)
    await api.raw(head + chunked(large_file(MAX_FILE), 65536), 201)
    await api.raw(head + chunked(large_file(MAX_FILE + 1), 65536), 413)
    await api.raw(head + chunked(large_file(100), 7)[:-5], 400, hang_up=True)
    assert await list_ids(api) == [1, 2]


@one_engine
async def test_file_that_is_announced(api: ApiClient, customer: int) -> None:
    """A client that asks first (curl does, from 1 MiB on) is told to go on, or why not.

    RFC 9110, section 10.1.1.
    """
    for size, first in ((2 * 1024 * 1024, b"100 Continue"), (MAX_FILE + 1, b"413 ")):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        length = b"Content-Length: %d\r\nConnection: close\r\n" % size
        writer.write(HEAD + length + b"Expect: 100-continue\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 " + first)
        if b"100" in first:
            writer.write(large_file(size))
            assert b"HTTP/1.1 201 " in await reader.read()
        writer.close()
    assert await list_ids(api) == [1]


@one_engine
@pytest.mark.parametrize("query", ["dry_run=", "dry_run=1", "dry=true", "dry_run=TRUE"])
async def test_query(api: ApiClient, query: str) -> None:
    reply = await api(f"{IMPORT}?{query}", FILE, 422, Content_Type="text/csv")
    assert reply.pointers == [f"/{query.partition('=')[0]}"]
    assert await list_names(api) == []


@one_engine
async def test_tokens(opened: Opener, tmp_path: Path) -> None:
    """Who may only read may not even see what an import would do."""
    file = tmp_path / "tokens"
    lines = [f"{name} {digest(name)} {name}" for name in ("read", "write")]
    file.write_text("\n".join(lines))
    api = await opened(Authenticator(read_tokens(file)))
    for line in (IMPORT, f"{IMPORT}?dry_run=true"):
        await api(line, FILE, 401, Content_Type="text/csv")
        for token, status in (("read", 403), ("write", 200 + ("?" not in line))):
            kind = {"Content_Type": "text/csv", "Authorization": f"Bearer {token}"}
            await api(line, FILE, status, **kind)
    rows = await api("GET /api/v1/changes", None, 200, Authorization="Bearer read")
    assert {row["caller"] for row in rows.data} == {"write"}


async def test_preconditions(api: ApiClient) -> None:
    """There is no tag that an import could have, and nothing is done."""
    before = await everything(api)
    for headers in ({"If_Match": '"1"'}, {"If_None_Match": "*"}):
        await send(api, FILE, 412, **headers)
        await send(api, FILE, 412, Idempotency_Key="k", **headers)
        kind = {"Content_Type": "text/csv"}
        await api(f"{IMPORT}?dry_run=true", FILE, 412, **headers, **kind)
    assert await everything(api) == before
    await send(api, FILE, If_Match="*", If_None_Match='"1"')


# Faults


async def test_unknown_customers_among_other_faults(
    api: ApiClient, customer: int
) -> None:
    """All of them in the order of the lines."""
    before = await everything(api)
    rows = ["9,Tea,1", "1,Tea,0", "8,Tea,1", "1,,1", "1,Tea,1", "9,Tea,1", "x,Tea,1"]
    reply = await send(api, HEADER + "\n".join(rows), 422)
    found = [(e["line"], e["pointer"], e["detail"]) for e in reply.json["errors"]]
    missing = "There is no such customer."
    assert found == [
        (2, "/customer_id", missing),
        (3, "/quantity", "Expected int >= 1."),
        (4, "/customer_id", missing),
        (5, "/purchase_name", "Expected str of length >= 1."),
        (7, "/customer_id", missing),
        (8, "/customer_id", "Expected a whole number, 1 to 9223372036854775807."),
    ]
    assert "6 faults" in reply.json["detail"]
    assert await everything(api) == before


async def test_more_faults_than_are_named(api: ApiClient, customer: int) -> None:
    await api("DELETE /api/v1/customer/1")
    rows = ["1,Tea,1", "7,Tea,x"] * 90
    reply = await send(api, HEADER + "\n".join(rows), 422)
    assert "180" in reply.json["detail"]
    assert [e["line"] for e in reply.json["errors"]] == [*range(2, 102)]
    assert {e["pointer"] for e in reply.json["errors"]} == {"/customer_id", "/quantity"}
    dry = await api(
        f"{IMPORT}?dry_run=true",
        (HEADER + "\n".join(rows)).encode(),
        422,
        Content_Type="text/csv",
    )
    assert dry.json["errors"] == reply.json["errors"]


# What it writes


async def test_change(api: ApiClient) -> None:
    """The feed has customers first, then purchases, each in the order of the file."""
    reply = await send(api, FILE)
    change = reply.headers["Change"]
    assert reply.data == numbers(2, 3, change)
    assert reply.headers["Location"] == f"/api/v1/changes/{change}"
    assert await list_names(api) == ["Ada", "Bob"]
    rows = (await api(f"GET {reply.headers['Location']}")).data
    assert (await api("GET /api/v1/changes")).data == rows
    assert {(row["change"], row["at"]) for row in rows} == {(change, rows[0]["at"])}
    assert not [row for row in rows if row["before"] or row["caller"]]
    found = [(row["action"], row["customer_id"], row["purchase_id"]) for row in rows]
    assert found == [
        ("customer.created", "1", None),
        ("customer.created", "2", None),
        ("purchase.added", "1", "1"),
        ("purchase.added", "2", "2"),
        ("purchase.added", "1", "3"),
    ]
    assert [row["now"]["purchase_name"] for row in rows[2:]] == ["Tea", "Tea", "Ink"]
    later = (await api("POST /api/v1/purchase/2", PHONE, 201)).headers
    assert int(later["Change"]) > int(rows[-1]["cursor"])


async def test_undo_and_redo(api: ApiClient, customer: int) -> None:
    """One undo takes back all of a file, and another brings it back as it was."""
    states = [await everything(api)]
    first = await send(api, FILE)
    states.append(await everything(api))
    taken = await undo(api, first.headers["Change"])
    assert taken.data["rows"] == 5
    assert (await everything(api))[:2] == states[0][:2]
    for line in ("customer/2", "customer/2/purchase/1"):
        await api(f"GET /api/v1/{line}", None, 404)
    await undo(api, first.headers["Change"], 409)
    back = await undo(api, taken.headers["Change"])
    assert (await everything(api))[:2] == states[1][:2]
    await undo(api, back.headers["Change"])
    assert (await everything(api))[:2] == states[0][:2]


async def test_undo_that_cannot_be(api: ApiClient) -> None:
    """Rows that have changed since stand in the way, and so do new purchases."""
    change = (await send(api, FILE)).headers["Change"]
    changed = await api("PATCH /api/v1/purchase/2", {"quantity": 9})
    reply = await undo(api, change, 409)
    assert reply.pointers == ["/purchases/2"]
    await undo(api, changed.headers["Change"])
    added = await api("POST /api/v1/purchase/1", PHONE, 201)
    before = await everything(api)
    reply = await undo(api, change, 409)
    assert reply.pointers == [f"/purchases/{added.data['id']}"]
    assert await everything(api) == before
    await undo(api, added.headers["Change"])
    await undo(api, change)
    assert await list_ids(api) == []


async def test_without_history(opened: Opener) -> None:
    """It imports all the same; there is nothing to bring back, so nothing is undone."""
    api = await opened(history_days=0)
    reply = await send(api, FILE)
    before = await everything(api)
    await undo(api, reply.headers["Change"], 410)
    assert await everything(api) == before
    assert await list_ids(api) == [1, 2, 3]


async def test_customers_who_are_there(api: ApiClient, customer: int) -> None:
    """They are not added again; a file that adds nothing makes no change."""
    row = f'{JOHN["name"]},"{JOHN["address"]}"\n'
    before = await everything(api)
    reply = await send(api, PEOPLE + row + row, 200)
    assert reply.data == numbers(0, 0)
    assert not {"Change", "Location"} & {*reply.headers}
    for _ in range(2):  # kept for its key all the same
        again = await send(api, PEOPLE + row, 200, Idempotency_Key="k")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await everything(api) == before
    await api("DELETE /api/v1/customer/1")
    reply = await send(api, PEOPLE + row + row)
    assert reply.data == numbers(1, 0, reply.headers["Change"])
    assert [row["id"] for row in (await api("GET /api/v1/customers")).data] == [2]


async def test_dry_run(api: ApiClient, customer: int) -> None:
    """It says what would be done, as often as one likes, and spends no key."""
    before = await everything(api)
    dry, kind = f"{IMPORT}?dry_run=true", {"Content_Type": "text/csv"}
    for _ in range(2):
        reply = await api(dry, FILE, 200, Idempotency_Key="k", **kind)
        assert reply.data == numbers(2, 3)
        assert not {"Change", "Location", "Idempotency-Replayed"} & {*reply.headers}
    assert await everything(api) == before
    done = await send(api, FILE, Idempotency_Key="k")
    assert done.data == numbers(2, 3, done.headers["Change"])
    reply = await api(dry, FILE, 200, Idempotency_Key="k", **kind)
    assert reply.data == numbers(0, 3)
    assert await list_ids(api) == [1, 2, 3]
    assert (await api(f"{IMPORT}?dry_run=false", FILE, 201, **kind)).data["change"]


async def test_idempotency_key(api: ApiClient) -> None:
    first = await send(api, FILE, Idempotency_Key="k")
    before = await everything(api)
    again = await send(api, FILE, Idempotency_Key="k")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert again.text == first.text
    for name in ("Change", "Location"):
        assert again.headers[name] == first.headers[name]
    await send(api, FILE + b"Eve,,Tea,1\n", 422, Idempotency_Key="k")
    await send(api, FILE, 412, Idempotency_Key="k", If_Match='"1"')
    assert await everything(api) == before
    await send(api, f"{HEADER}7,Tea,1", 422, Idempotency_Key="l")  # spends no key
    await send(api, FILE, Idempotency_Key="l")


async def test_times(api: ApiClient, customer: int) -> None:
    rows = ["2022-04-09", "2022-04-09T01:02:03.1234567+02:00", ""]
    file = HEADER.replace("\n", ",purchased_on\n")
    await send(api, file + "".join(f"1,Tea,1,{text}\n" for text in rows))
    listed = (await api("GET /api/v1/customer")).data
    assert [row["purchased_on"] for row in listed[:2]] == [
        "2022-04-09 00:00:00.000000+00:00",
        "2022-04-08 23:02:03.123456+00:00",
    ]
    [*_, change] = (await api("GET /api/v1/changes")).data
    at = change["at"].replace("T", " ").replace("Z", "+00:00")
    assert listed[2]["purchased_on"] == at
    reply = await send(api, file + "1,Tea,1,2999-01-01\n", 422)
    assert reply.pointers == ["/purchased_on"]


# Ids


@pytest.fixture
async def other(aiohttp_client: AiohttpClient, tmp_path: Path) -> ApiClient:
    """Return a client of another server, whose database is empty."""
    url = f"sqlite:///{tmp_path / 'other.sqlite3'}"
    await asyncio.to_thread(server.try_make_db, url)
    app = server.init_app(Settings(database_url=url, access_log=False))
    return ApiClient(await aiohttp_client(LimitedServer(app)))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_export(api: ApiClient, other: ApiClient, form: str) -> None:
    """An empty database gets what was exported, one that has given ids new ones."""
    await send(api, "id,name,address\n7,=1+1,'=x\n9,\"'-a\",\n")
    await send(api, f'{IDS}9,@Tea,1,5\n7,"\'\n.",2,8\n')
    await api("PATCH /api/v1/purchase/5", {"quantity": 3})
    assert [row["id"] for row in (await api("GET /api/v1/customers")).data] == [7, 9]
    assert await list_ids(api) == [5, 8]
    kind = "text/csv" if form == "csv" else "application/jsonl"
    for name in ("customers", "purchases"):
        file = (await api(f"GET /api/v1/{name}.{form}")).text
        await send(other, file, Content_Type=kind)
    assert (await everything(other))[:2] == (await everything(api))[:2]
    await send(api, file, Content_Type=kind)
    rows = (await api("GET /api/v1/customer")).data
    assert [row["purchase_id"] for row in rows] == [5, 8, 9, 10]
    for new, old in zip(rows[2:], rows[:2], strict=True):
        assert new == old | {"purchase_id": new["purchase_id"]}
    assert (await api("POST /api/v1/customer", JOHN, 201)).data["id"] == 10
    assert (await api("POST /api/v1/purchase/9", PHONE, 201)).data["id"] == 11


async def test_ids_that_were_given_once(api: ApiClient, customer: int) -> None:
    """They are not given again, even where nothing has them any more."""
    await send(api, f"{IDS}1,Tea,1,40\n1,Ink,1,30\n")
    assert await list_ids(api) == [30, 40]
    await api("DELETE /api/v1/purchase/1?purchase_id=40")
    await send(api, f"{IDS}1,Oil,1,41\n1,Pen,1,40\n")
    assert await list_ids(api) == [30, 41, 42]
    rows = (await api("GET /api/v1/customer")).data
    assert [row["purchase_name"] for row in rows] == ["Ink", "Oil", "Pen"]
    await send(api, f"{IDS}1,Pot,1,43\n")
    assert await list_ids(api) == [30, 41, 42, 43]


@pytest.mark.parametrize("table", ["customers", "purchases"])
async def test_largest_ids(api: ApiClient, customer: int, table: str) -> None:
    """One that not every client could read is not kept, and leaves ids to come."""
    file, path = IDS + "1,Tea,1,{}\n", "POST /api/v1/purchase/1"
    field, body = "purchase_id", dict[str, object](PHONE)
    if table == "customers":
        file, path = "name,address,id\nAda {0},,{0}\n", "POST /api/v1/customer"
        field, body = "id", {**JOHN}
    for number in (MAX_ID, 2**53):
        await send(api, file.format(number))
    added = await api(path, body, 201)
    small = added.data["id"]
    assert small < 10
    await send(api, file.format(2**53 - 1))
    list_path = "customers" if table == "customers" else "customer"
    rows = (await api(f"GET /api/v1/{list_path}")).data
    assert [row[field] for row in rows][-2:] == [small, 2**53 - 1]
    assert (await api(path, body, 201)).data["id"] == 2**53


async def test_order_of_the_feed_with_ids(api: ApiClient, customer: int) -> None:
    """It is that of the file, also where its ids go down."""
    reply = await send(api, f"{IDS}1,Tea,1,40\n1,Ink,1,30\n1,Oil,1,35\n")
    rows = (await api(f"GET {reply.headers['Location']}")).data
    assert [row["purchase_id"] for row in rows] == ["40", "30", "35"]
