"""The documented API, as its clients rely on it, over HTTP and on both engines."""

import csv
import io
import itertools
import json
import re
from typing import Any
from urllib.parse import quote

import pytest

import handlers
from tests.support import (
    COLUMNS,
    CSV,
    GUARDED,
    JOHN,
    JSONL,
    LONG,
    MAX_ID,
    NAME,
    PHONE,
    QUANTITY,
    SHORT,
    ApiClient,
    Like,
    list_ids,
    list_names,
    one_engine,
)


async def test_described_requests(api: ApiClient) -> None:
    john = {"id": 1, "name": "John Doe", "address": "Amsterdam, NL"}
    reply = await api("POST /api/v1/customer", JOHN, 201)
    assert reply.json == {"status": "ok", "data": john | {"created_on": SHORT}}

    await api("POST /api/v1/purchase/1", PHONE, 201)
    phone = {"purchase_name": "Iphone 12", "quantity": 4}
    added = {"id": 2, **phone, "customer_id": "1", "purchased_on": SHORT}
    reply = await api("POST /api/v1/purchase/1", phone, 201)
    assert reply.json == {"status": "ok", "data": added}

    better = {"purchase_name": "Iphone 12 Pro", "quantity": 40}
    times = {"purchased_on": LONG, "last_updated_on": LONG}
    reply = await api("DELETE /api/v1/purchase/2", better)
    assert reply.json == {"status": "ok", "data": {"id": "2", **better, **times}}
    assert reply.headers["Deprecation"] == "@1775001600"
    assert reply.headers["Link"] == '</docs>; rel="deprecation"'

    first = {"purchase_id": 1, **PHONE, **times, "last_updated_on": None}
    second = {"purchase_id": 2, **better, **times}
    rows = [row | {"customer_id": "1"} for row in (first, second)]
    for path in ("/api/v1/customer", "/api/v1/purchase/1"):
        reply = await api(f"GET {path}")
        assert reply.json == {"status": "ok", "data": rows}

    for _ in range(4):
        await api("POST /api/v1/purchase/1", PHONE, 201)
    chosen = {"delete_all": False, "purchase_ids": [3, 6]}
    reply = await api("DELETE /api/v1/purchase/1", chosen)
    assert reply.json == {"status": "ok", "deleted_count": 2}
    assert "Deprecation" not in reply.headers
    assert await list_ids(api) == [1, 2, 4, 5]


async def test_customer_routes(api: ApiClient) -> None:
    reply = await api("POST /api/v1/customer", JOHN, 201)
    assert reply.headers["Location"] == "/api/v1/customer/1"
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.headers["Cache-Control"] == "private, no-cache"
    john = {"id": 1, **JOHN, "created_on": SHORT}
    assert (await api("GET /api/v1/customer/1")).data == john
    reply = await api("PATCH /api/v1/customer/1", {"name": "Jane"})
    assert reply.data == john | {"name": "Jane"}
    reply = await api("PATCH /api/v1/customer/1", {"address": ""})
    assert reply.data == john | {"name": "Jane", "address": ""}
    assert (await api("GET /api/v1/customers")).data == [reply.data]
    await api("GET /api/v1/customer/2", None, 404)
    await api("PATCH /api/v1/customer/2", {"name": "Jane"}, 404)


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("", ["Straße", "STRASSE 9", "Пётр", "100% _x_", "O'Neil \\", "Ünal"]),
        ("SS", ["Straße", "STRASSE 9"]),
        ("ß", ["Straße", "STRASSE 9"]),
        ("пЁТ", ["Пётр"]),
        ("%", ["100% _x_"]),
        ("_", ["100% _x_"]),
        ("'", ["O'Neil \\"]),
        ("\\", ["O'Neil \\"]),
        ("üN", ["Ünal"]),
        ("nobody", []),
    ],
)
async def test_find_customers(api: ApiClient, part: str, found: list[str]) -> None:
    for name in ("Straße", "STRASSE 9", "Пётр", "100% _x_", "O'Neil \\", "Ünal"):
        await api("POST /api/v1/customer", {"name": name, "address": ""}, 201)
    reply = await api(f"GET /api/v1/customers?name={quote(part)}")
    assert [row["name"] for row in reply.data] == found


async def test_purchase_routes(api: ApiClient, customer: int) -> None:
    reply = await api("POST /api/v1/purchase/1", PHONE, 201)
    assert reply.headers["Location"] == "/api/v1/customer/1/purchase/1"
    alone = {"id": "1", **PHONE, "purchased_on": LONG, "last_updated_on": None}
    assert (await api("GET /api/v1/customer/1/purchase/1")).data == alone
    changed = alone | {"last_updated_on": LONG}
    reply = await api("PATCH /api/v1/purchase/1", {"quantity": 7})
    assert reply.data == changed | {"quantity": 7}
    reply = await api("PATCH /api/v1/purchase/1", {"purchase_name": "Case"})
    assert reply.data == changed | {"quantity": 7, "purchase_name": "Case"}
    reply = await api("PUT /api/v1/purchase/1", PHONE)
    assert reply.data == changed
    assert (await api("GET /api/v1/customer/1/purchase/1")).data == reply.data


async def test_list_shows_every_update(api: ApiClient, purchase: int) -> None:
    seen = set()
    for _ in range(3):
        await api("PATCH /api/v1/purchase/1", {"quantity": 5})
        seen.add((await api("GET /api/v1/customer")).data[0]["last_updated_on"])
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("GET /api/v1/purchase/2", None),
        ("GET /api/v1/customer?customer_id=2", None),
        ("GET /api/v1/customer/2/purchase/1", None),
        ("GET /api/v1/customer/1/purchase/2", None),
        ("POST /api/v1/purchase/2", PHONE),
        ("PATCH /api/v1/purchase/2", PHONE),
        ("PUT /api/v1/purchase/2", PHONE),
        ("DELETE /api/v1/purchase/2", PHONE),
        ("DELETE /api/v1/purchase/2", {"delete_all": True}),
        ("DELETE /api/v1/purchase/2", {"purchase_ids": [1]}),
        ("DELETE /api/v1/customer/2", None),
    ],
)
async def test_unknown_row(
    api: ApiClient, purchase: int, line: str, body: dict[str, Any] | None
) -> None:
    await api(line, body, 404)
    assert await list_ids(api) == [1]


async def test_one_customer_list(api: ApiClient, purchase: int) -> None:
    await api("POST /api/v1/customer", JOHN, 201)
    for path in ("/api/v1/purchase/2", "/api/v1/customer?customer_id=2"):
        reply = await api(f"GET {path}")
        assert reply.json == {"status": "ok", "data": []}
    both = [await api("GET /api/v1/purchase/1"), await api("GET /api/v1/customer")]
    assert both[0].data == both[1].data


@pytest.mark.parametrize(
    ("query", "body", "left"),
    [
        ("", {"delete_all": True}, [4]),
        ("", {"delete_all": True, "purchase_ids": []}, [4]),
        ("", {"delete_all": True, "purchase_ids": [1]}, [4]),
        ("", {"delete_all": True, "purchase_ids": "whatever"}, [4]),
        ("", {"delete_all": False, "purchase_ids": [1, 3]}, [2, 4]),
        ("", {"purchase_ids": [2, 2, 2]}, [1, 3, 4]),
        ("", {"purchase_ids": [1, 4, 99, MAX_ID]}, [2, 3, 4]),
        ("", {"purchase_ids": []}, [1, 2, 3, 4]),
        ("", {"purchase_ids": [3] * 10_000}, [1, 2, 4]),
        ("?delete_all=true", None, [4]),
        ("?delete_all=true&purchase_id=1", None, [4]),
        ("?purchase_id=1&purchase_id=3", None, [2, 4]),
        ("?delete_all=false&purchase_id=2", None, [1, 3, 4]),
        ("?purchase_id=2", b"", [1, 3, 4]),
    ],
)
async def test_delete_purchases(
    api: ApiClient, four_purchases: list[int], query: str, body: object, left: list[int]
) -> None:
    reply = await api(f"DELETE /api/v1/purchase/1{query}", body)
    assert reply.json == {"status": "ok", "deleted_count": 4 - len(left)}
    assert await list_ids(api) == left
    reply = await api("POST /api/v1/purchase/1", PHONE, 201)
    assert reply.data["id"] == 5, "an id was used again"


NO_ID = [
    *("0", "-1", "+1", "01", "1.0", "1e3", "0x1", "a", "%201", "1%00", "1%0A", "%zz"),
    *("%D9%A1", str(2**63), str(2**64), "9" * 5000, "1/", "1/2", "1;2", "1%2F2"),
]


ALLOW = {
    "/": "GET, HEAD, OPTIONS",
    "/livez": "GET, HEAD, OPTIONS",
    "/readyz": "GET, HEAD, OPTIONS",
    "/metrics": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
    "/docs": "GET, HEAD, OPTIONS",
    "/api/v1/customer": "GET, HEAD, OPTIONS, POST",
    "/api/v1/customers": "GET, HEAD, OPTIONS",
    "/api/v1/customer/1": "DELETE, GET, HEAD, OPTIONS, PATCH",
    "/api/v1/customer/1/purchase/1": "GET, HEAD, OPTIONS, PATCH, PUT",
    "/api/v1/purchase/1": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
}


@one_engine
@pytest.mark.parametrize("number", NO_ID)
async def test_no_id(api: ApiClient, purchase: int, number: str) -> None:
    for line, body in (
        (f"GET /api/v1/customer/{number}", None),
        (f"GET /api/v1/purchase/{number}", None),
        (f"GET /api/v1/customer/1/purchase/{number}", None),
        (f"POST /api/v1/purchase/{number}", PHONE),
        (f"PATCH /api/v1/purchase/{number}", PHONE),
        (f"PATCH /api/v1/customer/{number}/purchase/1", PHONE),
        (f"OPTIONS /api/v1/purchase/{number}", None),
    ):
        await api(line, body, 404)


@one_engine
@pytest.mark.parametrize(("path", "allow"), [*ALLOW.items()])
async def test_methods(api: ApiClient, purchase: int, path: str, allow: str) -> None:
    reply = await api(f"OPTIONS {path}", None, 204)
    assert (reply.headers["Allow"], reply.text) == (allow, "")
    for method in {"DELETE", "FOO", "PATCH", "POST", "PUT", "TRACE"} - {
        *allow.split(", ")
    }:
        reply = await api(f"{method} {path}", None, 405)
        assert reply.headers["Allow"] == allow, str(reply)
    got = await api(f"GET {path}")
    head = await api(f"HEAD {path}")
    assert head.text == ""
    for name in ("Content-Type", "Content-Length", "ETag", "Cache-Control"):
        assert head.headers.get(name) == got.headers.get(name) or path == "/metrics"


TEXTS = [
    *("x", " x ", "x" * 200, "😀" * 200, "\u202eright to left", "e\u0301 combining"),
    *("'); DROP TABLE purchases;--", "%", "_", "<script>", "\ufeff", "\x7f", "\\u0000"),
    *("tab\tand\nline", '"', "=1+1", "\u200b", "中文", "\U0010ffff"),
]


BLANKS = ["", " ", "\t\r\n", "\u00a0\u2003\u3000", "\x1c\x1f\x85"]


NO_TEXTS: list[object] = [
    *BLANKS,
    "x" * 201,
    "😀" * 201,
    "a\0b",
    "\0",
    "a\ud800",
    "\udfff",
    5,
    None,
    [],
]


NO_QUANTITIES: list[object] = [
    *(
        True,
        "4",
        " 4 ",
        None,
        [],
        {},
        4.5,
        1e-9,
        0.0,
        -1.0,
        2.0**31,
        -1,
        0,
        2**31,
        2**63,
        2**64,
        10**4000,
    )
]


EVERYWHERE = [
    ("POST", "/api/v1/purchase/1"),
    ("PUT", "/api/v1/purchase/1"),
    ("PATCH", "/api/v1/purchase/1"),
    ("DELETE", "/api/v1/purchase/1"),
    ("PUT", "/api/v1/customer/1/purchase/1"),
    ("PATCH", "/api/v1/customer/1/purchase/1"),
]


@pytest.mark.parametrize("text", TEXTS)
async def test_text_comes_back(api: ApiClient, text: str) -> None:
    """It is stored and returned as it was sent, whatever it holds."""
    john = {"name": text, "address": text * 2}
    reply = await api("POST /api/v1/customer", john, 201)
    assert reply.data == {"id": 1, **john, "created_on": SHORT}
    assert (await api("GET /api/v1/customer/1")).data == reply.data
    phone = {"purchase_name": text, "quantity": 2**31 - 1}
    await api("POST /api/v1/purchase/1", phone, 201)
    row = (await api("GET /api/v1/purchase/1")).data[0]
    assert row | phone == row


@one_engine
@pytest.mark.parametrize("wrong", NO_TEXTS)
async def test_text_refused(api: ApiClient, purchase: int, wrong: object) -> None:
    before = await api("GET /api/v1/customer")
    for method, path in EVERYWHERE:
        body = {"purchase_name": wrong, "quantity": 1}
        reply = await api(f"{method} {path}", body, 422)
        assert reply.pointers == [NAME]
    for line in ("POST /api/v1/customer", "PATCH /api/v1/customer/1"):
        reply = await api(line, {"name": wrong, "address": ""}, 422)
        assert reply.pointers == ["/name"]
    assert (await api("GET /api/v1/customer")).json == before.json
    assert await list_names(api) == ["John Doe"]


@one_engine
@pytest.mark.parametrize("wrong", ["x" * 501, "a\0", "\ud800", None, 5])
async def test_address_refused(api: ApiClient, customer: int, wrong: object) -> None:
    for line in ("POST /api/v1/customer", "PATCH /api/v1/customer/1"):
        reply = await api(line, {"name": "x", "address": wrong}, 422)
        assert reply.pointers == ["/address"]
    assert (await api("GET /api/v1/customer/1")).data["address"] == JOHN["address"]


@one_engine
@pytest.mark.parametrize("wrong", NO_QUANTITIES)
async def test_quantity_refused(api: ApiClient, purchase: int, wrong: object) -> None:
    before = await api("GET /api/v1/customer")
    for method, path in EVERYWHERE:
        body = {"purchase_name": "x", "quantity": wrong}
        reply = await api(f"{method} {path}", body, 422)
        assert reply.pointers == [QUANTITY]
    assert (await api("GET /api/v1/customer")).json == before.json


@one_engine
async def test_merge_patch(api: ApiClient, purchase: int) -> None:
    kind = "application/merge-patch+json"
    for path, body in (("customer/1", {"name": "x"}), ("purchase/1", {"quantity": 2})):
        await api(f"PATCH /api/v1/{path}", body, Content_Type=kind)
    await api("PUT /api/v1/purchase/1", PHONE, 415, Content_Type=kind)
    await api("DELETE /api/v1/purchase/1", PHONE, 415, Content_Type=kind)


async def test_csv(api: ApiClient) -> None:
    names = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx"]
    names += ["\uff1d1", "\uff0b1", "\uff0d1", "\uff20x"]
    names += ["'=1"]  # or it would look like a guarded one
    guarded = [f"'{name}" for name in names]
    others = ['a "b", c', "1\n2", "x=1", "x;=cmd", " x ", "'x", "x\t=1", "a|b"]
    names, guarded = names + others, guarded + others
    for name in names:
        await api("POST /api/v1/customer", {"name": name, "address": name}, 201)
    await api("POST /api/v1/purchase/1", {"purchase_name": "=A1", "quantity": 4}, 201)
    reply = await api("GET /api/v1/customers", Accept=CSV)
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    head, *rows = csv.reader(io.StringIO(reply.text, newline=""))
    assert head == ["id", "name", "address", "created_on"]
    assert [row[1] for row in rows] == [row[2] for row in rows] == guarded
    reply = await api("GET /api/v1/customer", Accept=CSV)
    lines = reply.text.split("\r\n")
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1:] == [Like(rf"1,\"'=A1\",4,{LONG.shape},,1"), ""]
    found = (await api("GET /api/v1/customers?name=cmd", Accept=CSV)).text
    assert ',"x;=cmd","x;=cmd",' in found, "a spreadsheet may separate at ;"


async def test_jsonl(api: ApiClient, purchase: int) -> None:
    await api("POST /api/v1/purchase/1", PHONE, 201)
    rows = (await api("GET /api/v1/customer")).data
    reply = await api("GET /api/v1/customer", Accept=JSONL)
    assert reply.headers["Content-Type"] == "application/jsonl; charset=utf-8"
    assert [json.loads(line) for line in reply.text.split("\n")[:-1]] == rows


async def test_replay_is_the_first_answer(api: ApiClient) -> None:
    """Whatever happened to the row since, the answer is the one that was given."""
    for line, body in (
        ("POST /api/v1/customer", JOHN),
        ("POST /api/v1/purchase/1", PHONE),
    ):
        first = await api(line, body, 201, Idempotency_Key="k")
        assert "Idempotency-Replayed" not in first.headers
        await api("PATCH /api/v1/customer/1", {"name": "Jane"})
        if "purchase" in line:
            await api("PATCH /api/v1/purchase/1", {"quantity": 9})
        again = await api(
            line, dict(reversed(body.items())), 201, Idempotency_Key='"k"'
        )
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.text == first.text
        for name in ("Location", "ETag", "Content-Type"):
            assert again.headers[name] == first.headers[name]
    await api("DELETE /api/v1/purchase/1?delete_all=true")
    again = await api("POST /api/v1/purchase/1", PHONE, 201, Idempotency_Key="k")
    assert again.text == first.text
    assert (await list_ids(api), await list_names(api)) == ([], ["Jane"])


async def test_key_with_another_request(api: ApiClient, customer: int) -> None:
    await api("POST /api/v1/purchase/1", PHONE, 201, Idempotency_Key="k")
    for body in ({**PHONE, "quantity": 5}, {**PHONE, "purchase_name": "x"}):
        reply = await api("POST /api/v1/purchase/1", body, 422, Idempotency_Key="k")
        assert "Idempotency-Key" in reply.text
    assert await list_ids(api) == [1]


async def test_refusal_is_not_remembered(api: ApiClient) -> None:
    line = "POST /api/v1/purchase/1"
    await api(line, PHONE, 404, Idempotency_Key="k")
    await api(line, {**PHONE, "quantity": 0}, 422, Idempotency_Key="k")
    await api("POST /api/v1/customer", JOHN, 201)
    reply = await api(line, PHONE, 201, Idempotency_Key="k")
    assert "Idempotency-Replayed" not in reply.headers


async def test_tag_changes_with_the_row(api: ApiClient) -> None:
    tags = []
    for line, body, status in (
        ("POST /api/v1/customer", JOHN, 201),
        ("GET /api/v1/customer/1", None, 200),
        ("PATCH /api/v1/customer/1", {"name": "x"}, 200),
        ("GET /api/v1/customer/1", None, 200),
        ("POST /api/v1/purchase/1", PHONE, 201),
        ("GET /api/v1/customer/1/purchase/1", None, 200),
        ("PATCH /api/v1/purchase/1", PHONE, 200),
        ("PUT /api/v1/purchase/1", PHONE, 200),
        ("DELETE /api/v1/purchase/1", PHONE, 200),
        ("GET /api/v1/customer/1/purchase/1", None, 200),
    ):
        tags.append((await api(line, body, status)).headers["ETag"])
    assert all(re.fullmatch(r'"[!#-~]+"', tag) for tag in tags), tags
    same = [earlier == later for earlier, later in itertools.pairwise(tags)]
    assert same[:3] == [True, False, True]
    assert same[4:] == [True, False, False, False, True]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/v1/customer/1", {"name": "x"}), ("/api/v1/customer/1/purchase/1", PHONE)],
)
async def test_if_none_match(
    api: ApiClient, purchase: int, path: str, body: dict[str, Any]
) -> None:
    tag = (await api(f"GET {path}")).headers["ETag"]
    for named in (tag, f'"x", {tag}', f"W/{tag}", f'{tag},"x"', "*"):
        for method in ("GET", "HEAD"):
            reply = await api(f"{method} {path}", None, 304, If_None_Match=named)
            assert (reply.text, reply.headers["ETag"]) == ("", tag)
    for named in (
        *('"x"', tag.strip('"'), f'"x{tag}"', "", '""', f"x{tag}", f"w/{tag}"),
        *(f'"x" {tag}', f"*, {tag}", f"{tag} x"),
    ):
        await api(f"GET {path}", None, 200, If_None_Match=named)
    short = path.replace("/customer/1/purchase", "/purchase")
    await api(f"PATCH {short}", body)
    assert (await api(f"GET {path}", If_None_Match=tag)).headers["ETag"] != tag


@pytest.mark.parametrize(("method", "path", "body"), GUARDED)
async def test_if_match(
    api: ApiClient, purchase: int, method: str, path: str, body: object
) -> None:
    full = path.replace("v1/purchase", "v1/customer/1/purchase")
    tag = (await api(f"GET {full}")).headers["ETag"]
    for wrong in ('"x"', f"W/{tag}", tag.strip('"'), "", '"9"', f'"{"9" * 30}"', '"0"'):
        await api(f"{method} {path}", body, 412, If_Match=wrong)
    assert (await api(f"GET {full}")).headers["ETag"] == tag
    await api(f"{method} {path[:-1]}7", body, 404, If_Match=tag)
    await api(f"{method} {path}", body, If_Match=f'"x" , {tag}')
    if body is not None:
        await api(f"{method} {path}", body, 412, If_Match=tag)
        await api(f"{method} {path}", body, If_Match="*")
    else:
        await api(f"{method} {path}", body, 404, If_Match="*")


async def test_ready(api: ApiClient, engine: Any) -> None:
    assert (await api("GET /livez")).json["status"] == "ok"
    reply = await api("GET /readyz")
    assert reply.json == {"status": "ok", "database": engine.name}
    assert (await api("GET /")).json == {
        "name": "customer purchase server",
        "version": handlers.VERSION,
        "healthy": True,
        "docs": "/docs",
    }
