ALTER TABLE idempotency RENAME TO former_idempotency;
CREATE TABLE idempotency (
    created INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    status INTEGER NOT NULL,
    response BLOB NOT NULL,
    customer_id INTEGER,
    change INTEGER
);
INSERT INTO idempotency (created, digest, fingerprint, status, response,
    customer_id, change)
SELECT place + max(at - place) OVER (ORDER BY place),
    key_digest(caller, method, path, key), half_digest(fingerprint), status,
    CASE WHEN body = '' THEN x''
        ELSE CAST('0' || location || char(10) || etag || char(10) || body AS BLOB) END,
    CASE WHEN path <> '/api/v1/purchase/' || customer_id OR length(customer_id) > 18
        THEN customer_id END,
    change
FROM (
    SELECT *, microseconds(created) AS at,
        row_number() OVER (ORDER BY created) AS place
    FROM former_idempotency WHERE status IS NOT NULL
);
DROP TABLE former_idempotency;
CREATE UNIQUE INDEX idempotency_digest ON idempotency (digest);
CREATE INDEX idempotency_customer_id ON idempotency (customer_id)
WHERE customer_id IS NOT NULL;
