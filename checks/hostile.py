"""Send what no honest client sends, and look at every answer.

    python checks/hostile.py [--group WORD]

Each case goes over a raw socket to a server on a fresh SQLite file. It is right when
the status is the contract's; an error is a well-formed problem; the marker in the
input comes back in no error and stands in no log; nothing was traced back; the number
of rows changed only by what a 2xx answer says; memory stays flat and the answer comes
soon; text that was taken is read again as it was sent; the next honest request works.
"""

import argparse
import json
import secrets
import socket
import sqlite3
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from serving import (
    Reply,
    Server,
    call,
    exchange,
    print_table,
    read_reply,
    request_bytes,
    serving,
)

MARK = f"mk{secrets.token_hex(6)}"
"""Stands in the inputs of this run and occurs nowhere else."""
MEMORY_LIMIT = 32.0
"""How many MiB a case may add to the server's resident memory at its peak."""
SECONDS_LIMIT = 5.0
"""How long an answer may take on the slowest machine; they take milliseconds."""
IDLE_CPU = 0.1
"""How many seconds of CPU a second the server may use when nobody asks anything."""
JSON_TYPE = "application/json"
NO_REPLY = 0
CUSTOMERS = "/api/v1/customer"
PURCHASES = "/api/v1/purchase/1"
"""Of customer 1, to list, add and delete; and purchase 1 itself, to update."""
OTHERS = "/api/v1/purchase/2"
SPARE = (2, 3, 4)
OTHERS_PURCHASE = 5
PURCHASE = f'{{"purchase_name": "{MARK}", "quantity": 1}}'


class Case(NamedTuple):
    """One input, the statuses that are right, and what else the answer must say."""

    method: str
    request: bytes | Iterable[bytes]
    right: tuple[int, ...]
    pointers: frozenset[str] = frozenset()
    field: tuple[str, str] | None = None
    deleted: int | None = None
    hang_up: bool = False


def http(
    method: str,
    target: str,
    body: str | bytes | None,
    *right: int,
    headers: Iterable[tuple[str, str]] = (),
    pointers: Iterable[str] = (),
    field: tuple[str, str] | None = None,
    deleted: int | None = None,
) -> Case:
    """Return a case that is well-formed HTTP."""
    content = body.encode() if isinstance(body, str) else body
    request = request_bytes(method, target, content, headers)
    return Case(method, request, right, frozenset(pointers), field, deleted)


# 1. quantity

# fmt: off
NOT_QUANTITIES = ("true", '"4"', '" 4 "', "null", "[]", "{}", "1.0", "1e0", "-0", "-1",
                  "0", str(2**31), str(2**32 + 1), str(2**63), str(2**64),
                  str(-(2**63) - 1), "9" * 5000, "1e400", "-1e400")
NOT_NUMBERS = ("NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x10", "1_0")
# fmt: on


def quantities() -> Iterator[Case]:
    """Yield every wrong quantity on every route that takes one, and the outermost."""
    body = f'{{"purchase_name": "{MARK}", "quantity": %s}}'
    for method in ("POST", "PATCH", "PUT", "DELETE"):
        for text in NOT_QUANTITIES:
            yield http(method, PURCHASES, body % text, 422, pointers=["/quantity"])
        for text in NOT_NUMBERS:
            yield http(method, PURCHASES, body % text, 400)
        if method != "PATCH":
            yield http(method, PURCHASES, f'{{"purchase_name": "{MARK}"}}', 422)
    for number in (1, 2**31 - 1):
        yield http("POST", PURCHASES, body % number, 201)


# 2. text

# fmt: off
ROUND_TRIPS = (
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",  # emoji, joined ones too
    "\u202eabc\u202c",  # right-to-left override
    "e\u0301 \u1112\u1161\u11ab o\u0308\u0323", "\u00e9e\u0301",  # combining marks
    "\ufeffa", "\uffff\U0010ffff", "'); DROP TABLE customer; --", "100 %s %", "_",
    "<script>alert(1)</script>", "\"\\'`", "\r\n\t\x7f\u2028", "  a  ",
)
NOT_TEXT = (
    (f'"{MARK}\\u0000"', 422), (f'"{MARK}\\ud800"', 422),
    (f'"{MARK}\\udc00\\ud800"', 422), (f'"{MARK}\\ud800a"', 422),
    ("7", 422), ("true", 422), ("null", 422), (f'["{MARK}"]', 422),
    (f'{{"a": "{MARK}"}}', 422), (f'"{MARK}\0"', 400), (f'"{MARK}\n"', 400),
    (f'"{MARK}\\x41"', 400), (f'"{MARK}\\u12"', 400), (f'"{MARK}', 400),
)
NOT_UTF8 = (
    b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82",
)  # never a byte, overlong, a surrogate, beyond U+10FFFF, cut off
FIELDS = (
    ("POST", CUSTOMERS, '{"name": %s, "address": "a"}', "name", 200),
    ("POST", CUSTOMERS, '{"name": "a", "address": %s}', "address", 500),
    ("POST", PURCHASES, '{"purchase_name": %s, "quantity": 1}', "purchase_name", 200),
    ("PUT", PURCHASES, '{"purchase_name": %s, "quantity": 1}', "purchase_name", 200),
)
# fmt: on


def texts() -> Iterator[Case]:
    """Yield long, odd, broken and hostile text in every field that takes text."""
    for method, path, body, key, limit in FIELDS:
        done = 201 if method == "POST" else 200
        longest = MARK + "\U0001f600" * (limit - len(MARK))
        values = [longest, *(f"{text}{MARK}{text}" for text in ROUND_TRIPS)]
        for value in values:
            content = body % json.dumps(value, ensure_ascii=False)
            yield http(method, path, content, done, field=(key, value))
        pair = body % f'"{MARK}\\ud83d\\ude00"'
        yield http(method, path, pair, done, field=(key, f"{MARK}\U0001f600"))
        for text, right in (
            (f"{longest}x", 422),
            (MARK + "x" * (limit + 1 - len(MARK)), 422),
            (MARK + "x" * 100_000, 422),
            (MARK + "x" * 1_000_000, 413),
        ):
            yield http(method, path, body % f'"{text}"', right)
        for value, right in NOT_TEXT:
            pointers = [f"/{key}"] if right == 422 else ()
            yield http(method, path, body % value, right, pointers=pointers)
        for piece in NOT_UTF8:
            content = body % f'"{MARK}#"'
            yield http(method, path, content.encode().replace(b"#", piece), 400)
        yield http(method, path, b"\xef\xbb\xbf" + (body % f'"{MARK}"').encode(), 400)
        blank = done if key == "address" else 422
        for text in ("", "   ", "\u2003"):
            yield http(method, path, body % f'"{text}"', blank)


# 3. JSON

# fmt: off
OPEN = "[" * 100_000
WRONG_JSON: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("  \n", (400,)), ("null", (422,)), ("[]", (422,)), (f'"{MARK}"', (422,)),
    ("7", (422,)), ("{}", (422,)), (f"{{}}{MARK}", (400,)), (f"{PURCHASE}x", (400,)),
    (f"{PURCHASE}{{}}", (400,)), (PURCHASE.replace("}", ",}"), (400,)),
    (PURCHASE.replace('"', "'"), (400,)), (PURCHASE.replace("}", "/* */}"), (400,)),
    (OPEN, (400,)), (OPEN + "]" * 100_000, (400, 422)),
    (f'{{"purchase_name": "{MARK}", "quantity": {OPEN}', (400,)),
    (f'{{"quantity": "{MARK}", "purchase_name": "", "quantity": 1}}', (422,)),
)
UNKNOWN_FIELDS = ("id", "__proto__", "constructor", "customer_id", "Quantity",
                  "quantity ", "", "a/b~c")
# fmt: on


def jsons() -> Iterator[Case]:
    """Yield bodies that are not JSON, not an object, or not this object."""
    for method in ("POST", "PATCH", "DELETE"):
        # A DELETE without a body is an ordinary one, refused for what it asks.
        yield http(method, PURCHASES, "", 422 if method == "DELETE" else 400)
        for body, right in WRONG_JSON:
            yield http(method, PURCHASES, body, *right)
    customer = f'{{"name": "{MARK}", "address": "b"}}'
    for key in UNKNOWN_FIELDS:
        pointer = "/" + key.replace("~", "~0").replace("/", "~1")
        for method, path, body in (
            ("POST", PURCHASES, PURCHASE),
            ("PUT", PURCHASES, PURCHASE),
            ("POST", CUSTOMERS, customer),
        ):
            body = body.replace("}", f', "{key}": "{MARK}"}}')
            yield http(method, path, body, 422, pointers=[pointer])
    three = f'{{"purchase_name": 5, "quantity": "{MARK}", "id": 1}}'
    pointers = ["/purchase_name", "/quantity", "/id"]
    yield http("POST", PURCHASES, three, 422, pointers=pointers)
    spaced = f' \r\n\t{{ "purchase_name" : "{MARK}" , "quantity" : 1 }} \n'
    yield http("POST", PURCHASES, spaced, 201)


# 4. types and codings


def gzip_bomb(megabytes: int) -> bytes:
    """Return gzip of that many million zeros: one compressed part, many times over."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = squeeze.compress(b"0" * 1_000_000) + squeeze.flush(zlib.Z_FULL_FLUSH)
    header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return header + part * megabytes + squeeze.flush(zlib.Z_FINISH)


def types() -> Iterator[Case]:
    """Yield media types and codings that are not taken, and some that are."""
    for method, done in (("POST", 201), ("PATCH", 200), ("DELETE", 200)):
        for name, right in (
            ("text/plain", 415),
            ("application/x-www-form-urlencoded", 415),
            ("multipart/form-data; boundary=x", 415),
            ("", 415),
            (MARK, 415),
            ("application/jsonl", 415),
            (f"{JSON_TYPE}; charset=utf-16", 415),
            (f"{JSON_TYPE}; charset=latin-1", 415),
            (f"{JSON_TYPE}; charset={MARK}", 415),
            ("application/merge-patch+json", 200 if method == "PATCH" else 415),
            (f"{JSON_TYPE};charset=UTF-8", done),
            ('Application/JSON; charset="utf-8"', done),
        ):
            kind = [("Content-Type", name)]
            yield http(method, PURCHASES, PURCHASE, right, headers=kind)
        for coding in ("gzip", "deflate", "br", "zstd", MARK):
            kind = [("Content-Encoding", coding)]
            yield http(method, PURCHASES, PURCHASE, 415, headers=kind)
    # The smaller bomb is short enough for a body, the other is past its limit too.
    for megabytes, refusals in ((200, (415,)), (900, (413, 415))):
        bomb = gzip_bomb(megabytes)
        kind = [("Content-Encoding", "gzip")]
        yield http("POST", PURCHASES, bomb, *refusals, headers=kind)


# 5. framing

BODY = PURCHASE.encode()
LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
INNER = request_bytes("POST", PURCHASES, b'{"purchase_name": "x", "quantity": 1}')


def head(*lines: str, host: str = "Host: a") -> bytes:
    """Return the head of a POST with some lines of its own, and the marker."""
    start = [f"POST {PURCHASES} HTTP/1.1", host, f"Content-Type: {JSON_TYPE}"]
    return "\r\n".join([*filter(None, start), *lines, f"X-M: {MARK}", "", ""]).encode()


# fmt: off
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
    (head("Transfer-Encoding: gzip"), (400,)),
    (head(f"Transfer-Encoding: {MARK}") + CHUNKS, (400,)),
    (head("Transfer-Encoding: chunked, identity") + CHUNKS, (400,)),
    (head(CHUNKED, CHUNKED) + CHUNKS, (400,)),
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
    (head(LENGTH, *(f"X-{n}: {MARK}" for n in range(10_000))) + BODY, (400,)),
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
    *((head(LENGTH, host=f"Host: {text}") + BODY, (400,))
      for text in (f"a {MARK}", f"a/{MARK}", f"{MARK}@a", f"a:{MARK}", f"[{MARK}")),
)
ENDS_EARLY = (
    head(LENGTH) + BODY[:20], head(CHUNKED) + CHUNKS[:20], head(CHUNKED) + CHUNKS[:-7],
    head(LENGTH)[:-2], head(LENGTH)[:30],
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
    (b"GET http://" + MARKED + b".invalid" + PATH + b" HTTP/1.1", (200, 400, 404)),
    (b"GET http://[" + MARKED + b" HTTP/1.1", (400, 404)),
    (b"GET http://a:" + MARKED + b"/ HTTP/1.1", (200, 400, 404)),
    (b"OPTIONS * HTTP/1.1", (204, 400, 404)),
    (b"CONNECT " + MARKED + b":80 HTTP/1.1", (400, 404, 405)),
    (MARKED + b" \x01\x02", (400,)),
    (b"\x16\x03\x01\x02\0\x01\0" + MARKED, (400,)),  # a TLS hello
)
# fmt: on


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


# 6. paths, queries and methods

# fmt: off
NOT_IDS = ("0", "-1", "+1", "1e3", "01", "1.0", str(2**63), str(2**64), str(2**63 - 1),
           "1" * 20, "9" * 5000, "1%00", "1%0A", "%zz", "1%2F1", "%FF",
           "%EF%BC%91", "%D9%A1",  # digits, but not ASCII's
           MARK, f"..%2F..%2F{MARK}")
NOT_LIMITS = ("-1", "0", "1e9", "abc", "", "1001", "1.0", "+1", "%D9%A1", "1%00",
              "%zz", "9" * 5000, MARK)
NOT_AFTER = ("-1", "abc", MARK, str(2**64), "1%00")
NOT_CUSTOMERS = ("0", "-1", "abc", str(2**64), f"1%00{MARK}")
NAMES = ("%00", "%FF", "%25", "_", "%27", "%F0%9F%98%80", "a" * 5000)
ID_ROUTES = (
    ("GET", f"{CUSTOMERS}/%s", None), ("DELETE", f"{CUSTOMERS}/%s", None),
    ("PATCH", f"{CUSTOMERS}/%s", f'{{"name": "{MARK}"}}'),
    ("GET", f"{CUSTOMERS}/%s/purchase/1", None),
    ("GET", f"{CUSTOMERS}/1/purchase/%s", None),
    ("GET", "/api/v1/purchase/%s", None), ("POST", "/api/v1/purchase/%s", PURCHASE),
    ("PATCH", "/api/v1/purchase/%s", PURCHASE),
    ("PUT", "/api/v1/purchase/%s", PURCHASE),
    ("DELETE", "/api/v1/purchase/%s", PURCHASE),
    ("DELETE", "/api/v1/purchase/%s", '{"delete_all": true}'),
)
# fmt: on


def paths() -> Iterator[Case]:
    """Yield ids, parameters and methods that are none of ours."""
    for method, path, body in ID_ROUTES:
        for text in NOT_IDS:
            yield http(method, path.replace("%s", text), body, 404)
    for path in (CUSTOMERS, PURCHASES, "/api/v1/customers"):
        for text in NOT_LIMITS:
            yield http("GET", f"{path}?limit={text}", None, 422, pointers=["/limit"])
        for text in NOT_AFTER:
            yield http("GET", f"{path}?after={text}", None, 422, pointers=["/after"])
        yield http("GET", f"{path}?odd={MARK}", None, 422, pointers=["/odd"])
        yield http("GET", f"{path}?", None, 200)
    for text in NOT_CUSTOMERS:
        yield http("GET", f"{CUSTOMERS}?customer_id={text}", None, 404, 422)
    for text in NAMES:
        yield http("GET", f"/api/v1/customers?name={MARK}{text}", None, 200, 422)
    yield http("POST", f"{PURCHASES}?a={MARK}", PURCHASE, 422, pointers=["/a"])
    for path in (CUSTOMERS, PURCHASES, f"{CUSTOMERS}/1", "/"):
        for method in ("TRACE", "PROPFIND"):
            yield http(method, path, None, 405, headers=[("X-Mark", MARK)])
        # The C parser of aiohttp knows a fixed list of methods and refuses any other.
        yield http("FOO", path, None, 400, 405, headers=[("X-Mark", MARK)])
        yield http("OPTIONS", path, None, 204)
        yield http("HEAD", path, None, 200)
    yield http("GET", f"/api/v1/{MARK}", None, 404)
    yield http("POST", f"/{MARK}", "{}", 404)
    yield http("GET", f"{PURCHASES}/", None, 404)
    yield http("PUT", CUSTOMERS, "{}", 405)


# 7. ids in bodies

FAR = 9_000_000_000_000_000_000


def ids_of(*values: object) -> str:
    """Return the body that deletes some ids."""
    return f'{{"purchase_ids": [{",".join(map(str, values))}]}}'


# fmt: off
DELETIONS = (
    (ids_of(*range(FAR, FAR + 10_000)), 0),
    (f'{{"delete_all": false, {ids_of(SPARE[0], SPARE[0])[1:]}', 1),  # one id twice
    (ids_of(SPARE[0]), 0),  # gone by now
    (ids_of(OTHERS_PURCHASE, SPARE[1]), 1),  # another customer's and an own one
    (ids_of(), 0),
)
NOT_DELETED = (
    ids_of(*range(FAR, FAR + 10_001)), ids_of(*range(1_000_000, 1_010_001)),
    *(ids_of(SPARE[2], text) for text in (
        "-1", "0", 2**63, 2**64, "9" * 5000, "true", '"1"', "1.0", "null", "[]", "{}",
        f'"{MARK}"', "1e400")),
    *(f'{{"purchase_ids": {text}}}' for text in ("1", '"1"', "null", "{}", "true")),
    *(f'{{"delete_all": {text}}}' for text in ("1", '"true"', "null", "[]", "false")),
    "{}", PURCHASE.replace("}", ', "delete_all": true}'),
    PURCHASE.replace("}", f', "purchase_ids": [{SPARE[2]}]}}'),
    f'{{"purchase_name": "{MARK}"}}', f'{{"delete_all": true, "id": "{MARK}"}}',
)
NOT_DELETED_QUERIES = ("delete_all=maybe", "delete_all=", f"purchase_id={MARK}",
                       "purchase_id=-1", "purchase_id=", "purchase_id=1%00",
                       f"odd={MARK}")
# fmt: on


def ids_in_bodies() -> Iterator[Case]:
    """Yield deletions that ask for too much, too little, or another's rows."""
    for body, deleted in DELETIONS:
        yield http("DELETE", PURCHASES, body, 200, deleted=deleted)
    for body in NOT_DELETED:
        yield http("DELETE", PURCHASES, body, 422)
    yield http("DELETE", PURCHASES, None, 422)
    for query in NOT_DELETED_QUERIES:
        yield http("DELETE", f"{PURCHASES}?{query}", None, 422)
    yield http("DELETE", f"/api/v1/purchase/{FAR}", '{"delete_all": true}', 404)
    everything = f'{{"delete_all": true, "purchase_ids": ["{MARK}", -1, null]}}'
    yield http("DELETE", OTHERS, everything, 200, deleted=1)


# 8. header fields

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
REFUSALS = (200, 201, 400, 406, 412, 415, 417, 422)
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
            line = f"\r\n{name}: {value}".encode() * 100
            yield Case(method, with_lines(method, path, name, line[2:]), right)


def with_lines(method: str, path: str, name: str, lines: bytes) -> bytes:
    """Return a request that has some header fields instead of the one of a name."""
    body = None if method == "GET" else BODY
    first, _, rest = request_bytes(method, path, body, [(name, "")]).partition(b"\r\n")
    return first + b"\r\n" + lines + b"\r\n" + rest


# 9. targets

# fmt: off
HOSTS = (
    "xn--", "xn--a", "xn--a-", "XN--A", "a.xn--", "xn--.a", "xn--0", "xn--zz-",
    "xn--\xfc", "xn--" + "a" * 60, "xn--" + "9" * 80, "xn---", "%78n--a", "a%zz", "%",
    "\xfc", "\u2603", "\u0660", "a..b", ".", "a" * 64, "a." * 130, "-a-", "_",
    "[", "]", "[]", "[::1", "::1]", "[::1]", "[::1]x", "[v1.a]", "[1]", "[fe80::1%25a]",
    "u@h", "u:p@h", "@", ":", "h:0", "h:-1", "h:80x", "h:65536", "h:99999999", "h:",
    "1.2.3.999", "0x7f.1", "\x01", "\\", "|", "^", '"', "{}", "<>", "*", "?", "#",
)
# fmt: on
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
            yield Case(method, line + REST, (200, 204, 400, 401, 404, 405, 415, 422))
    for host in ("xn--", "xn--a", "a.xn--"):
        yield Case("GET", f"GET http://{host}/ HTTP/1.1".encode() + REST, (400,))


FLOOD = "9 targets, at once"
FLOOD_CASES = 5000


def flood(server: Server) -> list[str]:
    """Send targets that cannot be read on many connections; return what they hold.

    A third of the clients go at once, a third hang up and read, a third stay.
    """
    descriptors, memory = server.descriptors(), server.memory()
    request = b"GET http://xn--/ HTTP/1.1" + REST.replace(b"close", b"keep-alive")
    answered = True
    for _ in range(0, FLOOD_CASES, 500):
        peers = []
        for turn in range(500):
            peer = socket.create_connection(("127.0.0.1", server.port), SECONDS_LIMIT)
            peer.sendall(request)
            if turn % 3 == 0:
                peer.close()
                continue
            if turn % 3 == 1:
                peer.shutdown(socket.SHUT_WR)
            peers.append(peer)
        for peer in peers:
            answered = answered and read_reply(peer).status == 400
            peer.close()
    faults = [] if answered else ["not answered 400"]
    until = time.monotonic() + SECONDS_LIMIT
    while server.descriptors() > descriptors and time.monotonic() < until:
        time.sleep(0.05)
    if (held := server.descriptors() - descriptors) > 0:
        faults.append(f"{held} descriptors are held")
    if (grown := server.memory() - memory) > MEMORY_LIMIT:
        faults.append(f"memory grew by {grown:.0f} MiB")
    used = server.cpu_seconds()
    time.sleep(1)
    if (used := server.cpu_seconds() - used) > IDLE_CPU:
        faults.append(f"idle, it used {used:.2f} s of CPU in a second")
    return faults


# Trying them

GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "1 quantity": quantities,
    "2 text": texts,
    "3 JSON": jsons,
    "4 types and codings": types,
    "5 framing": framings,
    "6 paths, queries, methods": paths,
    "7 ids in bodies": ids_in_bodies,
    "8 header fields": header_fields,
    "9 targets": targets,
}


class Trial:
    """A server, the rows it is known to hold, and the most memory a case took."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.lay_ground()
        database = f"{(server.folder / 'db.sqlite3').as_uri()}?mode=ro"
        self.database = sqlite3.connect(database, uri=True)
        self.logs = (server.out.open(), server.err.open())
        self.rows = self.count()
        self.peak = 0.0

    def lay_ground(self) -> None:
        """Add what the cases refer to: two customers with four purchases and one."""
        for name in "ab":
            call(self.server, "POST", CUSTOMERS, {"name": name, "address": name})
        for path in [PURCHASES] * 4 + [OTHERS]:
            self.honest(path)

    def honest(self, path: str = PURCHASES) -> Reply:
        """Send a proper request."""
        return call(self.server, "POST", path, {"purchase_name": "a", "quantity": 1})

    def count(self) -> int:
        """Return how many rows the file holds."""
        select = "SELECT (SELECT count(*) FROM customer) + count(*) FROM purchases"
        rows: int = self.database.execute(select).fetchone()[0]
        return rows

    def faults_of(self, case: Case) -> tuple[Reply, list[str]]:
        """Send a case and an honest request; return the answer and what is wrong."""
        self.server.reset_peak()
        before = self.server.memory()
        reply = exchange(self.server.port, case.request, case.method, case.hang_up)
        grown = self.server.memory("VmHWM") - before
        self.peak = max(self.peak, grown)
        faults = answer_faults(case, reply) + self.stored_faults(case, reply)
        if reply.seconds > SECONDS_LIMIT:
            faults.append(f"it took {reply.seconds:.1f} s")
        if grown > MEMORY_LIMIT:
            faults.append(f"memory grew by {grown:.0f} MiB")
        rows, self.rows = self.rows + change(case, reply), self.count()
        if self.rows != rows:
            faults.append(f"{self.rows} rows, {rows} by the answers")
        after = self.honest()
        self.rows += after.status == 201
        if after.status != 201:
            faults.append(f"the next honest request got {after.status} {after.body!r}")
        return reply, faults + self.log_faults()

    def stored_faults(self, case: Case, reply: Reply) -> list[str]:
        """Return how what can be read again differs from what was sent."""
        if case.field is None or reply.status != 201:
            return []
        key, value = case.field
        stored = value_of(call(self.server, "GET", reply.headers["Location"]), key)
        return [] if stored == value else [f"{key} is read again as {stored!r}"]

    def log_faults(self) -> list[str]:
        """Return what the logs have and must not have, since the last call."""
        new = "".join(log.read() for log in self.logs)
        return [f"{word} in the log" for word in (MARK, "Traceback") if word in new]


def answer_faults(case: Case, reply: Reply) -> list[str]:
    """Return what is wrong with an answer."""
    faults = [] if reply.status in case.right else [f"status {reply.status}"]
    if reply.status >= 400:
        faults += reply.problem_faults()
        if MARK in reply.body.decode(errors="replace"):
            faults.append("the marker in the body")
    if MARK in str(reply.headers):
        faults.append("the marker in a header")
    if reply.status == 422 and not case.pointers <= reply.pointers():
        faults.append(f"names {sorted(reply.pointers())}, not {set(case.pointers)}")
    if case.deleted is not None and change(case, reply) != -case.deleted:
        faults.append(f"deleted {-change(case, reply)}")
    if case.field and value_of(reply, case.field[0]) != case.field[1]:
        faults.append(f"{case.field[0]} came back otherwise")
    return faults


def change(case: Case, reply: Reply) -> int:
    """Return by how much an answer says that the number of rows changed."""
    body = reply.json()
    if reply.status == 200 and case.method == "DELETE" and isinstance(body, dict):
        return -int(body.get("deleted_count", 0))
    return int(reply.status == 201)


def value_of(reply: Reply, key: str) -> object:
    """Return a field of the data of an answer, None without."""
    body = reply.json()
    data = body.get("data") if isinstance(body, dict) else None
    return data.get(key) if isinstance(data, dict) else None


def run(folder: Path, word: str) -> list[str]:
    """Try every case of the groups that hold `word` in their name; return breaches."""
    rows: list[tuple[object, ...]] = []
    breaches: list[str] = []
    with serving(folder) as server:
        trial = Trial(server)
        with closing(trial.database):
            for group in (name for name in GROUPS if word in name):
                tried = wrong = 0
                for case in GROUPS[group]():
                    reply, faults = trial.faults_of(case)
                    tried, wrong = tried + 1, wrong + bool(faults)
                    if faults:
                        breaches.append(f"{group}: {shown(case, reply)}: {faults}")
                rows.append((group, tried, tried - wrong, wrong))
            if word in FLOOD:
                faults = flood(server)
                breaches += [f"{FLOOD}: {fault}" for fault in faults]
                rows.append((FLOOD, FLOOD_CASES, "", len(faults)))
        server.stop()
        breaches += [f"at the end: {fault}" for fault in trial.log_faults()]
    print_table(("hostile input", "cases", "right", "wrong"), rows)
    print(f"\nmemory at most {trial.peak:.1f} MiB above what it was before a case")
    return breaches


def shown(case: Case, reply: Reply) -> str:
    """Return the beginnings of what was sent and of what came."""
    sent = case.request if isinstance(case.request, bytes) else b"an endless body"
    return f"{sent[:300]!r} got {reply.status} {reply.body[:300]!r}, not {case.right}"


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", default="", help="only groups with this in the name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        breaches = run(Path(folder), options.group)
    for breach in breaches:
        print(f"\nbreach: {breach}")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
