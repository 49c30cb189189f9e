"""Bodies and queries: sizes, types, encodings and faults."""

import json
import os
import timeit
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from api import request_body
from api.responses import ProblemError
from api.schemas import Deletion, NewPurchase
from checks.support.server_process import request_bytes
from tests.support import (
    JOHN,
    MAX_BODY,
    NAME,
    PHONE,
    QUANTITY,
    ApiClient,
    list_ids,
    list_names,
    one_engine,
)


async def test_surrogate_pair(api: ApiClient) -> None:
    body = rb'{"name": "\ud83d\ude00", "address": "\u0041"}'
    reply = await api("POST /api/v1/customer", body, 201)
    assert (reply.data["name"], reply.data["address"]) == ("😀", "A")


@pytest.mark.parametrize("size", [0, 500])
async def test_address_limits(api: ApiClient, customer: int, size: int) -> None:
    body = {"name": "x", "address": "\u00e9" * size}
    for line, status in (
        ("POST /api/v1/customer", 201),
        ("PATCH /api/v1/customer/1", 200),
    ):
        assert (await api(line, body, status)).data["address"] == body["address"]


@one_engine
@pytest.mark.parametrize(
    ("line", "body", "pointers"),
    [
        ("POST /api/v1/customer", {}, ["/address", "/name"]),
        ("POST /api/v1/customer", {"name": "", "x": 1}, ["/address", "/name", "/x"]),
        ("POST /api/v1/customer", {**JOHN, "id": 7}, ["/id"]),
        ("POST /api/v1/customer", {**JOHN, "__proto__": {}}, ["/__proto__"]),
        ("POST /api/v1/customer", {**JOHN, "a/b~c": 1}, ["/a~1b~0c"]),
        ("POST /api/v1/customer", {**JOHN, "\ud800": 1}, ["/?"]),
        ("POST /api/v1/customer", {**JOHN, "Name": "x"}, ["/Name"]),
        ("POST /api/v1/purchase/1", {}, [NAME, QUANTITY]),
        ("POST /api/v1/purchase/1", {"quantity": 0, "x": 1}, [NAME, QUANTITY, "/x"]),
        ("POST /api/v1/purchase/1", {**PHONE, "customer_id": "2"}, ["/customer_id"]),
        ("PUT /api/v1/purchase/1", {"quantity": 1}, [NAME]),
        ("PATCH /api/v1/purchase/1", {}, [""]),
        ("PATCH /api/v1/purchase/1", {"x": 1}, ["/x"]),
        (
            "PATCH /api/v1/purchase/1",
            {"purchase_name": "", "quantity": 0},
            [NAME, QUANTITY],
        ),
        ("PATCH /api/v1/customer/1", {}, [""]),
        ("PATCH /api/v1/customer/1", {"name": "", "address": 0}, ["/address", "/name"]),
        ("POST /api/v1/customer", None, None),
    ],
)
async def test_all_faults_at_once(
    api: ApiClient, purchase: int, line: str, body: object, pointers: list[str] | None
) -> None:
    if pointers is None:
        await api(line, body, 415)
    else:
        assert (await api(line, body, 422)).pointers == pointers
    assert await list_names(api) == ["John Doe"]


@one_engine
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"{}x", 400),
        (b"{'name': 1}", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 40_000, 400),
        (b'\xef\xbb\xbf{"name": "x", "address": ""}', 400),
        (b'{"name": "\xff", "address": ""}', 400),
        ('{"name": "x", "address": ""}'.encode("utf-16"), 400),
        (b'{"name": "x", "address": NaN}', 400),
        (b'{"name": "x", "address": -Infinity}', 400),
        (b'{"name": "raw\x01control", "address": ""}', 400),
        (b"null", 422),
        (b"[]", 422),
        (b'"x"', 422),
        (b"5", 422),
        (b'{"name": "x", "address": 1e400}', 422),
        (b'{"name": "x", "address": ""}' + b" " * MAX_BODY, 413),
        (b'{"name": "' + b"x" * MAX_BODY + b'", "address": ""}', 413),
    ],
)
async def test_no_json(api: ApiClient, body: bytes, status: int) -> None:
    reply = await api("POST /api/v1/customer", body, status)
    assert len(reply.text) < 500, "an echo of the body"
    assert await list_names(api) == []


@one_engine
async def test_largest_body(api: ApiClient) -> None:
    text = json.dumps(JOHN).encode()
    body = text + b" " * (MAX_BODY - len(text))
    await api("POST /api/v1/customer", body, 201)
    await api("POST /api/v1/customer", body + b" ", 413)

    async def chunks(size: int) -> Any:
        yield text
        for _ in range(size // 4096):
            yield b" " * 4096

    for size, status in ((MAX_BODY // 2, 201), (MAX_BODY, 413)):
        async with api.client.post(
            "/api/v1/customer",
            data=chunks(size),
            headers={"Content-Type": "application/json"},
        ) as reply:
            assert reply.status == status, await reply.text()


@one_engine
@pytest.mark.parametrize(
    ("written", "status"),
    [
        ("application/json", 201),
        ("Application/JSON", 201),
        ("application/json; charset=utf-8", 201),
        ('application/json;charset="UTF-8"', 201),
        ("application/json; charset=utf-8;", 201),
        ("application/json; profile=x", 201),
        ("application/json; profile=x; charset=utf-16", 415),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=latin-1", 415),
        ("application/json; charset=utf-8; charset=utf-16", 415),
        ("application/json; charset='utf-8'", 415),
        ("application/json; charset=", 415),
        ("application/json; charset", 415),
        ("application/merge-patch+json", 415),
        ("text/plain", 415),
        ("text/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("nonsense", 415),
        ("", 415),
    ],
)
async def test_content_type(api: ApiClient, written: str, status: int) -> None:
    await api("POST /api/v1/customer", JOHN, status, Content_Type=written)
    assert await list_names(api) == ["John Doe"][: status == 201]


@one_engine
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity", "x"])
async def test_content_encoding(api: ApiClient, coding: str) -> None:
    head = request_bytes(
        "POST",
        "/api/v1/customer",
        json.dumps(JOHN).encode(),
        [("Content-Encoding", coding)],
    )
    await api.raw(head, 415)
    assert await list_names(api) == []


@one_engine
async def test_content_encoding_without_a_body(api: ApiClient, purchase: int) -> None:
    for line in (
        "GET /api/v1/customer",
        "DELETE /api/v1/customer/1",
        "DELETE /api/v1/purchase/1?delete_all=true",
    ):
        await api(line, None, 415, Content_Encoding="gzip")
    assert await list_ids(api) == [1]


@one_engine
@pytest.mark.parametrize(
    ("path", "pointers"),
    [
        ("/api/v1/customer/1?x=1", ["/x"]),
        ("/api/v1/customer?x=1&limit=1&y=", ["/x", "/y"]),
        ("/api/v1/customer?name=x", ["/name"]),
        ("/api/v1/purchase/1?customer_id=1", ["/customer_id"]),
        ("/api/v1/customers?customer_id=1", ["/customer_id"]),
        ("/?x", ["/x"]),
        *(
            (f"/api/v1/customer?limit={wrong}", ["/limit"])
            for wrong in ("0", "1001", "-1", "+1", "1e2", "abc", "", "1.0", "9" * 5000)
        ),
        ("/api/v1/customer?limit=1&limit=2", ["/limit"]),
        *(
            (f"/api/v1/purchase/1?after={wrong}", ["/after"])
            for wrong in ("-1", "abc", "", str(2**63), "%D9%A1")
        ),
        *(
            (f"/api/v1/customer?customer_id={wrong}", ["/customer_id"])
            for wrong in ("0", "-1", "abc", "", str(2**63))
        ),
        ("/api/v1/customers?name=a&name=b", ["/name"]),
        ("/api/v1/customers?name=" + "x" * 201, ["/name"]),
        ("/api/v1/customers?name=a%00b", ["/name"]),
    ],
)
async def test_query_refused(
    api: ApiClient, customer: int, path: str, pointers: list[str]
) -> None:
    assert (await api(f"GET {path}", None, 422)).pointers == pointers


@one_engine
async def test_unknown_parameter_of_a_write(api: ApiClient, purchase: int) -> None:
    for line, body in (
        ("POST /api/v1/customer?dry_run=1", JOHN),
        ("POST /api/v1/purchase/1?dry_run=1", PHONE),
        ("PATCH /api/v1/purchase/1?dry_run=1", PHONE),
        ("DELETE /api/v1/customer/1?dry_run=1", None),
        ("DELETE /api/v1/purchase/1?delete_all=true&dry_run=1", None),
    ):
        assert (await api(line, body, 422)).pointers == ["/dry_run"]
    assert await list_ids(api) == [1]


@one_engine
async def test_slow_body(api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "BODY_SECONDS", 0.2)
    request = request_bytes("POST", "/api/v1/customer", json.dumps(JOHN).encode())
    reply = await api.raw(request[:-5], 408)
    assert reply.headers["Connection"] == "close"
    assert await list_names(api) == []


def ids(items: list[str]) -> bytes:
    """Return the body of a deletion with some ids as they are written."""
    return f'{{"purchase_ids": [{", ".join(items)}]}}'.encode()


COSTLY: dict[str, bytes] = {
    "zeros": ids(["0"] * 10_000),
    "fractions": ids(["1.0"] * 10_000),
    "few faults": ids(["1"] * 9_900 + ["0.5"] * 99),
    "last": ids(["1"] * 9_999 + ["0"]),
    "too many": ids(["0"] * 100_000),
    "texts": ids(['"a"'] * 10_000),
    "unknown": json.dumps({f"k{n}": 1 for n in range(20_000)}).encode(),
    "mixed": json.dumps({f"k{n}": 1 for n in range(20_000)} | {"quantity": 1}).encode(),
    "long": json.dumps({"purchase_name": "\u1234" * 40_000}).encode(),
    "spaces": json.dumps({"purchase_name": " " * 200_000}).encode(),
    "surrogates": b'{"purchase_name": "' + rb"\ud800" * 40_000 + b'"}',
    "one field": b"{" + b",".join([b'"purchase_name": "x"'] * 10_000) + b"}",
    "too large": b'{"a": 1e400, "purchase_ids": [' + b"0," * 100_000 + b"0]}",
}


@pytest.mark.skipif(
    "COVERAGE_RUN" in os.environ, reason="a tracer slows Python down, and no C"
)
@pytest.mark.parametrize("name", COSTLY)
@pytest.mark.parametrize("body", [NewPurchase, Deletion])
def test_no_body_costs_much(name: str, body: type[NewPurchase | Deletion]) -> None:
    """To validate it takes 2.5 times what `json.loads` takes to read it, at most."""
    text = COSTLY[name]

    def validate() -> None:
        with suppress(ProblemError):
            if body is Deletion:
                request_body.convert(request_body.parse(text), body)
            else:
                request_body.decode(text, body)

    for _ in range(5):  # a busy machine may disturb one of the two
        if quickest(validate) < 2.5 * quickest(lambda: json.loads(text)):
            return
    pytest.fail(f"{quickest(validate)} s, {quickest(lambda: json.loads(text))} s")


def quickest(call: Callable[[], object]) -> float:
    """Return how long the quickest of some calls takes."""
    return min(timeit.repeat(call, number=1, repeat=7))


@one_engine
@pytest.mark.parametrize("text", ["%FF", "a%C3", "%ED%A0%80", "%C0%AF"])
async def test_query_that_is_not_utf_8(api: ApiClient, text: str) -> None:
    for line in (f"GET /api/v1/customers?name={text}", f"GET /api/v1/customers?{text}"):
        reply = await api(line, None, 422)
        assert reply.json["errors"] == [
            {"pointer": "", "detail": "The query is not UTF-8."}
        ]
    await api("GET /api/v1/customers?name=%C3%A9+a")


@pytest.mark.parametrize("text", ["4", "4.0", "4e0", "40e-1", "4.000", "0.4E+1"])
async def test_number_without_a_fraction(
    api: ApiClient, purchase: int, text: str
) -> None:
    """It is an integer however it is written, as for JSON Schema."""
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        body = f'{{"purchase_name": "x", "quantity": {text}}}'.encode()
        status = 201 if method == "POST" else 200
        assert (await api(f"{method} /api/v1/purchase/1", body, status)).data[
            "quantity"
        ] == 4
    listed = (await api("GET /api/v1/purchase/1")).text
    assert '"quantity":4,' in listed
    ids = f'{{"purchase_ids": [{text}, 1.0, 1]}}'.encode()
    reply = await api("DELETE /api/v1/purchase/1", ids)
    assert reply.json["deleted_count"] == 1
