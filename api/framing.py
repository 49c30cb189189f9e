"""Where the heads and bodies of requests end in what a client sends (RFC 9112).

With an error, aiohttp's parser forgets every request that it was given in the same
piece, and of an incomplete head it keeps twice the bytes. So it is given one head at a
time, whole, and then the bytes of one body: the same bytes get the same answers however
the network cuts them.
"""

import re

from aiohttp import StreamReader
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError

from api.responses import ProblemError
from api.routing import RouteTable

MAX_HEAD = 32 * 1024
MAX_CHUNK_LINE = 4096
"""The most bytes of a line between two chunks."""

LINE = re.compile(rb"[!#-'*+.^-z|~A-Z0-9-]{1,32} (/[!-~]*) HTTP/1\.[01]\r?\n")
CODINGS = re.compile(rb"(?i)\nTransfer-Encoding:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)")
LENGTH = re.compile(rb"(?i)\nContent-Length:")
TOKEN = rb"[!#-'*+.^-z|~A-Z0-9-]{1,32}"
BEGINNING = re.compile(rb"[\r\n]*(?:%b)?(?: |\Z)" % TOKEN)
REQUEST_LINE = re.compile(rb"[\r\n]*%b +[^ \r\n]+ +HTTP/[0-9]\.[0-9]" % TOKEN)
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
HEAD_END = b"\r\n\r\n"
METHODS = (
    b"CONNECT",
    b"DELETE",
    b"GET",
    b"HEAD",
    b"OPTIONS",
    b"PATCH",
    b"POST",
    b"PUT",
)


def not_http() -> ProblemError:
    """Return the 400 of what cannot be parsed."""
    return ProblemError(400, "This is not HTTP as this server speaks it.")


def problem_of(
    exc: HttpProcessingError, head: bytes, routes: RouteTable
) -> ProblemError:
    """Return what is answered to a head or a body that the parser refuses."""
    if isinstance(exc, BadHttpMethod) and (line := LINE.match(head)):
        return routes.problem(line[1].decode("ascii").partition("?")[0])
    codings = [coding.decode("latin-1") for coding in CODINGS.findall(head)]
    if codings and not LENGTH.search(head):
        try:
            check_codings(codings)
        except ProblemError as problem:
            return problem
    return not_http()


def check_codings(codings: list[str]) -> None:
    """Raise ProblemError 501 for a transfer coding other than chunked, 400 for none."""
    names = ",".join(codings).strip().lower()
    if not names.strip(" \t,"):
        raise not_http()
    if names != "chunked":
        raise ProblemError(501, "Transfer-Encoding may only be chunked.")


class Framing:
    """Cuts what one client sends at the ends of heads and bodies."""

    __slots__ = ("_begun", "_in_chunk", "_left", "_line", "head")

    def __init__(self) -> None:
        self.head = bytearray()
        """The head that is incomplete; after an error, the one that is to blame."""
        self._begun = False
        """Whether the request line of the incomplete head was seen."""
        self._left = 0
        """The bytes of a body or a chunk that are still to come."""
        self._line: bytearray | None = None
        """The beginning of a line between chunks, None outside of a chunked body."""
        self._in_chunk = False
        """Whether a chunk has data; the last one has trailers."""

    def begin_body(self, message: RawRequestMessage, payload: StreamReader) -> None:
        """Note the framing of the body that follows a head."""
        if not payload.is_eof():
            if message.chunked:
                self._line, self._in_chunk = bytearray(), True
            else:
                self._left = int(message.headers.get("Content-Length", "0"))

    def cut(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what to parse next, b"" for nothing yet, and what is left after it.

        ProblemError 400 or 431 for a head that is none.
        """
        if self._line is not None:
            end = self._find_end(data, self._line)
        elif self._left:
            end = min(self._left, len(data))
            self._left -= end
        else:
            return self._cut_head(data)
        return data[:end], data[end:]

    def is_strange(self) -> bool:
        """Return whether a head has begun with no method that is in use."""
        method = bytes(self.head.lstrip()[:8]).partition(b" ")[0]
        return not any(known.startswith(method) for known in METHODS)

    def _cut_head(self, data: bytes) -> tuple[bytes, bytes]:
        if not self.head:
            end = data.find(HEAD_END) + len(HEAD_END)
            if len(HEAD_END) <= end <= MAX_HEAD:
                return (data, b"") if end == len(data) else (data[:end], data[end:])
        head, before = self.head, len(self.head)
        head += data[: MAX_HEAD - before]
        end = head.find(HEAD_END, max(before - len(HEAD_END), 0)) + len(HEAD_END)
        if end >= len(HEAD_END):
            self.head, self._begun = bytearray(), False
            return bytes(head[:end]), data[end - before :]
        if len(head) >= MAX_HEAD:
            size = f"{MAX_HEAD // 1024} KiB"
            raise ProblemError(431, f"The head of a request has at most {size}.")
        if not self._begun:
            self._begun = b"\n" in head.lstrip()
            line = REQUEST_LINE if self._begun else BEGINNING
            if not line.match(head):  # nothing that follows would make it HTTP
                raise not_http()
        return b"", b""

    def _find_end(self, data: bytes, line: bytearray) -> int:
        """Return where a chunked body ends; the length of the data if it goes on."""
        # Only where it ends is of interest here: the parser refuses what is wrong.
        place = 0
        while place < len(data):
            if self._left:
                skipped = min(self._left, len(data) - place)
                self._left -= skipped
                place += skipped
                continue
            end = data.find(b"\n", place) + 1
            line += data[place : end or len(data)]
            place = end or len(data)
            if len(line) > MAX_CHUNK_LINE:
                raise not_http()
            if not end:
                break
            if not self._in_chunk and line == b"\r\n":
                self._line = None
                return place
            if self._in_chunk:
                size = CHUNK_SIZE.fullmatch(line)
                if size is None:
                    raise not_http()
                length = int(size[1], 16)
                self._in_chunk = length > 0
                self._left = length + len(b"\r\n") if length else 0
            line.clear()
        return place
