ALTER TABLE idempotency RENAME TO former_idempotency;
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
);
INSERT INTO idempotency (caller, method, path, key, fingerprint, created,
    status, location, etag, body, customer_id)
SELECT caller, method, path, key, fingerprint, created,
    status, location, etag, body, customer_id
FROM former_idempotency;
DROP TABLE former_idempotency;
CREATE INDEX idempotency_created ON idempotency (created);
CREATE INDEX idempotency_customer_id ON idempotency (customer_id);
