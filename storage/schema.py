"""The numbered scripts that create and migrate the tables: storage/migrations."""

import re
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from time import time_ns
from unicodedata import normalize

APPLICATION_ID = 0x43505331  # "CPS1", sqlite.org/pragma.html#pragma_application_id


FOLDER = Path(__file__).with_name("migrations")


def _script(name: str) -> str:
    return (FOLDER / f"{name}.sql").read_text("utf-8")


MIGRATIONS = (
    _script("sqlite_1_tables"),
    _script("sqlite_2_versions_and_keys"),
    _script("sqlite_3_canonical_names"),
    # Without rowids, each of the two indexes repeated the four columns of the key.
    _script("sqlite_4_keys_with_rowids"),
    _script("sqlite_5_history"),
    _script("sqlite_6_blocks"),
    _script("sqlite_7_compact_keys"),
    _script("sqlite_8_customer_purchases"),
)
"""Script n takes a database from `user_version` n to n + 1."""
POSTGRES_MIGRATIONS = (
    _script("postgres_1_tables"),
    # Without a key, publications of all tables refuse its updates.
    _script("postgres_2_version_key"),
    _script("postgres_3_canonical_names"),
    _script("postgres_4_history"),
    _script("postgres_5_blocks"),
    _script("postgres_6_shards"),
    _script("postgres_7_compact_keys"),
)
"""Script n takes a database from `customer_purchase_schema.version` n to n + 1."""

# The tables of the described server may lack AUTOINCREMENT and may hold NULLs, and
# purchases of customers who are gone: nobody may have the ids of those again.
LEGACY_MIGRATION = (
    _script("sqlite_legacy_rename") + MIGRATIONS[0] + _script("sqlite_legacy_copy")
)
"""Takes the place of the first script for a database of the described server."""
DESCRIBED_COLUMNS = {
    "customer": {"id", "name", "address", "date_created"},
    "purchases": {
        *("id", "purchase_name", "quantity", "customer_id"),
        *("date_created", "last_updated"),
    },
}


def fold_name(text: str) -> str:
    """Return a text as search compares it: caseless, canonical (Unicode D145)."""
    # In NFC and not NFD, or `e` would be found in `é`.
    return normalize("NFC", normalize("NFD", text).casefold())


OWNER = re.compile("/api/v1/purchase/([1-9][0-9]{0,17})")
"""The path that adds a purchase, with the customer's id."""


def key_digest(caller: str, method: str, path: str, key: str) -> bytes:
    """Return the bytes by which an idempotency key is found, in its scope.

    They are the 8 of the customer whose purchase is added, of 0 in another scope, and
    16 of a hash: so one index finds a key, and those of a customer.
    """
    owner = OWNER.fullmatch(path)
    # The lengths keep apart what would be the same text side by side.
    scope = f"{len(caller)}:{len(method)}:{len(path)}:{caller}{method}{path}{key}"
    start = digest_start(int(owner[1]) if owner else 0)
    return start + sha256(scope.encode()).digest()[:16]


def digest_start(customer_id: int) -> bytes:
    """Return what the digests of keys of a customer's purchases begin with."""
    return customer_id.to_bytes(8, "big")


def microseconds(seconds_ago: float = 0) -> int:
    """Return the time as idempotency keys hold it: microseconds since 1970."""
    return time_ns() // 1000 - round(seconds_ago * 1_000_000)


def now(seconds_ago: int = 0) -> str:
    """Return the time as the tables hold it: UTC, with six fractional digits."""
    second, micro = divmod(time_ns() // 1000, 1_000_000)
    return f"{_date_and_time(second - seconds_ago)}.{micro:06d}+00:00"


@lru_cache(2)
def _date_and_time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")
