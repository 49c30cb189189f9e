"""The page at /docs that shows the description and tries it out (Swagger UI)."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from aiohttp import web
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

from api.conditional import entity_tag, not_modified
from api.responses import JSON, RawResponse
from api.routing import not_found

STATIC = Path(__file__).with_name("static")
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
}
ASSETS = ("favicon-32x32.png", "index.css", "swagger-ui-bundle.js", "swagger-ui.css")
ASSET_TYPES = tuple(kind.partition(";")[0] for kind in MEDIA_TYPES.values())
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""No other host, no script but the files; the page sets styles of its elements."""


class StaticFile(NamedTuple):
    """A file that stays the same for the life of the process."""

    version: int
    body: bytes
    content_type: str


STATIC_FILES: web.AppKey[Mapping[str, StaticFile]] = web.AppKey("static_files")
"""The description, the page and its files, by path."""


def static_files(description: bytes) -> dict[str, StaticFile]:
    """Return the description, the page and its files, by path."""
    files = {
        "/openapi.json": (description, JSON),
        "/docs": ((STATIC / "docs.html").read_bytes(), "text/html; charset=utf-8"),
        "/docs/start.js": ((STATIC / "docs-start.js").read_bytes(), MEDIA_TYPES[".js"]),
    }
    for name in ASSETS:
        file = swagger_ui_path / name
        files[f"/docs/{name}"] = (file.read_bytes(), MEDIA_TYPES[file.suffix])
    return {
        path: StaticFile(crc32(body), body, content_type)
        for path, (body, content_type) in files.items()
    }


def static_response(request: web.Request) -> RawResponse:
    """Return the file at the path of a request, or 304. ProblemError 404."""
    file = request.app[STATIC_FILES].get(request.path)
    if file is None:
        raise not_found()
    lines = f"ETag: {entity_tag(file.version)}\r\n"
    lines += f"Content-Security-Policy: {CONTENT_SECURITY_POLICY}\r\n"
    if not_modified(request, file.version, "file"):
        return RawResponse(304, lines=lines)
    return RawResponse(200, file.body, lines, file.content_type)


async def description(request: web.Request) -> web.StreamResponse:
    """Return the description of the API: OpenAPI 3.1."""
    return static_response(request)


async def docs(request: web.Request) -> web.StreamResponse:
    """Return the page that shows the description and tries it out."""
    return static_response(request)


async def docs_asset(request: web.Request) -> web.StreamResponse:
    """Return a file of that page."""
    return static_response(request)
