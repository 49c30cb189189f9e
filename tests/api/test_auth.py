"""Tokens, and the routes that need one."""

import re
from pathlib import Path

import pytest

import db
import handlers
from api.auth import Authenticator, read_tokens
from tests.support import ApiClient, Main, Opener, digest, one_engine

ROUTE_LINES = [
    (route, f"{route.method} {re.sub(r'{[a-z]+_id}', '1', route.path)}")
    for route in handlers.ROUTES
    if not re.search("{(asset|file)}", route.path)
]


PUBLIC = {
    *("/", "/livez", "/readyz", "/openapi.json"),
    *("/docs", "/docs/{asset}", "/console", "/console/{file}"),
}


@pytest.fixture
async def guarded(opened: Opener, tmp_path: Path) -> ApiClient:
    """Return how to ask a server that wants the token `may-read` or `may-write`."""
    file = tmp_path / "tokens"
    lines = [f"{name} {digest(f'may-{name}')} {name}" for name in ("read", "write")]
    file.write_text("\n".join(["# who may come in", "", *lines]))
    return await opened(Authenticator(read_tokens(file)))


def test_public_routes() -> None:
    public = {route.path for route in handlers.ROUTES if route.access == "public"}
    assert public == PUBLIC
    for route in handlers.ROUTES:
        may = "read" if route.method == "GET" else "write"
        assert route.access == ("public" if route.path in PUBLIC else may)


@one_engine
async def test_tokens(guarded: ApiClient) -> None:
    """Each route wants a token that may do what the route does."""
    for route, line in ROUTE_LINES:
        for token, allowed in (
            ("", route.access == "public"),
            ("Bearer may-read", route.access != "write"),
            ("bearer  may-write", True),
        ):
            if not allowed:
                status = 403 if token else 401
                await guarded(line, None, status, Authorization=token)
            else:
                method, path = line.split()
                async with guarded.client.request(
                    method, path, headers={"Authorization": token}
                ) as reply:
                    assert reply.status not in (401, 403), line


@one_engine
@pytest.mark.parametrize(
    "given",
    [
        *("may-read", "Basic may-read", "Bearer", "Bearer x", "Bearer may-read x"),
        *("Bearer MAY-READ", "Bearer é", f"Bearer {digest('may-read')}", "Bearer may-"),
    ],
)
async def test_no_token(guarded: ApiClient, given: str) -> None:
    for path in ("/api/v1/customer", "/api/v1/customer/1", "/metrics", "/nowhere"):
        reply = await guarded(f"GET {path}", None, 401, Authorization=given)
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        assert "may-" not in reply.text


@one_engine
async def test_head_and_options_with_tokens(guarded: ApiClient) -> None:
    await guarded("HEAD /api/v1/customer", None, 401)
    await guarded("HEAD /api/v1/customer", None, 200, Authorization="Bearer may-read")
    await guarded("OPTIONS /api/v1/customer", None, 204)


@one_engine
async def test_methods_of_public_paths_with_tokens(guarded: ApiClient) -> None:
    """Who may know a path may know its methods; of the others nothing is said."""
    for path in sorted(PUBLIC):
        path = re.sub("{.+}", "index.css", path)
        reply = await guarded(f"POST {path}", None, 405)
        assert reply.headers["Allow"] == "GET, HEAD, OPTIONS"
    for path in ("/metrics", "/api/v1/customers", "/nowhere"):
        await guarded(f"POST {path}", None, 401)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        (b"ann", "line 1"),
        (b"# fine\n\nann 12ab read\n", "line 3"),
        (f"ann {'0' * 64} admin".encode(), "line 1"),
        (f"a b {'0' * 64} read".encode(), "line 1"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_token_file_refused(tmp_path: Path, text: bytes | None, reason: str) -> None:
    file = tmp_path / "tokens"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(db.StartupError, match=reason) as caught:
        read_tokens(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_token_file_that_others_may_write(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"ann {digest('a')} read\n")
    file.chmod(mode)
    with pytest.raises(db.StartupError, match="chmod go-w"):
        read_tokens(file)
    file.chmod(0o644)
    assert [token.caller for token in read_tokens(file)] == ["ann"]


def test_token_file_without_a_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    file.write_text("# nobody yet\n")
    assert read_tokens(file) == ()
    assert caplog.messages == [
        f"API_TOKENS_FILE {file} holds no token: nobody can come in"
    ]


def test_token_file_as_people_write_it(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    hexes = [digest("a"), digest("b").upper()]
    text = f"\ufeff# who\r\n  # may\n\nann\t{hexes[0]}  read \n bob {hexes[1]} write"
    file.write_text(text, "utf-8")
    tokens = read_tokens(file)
    assert [(token.caller, token.access) for token in tokens] == [
        ("ann", "read"),
        ("bob", "write"),
    ]
    assert [token.digest.hex() for token in tokens] == [digest("a"), digest("b")]


def test_token_command(main: Main, tmp_path: Path) -> None:
    file, tokens = tmp_path / "tokens", []
    file.touch(0o600)
    for arguments, may in ((["ann"], "write"), (["bob", "--read"], "read")):
        status, out, err = main("token", *arguments)
        assert (status, err) == (0, "")
        token, line = out.splitlines()
        assert line == f"{arguments[0]} {digest(token)} {may}"
        with file.open("a") as lines:
            lines.write(line + "\n")
        tokens.append(token)
    assert len(set(tokens)) == 2
    assert min(map(len, tokens)) >= 40
    assert [token.caller for token in read_tokens(file)] == ["ann", "bob"]


@one_engine
async def test_token_that_is_no_text(guarded: ApiClient) -> None:
    request = (
        b"GET /api/v1/customer HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\r\n"
    )
    await guarded.raw(request + b"Connection: close\r\n\r\n", 401)
