"""The page for people, its files, and the way there."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from api.auth import Authenticator, read_tokens
from tests.support import ApiClient, Opener, digest, one_engine

CONSOLE = Path(__file__).parents[2] / "console"
FILES = sorted(path.name for path in CONSOLE.iterdir() if path.suffix != ".html")
SCRIPTS = [name for name in FILES if name.endswith(".js")]
IMPORTED = re.compile(r'^(?:import|\}) .*"\./(.+)";$', re.MULTILINE)
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
WELCOME = (
    '{"name":"customer purchase server","version":"1.0.0",'
    '"healthy":true,"docs":"/docs"}'
)
CHROME = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,"
    "image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        *((CHROME, 303), (FIREFOX, 303), ("text/html", 303), ("text/*", 303)),
        ("application/json;q=0.5, TEXT/HTML", 303),
        ("text/html;q=0.2, application/json;q=0.1", 303),
        *(("*/*", 200), ("application/json", 200), ("", 200), ("image/png", 200)),
        *(("text/html, application/json", 200), ("text/html, */*", 200)),
        *(("text/html;q=0", 200), ("text/html;q=0.5, application/json", 200)),
        *(("text/html;q=x", 200), ("application/*, text/html;q=0.9", 200)),
    ],
)
@one_engine
async def test_welcome(api: ApiClient, accept: str, status: int) -> None:
    """A browser is sent to the page; whoever prefers JSON, or neither, gets that."""
    for method in ("GET", "HEAD"):
        async with api.client.request(
            method, "/", headers={"Accept": accept}, allow_redirects=False
        ) as reply:
            assert reply.status == status
            assert reply.headers["Vary"] == "Accept"
            assert reply.headers.get("Location") == (
                "/console" if status == 303 else None
            )
            text = WELCOME if status == 200 and method == "GET" else ""
            assert await reply.text() == text


@one_engine
async def test_welcome_without_accept(api: ApiClient) -> None:
    async with api.client.get("/", skip_auto_headers=["Accept"]) as reply:
        assert (reply.status, await reply.text()) == (200, WELCOME)


@one_engine
async def test_the_way_to_the_console(api: ApiClient) -> None:
    async with api.client.get("/", headers={"Accept": CHROME}) as reply:
        assert reply.url.path == "/console"
        assert "<title>Customers and purchases</title>" in await reply.text()


@pytest.mark.parametrize("name", ["", *FILES])
@one_engine
async def test_files(api: ApiClient, name: str) -> None:
    """Each file comes whole, with its type, a strong tag, and the policy."""
    path = f"/console/{name}" if name else "/console"
    file = CONSOLE / (name or "index.html")
    media_type = MEDIA_TYPES.get(file.suffix, "text/html; charset=utf-8")
    reply = await api(f"GET {path}")
    assert reply.text == file.read_text("utf-8")
    assert reply.headers["Content-Type"] == media_type
    policy = reply.headers["Content-Security-Policy"].split("; ")
    assert dict(part.split(" ", 1) for part in policy) == POLICY
    tag = reply.headers["ETag"]
    assert (await api(f"GET {path}", None, 304, if_none_match=tag)).text == ""
    assert (await api(f"HEAD {path}")).headers["ETag"] == tag


@one_engine
async def test_no_other_files(api: ApiClient) -> None:
    for name in (
        "nothing.js",
        "index.html",
        "..%2Fdb.py",
        "%2e%2e/db.py",
        "",
        "app.js/",
    ):
        await api(f"GET /console/{name}", None, 404)
    await api("POST /console", None, 405)
    await api("GET /console?x=1", None, 422)


class Reader(HTMLParser):
    """Collects the addresses in a page, and what a strict policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.forbidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.addresses += [
            names[name] or "" for name in ("src", "href") if name in names
        ]
        self.forbidden += [name for name in names if name.startswith("on")]
        self.forbidden += ["style"] * (tag == "style" or "style" in names)
        self.forbidden += [tag] * (tag == "script" and "src" not in names)


def test_page_has_nothing_inline() -> None:
    reader = Reader()
    reader.feed((CONSOLE / "index.html").read_text("utf-8"))
    assert reader.forbidden == []
    assert all(re.match(r"#|console/", address) for address in reader.addresses)


def test_every_file_is_used() -> None:
    """What the page and its modules name is there, and nothing else is."""
    reader = Reader()
    reader.feed((CONSOLE / "index.html").read_text("utf-8"))
    start = {address[8:] for address in reader.addresses if address[0] != "#"}
    found: set[str] = set()
    while start:
        name = start.pop()
        found.add(name)
        if name.endswith(".js"):
            text = (CONSOLE / name).read_text("utf-8")
            start |= {*IMPORTED.findall(text)} - found
    assert sorted(found) == FILES


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_html_from_strings(name: str) -> None:
    text = (CONSOLE / name).read_text("utf-8")
    words = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
    )
    assert re.findall(words + r"|https?://(?!www\.w3\.org/2000/svg)", text) == []


@one_engine
async def test_caller_without_tokens(api: ApiClient) -> None:
    reply = await api("GET /api/v1/caller")
    data = {"name": None, "access": "write", "undo_days": 30}
    assert reply.json == {"status": "ok", "data": data}
    await api("GET /api/v1/caller?x=1", None, 422)
    await api("GET /api/v1/caller", None, 412, if_match='"1"')


@one_engine
async def test_caller_with_tokens(opened: Opener, tmp_path: Path) -> None:
    lines = [f"{name}er {digest(f'may-{name}')} {name}" for name in ("read", "write")]
    file = tmp_path / "tokens"
    file.write_text("\n".join(lines))
    api = await opened(Authenticator(read_tokens(file)))
    for access in ("read", "write"):
        reply = await api("GET /api/v1/caller", authorization=f"Bearer may-{access}")
        data = {"name": f"{access}er", "access": access, "undo_days": 30}
        assert reply.json == {"status": "ok", "data": data}
    await api("GET /api/v1/caller", None, 401)
    await api("GET /api/v1/caller", None, 401, authorization="Bearer may-not")
    await api("GET /console")
    await api("GET /console/app.js")
