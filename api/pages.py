"""The pages /docs (Swagger UI) and /console, the description, and all their files."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from aiohttp import web
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

from api.conditional import entity_tag, not_modified, untagged
from api.listing import qualities
from api.responses import JSON, VARY, RawResponse
from api.routing import not_found
from api.schemas import ServerInfo

STATIC = Path(__file__).with_name("static")
CONSOLE = Path(__file__).parents[1] / "console"
HTML = "text/html; charset=utf-8"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
ASSETS = ("favicon-32x32.png", "index.css", "swagger-ui-bundle.js", "swagger-ui.css")
DOCS_TYPES = ("text/css", "text/javascript", "image/png")
CONSOLE_TYPES = ("text/css", "text/javascript", "image/svg+xml")
CONSOLE_FILES = sorted(
    file.name for file in CONSOLE.iterdir() if file.suffix in MEDIA_TYPES
)
NO_OTHER_HOST = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; "
)
DOCS_POLICY = NO_OTHER_HOST + "style-src 'self' 'unsafe-inline'; img-src 'self' data:"
"""Swagger UI sets styles of its elements, and draws with URLs that hold a picture."""
CONSOLE_POLICY = NO_OTHER_HOST + (
    "style-src 'self'; img-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The browser, too, sees to it that no text becomes HTML (w3.org/TR/trusted-types)."""


class StaticFile(NamedTuple):
    """A file that stays the same for the life of the process."""

    version: int
    body: bytes
    content_type: str
    policy: str


STATIC_FILES: web.AppKey[Mapping[str, StaticFile]] = web.AppKey("static_files")
"""The description, the pages and their files, by path."""


def static_files(description: bytes) -> dict[str, StaticFile]:
    """Return the description, the pages and their files, by path."""
    docs, start = STATIC / "docs.html", STATIC / "docs-start.js"
    files = {
        "/openapi.json": (description, JSON),
        "/docs": (docs.read_bytes(), HTML),
        "/docs/start.js": (start.read_bytes(), MEDIA_TYPES[".js"]),
        "/console": ((CONSOLE / "index.html").read_bytes(), HTML),
    }
    for name in ASSETS:
        file = swagger_ui_path / name
        files[f"/docs/{name}"] = (file.read_bytes(), MEDIA_TYPES[file.suffix])
    for name in CONSOLE_FILES:
        file = CONSOLE / name
        files[f"/console/{name}"] = (file.read_bytes(), MEDIA_TYPES[file.suffix])
    return {
        path: StaticFile(crc32(body), body, content_type, _policy(path))
        for path, (body, content_type) in files.items()
    }


def _policy(path: str) -> str:
    return CONSOLE_POLICY if path.startswith("/console") else DOCS_POLICY


def static_response(request: web.Request) -> RawResponse:
    """Return the file at the path of a request, or 304. ProblemError 404."""
    file = request.app[STATIC_FILES].get(request.path)
    if file is None:
        raise not_found()
    lines = f"ETag: {entity_tag(file.version)}\r\n"
    lines += f"Content-Security-Policy: {file.policy}\r\n"
    if not_modified(request, file.version, "file"):
        return RawResponse(304, lines=lines)
    return RawResponse(200, file.body, lines, file.content_type)


def welcome(request: web.Request, info: ServerInfo) -> RawResponse:
    """Return JSON, or the way to the console for a client that prefers HTML."""
    html, json = qualities(request, "text/html", "application/json")
    if html > json:
        return RawResponse(303, lines=f"Location: /console\r\n{VARY}")
    response = untagged(request, info)
    response.lines += VARY
    return response


async def description(request: web.Request) -> web.StreamResponse:
    """Return the description of the API: OpenAPI 3.1."""
    return static_response(request)


async def docs(request: web.Request) -> web.StreamResponse:
    """Return the page that shows the description and tries it out."""
    return static_response(request)


async def docs_asset(request: web.Request) -> web.StreamResponse:
    """Return a file of that page."""
    return static_response(request)


async def console(request: web.Request) -> web.StreamResponse:
    """Return the page for people: look, find, correct, undo."""
    return static_response(request)


async def console_file(request: web.Request) -> web.StreamResponse:
    """Return a file of the page for people."""
    return static_response(request)
