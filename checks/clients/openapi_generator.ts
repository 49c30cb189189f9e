// Sends the requests of the check with the client of openapi-generator (typescript-fetch).
import { Configuration, CustomersApi, HistoryApi, ImportsApi, PurchasesApi, ResponseError, ServerApi } from "./generated";
import type { CustomerState, PurchaseListItem, PurchaseState } from "./generated";

// The address of the server is the one that the generator found in the description.
const configuration = new Configuration({ accessToken: process.argv[3] });
const customers = new CustomersApi(configuration);
const history = new HistoryApi(configuration);
const imports = new ImportsApi(configuration);
const purchases = new PurchasesApi(configuration);
const server = new ServerApi(configuration);
const seen: Record<string, unknown> = {};

/** Return a value with the names of the API; undefined stands for null in the client. */
function described(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(described);
  if (value === null || typeof value !== "object") return value;
  const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [snake(name), described(part)]));
}

/** Keep a reply under the name of its request; return its body. */
async function keep<T>(name: string, reply: Promise<T>): Promise<T | undefined> {
  try {
    const body = await reply;
    seen[name] = described(body);
    return body;
  } catch (error) {
    if (!(error instanceof ResponseError)) throw error;
    seen[name] = await error.response.json();
    return undefined;
  }
}

const pro = { purchaseName: "Iphone 12 Pro", quantity: 40 };

async function changeAll() {
  const ten = { purchaseName: "Iphone 10 Pro", quantity: 4 };
  const twelve = { purchaseName: "Iphone 12", quantity: 4 };
  const john = { name: "John Doe", address: "Amsterdam, NL" };
  const created = await keep("create customer", customers.createCustomer({ newCustomer: john }));
  const id = created!.data.id;
  await purchases.addPurchase({ id, newPurchase: ten });
  for (const again of ["", " again, same Idempotency-Key"])
    await keep(`add purchase${again}`, purchases.addPurchase({ id, newPurchase: twelve, idempotencyKey: "one" }));
  const all = await keep("list purchases", purchases.listPurchases());
  const rows: PurchaseListItem[] = all!.data;
  const two = { id: rows[1].purchaseId };
  const first = purchases.listPurchases({ customerId: id, limit: 1 });
  await keep("list the first purchase of a customer", first);
  await keep("list purchases, at the customer's path", purchases.listCustomerPurchases({ id }));
  await keep("update purchase, by DELETE", purchases.deletePurchases({ ...two, deletePurchasesRequest: pro }));
  await keep("update purchase, by PATCH", purchases.changePurchase({ ...two, purchaseChanges: { quantity: 5 } }));
  await keep("update purchase, by PUT", purchases.replacePurchase({ ...two, purchaseValues: pro }));
  await keep("read purchase", purchases.readPurchase({ customerId: id, purchaseId: 2 }));
  const page = await purchases.listPurchasesRaw({ limit: 1 });
  const read = await customers.readCustomerRaw({ customerId: id });
  await keep("read customer", read.value());
  const ifMatch = read.raw.headers.get("ETag")!;
  for (const tag of ["ETag", "ETag that is old"]) {
    const customerChanges = { address: "Delft, NL" };
    const changed = customers.changeCustomer({ customerId: id, ifMatch, customerChanges });
    await keep(`change customer with an ${tag}`, changed);
  }
  await keep("find customers", customers.findCustomers({ name: "JOHN" }));
  const csv = customers.downloadCustomers({ format: "csv" });
  await keep("download customers as CSV", csv);
  const jsonl = purchases.downloadPurchases({ format: "jsonl", limit: 1 });
  await keep("download purchases as JSON Lines", jsonl);
  await seeHistory(page.raw.headers.get("Feed-Cursor")!);
}

async function seeHistory(after: string) {
  const followed = await keep("follow the feed from a list", history.readChanges({ after }));
  const ofPurchase = { purchaseId: 2, action: "purchase.updated", caller: "fuzz", order: "desc", limit: 1 } as const;
  const last = await keep("find the last update of a purchase", history.readChanges(ofPurchase));
  const before: CustomerState | PurchaseState | null = last!.data[0].before;
  if (!before || !("quantity" in before) || before.quantity !== 5) throw new Error("quantity");
  await keep("read a change", history.readChange({ changeId: "1" }));
  const changeId = followed!.data[0].change;
  await keep("undo a change", history.undoChange({ changeId, idempotencyKey: "two" }));
  await keep("undo a change again", history.undoChange({ changeId }));
  const purchase = { customerId: 1, purchaseId: 2 };
  const changed = purchases.changeCustomerPurchase({ ...purchase, purchaseChanges: { quantity: 5 } });
  await keep("update a customer's purchase, by PATCH", changed);
  const replaced = purchases.replaceCustomerPurchase({ ...purchase, purchaseValues: pro });
  await keep("update a customer's purchase, by PUT", replaced);
}

async function deleteAll() {
  const id = 1;
  await keep("delete purchases 1 and 9", purchases.deletePurchases({ id, purchaseId: [1, 9] }));
  const some = { deleteAll: false, purchaseIds: [2, 3, 6] };
  await keep("delete purchases 2, 3 and 6", purchases.deletePurchases({ id, deletePurchasesRequest: some }));
  const every = { deleteAll: true };
  await keep("delete all purchases", purchases.deletePurchases({ id, deletePurchasesRequest: every }));
  await keep("read a purchase that is gone", purchases.readPurchase({ customerId: id, purchaseId: 2 }));
  const hidden = await customers.eraseCustomerRaw({ customerId: id });
  await keep("delete customer", hidden.value());
  const changeId = hidden.raw.headers.get("Change")!;
  await keep("undo the deletion of a customer", history.undoChange({ changeId }));
  await keep("erase customer", customers.eraseCustomer({ customerId: id, purge: true }));
  await keep("undo a change of a customer who was erased", history.undoChange({ changeId }));
}

async function importFile() {
  const body = new Blob(["customer_name,customer_address,purchase_name,quantity,purchased_on\nJane Roe,Delft,Iphone X,2,2019-11-30\n"]);
  await keep("import a file, dry", imports.importFile({ body, dryRun: true }));
  await keep("import a file", imports.importFile({ body, dryRun: false }));
  await keep("sum up by day", purchases.summarizePurchases({ by: "day", purchasedBefore: "2020-01-01" }));
  const counted = await purchases.listPurchasesRaw({ order: "desc", limit: 1, prefer: "count=exact" });
  seen["count"] = counted.raw.headers.get("Total-Count");
}

async function askServer() {
  await keep("welcome", server.welcome());
  await keep("livez", server.livez());
  await keep("readyz", server.readyz());
  await keep("metrics", server.metrics());
  await keep("docs", server.docs());
  const description = await server.description();
  seen["description"] = description["openapi"];
  await keep("style of the page", server.docsAsset({ asset: "index.css" }));
  await keep("console", server.console());
  await keep("script of the console", server.consoleFile({ file: "app.js" }));
  await keep("caller", server.readCaller());
}

changeAll()
  .then(deleteAll)
  .then(importFile)
  .then(askServer)
  .then(() => console.log(JSON.stringify(seen)));
