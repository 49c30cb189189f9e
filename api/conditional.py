"""Conditional and repeated requests: entity tags and idempotency keys."""

import re
from collections.abc import Callable
from hashlib import sha256

import msgspec
from aiohttp import web

import db
from api.responses import (
    CALLER,
    ENCODER,
    JSON,
    ProblemError,
    RawResponse,
    invalid_field,
)
from api.schemas import ID_PATTERN

ENTITY_TAG = r'(W/)?"([^\x00-\x20"\x7f]*)"'
# White space matches in one place only, so that no header takes more than linear time.
ENTITY_TAGS = re.compile(rf"(?:{ENTITY_TAG}\s*)?(?:,\s*(?:{ENTITY_TAG}\s*)?)*")
VERSION = re.compile(ID_PATTERN)
KEY = re.compile(r'"([\x20-\x7e]{1,255})"|([\x21\x23-\x7e][\x20-\x7e]{0,254})')

Tags = list[tuple[bool, str]]
"""Entity tags, each with whether it is weak."""
ALTERED = (
    "No tag of If-Match is as this server made it: a proxy that compresses has "
    'weakened or altered it. Switch that off for /api/, or send the tag like "1".'
)
MAX_HEADER = 8192
"""The most characters of a header, its lines together; aiohttp limits each line."""


def entity_tag(version: int) -> str:
    """Return the strong tag of a row at a version (RFC 9110, section 8.8.3)."""
    return f'"{version}"'


def joined_header(request: web.Request, header: str) -> str:
    """Return the lines of a header as one (RFC 9110, section 5.3). ProblemError 400."""
    text = ",".join(request.headers.getall(header))
    if len(text) > MAX_HEADER:
        raise ProblemError(400, f"{header} holds more than {MAX_HEADER} characters.")
    return text


def _tags(request: web.Request, header: str) -> Tags | None:
    """Return the tags of a header, None for `*`."""
    # A list that is not valid has none.
    text = joined_header(request, header).strip()
    if text == "*":
        return None
    if not ENTITY_TAGS.fullmatch(text):
        return []
    return [(bool(weak), tag) for weak, tag in re.findall(ENTITY_TAG, text)]


def precondition(request: web.Request, noun: str) -> db.VersionCheck | None:
    """Return what checks the version of a row for a write, None without a condition.

    It raises ProblemError 412 (RFC 9110, section 13.2.2).
    """
    headers = request.headers
    if "If-Match" not in headers and "If-None-Match" not in headers:
        return None
    match = _tags(request, "If-Match") if "If-Match" in headers else None
    none_match: Tags | None = []
    if "If-None-Match" in headers:
        none_match = _tags(request, "If-None-Match")

    def check(version: int) -> None:
        if match is not None:
            _check_match(match, version, noun)
        if none_match is None or _names(none_match, version):
            raise ProblemError(412, f"The {noun} is there as If-None-Match names it.")

    return check


def _names(tags: Tags, version: int) -> bool:
    """Return whether a tag names a version, weakly compared (section 8.8.3.2)."""
    return str(version) in (tag for _, tag in tags)


def _check_match(tags: Tags, version: int, noun: str) -> None:
    """Raise ProblemError 412 unless a strong tag names the version (13.1.1)."""
    ours = [tag for weak, tag in tags if not weak and VERSION.fullmatch(tag)]
    if not ours:
        raise ProblemError(412, ALTERED)
    if str(version) not in ours:
        raise ProblemError(412, f"The {noun} has changed since.")


def not_modified(request: web.Request, version: int, noun: str) -> bool:
    """Return whether If-None-Match names the version. ProblemError 412 by If-Match."""
    headers = request.headers
    if "If-Match" in headers and (match := _tags(request, "If-Match")) is not None:
        _check_match(match, version, noun)
    if "If-None-Match" not in headers:
        return False
    tags = _tags(request, "If-None-Match")
    return tags is None or _names(tags, version)


def untagged_problem(request: web.Request) -> ProblemError | None:
    """Return why a request for what has no entity tag is refused, 304 for a GET."""
    headers = request.headers
    if "If-Match" in headers and _tags(request, "If-Match") is not None:
        return ProblemError(412, "This has no entity tag: only If-Match: * holds.")
    if "If-None-Match" in headers and _tags(request, "If-None-Match") is None:
        if request.method in ("GET", "HEAD"):
            return ProblemError(304, "")
        return ProblemError(412, "This is there, and If-None-Match: * holds no more.")
    return None


def untagged_check(request: web.Request) -> Callable[[], None] | None:
    """Return what raises the problem of a write of what has no tag, None for none."""
    problem = untagged_problem(request)
    if problem is None:
        return None

    def check() -> None:
        raise problem

    return check


def untagged(
    request: web.Request, body: bytes | msgspec.Struct, content_type: str = JSON
) -> RawResponse:
    """Return a 200 without an entity tag. ProblemError 412; 304 where that holds."""
    if problem := untagged_problem(request):
        raise problem
    content = body if isinstance(body, bytes) else ENCODER.encode(body)
    return RawResponse(200, content, content_type=content_type)


def idempotency_key(
    request: web.Request, body: msgspec.Struct | bytes
) -> db.IdempotencyKey | None:
    """Return the Idempotency-Key of a request, None without. ProblemError 422."""
    if "Idempotency-Key" not in request.headers:
        return None
    texts = request.headers.getall("Idempotency-Key")
    match = KEY.fullmatch(texts[0].strip())
    if match is None or len(texts) > 1:
        rule = "Idempotency-Key must be 1 to 255 printable ASCII characters."
        raise invalid_field("", rule)
    content = body if isinstance(body, bytes) else ENCODER.encode(body)
    fingerprint = sha256(content).digest()[:16]
    return db.IdempotencyKey(
        request[CALLER], request.method, request.path, match[1] or match[2], fingerprint
    )
