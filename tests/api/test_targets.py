"""Hosts that requests name, targets that are no path, and what the server may do."""

import json

import pytest

from api.auth import Authenticator, Token
from tests.support import JOHN, ApiClient, Main, Opener, list_names, one_engine

ALL = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


def get(target: str, host: str = "localhost", method: str = "GET") -> bytes:
    """Return a request with a target and a Host of its own."""
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nA: b\r\n\r\n".encode(
        "latin-1"
    )


@one_engine
@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("/", "localhost:8080", 200),
        ("/", "a", 200),
        ("/", "shop.LocalHost.:1", 200),
        ("/", "10.1.2.3:8080", 200),
        ("/", "[::1]:8080", 200),
        ("/", "[v1.a]", 200),
        ("/", "", 200),
        ("/", "evil.example:8080", 421),
        ("/", "localhost.evil.example", 421),
        ("/", "1.2.3.4.5", 421),
        ("/", "0x7f.1", 421),
        ("/nothing", "evil.example", 421),
        ("/docs", "evil.example", 421),
        ("/livez", "evil.example", 200),
        ("/readyz", "evil.example", 200),
        ("/livez", "h%zz", 400),
        ("/livez", "h%", 400),
        ("/livez", "[1]", 400),
        ("/livez", "[::1", 400),
        ("/livez", "u@h", 400),
        ("/livez", "h:99999", 400),
        ("/livez", "h/", 400),
        ("http://localhost", "ignored.example", 200),
        ("HTTP://LOCALHOST/?a=1", "a", 422),
        ("https://localhost/livez", "h%zz", 200),
        ("http://evil.example", "localhost", 421),
        ("http://a%zz/livez", "a", 400),
        ("http://u@h/livez", "a", 400),
        ("http://u:p@h/livez", "a", 400),
        ("ftp://h/livez", "a", 400),
        ("http:///livez", "a", 400),
        ("http://xn--/livez", "a", 400),
        ("http://h:99999/livez", "a", 400),
        ("http://[1]/livez", "a", 400),
        ("http://h/nothing", "a", 404),
        ("*", "a", 400),
        ("localhost", "a", 400),
    ],
)
async def test_hosts(api: ApiClient, target: str, host: str, status: int) -> None:
    await api.raw(get(target, host), status)


@one_engine
async def test_rebinding_changes_nothing(api: ApiClient) -> None:
    body = json.dumps(JOHN).encode()
    line = "POST /api/v1/customer HTTP/1.1\r\nHost: evil.example:8080\r\n"
    head = (
        f"{line}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reply = await api.raw(head.encode() + body, 421)
    assert "ALLOWED_HOSTS" in reply.json["detail"]
    assert await list_names(api) == []


@one_engine
async def test_allowed_hosts(opened: Opener) -> None:
    api = await opened(allowed_hosts=("shop.example", "[::1]"))
    for host in ("shop.example", "SHOP.example.:80", "[::1]"):
        await api.raw(get("/", host), 200)
    for host in ("localhost", "127.0.0.1", "www.shop.example", ""):
        await api.raw(get("/", host), 421)
    any_host = await opened(allowed_hosts=("*",))
    await any_host.raw(get("/", "evil.example"), 200)


@one_engine
async def test_hosts_with_tokens(opened: Opener) -> None:
    """No page has a token, so any name will do, unless some are named."""
    tokens = (Token("till", b"", "write"),)
    api = await opened(Authenticator(tokens))
    await api.raw(get("/", "evil.example"), 200)
    named = await opened(Authenticator(tokens), allowed_hosts=("shop.example",))
    await named.raw(get("/", "evil.example"), 421)


@one_engine
async def test_server_itself(api: ApiClient) -> None:
    reply = await api.raw(get("*", method="OPTIONS"), 204)
    assert reply.headers["Allow"] == ALL
    refused = await api.raw(get("shop.example:443", method="CONNECT"), 405)
    assert refused.headers["Allow"] == ALL
    await api.raw(get("/*", method="OPTIONS"), 404)
    await api.raw(get("/%00", method="OPTIONS"), 404)


@one_engine
async def test_accept_patch(api: ApiClient) -> None:
    """What a PATCH may hold is said where it is asked, and where it was wrong."""
    types = "application/json, application/merge-patch+json"
    asked = await api("OPTIONS /api/v1/customer/1", None, 204)
    assert asked.headers["Accept-Patch"] == types
    wrong = await api("PATCH /api/v1/customer/1", b"{}", 415, Content_Type="text/plain")
    assert wrong.headers["Accept-Patch"] == types
    other = await api("POST /api/v1/customer", b"{}", 415, Content_Type="text/plain")
    assert "Accept-Patch" not in other.headers
    assert "Accept-Patch" not in (await api("OPTIONS /livez", None, 204)).headers


@pytest.mark.parametrize("text", ["shop.example:8080", "https://a", "a/b", "[::1", "-"])
def test_bad_allowed_hosts(main: Main, text: str) -> None:
    status, _, said = main(ALLOWED_HOSTS=text)
    assert status == 2
    assert said.startswith("server.py: ALLOWED_HOSTS: "), said


@one_engine
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/", method="FOO /"), 400),
        (get("/livez").replace(b"A: b", b"A: " + b"x" * 9000), 400),
        (get("/livez").replace(b"A: b", b"A: " + b"x" * 40_000), 431),
        (get("/livez").replace(b"A: b", b"Expect: foo"), 417),
        (get("/livez").replace(b"A: b", b"Transfer-Encoding: gzip"), 501),
        (get("/livez", method="PUT"), 405),
        (get("/", "evil.example"), 421),
        (get("http://xn--/"), 400),
        (get("*", method="OPTIONS"), 204),
        (get("/nothing"), 404),
    ],
)
async def test_cors_on_every_answer(
    opened: Opener, request_: bytes, status: int
) -> None:
    api = await opened(cors_origins=("https://shop.example",))
    line, _, rest = request_.partition(b"\r\n")
    origin = b"Origin: https://shop.example\r\nX-Request-Id: mine\r\n"
    reply = await api.raw(line + b"\r\n" + origin + rest, status)
    assert reply.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert reply.headers["Vary"] == "Origin"
    assert reply.headers["X-Request-Id"] == "mine"
