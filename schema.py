"""The tables, and the numbered scripts that bring a database up to date."""

APPLICATION_ID = 0x43505331  # "CPS1", sqlite.org/pragma.html#pragma_application_id

TABLES = """
CREATE TABLE customer (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    address TEXT,
    date_created TEXT NOT NULL
);
CREATE TABLE purchases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    purchase_name TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    customer_id INTEGER NOT NULL REFERENCES customer (id),
    date_created TEXT NOT NULL,
    last_updated TEXT
);
CREATE INDEX purchases_customer_id ON purchases (customer_id);
"""

# The tables of the described server may lack AUTOINCREMENT and may hold NULLs, and
# purchases of customers who are gone: nobody may have the ids of those again.
ADOPTION = (
    """
DROP INDEX IF EXISTS purchases_customer_id;
DROP TABLE IF EXISTS sqlite_stat1;
DROP TABLE IF EXISTS sqlite_stat4;
ALTER TABLE customer RENAME TO described_customer;
ALTER TABLE purchases RENAME TO described_purchases;
"""
    + TABLES
    + """
INSERT INTO customer (id, name, address, date_created)
SELECT id, coalesce(CAST(canonical_text(CAST(name AS BLOB)) AS TEXT), ''),
    CAST(canonical_text(CAST(address AS BLOB)) AS TEXT), canonical_time(date_created)
FROM described_customer;
INSERT INTO purchases
    (id, purchase_name, quantity, customer_id, date_created, last_updated)
SELECT id, coalesce(CAST(canonical_text(CAST(purchase_name AS BLOB)) AS TEXT), ''),
    coalesce(CAST(quantity AS INTEGER), 0), coalesce(CAST(customer_id AS INTEGER), 0),
    canonical_time(date_created),
    CASE WHEN last_updated <> '' THEN canonical_time(last_updated) END
FROM described_purchases;
DELETE FROM sqlite_sequence
WHERE 'described_' || name IN (SELECT name FROM sqlite_sequence);
UPDATE sqlite_sequence SET name = replace(name, 'described_', '');
INSERT INTO sqlite_sequence (name, seq)
SELECT 'customer', 0 WHERE 'customer' NOT IN (SELECT name FROM sqlite_sequence);
UPDATE sqlite_sequence SET seq = max(seq, (
    SELECT coalesce(max(customer_id), 0) FROM purchases WHERE customer_id < 1 << 62
)) WHERE name = 'customer';
DROP TABLE described_customer;
DROP TABLE described_purchases;
"""
)

VERSIONS_AND_KEYS = """
ALTER TABLE customer ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE customer ADD COLUMN name_folded TEXT NOT NULL DEFAULT '';
UPDATE customer SET name_folded = casefold(name);
ALTER TABLE purchases ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
CREATE TABLE idempotency (
    caller TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    created TEXT NOT NULL,
    status INTEGER,
    location TEXT,
    etag TEXT,
    body TEXT,
    customer_id INTEGER,
    PRIMARY KEY (caller, method, path, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_created ON idempotency (created);
CREATE INDEX idempotency_customer_id ON idempotency (customer_id);
"""

MIGRATIONS = (TABLES, VERSIONS_AND_KEYS)
"""Script n takes a database from `user_version` n to n + 1."""

POSTGRES_TABLES = """
CREATE TABLE customer_purchase_schema (version integer NOT NULL);
INSERT INTO customer_purchase_schema (version) VALUES (0);
CREATE TABLE customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    address text,
    date_created timestamptz NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    name_folded text NOT NULL
);
CREATE TABLE purchases (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    purchase_name text NOT NULL,
    quantity bigint NOT NULL,
    customer_id bigint NOT NULL,
    date_created timestamptz NOT NULL,
    last_updated timestamptz,
    version bigint NOT NULL DEFAULT 1,
    CONSTRAINT purchases_customer FOREIGN KEY (customer_id) REFERENCES customer (id)
);
CREATE INDEX purchases_customer_id ON purchases (customer_id, id);
CREATE TABLE idempotency (
    caller text COLLATE "C" NOT NULL,
    method text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    fingerprint text NOT NULL,
    created timestamptz NOT NULL,
    status integer,
    location text,
    etag text,
    body text,
    customer_id bigint,
    PRIMARY KEY (caller, method, path, key)
);
CREATE INDEX idempotency_created ON idempotency (created);
CREATE INDEX idempotency_customer_id ON idempotency (customer_id);
"""

POSTGRES_MIGRATIONS = (POSTGRES_TABLES,)
"""Script n takes a database from `customer_purchase_schema.version` n to n + 1."""

DESCRIBED_COLUMNS = {
    "customer": {"id", "name", "address", "date_created"},
    "purchases": {
        "id",
        "purchase_name",
        "quantity",
        "customer_id",
        "date_created",
        "last_updated",
    },
}
