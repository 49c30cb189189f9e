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
