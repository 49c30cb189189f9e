CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    change INTEGER,
    at TEXT NOT NULL,
    caller TEXT,
    action TEXT NOT NULL,
    customer_id INTEGER NOT NULL,
    purchase_id INTEGER,
    before TEXT,
    content INTEGER,
    undoes INTEGER
);
CREATE INDEX history_change ON history (change, id) WHERE change IS NOT NULL;
CREATE INDEX history_customer_id ON history (customer_id, id)
WHERE action <> 'purchase.added';
CREATE UNIQUE INDEX history_undoes ON history (undoes) WHERE undoes IS NOT NULL;
CREATE TABLE history_start (pruned INTEGER NOT NULL);
INSERT INTO history_start (pruned) VALUES (0);
CREATE TABLE hidden (
    customer_id INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    change INTEGER NOT NULL,
    PRIMARY KEY (customer_id, last)
) WITHOUT ROWID;
CREATE INDEX hidden_change ON hidden (change);
ALTER TABLE customer ADD COLUMN change INTEGER;
ALTER TABLE customer ADD COLUMN deleted INTEGER;
CREATE INDEX customer_deleted ON customer (deleted) WHERE deleted IS NOT NULL;
ALTER TABLE purchases ADD COLUMN change INTEGER;
ALTER TABLE idempotency ADD COLUMN change INTEGER;
