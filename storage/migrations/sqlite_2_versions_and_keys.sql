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
