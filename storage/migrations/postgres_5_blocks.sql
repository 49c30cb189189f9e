CREATE TABLE purchase_blocks (
    block bigint PRIMARY KEY,
    oldest timestamptz NOT NULL,
    newest timestamptz NOT NULL
);
