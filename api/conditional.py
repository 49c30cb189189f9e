"""Conditional and repeated requests: entity tags and idempotency keys."""

import re
from hashlib import sha256

import msgspec
from aiohttp import web

import db
from api.responses import CALLER, ENCODER, ProblemError, invalid_field

ENTITY_TAG = r'(W/)?"([^\x00-\x20"\x7f]*)"'
# White space matches in one place only, so that no header takes more than linear time.
ENTITY_TAGS = re.compile(rf"(?:{ENTITY_TAG}\s*)?(?:,\s*(?:{ENTITY_TAG}\s*)?)*")
VERSION = re.compile("[1-9][0-9]{0,18}")
KEY = re.compile(r'"([\x20-\x7e]{1,255})"|([\x21\x23-\x7e][\x20-\x7e]{0,254})')

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


def _tags(request: web.Request, header: str) -> list[tuple[bool, str]] | None:
    """Return the tags of a header, each with whether it is weak; None for `*`."""
    # A list that is not valid has none.
    text = joined_header(request, header).strip()
    if text == "*":
        return None
    if not ENTITY_TAGS.fullmatch(text):
        return []
    return [(bool(weak), tag) for weak, tag in re.findall(ENTITY_TAG, text)]


def versions(request: web.Request) -> db.Versions:
    """Return the versions that If-Match allows; weak tags never match (13.1.1)."""
    if "If-Match" not in request.headers:
        return None
    tags = _tags(request, "If-Match")
    if tags is None:
        return None
    return tuple(int(tag) for weak, tag in tags if not weak and VERSION.fullmatch(tag))


def not_modified(request: web.Request, version: int) -> bool:
    """Return whether If-None-Match names the version, weakly compared (13.1.2)."""
    if "If-None-Match" not in request.headers:
        return False
    tags = _tags(request, "If-None-Match")
    return tags is None or str(version) in (tag for _, tag in tags)


def idempotency_key(
    request: web.Request, body: msgspec.Struct
) -> db.IdempotencyKey | None:
    """Return the Idempotency-Key of a request, None without. ProblemError 422."""
    if "Idempotency-Key" not in request.headers:
        return None
    texts = request.headers.getall("Idempotency-Key")
    match = KEY.fullmatch(texts[0].strip())
    if match is None or len(texts) > 1:
        rule = "Idempotency-Key must be 1 to 255 printable ASCII characters."
        raise invalid_field("", rule)
    fingerprint = sha256(ENCODER.encode(body)).hexdigest()
    return db.IdempotencyKey(
        request.get(CALLER, ""),
        request.method,
        request.path,
        match[1] or match[2],
        fingerprint,
    )
