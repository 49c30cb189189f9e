"""Hosts that requests name, and targets in other forms than a path (RFC 9112, 3.2)."""

import ipaddress
import re
from contextlib import suppress
from functools import lru_cache

from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from api.responses import ProblemError

HOST = re.compile(
    r"((?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*"
    r"|\[(?:[0-9A-Fa-f:.]+|v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\])"
    r"(?::([0-9]{0,5}))?"
)
"""A host and perhaps a port (RFC 3986, section 3.2; RFC 9110, section 7.2)."""
ABSOLUTE = re.compile(r"(?i)https?://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?")
ASTERISK = "/\0"
"""Stands for the target `*`, the server itself: a path that no client can send."""
SERVER = URL.build(path=ASTERISK, encoded=True)


def host_of(authority: str) -> str:
    """Return the host of a Host header, in lower case. ValueError for none.

    An address in brackets is returned in them; "" is no host, and allowed.
    """
    found = HOST.fullmatch(authority)
    if found is None or int(found[2] or 0) > 65535:
        raise ValueError("not a host")
    host = found[1].lower()
    if host.startswith("[") and not host.startswith("[v"):
        ipaddress.IPv6Address(host[1:-1])
    return host


class HostCheck:
    """Refuses requests under names that are not the server's.

    Against DNS rebinding, where a page under a name of its own reads a server of its
    visitor's network. Without a list of names, those pass that no page can have so:
    `localhost` and names under it, names without a dot, addresses.
    """

    def __init__(self, allowed: tuple[str, ...] = (), any_host: bool = False) -> None:
        self.allowed = frozenset(allowed)
        self.any_host = "*" in self.allowed or (any_host and not self.allowed)
        self.check = lru_cache(1000)(self._check)
        """Takes a Host header. ProblemError 400 or 421."""

    def _check(self, authority: str) -> None:
        try:
            host = host_of(authority).removesuffix(".")
        except ValueError:
            raise ProblemError(400, "The Host header is not a host.") from None
        if not self.any_host and not self._is_allowed(host):
            detail = "This server has another name; ALLOWED_HOSTS sets those it has."
            raise ProblemError(421, detail)

    def _is_allowed(self, host: str) -> bool:
        if self.allowed:
            return host in self.allowed
        if "." not in host or host.startswith("[") or host.endswith(".localhost"):
            return True
        with suppress(ValueError):
            return bool(ipaddress.IPv4Address(host))
        return False


def origin_form(message: RawRequestMessage) -> RawRequestMessage:
    """Return a message as if its target were a path, and its Host that of the target.

    RFC 9112, section 3.2. ValueError for a target that is no http URL.
    """
    if message.path == "*":
        return message._replace(path=ASTERISK, url=SERVER)
    if not message.url.host:  # ValueError for one like `xn--`
        raise ValueError("no host")  # RFC 9110, section 4.2.1
    if message.method == "CONNECT":
        host_of(message.path)
        return message._replace(path=ASTERISK, url=SERVER)
    found = ABSOLUTE.fullmatch(message.path)
    if found is None:
        raise ValueError("not an http URL")
    authority, path, query = found[1], found[2] or "/", found[3]
    host_of(authority)
    url = URL.build(path=path, query_string=query or "", encoded=True)
    headers = CIMultiDict(message.headers)
    headers["Host"] = authority
    raw_path = path if query is None else f"{path}?{query}"
    return message._replace(path=raw_path, url=url, headers=CIMultiDictProxy(headers))
