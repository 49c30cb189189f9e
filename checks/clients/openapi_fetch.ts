// Sends the requests of the check with openapi-fetch and the types of openapi-typescript.
import createClient from "openapi-fetch";

import type { components, paths } from "./generated/schema";

type Problem = components["schemas"]["ProblemDetails"];
type Customer = components["schemas"]["CustomerState"];
type Bought = components["schemas"]["PurchaseState"];
type Purchase = components["schemas"]["PurchaseListItem"];
interface Reply<T> {
  data?: T;
  error?: Problem;
  response: Response;
}

const [baseUrl, token] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${token}` };
const { DELETE, GET, PATCH, POST, PUT } = createClient<paths>({ baseUrl, headers });
const seen: Record<string, unknown> = {};

/** Keep a reply under the name of its request; return its body. */
function keep<T>(name: string, { data, error }: Reply<T>): T | undefined {
  seen[name] = data ?? error;
  return data;
}

const pro = { purchase_name: "Iphone 12 Pro", quantity: 40 };

async function changeAll() {
  const customer = { customer_id: 1 };
  const ten = { purchase_name: "Iphone 10 Pro", quantity: 4 };
  const twelve = { purchase_name: "Iphone 12", quantity: 4 };
  const john = { name: "John Doe", address: "Amsterdam, NL" };
  const created = keep("create customer", await POST("/api/v1/customer", { body: john }));
  const params = { path: { id: created!.data.id } };
  await POST("/api/v1/purchase/{id}", { params, body: ten });
  for (const again of ["", " again, same Idempotency-Key"]) {
    const header = { "Idempotency-Key": "one" };
    const reply = await POST("/api/v1/purchase/{id}", { params: { ...params, header }, body: twelve });
    keep(`add purchase${again}`, reply);
  }
  const all = keep("list purchases", await GET("/api/v1/customer"));
  const purchases: Purchase[] = all!.data;
  const two = { path: { id: purchases[1].purchase_id } };
  const listed = await GET("/api/v1/customer", { params: { query: { ...customer, limit: 1 } } });
  keep("list the first purchase of a customer", listed);
  keep("list purchases, at the customer's path", await GET("/api/v1/purchase/{id}", { params }));
  keep("update purchase, by DELETE", await DELETE("/api/v1/purchase/{id}", { params: two, body: pro }));
  keep("update purchase, by PATCH", await PATCH("/api/v1/purchase/{id}", { params: two, body: { quantity: 5 } }));
  keep("update purchase, by PUT", await PUT("/api/v1/purchase/{id}", { params: two, body: pro }));
  const path = { ...customer, purchase_id: 2 };
  const page = await GET("/api/v1/customer", { params: { query: { limit: 1 } } });
  keep("read purchase", await GET("/api/v1/customer/{customer_id}/purchase/{purchase_id}", { params: { path } }));
  const read = await GET("/api/v1/customer/{customer_id}", { params: { path: customer } });
  keep("read customer", read);
  const header = { "If-Match": read.response.headers.get("ETag")! };
  for (const tag of ["ETag", "ETag that is old"]) {
    const change = { params: { path: customer, header }, body: { address: "Delft, NL" } };
    keep(`change customer with an ${tag}`, await PATCH("/api/v1/customer/{customer_id}", change));
  }
  keep("find customers", await GET("/api/v1/customers", { params: { query: { name: "JOHN" } } }));
  const csv = { path: { format: "csv" as const } };
  const jsonl = { path: { format: "jsonl" as const }, query: { limit: 1 } };
  const names = await GET("/api/v1/customers.{format}", { params: csv, parseAs: "text" });
  const rows = await GET("/api/v1/purchases.{format}", { params: jsonl, parseAs: "text" });
  keep("download customers as CSV", names);
  keep("download purchases as JSON Lines", rows);
  await seeHistory(page.response.headers.get("Feed-Cursor")!);
}

async function seeHistory(after: string) {
  const followed = keep("follow the feed from a list", await GET("/api/v1/changes", { params: { query: { after } } }));
  const query = { purchase_id: 2, action: "purchase.updated", caller: "fuzz", order: "desc", limit: 1 } as const;
  const last = keep("find the last update of a purchase", await GET("/api/v1/changes", { params: { query } }));
  const before: Customer | Bought | null = last!.data[0].before;
  if (!before || !("quantity" in before) || before.quantity !== 5) throw new Error("quantity");
  const first = { path: { change_id: "1" } };
  keep("read a change", await GET("/api/v1/changes/{change_id}", { params: first }));
  const path = { change_id: followed!.data[0].change };
  const params = { path, header: { "Idempotency-Key": "two" } };
  keep("undo a change", await POST("/api/v1/changes/{change_id}/undo", { params }));
  keep("undo a change again", await POST("/api/v1/changes/{change_id}/undo", { params: { path } }));
  const purchase = { params: { path: { customer_id: 1, purchase_id: 2 } } };
  const changed = await PATCH("/api/v1/customer/{customer_id}/purchase/{purchase_id}", { ...purchase, body: { quantity: 5 } });
  keep("update a customer's purchase, by PATCH", changed);
  const replaced = await PUT("/api/v1/customer/{customer_id}/purchase/{purchase_id}", { ...purchase, body: pro });
  keep("update a customer's purchase, by PUT", replaced);
}

async function deleteAll() {
  const params = { path: { id: 1 } };
  const path = { customer_id: 1, purchase_id: 2 };
  const query = { purchase_id: [1, 9] };
  keep("delete purchases 1 and 9", await DELETE("/api/v1/purchase/{id}", { params: { ...params, query } }));
  const some = { delete_all: false, purchase_ids: [2, 3, 6] };
  keep("delete purchases 2, 3 and 6", await DELETE("/api/v1/purchase/{id}", { params, body: some }));
  const every = { delete_all: true };
  keep("delete all purchases", await DELETE("/api/v1/purchase/{id}", { params, body: every }));
  keep("read a purchase that is gone", await GET("/api/v1/customer/{customer_id}/purchase/{purchase_id}", { params: { path } }));
  const one = { path: { customer_id: 1 } };
  const hidden = await DELETE("/api/v1/customer/{customer_id}", { params: one });
  keep("delete customer", hidden);
  const change = { path: { change_id: hidden.response.headers.get("Change")! } };
  keep("undo the deletion of a customer", await POST("/api/v1/changes/{change_id}/undo", { params: change }));
  const purge = { ...one, query: { purge: true } };
  keep("erase customer", await DELETE("/api/v1/customer/{customer_id}", { params: purge }));
  const late = await POST("/api/v1/changes/{change_id}/undo", { params: change });
  keep("undo a change of a customer who was erased", late);
}

async function importFile() {
  const body = "customer_name,customer_address,purchase_name,quantity,purchased_on\nJane Roe,Delft,Iphone X,2,2019-11-30\n";
  const file = { body, bodySerializer: (text: string) => text, headers: { "Content-Type": "text/csv" } };
  for (const dry_run of [true, false]) {
    const reply = await POST("/api/v1/imports", { ...file, params: { query: { dry_run } } });
    keep(`import a file${dry_run ? ", dry" : ""}`, reply);
  }
  const query = { by: "day", purchased_before: "2020-01-01" } as const;
  keep("sum up by day", await GET("/api/v1/summary", { params: { query } }));
  const header = { Prefer: "count=exact" };
  const counted = await GET("/api/v1/customer", { params: { query: { order: "desc", limit: 1 }, header } });
  seen["count"] = counted.response.headers.get("Total-Count");
}

async function askServer() {
  keep("welcome", await GET("/"));
  keep("livez", await GET("/livez"));
  keep("readyz", await GET("/readyz"));
  keep("metrics", await GET("/metrics", { parseAs: "text" }));
  keep("docs", await GET("/docs", { parseAs: "text" }));
  const description = await GET("/openapi.json");
  seen["description"] = description.data!["openapi"];
  const style = { path: { asset: "index.css" as const } };
  keep("style of the page", await GET("/docs/{asset}", { params: style, parseAs: "text" }));
  keep("console", await GET("/console", { parseAs: "text" }));
  const script = { path: { file: "app.js" as const } };
  keep("script of the console", await GET("/console/{file}", { params: script, parseAs: "text" }));
  keep("caller", await GET("/api/v1/caller"));
}

changeAll()
  .then(deleteAll)
  .then(importFile)
  .then(askServer)
  .then(() => console.log(JSON.stringify(seen)));
