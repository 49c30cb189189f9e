CREATE TABLE purchase_blocks (
    block INTEGER PRIMARY KEY,
    oldest TEXT NOT NULL,
    newest TEXT NOT NULL
);
