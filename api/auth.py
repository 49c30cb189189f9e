"""Bearer tokens: the token file, and the authentication of requests."""

import hmac
import logging
import os
import re
import secrets
import stat
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, cast

from aiohttp import web

import db
from api.responses import ProblemError
from api.schemas import Access

LOG = logging.getLogger("server")
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
LINE = re.compile(r"([A-Za-z0-9._-]{1,64})\s+([0-9A-Fa-f]{64})\s+(read|write)")


class Token(NamedTuple):
    """A line of the token file; `access` is `read` or `write`."""

    caller: str
    digest: bytes
    """The SHA-256 of the token."""
    access: Access


def new_token(name: str, access: Access) -> tuple[str, str]:
    """Return a new token, and its line for the token file. ValueError."""
    token = secrets.token_urlsafe(32)
    line = f"{name} {sha256(token.encode()).hexdigest()} {access}"
    if not LINE.fullmatch(line):
        raise ValueError("a name is 1 to 64 of A-Z a-z 0-9 . _ -")
    return token, line


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Return the tokens of a file. StartupError, also where others may write it."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            others_write = os.fstat(file.fileno()).st_mode & (
                stat.S_IWGRP | stat.S_IWOTH
            )
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise db.StartupError(f"API_TOKENS_FILE {path}: {reason}") from None
    if others_write:
        raise db.StartupError(
            f"API_TOKENS_FILE {path}: others may write it and let themselves in: "
            f"chmod go-w {path}"
        )
    tokens = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise db.StartupError(
                f"API_TOKENS_FILE {path}, line {number}: "
                "not `name sha256-hex read|write`"
            )
        tokens.append(Token(match[1], bytes.fromhex(match[2]), cast(Access, match[3])))
    if not tokens:
        LOG.warning("API_TOKENS_FILE %s holds no token: nobody can come in", path)
    return tuple(tokens)


class Authenticator:
    """Finds the caller of a request by its token; without tokens, anybody may call."""

    def __init__(self, tokens: tuple[Token, ...] | None = None) -> None:
        self.tokens = tokens

    def authenticate(self, request: web.Request, access: str) -> str:
        """Return the caller of a request, "" for anybody. ProblemError 401 or 403."""
        if self.tokens is None or access == "public":
            return ""
        token = self._token_of(request)
        if access == "write" and token.access != "write":
            raise ProblemError(403, "This token may only read.")
        return token.caller

    def caller_of(self, request: web.Request) -> tuple[str | None, Access]:
        """Return the name of a caller, and what it may do. ProblemError 401."""
        if self.tokens is None:
            return None, "write"
        token = self._token_of(request)
        return token.caller, token.access

    def _token_of(self, request: web.Request) -> Token:
        values = request.headers.getall("Authorization", ())
        value = values[0] if len(values) == 1 else ""
        scheme, _, text = value.partition(" ")
        token = self._find(text.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise ProblemError(
                401,
                "This wants a token: Authorization: Bearer TOKEN.",
                headers={"WWW-Authenticate": 'Bearer realm="customer purchase server"'},
            )
        return token

    def _find(self, text: str) -> Token | None:
        digest = sha256(text.encode("utf-8", "surrogateescape")).digest()
        found = None
        for token in self.tokens or ():  # all of them, in constant time
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


AUTHENTICATOR: web.AppKey[Authenticator] = web.AppKey("authenticator", Authenticator)
