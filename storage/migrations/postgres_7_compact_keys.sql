ALTER TABLE idempotency RENAME TO former_idempotency;
CREATE TABLE idempotency (
    created bigint NOT NULL,
    customer_id bigint,
    change bigint,
    status smallint NOT NULL,
    digest bytea NOT NULL,
    fingerprint bytea NOT NULL,
    response bytea NOT NULL
);
-- The digest is that of storage.schema.key_digest.
INSERT INTO idempotency (created, digest, fingerprint, status, response, customer_id, change)
SELECT (extract(epoch FROM created) * 1000000)::bigint,
    int8send(coalesce(
        substring(path from '^/api/v1/purchase/([1-9][0-9]{0,17})$')::bigint, 0))
    || substr(sha256(convert_to(
        char_length(caller) || ':' || char_length(method) || ':' || char_length(path) || ':'
        || caller || method || path || key, 'UTF8')), 1, 16),
    CASE WHEN fingerprint ~ '^[0-9a-f]{64}$'
        THEN decode(substr(fingerprint, 1, 32), 'hex') ELSE '' END,
    status,
    CASE WHEN body = '' THEN ''
        ELSE convert_to('0' || location || chr(10) || etag || chr(10) || body, 'UTF8') END,
    CASE WHEN path <> '/api/v1/purchase/' || customer_id
        OR length(customer_id::text) > 18 THEN customer_id END,
    change
FROM former_idempotency WHERE status IS NOT NULL;
DROP TABLE former_idempotency;
ALTER TABLE idempotency ADD PRIMARY KEY (digest);
CREATE INDEX idempotency_created ON idempotency (created);
CREATE INDEX idempotency_customer_id ON idempotency (customer_id)
WHERE customer_id IS NOT NULL;
-- Who comes second with a key waits until the first has committed; the statement after
-- the lock then sees what it stored. The lock's key is of two numbers: those of one are
-- of lock_ids.
CREATE FUNCTION claim_key(wanted bytea, since bigint) RETURNS SETOF idempotency
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(
        ('x' || encode(substr(wanted, 9, 4), 'hex'))::bit(32)::integer,
        ('x' || encode(substr(wanted, 13, 4), 'hex'))::bit(32)::integer);
    RETURN QUERY
    SELECT k.created, k.customer_id, k.change, k.status, k.digest, k.fingerprint, k.response
    FROM idempotency AS k WHERE k.digest = wanted AND k.created > since;
END
$$;
