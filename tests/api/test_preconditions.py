"""Preconditions: none is dropped, on writing and on reading (RFC 9110, section 13)."""

import pytest

from tests.support import GUARDED, JOHN, PHONE, ApiClient, list_ids, one_engine

DELETION = {"delete_all": False, "purchase_ids": [1]}
COLLECTIONS = [
    ("POST", "/api/v1/customer", JOHN, 201),
    ("POST", "/api/v1/purchase/1", PHONE, 201),
    ("DELETE", "/api/v1/purchase/1", DELETION, 200),
    ("DELETE", "/api/v1/purchase/1?purchase_id=1", None, 200),
    ("DELETE", "/api/v1/purchase/1?delete_all=true", None, 200),
]
UPDATE = ("DELETE", "/api/v1/purchase/1", {**PHONE, "quantity": 9})
"""The update, as it was first documented."""
READS = [
    "/api/v1/customer/1",
    "/api/v1/customer/1/purchase/1",
    "/docs",
    "/docs/start.js",
    "/openapi.json",
]
UNTAGGED = [
    *("/api/v1/customer", "/api/v1/customers", "/api/v1/purchase/1"),
    *("/", "/livez", "/readyz", "/metrics"),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), COLLECTIONS)
async def test_write_to_a_collection(
    api: ApiClient, purchase: int, method: str, path: str, body: object, status: int
) -> None:
    """It has no tag, so only `If-Match: *` holds, and `If-None-Match: *` does not."""
    line = f"{method} {path}"
    for tag in ('"1"', 'W/"1"', '"999"', "", '"1", "2"', "1"):
        await api(line, body, 412, If_Match=tag)
    await api(line, body, 412, If_None_Match="*")
    await api(line, body, 412, If_Match="*", If_None_Match="*")
    assert await list_ids(api) == [purchase]
    if "purchase/1" in path:  # where there is no list, there is nothing to compare
        await api(line.replace("/1", "/9"), body, 404, If_Match='"1"')
    await api(line, body, status, If_Match="*", If_None_Match='"1"')


@pytest.mark.parametrize(("method", "path", "body"), [*GUARDED, UPDATE])
async def test_write_to_a_row(
    api: ApiClient, purchase: int, method: str, path: str, body: object
) -> None:
    line = f"{method} {path}"
    before = (await api("GET /api/v1/customer/1"), await api("GET /api/v1/customer"))
    for headers in (
        {"If_None_Match": "*"},
        {"If_None_Match": '"1"'},
        {"If_None_Match": 'W/"1"'},
        {"If_Match": '"1"', "If_None_Match": '"2", "1"'},
        {"If_Match": '"2"', "If_None_Match": '"2"'},
    ):
        await api(line, body, 412, **headers)
    after = (await api("GET /api/v1/customer/1"), await api("GET /api/v1/customer"))
    assert [reply.json for reply in after] == [reply.json for reply in before]
    await api(line, body, 200, If_Match='"3", "1"', If_None_Match='"2", W/"7"')


@one_engine
@pytest.mark.parametrize(("method", "path", "body"), [*GUARDED, UPDATE])
async def test_altered_tags(
    api: ApiClient, purchase: int, method: str, path: str, body: object
) -> None:
    """Who can never succeed hears why; who was too late, that."""
    for tag in ('W/"1"', '"1-gzip"', '"1;br"', 'W/"2", "1--gzip"', "1", ""):
        reply = await api(f"{method} {path}", body, 412, If_Match=tag)
        assert "proxy that compresses" in reply.json["detail"], tag
    for tag in ('"2"', 'W/"1", "2"'):
        reply = await api(f"{method} {path}", body, 412, If_Match=tag)
        assert "has changed since" in reply.json["detail"], tag


@one_engine
@pytest.mark.parametrize("path", READS)
async def test_reading_a_tag(api: ApiClient, purchase: int, path: str) -> None:
    """If-Match comes first, and If-None-Match only after it (section 13.2.2)."""
    tag = (await api(f"GET {path}")).headers["ETag"]
    for method in ("GET", "HEAD"):
        line = f"{method} {path}"
        await api(line, None, 412, If_Match='"77"')
        await api(line, None, 412, If_Match=f"W/{tag}")
        await api(line, None, 412, If_Match='"77"', If_None_Match=tag)
        await api(line, None, 304, If_Match=tag, If_None_Match=f"W/{tag}")
        await api(line, None, 304, If_None_Match="*")
        await api(line, None, 200, If_Match="*", If_None_Match='"77"')
        await api(line, None, 200, If_Match=f'"77", {tag}')


@one_engine
@pytest.mark.parametrize("path", UNTAGGED)
async def test_reading_without_a_tag(api: ApiClient, purchase: int, path: str) -> None:
    await api(f"GET {path}", None, 412, If_Match='"1"')
    await api(f"GET {path}", None, 304, If_None_Match="*")
    await api(f"GET {path}", None, 200, If_Match="*", If_None_Match='"1"')


@one_engine
async def test_no_condition_on_nothing(api: ApiClient, customer: int) -> None:
    """Where the answer is another anyway, a condition is ignored (section 13.2.1)."""
    for line, body in (
        ("GET /api/v1/customer/9", None),
        ("GET /api/v1/purchase/9", None),
        ("PATCH /api/v1/customer/9", {"name": "x"}),
        ("PUT /api/v1/purchase/9", PHONE),
        ("DELETE /api/v1/customer/9", None),
        ("GET /docs/nothing", None),
    ):
        await api(line, body, 404, If_Match='"1"')
        await api(line, body, 404, If_None_Match="*")


async def test_whose_tag_it_is(api: ApiClient, purchase: int) -> None:
    """An update says the address of the row whose tag it sends."""
    for method, body in (("PUT", PHONE), ("PATCH", {"quantity": 2}), ("DELETE", PHONE)):
        reply = await api(f"{method} /api/v1/purchase/1", body)
        address = reply.headers["Content-Location"]
        assert address == "/api/v1/customer/1/purchase/1"
        read = await api(f"GET {address}")
        assert (read.headers["ETag"], read.text) == (reply.headers["ETag"], reply.text)


async def test_retry_after_an_erasure(api: ApiClient) -> None:
    """It creates nobody a second time, and shows nothing of what was erased."""
    await api("POST /api/v1/customer", JOHN, 201, Idempotency_Key="a")
    await api("POST /api/v1/purchase/1", PHONE, 201, Idempotency_Key="b")
    await api("POST /api/v1/customer", JOHN, 201, Idempotency_Key="c")
    await api("DELETE /api/v1/customer/1")
    for path, body, key in (
        ("customer", JOHN, "a"),
        ("customer", {**JOHN, "name": "x"}, "a"),
        ("purchase/1", PHONE, "b"),
    ):
        reply = await api(f"POST /api/v1/{path}", body, 410, Idempotency_Key=key)
        assert "John" not in reply.text
    replayed = await api("POST /api/v1/customer", JOHN, 201, Idempotency_Key="c")
    assert replayed.data["id"] == 2
    await api("POST /api/v1/purchase/1", PHONE, 404)
    assert [row["id"] for row in (await api("GET /api/v1/customers")).data] == [2]
