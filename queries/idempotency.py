"""Queries of idempotency keys."""

from collections.abc import Callable

from queries.records import (
    ErasedError,
    IdempotencyKey,
    KeyReusedError,
    StoredResponse,
    Written,
)
from storage.engine import Statement, T, Ts, Unit
from storage.schema import now

SELECT_RESPONSE = Statement("""
SELECT fingerprint, status, location, etag, body, customer_id, change FROM idempotency
WHERE caller = ? AND method = ? AND path = ? AND key = ? AND created > ?""")
CLAIM_KEY = Statement("""
INSERT INTO idempotency (caller, method, path, key, fingerprint, created)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (caller, method, path, key) DO UPDATE
SET fingerprint = excluded.fingerprint, created = excluded.created
WHERE idempotency.created <= ? RETURNING key""")
SAVE_RESPONSE = Statement("""
UPDATE idempotency
SET status = ?, location = ?, etag = ?, body = ?, customer_id = ?, change = ?
WHERE caller = ? AND method = ? AND path = ? AND key = ?""")
# A commit that changes nothing waits for no standby: the response may have been stored
# by one that no standby has, whose end was not known.
TOUCH_KEY = Statement(
    postgres="""
UPDATE idempotency SET created = created
WHERE caller = ? AND method = ? AND path = ? AND key = ?"""
)
DELETE_OLD_KEYS = Statement("""
DELETE FROM idempotency WHERE (caller, method, path, key) IN (
    SELECT caller, method, path, key FROM idempotency WHERE created <= ? LIMIT ?
) RETURNING key""")
IS_CUSTOMER_THERE = Statement("""
SELECT id FROM customer WHERE id = ? AND deleted IS NULL""")

KEY_SECONDS = 24 * 3600


def run_idempotent(
    key: IdempotencyKey,
    render: Callable[[Written[T]], StoredResponse],
    query: Callable[[*Ts], Unit[Written[T]]],
    *args: *Ts,
) -> Unit[StoredResponse]:
    """Run a unit and store its response with it; return that to later ones of the key.

    KeyReusedError, ErasedError, every error of the query; no error is stored.
    """
    scope, at, since = key[:4], now(), now(KEY_SECONDS)
    stored = yield from find_response(key)
    if stored is None:
        claimed = yield CLAIM_KEY, (*key, at, since)
        if claimed:
            response = render((yield from query(*args)))
            body = response.body.decode()
            saved = (*response[:3], body, *response[4:6])
            yield SAVE_RESPONSE, (*saved, *scope)
            return response
        # Another process was quicker and has committed: its response is there now.
        stored = yield from find_response(key)
    assert stored is not None  # noqa: S101 - for mypy: the key is claimed
    yield TOUCH_KEY, scope
    return stored


def find_response(key: IdempotencyKey) -> Unit[StoredResponse | None]:
    """Return the response that was stored for a key, None if there is none.

    KeyReusedError, ErasedError.
    """
    rows = yield SELECT_RESPONSE, (*key[:4], now(KEY_SECONDS))
    if not rows:
        return None
    fingerprint, status, location, etag, text, customer_id, change = rows[0]
    # Whoever was deleted is not created a second time, and can be brought back.
    if customer_id is not None and not (yield IS_CUSTOMER_THERE, (customer_id,)):
        raise ErasedError
    if fingerprint != key.fingerprint:
        raise KeyReusedError(key.key)
    body = text.encode()
    return StoredResponse(
        status, location, etag, body, customer_id, change, replayed=True
    )


def forget_keys(limit: int) -> Unit[int]:
    """Delete idempotency keys that are older than a day; return how many."""
    rows = yield DELETE_OLD_KEYS, (now(KEY_SECONDS), limit)
    return len(rows)
