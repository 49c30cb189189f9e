"""Queries of idempotency keys.

A key is found by a digest of its scope, and forgotten by its time. On SQLite rows lie
in the order of their times, each of which is there only once: so the oldest fill whole
pages, which are free once these are forgotten.
"""

from collections.abc import Callable

from queries.packed_responses import pack, unpack
from queries.records import (
    ErasedError,
    IdempotencyKey,
    KeyReusedError,
    StoredResponse,
    Written,
)
from storage.engine import KeyLookup, Row, Statement, T, Ts, Unit, guarded
from storage.schema import key_digest, microseconds

FOUND = "fingerprint, status, response, customer_id, change"
SELECT_RESPONSE = Statement(f"""
SELECT {FOUND} FROM idempotency WHERE digest = ? AND created > ?""")
# On SQLite there is one writer at a time.
CLAIM_KEY = KeyLookup(
    sqlite=SELECT_RESPONSE.sqlite,
    postgres=f"SELECT {FOUND} FROM claim_key(?, ?)",
    keys="SELECT digest FROM idempotency WHERE digest IN ",
)
INSERT_RESPONSE = """
INSERT INTO idempotency
    (created, digest, fingerprint, status, response, customer_id, change)
VALUES ({}, ?, ?, ?, ?, ?, ?)
ON CONFLICT (digest) DO UPDATE
SET created = excluded.created, fingerprint = excluded.fingerprint,
    status = excluded.status, response = excluded.response,
    customer_id = excluded.customer_id, change = excluded.change"""
FREE_TIME = """CASE WHEN NOT EXISTS (SELECT 1 FROM idempotency WHERE created = ?1)
    THEN ?1 ELSE (
        SELECT k.created + 1 FROM idempotency AS k
        WHERE k.created >= ?1 AND NOT EXISTS (
            SELECT 1 FROM idempotency AS next WHERE next.created = k.created + 1
        ) ORDER BY k.created LIMIT 1
    ) END"""
SAVE_RESPONSE = Statement(
    sqlite=INSERT_RESPONSE.format(FREE_TIME), postgres=INSERT_RESPONSE.format("?")
)
# A commit that changes nothing waits for no standby: the response may have been stored
# by one that no standby has, whose end was not known.
TOUCH_KEY = Statement(
    postgres="UPDATE idempotency SET created = created WHERE digest = ?"
)
DELETE_OLD_KEYS = """
DELETE FROM idempotency WHERE {0} IN (
    SELECT {0} FROM idempotency WHERE created <= ? ORDER BY created LIMIT ?
) RETURNING created"""
FORGET_KEYS = Statement(
    sqlite=DELETE_OLD_KEYS.format("created"), postgres=DELETE_OLD_KEYS.format("digest")
)
IS_CUSTOMER_THERE = Statement("""
SELECT id FROM customer WHERE id = ? AND deleted IS NULL""")

KEY_SECONDS = 24 * 3600


@guarded
def run_idempotent(
    key: IdempotencyKey,
    render: Callable[[Written[T]], StoredResponse],
    query: Callable[[*Ts], Unit[Written[T]]],
    *args: *Ts,
) -> Unit[StoredResponse]:
    """Run a unit and store its response with it; return that to later ones of the key.

    KeyReusedError, ErasedError, every error of the query; no error is stored.
    """
    digest = key_digest(*key[:4])
    for row in (yield CLAIM_KEY, (digest, microseconds(KEY_SECONDS))):
        stored = yield from _read_response(key, digest, row)
        yield TOUCH_KEY, (digest,)
        return stored
    response = render((yield from query(*args)))
    status, location, etag, body, customer_id, change, _ = response
    packed = pack(location, etag, body)
    if customer_id == _owner_of(digest):
        customer_id = None
    saved = microseconds(), digest, key.fingerprint, status, packed, customer_id, change
    yield SAVE_RESPONSE, saved
    return response


def find_response(key: IdempotencyKey) -> Unit[StoredResponse | None]:
    """Return the response that was stored for a key, None if there is none.

    KeyReusedError, ErasedError.
    """
    digest = key_digest(*key[:4])
    for row in (yield SELECT_RESPONSE, (digest, microseconds(KEY_SECONDS))):
        return (yield from _read_response(key, digest, row))
    return None


def _owner_of(digest: bytes) -> int | None:
    """Return the customer that a digest begins with, None where it has none."""
    return int.from_bytes(digest[:8], "big") or None


def _read_response(
    key: IdempotencyKey, digest: bytes, row: Row
) -> Unit[StoredResponse]:
    """Return the response in a row. KeyReusedError, ErasedError."""
    fingerprint, status, response, customer_id, change = row
    customer_id = customer_id or _owner_of(digest)
    # Whoever was deleted is not created a second time, and can be brought back.
    if customer_id is not None and not (yield IS_CUSTOMER_THERE, (customer_id,)):
        raise ErasedError
    if fingerprint != key.fingerprint:
        raise KeyReusedError(key.key)
    packed = unpack(response)
    return StoredResponse(status, *packed, customer_id, change, replayed=True)


def forget_keys(limit: int) -> Unit[int]:
    """Delete idempotency keys that are older than a day; return how many."""
    rows = yield FORGET_KEYS, (microseconds(KEY_SECONDS), limit)
    return len(rows)
