"""Who may come in: bearer tokens, and the origins that browsers may come from."""

import hmac
import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

import db
from replies import Problem

LINE = re.compile(r"([A-Za-z0-9._-]{1,64})\s+([0-9A-Fa-f]{64})\s+(read|write)")
EXPOSED = (
    "Deprecation, ETag, Idempotency-Replayed, Link, Location, Retry-After, "
    "WWW-Authenticate, X-Request-Id"
)
ALLOWED = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, "
    "X-Request-Id"
)


class Token(NamedTuple):
    """A line of the token file: a caller, the SHA-256 of its token, what it may do."""

    caller: str
    digest: bytes
    access: str


def new_token(name: str, access: str) -> tuple[str, str]:
    """Return a new token, and the line of the file that lets it in. ValueError."""
    token = secrets.token_urlsafe(32)
    line = f"{name} {sha256(token.encode()).hexdigest()} {access}"
    if not LINE.fullmatch(line):
        raise ValueError("a name is 1 to 64 of A-Z a-z 0-9 . _ -")
    return token, line


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Return the tokens of a file; RefusedError names what is wrong, in one line."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise db.RefusedError(f"API_TOKENS_FILE {path}: {reason}") from None
    tokens = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise db.RefusedError(
                f"API_TOKENS_FILE {path}, line {number}: "
                "not `name sha256-hex read|write`"
            )
        tokens.append(Token(match[1], bytes.fromhex(match[2]), match[3]))
    return tuple(tokens)


class Door:
    """Knows the tokens and the origins that may come in; without tokens, all may."""

    def __init__(
        self, tokens: tuple[Token, ...] | None = None, origins: tuple[str, ...] = ()
    ) -> None:
        self.tokens = tokens
        self.origins = frozenset(origins)

    def caller(self, request: web.Request, access: str) -> str:
        """Return who calls, an empty text for anybody. Problem 401 or 403."""
        if self.tokens is None or access == "public":
            return ""
        given = request.headers.getall("Authorization", ())
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        found = self._find(token.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise Problem(
                401,
                "This wants a token: Authorization: Bearer TOKEN.",
                headers={"WWW-Authenticate": 'Bearer realm="customer purchase server"'},
            )
        if access == "write" and found.access != "write":
            raise Problem(403, "This token may only read.")
        return found.caller

    def _find(self, token: str) -> Token | None:
        digest = sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known in self.tokens or ():  # all of them, whichever it is
            if hmac.compare_digest(known.digest, digest):
                found = known
        return found

    def cross_origin(self, request: web.BaseRequest) -> Mapping[str, str]:
        """Return the headers that let a page of a named origin read the answer."""
        origin = request.headers.get("Origin")
        if origin not in self.origins:
            return {"Vary": "Origin"} if self.origins else {}
        headers = {
            "Access-Control-Allow-Origin": str(origin),
            "Access-Control-Expose-Headers": EXPOSED,
            "Vary": "Origin",
        }
        method = request.headers.get("Access-Control-Request-Method")
        if request.method == "OPTIONS" and method is not None:
            headers |= {
                "Access-Control-Allow-Methods": "DELETE, GET, HEAD, PATCH, POST, PUT",
                "Access-Control-Allow-Headers": ALLOWED,
                "Access-Control-Max-Age": "600",
            }
        return headers
