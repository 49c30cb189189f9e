"""Stored responses as a few bytes.

A response is its Location, its ETag and its body, a line each, after a byte that says
how they are packed. Whatever was packed once is read for ever: a day's answers outlive
an update of the server.
"""

import zlib

PLAIN, DEFLATED = b"0", b"1"
DICTIONARY = (
    b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec 2027 2026 "
    b'/api/v1/changes/1\n\n{"status":"ok","data":{"change":"1","undoes":"1","rows":1}}'
    b'"customers":0,"purchases":1}}'
    b'/api/v1/customer/1\n"1"\n{"status":"ok","data":{"id":1,"name":"","address":"",'
    b'"created_on":" 2026 0:0:0"}}'
    b'/api/v1/customer/1/purchase/1\n"1"\n{"status":"ok","data":{"id":1,'
    b'"purchase_name":"","quantity":1,"customer_id":"1","purchased_on":" 2026 1:1:1"}}'
)
"""What responses have in common, what is most often used last. It never changes: to
have another one, give it another byte."""
RAW, SMALL_WINDOW, LEAST_MEMORY, LEVEL = -zlib.MAX_WBITS, -10, 1, 6
"""Deflate without a header (RFC 1951). Each response needs a compressor of its own, and
so soon forgotten a small one takes half the time."""


def pack(location: str, etag: str, body: bytes) -> bytes:
    """Return a response as one value."""
    lines = b"%b\n%b\n%b" % (location.encode(), etag.encode(), body)
    compressor = zlib.compressobj(
        LEVEL, zlib.DEFLATED, SMALL_WINDOW, LEAST_MEMORY, zdict=DICTIONARY
    )
    return DEFLATED + compressor.compress(lines) + compressor.flush()


def unpack(packed: bytes) -> tuple[str, str, bytes]:
    """Return the Location, the ETag and the body of a response."""
    lines = packed[1:]
    if packed[:1] == DEFLATED:
        lines = zlib.decompressobj(RAW, DICTIONARY).decompress(lines)
    location, etag, body = lines.split(b"\n", 2)
    return location.decode(), etag.decode(), body
