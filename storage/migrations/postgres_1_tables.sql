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
