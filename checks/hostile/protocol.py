"""Cases of the protocol: framings, headers, targets, floods."""

from collections.abc import Iterator

from checks.hostile.case import (
    CUSTOMERS,
    JSON_TYPE,
    MARK,
    NO_REPLY,
    PURCHASE,
    PURCHASES,
    Case,
    http,
)
from checks.hostile.values import NOT_UTF8
from checks.support.server_process import request_bytes

BODY = PURCHASE.encode()
LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
INNER = request_bytes("POST", PURCHASES, b'{"purchase_name": "x", "quantity": 1}')


def head(*lines: str, host: str = "Host: a") -> bytes:
    """Return the head of a POST with some lines of its own, and the marker."""
    start = [f"POST {PURCHASES} HTTP/1.1", host, f"Content-Type: {JSON_TYPE}"]
    return "\r\n".join([*filter(None, start), *lines, f"X-M: {MARK}", "", ""]).encode()


FRAMINGS: tuple[tuple[bytes, tuple[int, ...]], ...] = (
    (head(LENGTH, CHUNKED) + CHUNKS, (400,)),
    (head(CHUNKED, LENGTH) + CHUNKS, (400,)),
    (head("Content-Length: 4", CHUNKED) + b"0\r\n\r\n" + INNER, (400,)),  # smuggled
    (head(LENGTH, "Content-Length: 3") + BODY, (400,)),
    (head(LENGTH, LENGTH) + BODY, (400,)),
    (head("Content-Length: -1") + BODY, (400,)),
    (head("Content-Length: +5") + BODY, (400,)),
    (head("Content-Length: 0x5"), (400,)),
    (head("Content-Length: 5, 5"), (400,)),
    (head(f"Content-Length: {2**64}") + BODY, (400, 413)),
    (head("Content-Length: 10000000000") + BODY, (413,)),
    (head(f"Content-Length: {MARK}"), (400,)),
    (head("Transfer-Encoding: gzip"), (501,)),
    (head(f"Transfer-Encoding: {MARK}") + CHUNKS, (501,)),
    (head("Transfer-Encoding: chunked, identity") + CHUNKS, (501,)),
    (head(CHUNKED, CHUNKED) + CHUNKS, (501,)),
    (head("Transfer-Encoding: gzip, chunked") + CHUNKS, (501,)),
    (head("Transfer-Encoding: gzip", CHUNKED) + CHUNKS, (501,)),
    (head("Transfer-Encoding:", LENGTH) + BODY, (400,)),
    (head("Transfer-Encoding:") + BODY, (400,)),
    (head("transfer-encoding: CHUNKED") + CHUNKS, (201,)),
    (head(CHUNKED) + CHUNKS, (201,)),
    (head(CHUNKED) + CHUNKS[:-2] + f"X-A: {MARK}\r\n\r\n".encode(), (201, 400)),
    (head(LENGTH, "Idempotency-Key: a", "Idempotency-Key: b") + BODY, (422,)),
    (head(CHUNKED) + f"{MARK}\r\n".encode() + CHUNKS, (400,)),
    (head(CHUNKED) + b"fffffffffffffffffff\r\n" + BODY, (400, 413)),
    (head(CHUNKED) + b"2\r\n" + BODY + b"\r\n0\r\n\r\n", (400,)),
    (head(CHUNKED) + b"2;" + b"x" * 20_000 + b"\r\n{}\r\n0\r\n\r\n", (400, 422)),
    (head(LENGTH, f"X-A: {MARK}{'a' * 9000}") + BODY, (400,)),
    (head(LENGTH, f"{MARK}{'a' * 9000}: 1") + BODY, (400,)),
    (head(LENGTH, *(f"X-{n}: {MARK}" for n in range(200))) + BODY, (201, 400)),
    (head(LENGTH, *(f"X-{n}: {MARK}" for n in range(10_000))) + BODY, (431,)),
    (head(LENGTH, f"X-A: {MARK}{'a' * 40_000}") + BODY, (431,)),
    (head(LENGTH, f"X-A: a\0{MARK}") + BODY, (400,)),
    (head(LENGTH, f"X-A: a\n{MARK}") + BODY, (400,)),
    (head(LENGTH, f"X-A: a\nX-B: {MARK}") + BODY, (400,)),
    (head(LENGTH, f"X-A: a\r{MARK}") + BODY, (400,)),
    (head(LENGTH, f"X-A : {MARK}") + BODY, (400,)),
    (head(LENGTH, MARK) + BODY, (400,)),
    (head(LENGTH, f": {MARK}") + BODY, (400,)),
    (head(LENGTH, "X-A: a", f" {MARK}") + BODY, (400,)),  # a folded line
    (head(LENGTH).replace(b"\r\nX-M", b"\r\n\xffX") + BODY, (400,)),
    (head(LENGTH, host="") + BODY, (400,)),
    (head(LENGTH, f"Host: {MARK}") + BODY, (400,)),
    *(
        (head(LENGTH, host=f"Host: {text}") + BODY, (400,))
        for text in (f"a {MARK}", f"a/{MARK}", f"{MARK}@a", f"a:{MARK}", f"[{MARK}")
    ),
)
ENDS_EARLY = (
    head(LENGTH) + BODY[:20],
    head(CHUNKED) + CHUNKS[:20],
    head(CHUNKED) + CHUNKS[:-7],
    head(LENGTH)[:-2],
    head(LENGTH)[:30],
)
REST = f"\r\nHost: a\r\nX-Mark: {MARK}\r\nConnection: close\r\n\r\n".encode()
PATH = PURCHASES.encode()
MARKED = MARK.encode()
START_LINES: tuple[tuple[bytes, tuple[int, ...]], ...] = (
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1", (400, 404)),
    (b"GET " + PATH + b"?a=" + b"a" * 9000 + b" HTTP/1.1", (400, 422)),
    (b"GET " + PATH, (200, 400)),
    (b"GET " + PATH + b" HTTP/1.0", (200,)),
    (b"GET " + PATH + b" HTTP/1.2", (200, 400)),
    (b"PRI * HTTP/2.0", (400,)),
    (b"GET " + PATH + b" HTTP/9.9", (400,)),
    (b"GET " + MARKED + b" ", (400,)),
    (b"GET  HTTP/1.1", (400,)),
    (b"GET " + MARKED + b" HTTP/1.1", (400, 404)),
    (b"GET  " + PATH + b"  HTTP/1.1", (200, 400)),
    (b"GET /" + MARKED + b"\0 HTTP/1.1", (400, 404)),
    (b"GET /" + MARKED + b"\xff HTTP/1.1", (400, 404)),
    (b"get " + PATH + b" HTTP/1.1", (400, 405)),
    (b"GET http://" + MARKED + b".invalid" + PATH + b" HTTP/1.1", (421,)),
    (b"GET http://[" + MARKED + b" HTTP/1.1", (400, 404)),
    (b"GET http://a:" + MARKED + b"/ HTTP/1.1", (200, 400, 404)),
    (b"OPTIONS * HTTP/1.1", (204,)),
    (b"CONNECT " + MARKED + b":80 HTTP/1.1", (405,)),
    (b"GET http://" + MARKED + b" HTTP/1.1", (200,)),
    (b"GET ftp://" + MARKED + b"/livez HTTP/1.1", (400,)),
    (MARKED + b" \x01\x02", (400,)),
    (b"\x16\x03\x01\x02\0\x01\0" + MARKED, (400,)),  # a TLS hello
)


def endless() -> Iterator[bytes]:
    """Yield a chunked body that goes on; at 64 MiB this client has seen enough."""
    yield head(CHUNKED) + b"e\r\n" + MARKED + b"\r\n"
    for _ in range(1024):
        yield b"10000\r\n" + b"a" * 65536 + b"\r\n"


def framings() -> Iterator[Case]:
    """Yield requests whose end, length, head or first line is in doubt."""
    for request, right in FRAMINGS:
        yield Case("POST", request, right)
    yield Case("POST", endless(), (413,))
    for request in ENDS_EARLY:
        yield Case("POST", request, (NO_REPLY, 400), hang_up=True)
    for line, right in START_LINES:
        yield Case("GET", line + REST, right)


HEADERS: tuple[tuple[str, str, str, tuple[int, ...]], ...] = (
    ("GET", "X-Request-Id", f"{MARK} <script>", (200,)),
    ("GET", "X-Request-Id", f"{MARK}{'a' * 65}", (200,)),
    ("GET", "Accept", f"{MARK}/xml", (406,)),
    ("GET", "Accept", "application/json;q=0", (406,)),
    ("GET", "Accept", f"{MARK};q=,,;;/", (200, 406)),
    ("GET", "If-None-Match", f'{MARK},,"', (200,)),
    ("GET", "Range", "bytes=0-0,1-1,-1", (200,)),
    ("GET", "Cookie", f"{MARK}=" + "a;" * 2000, (200,)),
    ("GET", "Authorization", f"Bearer {MARK}", (200,)),
    ("GET", "Upgrade", MARK, (200, 400)),
    ("PATCH", "If-Match", f'"{MARK}"', (412,)),
    ("PATCH", "If-Match", f'{MARK},,"', (400, 412, 422)),
    ("PATCH", "Expect", MARK, (200, 400, 417)),
    ("POST", "Idempotency-Key", MARK + "a" * 256, (400, 422)),
    ("POST", "Idempotency-Key", f"{MARK}\u00e9", (400, 422)),
    ("POST", "Idempotency-Key", f"{MARK}\t", (201, 400, 422)),
    ("POST", "Expect", "100-continue", (201,)),
)
STUFFED = (
    ("GET", f"{CUSTOMERS}/1", "If-None-Match", (200, 400)),
    ("GET", PURCHASES, "Accept", (400, 406)),
    ("PATCH", PURCHASES, "If-Match", (400, 412)),
    ("POST", PURCHASES, "Idempotency-Key", (400, 422)),
)
READ_FIELDS = ("Accept", "Authorization", "Content-Encoding", "Content-Type", "Cookie",
               "Expect", "Host", "Idempotency-Key", "If-Match", "If-None-Match",
               "Origin", "X-Request-Id", "Connection")  # fmt: skip
REFUSALS = (200, 201, 400, 406, 412, 415, 417, 421, 422)
FILLINGS = (f"{MARK}{' ' * 8000}x", '"a" ,' * 1600, '"' * 8000, "W/" * 4000)


def header_fields() -> Iterator[Case]:
    """Yield header fields whose values are none, are no text, or fill a megabyte."""
    for method, name, value, right in HEADERS:
        body = None if method == "GET" else PURCHASE
        yield http(method, PURCHASES, body, *right, headers=[(name, value)])
    for name in READ_FIELDS:
        for piece in NOT_UTF8:
            for method in ("POST", "PATCH"):
                line = f"{name}: {MARK}".encode() + piece
                yield Case(method, with_lines(method, PURCHASES, name, line), REFUSALS)
    for method, path, name, right in STUFFED:
        for value in FILLINGS:
            line = f"\r\n{name}: {value}".encode()
            for number, statuses in ((3, right), (100, (431,))):
                lines = (line * number)[2:]
                yield Case(method, with_lines(method, path, name, lines), statuses)


def with_lines(method: str, path: str, name: str, lines: bytes) -> bytes:
    """Return a request that has some header fields instead of the one of a name."""
    body = None if method == "GET" else BODY
    first, _, rest = request_bytes(method, path, body, [(name, "")]).partition(b"\r\n")
    return first + b"\r\n" + lines + b"\r\n" + rest


HOSTS = (
    "xn--",
    "xn--a",
    "xn--a-",
    "XN--A",
    "a.xn--",
    "xn--.a",
    "xn--0",
    "xn--zz-",
    "xn--\xfc",
    "xn--" + "a" * 60,
    "xn--" + "9" * 80,
    "xn---",
    "%78n--a",
    "a%zz",
    "%",
    "\xfc",
    "\u2603",
    "\u0660",
    "a..b",
    ".",
    "a" * 64,
    "a." * 130,
    "-a-",
    "_",
    "[",
    "]",
    "[]",
    "[::1",
    "::1]",
    "[::1]",
    "[::1]x",
    "[v1.a]",
    "[1]",
    "[fe80::1%25a]",
    "u@h",
    "u:p@h",
    "@",
    ":",
    "h:0",
    "h:-1",
    "h:80x",
    "h:65536",
    "h:99999999",
    "h:",
    "1.2.3.999",
    "0x7f.1",
    "\x01",
    "\\",
    "|",
    "^",
    '"',
    "{}",
    "<>",
    "*",
    "?",
    "#",
)
# fmt: on
TARGET_STATUSES = (200, 204, 400, 401, 404, 405, 415, 421, 422)
FORMS = (
    "GET http://%s/livez",
    "GET https://%s:80/?a",
    "DELETE ftp://%s",
    "GET //%s/a",
    "GET %s",
    "GET a:%s",
    "CONNECT %s:443",
    "CONNECT %s",
    "OPTIONS *%s",
    "POST http://%s/api/v1/customer",
)


def targets() -> Iterator[Case]:
    """Yield requests whose target names a host, in every form, that may be none."""
    for form in FORMS:
        method = form.partition(" ")[0]
        for host in HOSTS:
            line = f"{form % host} HTTP/1.1".encode()
            yield Case(
                method, line + REST, (200, 204, 400, 401, 404, 405, 415, 421, 422)
            )
    for host in ("xn--", "xn--a", "a.xn--"):
        yield Case("GET", f"GET http://{host}/ HTTP/1.1".encode() + REST, (400,))
