"""What a request may depend on: entity tags and idempotency keys."""

import re
from hashlib import sha256

import msgspec
from aiohttp import web

import db
from replies import CALLER, ENCODER, Problem, invalid

ENTITY_TAG = r'(W/)?"([^\x00-\x20"\x7f]*)"'
# White space has one place in it, so that no header takes more than linear time.
ENTITY_TAGS = re.compile(rf"(?:{ENTITY_TAG}\s*)?(?:,\s*(?:{ENTITY_TAG}\s*)?)*")
KEY = re.compile(r'"([\x20-\x7e]{1,255})"|([\x21\x23-\x7e][\x20-\x7e]{0,254})')

MAX_HEADER = 8192
"""What a header may hold in all its lines together; aiohttp limits each line."""


def entity_tag(version: int) -> str:
    """Return the strong tag of a row at a version (RFC 9110, section 8.8.3)."""
    return f'"{version}"'


def joined(request: web.Request, header: str) -> str:
    """Return the lines of a header as one (RFC 9110, section 5.3). Problem 400."""
    text = ",".join(request.headers.getall(header))
    if len(text) > MAX_HEADER:
        raise Problem(400, f"{header} holds more than {MAX_HEADER} characters.")
    return text


def _tags(request: web.Request, header: str) -> list[tuple[bool, str]] | None:
    """Return the tags of a list, weak or not; None for `*`, none of what is no list."""
    text = joined(request, header).strip()
    if text == "*":
        return None
    if not ENTITY_TAGS.fullmatch(text):
        return []
    return [(bool(weak), tag) for weak, tag in re.findall(ENTITY_TAG, text)]


def versions(request: web.Request) -> db.Versions:
    """Return the versions that If-Match allows; a weak tag never matches (13.1.1)."""
    if "If-Match" not in request.headers:
        return None
    tags = _tags(request, "If-Match")
    if tags is None:
        return None
    return tuple(int(tag) for weak, tag in tags if not weak and _is_version(tag))


def not_modified(request: web.Request, version: int) -> bool:
    """Return whether If-None-Match names the version, weakly compared (13.1.2)."""
    if "If-None-Match" not in request.headers:
        return False
    tags = _tags(request, "If-None-Match")
    return tags is None or str(version) in (tag for _, tag in tags)


def _is_version(tag: str) -> bool:
    return tag.isascii() and tag.isdecimal() and len(tag) <= 19 and tag[0] != "0"


def idempotency_key(request: web.Request, body: msgspec.Struct) -> db.Key | None:
    """Return the key of a request, None without one. Problem 422 for another text."""
    if "Idempotency-Key" not in request.headers:
        return None
    texts = request.headers.getall("Idempotency-Key")
    match = KEY.fullmatch(texts[0].strip())
    if match is None or len(texts) > 1:
        raise invalid(
            ("", "Idempotency-Key must be 1 to 255 printable ASCII characters.")
        )
    fingerprint = sha256(ENCODER.encode(body)).hexdigest()
    return db.Key(
        request.get(CALLER, ""),
        request.method,
        request.path,
        match[1] or match[2],
        fingerprint,
    )
