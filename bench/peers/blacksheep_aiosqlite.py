"""Serve the two measured routes with BlackSheep under Granian, over aiosqlite.

Written as the documentation of BlackSheep (bound values, pydantic, life cycle events)
and of aiosqlite (a connection, a row factory) teaches it. Its requests share the one
connection, so they take turns at transactions: otherwise one request's rollback would
undo what others had added, and were perhaps told was stored.
"""

import asyncio
from datetime import UTC, datetime

import aiosqlite
from blacksheep import Application, FromJSON, Response, json
from pydantic import BaseModel, ConfigDict, Field

TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
CREATE TABLE IF NOT EXISTS customer (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    address TEXT,
    date_created TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS purchases (
    id INTEGER PRIMARY KEY,
    purchase_name TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    customer_id INTEGER NOT NULL REFERENCES customer (id),
    date_created TEXT NOT NULL,
    last_updated TEXT
);
CREATE INDEX IF NOT EXISTS purchases_customer_id ON purchases (customer_id);
"""
SELECT_CUSTOMER = "SELECT id FROM customer WHERE id = ?"
SELECT_PURCHASES = """
SELECT id AS purchase_id, purchase_name, quantity, date_created AS purchased_on,
    last_updated AS last_updated_on, CAST(customer_id AS TEXT) AS customer_id
FROM purchases WHERE customer_id = ? ORDER BY id"""
INSERT_PURCHASE = """
INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
VALUES (?, ?, ?, ?)"""

app = Application()
TURN = asyncio.Lock()
"""Held by the request whose transaction it is."""


class NewPurchase(BaseModel):
    """The body that adds a purchase."""

    model_config = ConfigDict(extra="forbid", strict=True)

    purchase_name: str = Field(min_length=1, max_length=200, pattern=r"\S")
    quantity: int = Field(ge=1, le=2147483647)


@app.lifespan
async def open_database(app: Application):  # type: ignore[no-untyped-def]
    """Open the database while the server runs."""
    async with aiosqlite.connect("db.sqlite3") as database:
        database.row_factory = aiosqlite.Row
        await database.executescript(TABLES)
        app.services.register(aiosqlite.Connection, instance=database)
        yield


async def is_customer_there(database: aiosqlite.Connection, customer_id: int) -> bool:
    """Return whether there is a customer."""
    return bool(await database.execute_fetchall(SELECT_CUSTOMER, (customer_id,)))


@app.router.get("/api/v1/purchase/{int:customer_id}")
async def list_purchases(customer_id: int, database: aiosqlite.Connection) -> Response:
    """Return one customer's purchases."""
    if not await is_customer_there(database, customer_id):
        return json({"status": "There is no such customer."}, 404)
    rows = await database.execute_fetchall(SELECT_PURCHASES, (customer_id,))
    return json({"status": "ok", "data": [dict(row) for row in rows]})


@app.router.post("/api/v1/purchase/{int:customer_id}")
async def add_purchase(
    customer_id: int, body: FromJSON[NewPurchase], database: aiosqlite.Connection
) -> Response:
    """Record what a customer bought."""
    new, now = body.value, datetime.now(UTC)
    values = new.purchase_name, new.quantity, customer_id
    at = now.isoformat(" ", "microseconds")
    async with TURN:
        try:
            cursor = await database.execute(INSERT_PURCHASE, (*values, at))
        except aiosqlite.IntegrityError:
            await database.rollback()
            return json({"status": "There is no such customer."}, 404)
        number = cursor.lastrowid
        await database.commit()
    data = {
        "id": number,
        "purchase_name": new.purchase_name,
        "quantity": new.quantity,
        "customer_id": str(customer_id),
        "purchased_on": now.strftime("%b %d %Y %H:%M:%S"),
    }
    return json({"status": "ok", "data": data}, 201)
