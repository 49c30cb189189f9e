// The two measured routes with Fastify and node:sqlite, written as their documentation
// teaches it: a JSON schema for what comes in and one for what goes out.
"use strict";

const { DatabaseSync } = require("node:sqlite");
const fastify = require("fastify")();

const db = new DatabaseSync("db.sqlite3");
db.exec(`
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
`);

const findCustomer = db.prepare("SELECT id FROM customer WHERE id = ?");
const listPurchases = db.prepare(`
  SELECT id AS purchase_id, purchase_name, quantity, date_created AS purchased_on,
    last_updated AS last_updated_on, CAST(customer_id AS TEXT) AS customer_id
  FROM purchases WHERE customer_id = ? ORDER BY id`);
const insertPurchase = db.prepare(`
  INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
  VALUES (?, ?, ?, ?)`);

const params = {
  type: "object",
  properties: { customer_id: { type: "integer", minimum: 1 } },
};
const reply = (data) => ({
  type: "object",
  properties: { status: { type: "string" }, data },
});
const listed = {
  type: "array",
  items: {
    type: "object",
    properties: {
      purchase_id: { type: "integer" },
      purchase_name: { type: "string" },
      quantity: { type: "integer" },
      purchased_on: { type: "string" },
      last_updated_on: { type: "string", nullable: true },
      customer_id: { type: "string" },
    },
  },
};
const added = {
  type: "object",
  properties: {
    id: { type: "integer" },
    purchase_name: { type: "string" },
    quantity: { type: "integer" },
    customer_id: { type: "string" },
    purchased_on: { type: "string" },
  },
};
const newPurchase = {
  type: "object",
  required: ["purchase_name", "quantity"],
  additionalProperties: false,
  properties: {
    purchase_name: { type: "string", minLength: 1, maxLength: 200, pattern: "\\S" },
    quantity: { type: "integer", minimum: 1, maximum: 2147483647 },
  },
};

const MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec";

// Gives Apr 09 2022 12:43:17 for a Date.
function shortTime(date) {
  const iso = date.toISOString();
  const month = MONTHS.substr(date.getUTCMonth() * 3, 3);
  return `${month} ${iso.slice(8, 10)} ${iso.slice(0, 4)} ${iso.slice(11, 19)}`;
}

fastify.get(
  "/api/v1/purchase/:customer_id",
  { schema: { params, response: { 200: reply(listed) } } },
  (request, response) => {
    const customerId = request.params.customer_id;
    if (!findCustomer.get(customerId)) {
      return response.code(404).send({ status: "There is no such customer." });
    }
    response.send({ status: "ok", data: listPurchases.all(customerId) });
  },
);

fastify.post(
  "/api/v1/purchase/:customer_id",
  { schema: { params, body: newPurchase, response: { 201: reply(added) } } },
  (request, response) => {
    const customerId = request.params.customer_id;
    if (!findCustomer.get(customerId)) {
      return response.code(404).send({ status: "There is no such customer." });
    }
    const { purchase_name, quantity } = request.body;
    const now = new Date();
    const stored = now.toISOString().replace("T", " ").replace("Z", "000+00:00");
    const { lastInsertRowid } = insertPurchase.run(
      purchase_name, quantity, customerId, stored,
    );
    const data = {
      id: lastInsertRowid,
      purchase_name,
      quantity,
      customer_id: String(customerId),
      purchased_on: shortTime(now),
    };
    response.code(201).send({ status: "ok", data });
  },
);

fastify.listen({ host: "127.0.0.1", port: Number(process.env.PORT) });
