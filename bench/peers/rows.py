"""Fill the database of a server with customers and their purchases."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

AT = (datetime.now(UTC) - timedelta(days=1)).isoformat(" ", "microseconds")
"""When all was bought: not so long ago that a server would forget the history."""
PREPARE_FILL = """
PRAGMA synchronous = OFF;
PRAGMA cache_size = -1000000;
CREATE TEMPORARY TABLE wanted (purchases INTEGER, customer INTEGER PRIMARY KEY);
CREATE TEMPORARY TABLE numbers (number INTEGER PRIMARY KEY);"""
FILL = """
CREATE INDEX temp.wanted_purchases ON wanted (purchases, customer);
INSERT INTO numbers
WITH RECURSIVE counted (number) AS (
    SELECT 0 UNION ALL SELECT number + 1 FROM counted
    WHERE number + 1 < (SELECT max(purchases) FROM wanted))
SELECT number FROM counted;
INSERT INTO customer (name, address, date_created)
SELECT 'Customer ' || customer, '1 High Street', '{at}' FROM wanted ORDER BY customer;
INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
SELECT 'Green tea, ' || number || ' g', number + 1, customer, '{at}'
FROM numbers CROSS JOIN wanted INDEXED BY wanted_purchases WHERE purchases > number;"""
RECORD = {
    "customer_names": "UPDATE customer SET name_folded = lower(name)",
    "history": """
INSERT INTO history (at, action, customer_id, purchase_id)
SELECT date_created, 'purchase.added', customer_id, id FROM purchases ORDER BY id""",
    "purchase_blocks": """
INSERT INTO purchase_blocks (block, oldest, newest)
SELECT id / 4096, min(date_created), max(date_created) FROM purchases
WHERE id < (SELECT max(id) / 4096 * 4096 FROM purchases) GROUP BY 1""",
    "customer_purchases": """
INSERT INTO customer_purchases
SELECT customer_id, id, purchase_name, quantity, date_created, last_updated
FROM purchases ORDER BY customer_id, id;
UPDATE customer_purchases_end SET last = (SELECT max(id) FROM purchases)""",
}
"""What this server keeps of the purchases in further tables, where it has them."""
TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table'"


def fill(path: Path, purchases: Sequence[int]) -> None:
    """Add a customer for each number, with as many purchases, one of each in turn."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(PREPARE_FILL)
        wanted = ((count, customer) for customer, count in enumerate(purchases, 1))
        database.executemany("INSERT INTO wanted VALUES (?, ?)", wanted)
        tables = {name for (name,) in database.execute(TABLES)}
        records = ";".join(sql for name, sql in RECORD.items() if name in tables)
        database.executescript(f"BEGIN; {FILL.format(at=AT)} {records}; COMMIT")
