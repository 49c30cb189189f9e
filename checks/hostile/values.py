"""Cases of values: numbers, texts, JSON, types, ids."""

import json
import zlib
from collections.abc import Iterator

from checks.hostile.case import (
    CALLER,
    CUSTOMERS,
    JSON_TYPE,
    MARK,
    OTHERS,
    OTHERS_PURCHASE,
    PURCHASE,
    PURCHASES,
    SPARE,
    Case,
    http,
)

NOT_QUANTITIES = (
    "true",
    '"4"',
    '" 4 "',
    "null",
    "[]",
    "{}",
    "1.5",
    "1e-1",
    "1.0e-9",
    "0.0",
    "-0",
    "-1",
    "0",
    str(2**31),
    str(2**32 + 1),
    str(2**63),
    str(2**64),
    str(-(2**63) - 1),
    "9" * 5000,
    "1e400",
    "-1e400",
)
NOT_NUMBERS = ("NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x10", "1_0")


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
    for number in (1, 2**31 - 1, "1.0", "1e0", "10e-1", "2147483647.0"):
        yield http("POST", PURCHASES, body % number, 201)


ROUND_TRIPS = (
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",  # emoji, joined ones too
    "\u202eabc\u202c",  # right-to-left override
    "e\u0301 \u1112\u1161\u11ab o\u0308\u0323",
    "\u00e9e\u0301",  # combining marks
    "\ufeffa",
    "\uffff\U0010ffff",
    "'); DROP TABLE customer; --",
    "100 %s %",
    "_",
    "<script>alert(1)</script>",
    "\"\\'`",
    "\r\n\t\x7f\u2028",
    "  a  ",
)
NOT_TEXT = (
    (f'"{MARK}\\u0000"', 422),
    (f'"{MARK}\\ud800"', 422),
    (f'"{MARK}\\udc00\\ud800"', 422),
    (f'"{MARK}\\ud800a"', 422),
    ("7", 422),
    ("true", 422),
    ("null", 422),
    (f'["{MARK}"]', 422),
    (f'{{"a": "{MARK}"}}', 422),
    (f'"{MARK}\0"', 400),
    (f'"{MARK}\n"', 400),
    (f'"{MARK}\\x41"', 400),
    (f'"{MARK}\\u12"', 400),
    (f'"{MARK}', 400),
)
NOT_UTF8 = (
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
)  # never a byte, overlong, a surrogate, beyond U+10FFFF, cut off
FIELDS = (
    ("POST", CUSTOMERS, '{"name": %s, "address": "a"}', "name", 200),
    ("POST", CUSTOMERS, '{"name": "a", "address": %s}', "address", 500),
    ("POST", PURCHASES, '{"purchase_name": %s, "quantity": 1}', "purchase_name", 200),
    ("PUT", PURCHASES, '{"purchase_name": %s, "quantity": 1}', "purchase_name", 200),
)


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


OPEN = "[" * 100_000
WRONG_JSON: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("  \n", (400,)),
    ("null", (422,)),
    ("[]", (422,)),
    (f'"{MARK}"', (422,)),
    ("7", (422,)),
    ("{}", (422,)),
    (f"{{}}{MARK}", (400,)),
    (f"{PURCHASE}x", (400,)),
    (f"{PURCHASE}{{}}", (400,)),
    (PURCHASE.replace("}", ",}"), (400,)),
    (PURCHASE.replace('"', "'"), (400,)),
    (PURCHASE.replace("}", "/* */}"), (400,)),
    (OPEN, (400,)),
    (OPEN + "]" * 100_000, (400, 422)),
    (f'{{"purchase_name": "{MARK}", "quantity": {OPEN}', (400,)),
    (f'{{"quantity": "{MARK}", "purchase_name": "", "quantity": 1}}', (422,)),
)
UNKNOWN_FIELDS = (
    "id",
    "__proto__",
    "constructor",
    "customer_id",
    "Quantity",
    "quantity ",
    "",
    "a/b~c",
)


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


NOT_IDS = (
    "0",
    "-1",
    "+1",
    "1e3",
    "01",
    "1.0",
    str(2**63),
    str(2**64),
    str(2**63 - 1),
    "1" * 20,
    "9" * 5000,
    "1%00",
    "1%0A",
    "%zz",
    "1%2F1",
    "%FF",
    "%EF%BC%91",
    "%D9%A1",  # digits, but not ASCII's
    MARK,
    f"..%2F..%2F{MARK}",
)
NOT_LIMITS = (
    "-1",
    "0",
    "1e9",
    "abc",
    "",
    "1001",
    "1.0",
    "+1",
    "%D9%A1",
    "1%00",
    "%zz",
    "9" * 5000,
    MARK,
)
NOT_AFTER = ("-1", "abc", MARK, str(2**64), "1%00")
NOT_CUSTOMERS = ("0", "-1", "abc", str(2**64), f"1%00{MARK}")
NAMES = ("%00", "%FF", "%25", "_", "%27", "%F0%9F%98%80", "a" * 5000)
ID_ROUTES = (
    ("GET", f"{CUSTOMERS}/%s", None),
    ("DELETE", f"{CUSTOMERS}/%s", None),
    ("PATCH", f"{CUSTOMERS}/%s", f'{{"name": "{MARK}"}}'),
    ("GET", f"{CUSTOMERS}/%s/purchase/1", None),
    ("GET", f"{CUSTOMERS}/1/purchase/%s", None),
    ("GET", "/api/v1/purchase/%s", None),
    ("POST", "/api/v1/purchase/%s", PURCHASE),
    ("PATCH", "/api/v1/purchase/%s", PURCHASE),
    ("PUT", "/api/v1/purchase/%s", PURCHASE),
    ("DELETE", "/api/v1/purchase/%s", PURCHASE),
    ("DELETE", "/api/v1/purchase/%s", '{"delete_all": true}'),
)


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
    for path in (CUSTOMERS, PURCHASES, f"{CUSTOMERS}/1", "/", "/console", CALLER):
        for method in ("TRACE", "PROPFIND"):
            yield http(method, path, None, 405, headers=[("X-Mark", MARK)])
        # The C parser of aiohttp knows a fixed list of methods and refuses any other.
        yield http("FOO", path, None, 400, 405, headers=[("X-Mark", MARK)])
        yield http("OPTIONS", path, None, 204)
        yield http("HEAD", path, None, 200)
    yield http("GET", f"/api/v1/{MARK}", None, 404)
    yield http("POST", f"/{MARK}", "{}", 404)
    yield http("GET", f"{CALLER}?caller={MARK}", None, 422, pointers=["/caller"])
    for name in (
        f"{MARK}.js",
        "..%2Fserver.py",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "%00",
    ):
        yield http("GET", f"/console/{name}", None, 404)
    for accept, status in ((MARK, 200), (f"text/html;q={MARK}", 200), ("text/*", 303)):
        yield http("GET", "/", None, status, headers=[("Accept", accept)])
    yield http("GET", f"{PURCHASES}/", None, 404)
    yield http("PUT", CUSTOMERS, "{}", 405)


FAR = 9_000_000_000_000_000_000


def ids_of(*values: object) -> str:
    """Return the body that deletes some ids."""
    return f'{{"purchase_ids": [{",".join(map(str, values))}]}}'


DELETIONS = (
    (ids_of(*range(FAR, FAR + 10_000)), 0),
    (f'{{"delete_all": false, {ids_of(SPARE[0], SPARE[0])[1:]}', 1),  # one id twice
    (ids_of(SPARE[0]), 0),  # gone by now
    (ids_of(OTHERS_PURCHASE, SPARE[1]), 1),  # another customer's and an own one
    (ids_of(), 0),
)
NOT_DELETED = (
    ids_of(*range(FAR, FAR + 10_001)),
    ids_of(*range(1_000_000, 1_010_001)),
    *(
        ids_of(SPARE[2], text)
        for text in (
            "-1",
            "0",
            2**63,
            2**64,
            "9" * 5000,
            "true",
            '"1"',
            "1.5",
            "null",
            "[]",
            "{}",
            f'"{MARK}"',
            "1e400",
        )
    ),
    *(f'{{"purchase_ids": {text}}}' for text in ("1", '"1"', "null", "{}", "true")),
    *(f'{{"delete_all": {text}}}' for text in ("1", '"true"', "null", "[]", "false")),
    "{}",
    PURCHASE.replace("}", ', "delete_all": true}'),
    PURCHASE.replace("}", f', "purchase_ids": [{SPARE[2]}]}}'),
    f'{{"purchase_name": "{MARK}"}}',
    f'{{"delete_all": true, "id": "{MARK}"}}',
)
NOT_DELETED_QUERIES = (
    "delete_all=maybe",
    "delete_all=",
    f"purchase_id={MARK}",
    "purchase_id=-1",
    "purchase_id=",
    "purchase_id=1%00",
    f"odd={MARK}",
)


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
