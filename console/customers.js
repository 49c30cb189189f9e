/** The customers: find, add, download. */

import { call, caller, countRows, download, hasToken, withQuery } from "./api.js";
import { button, count, data, fill, h, oneAtATime, searchField, time } from "./dom.js";
import { CUSTOMER, Form, openForm } from "./forms.js";
import { attempt, notify } from "./notices.js";
import { Table } from "./table.js";

const PATH = "api/v1/customers";

/** Show the screen; return what takes the rows of the feed. */
export async function show(main, _, signal) {
  const [search, name] = searchField("Search by name", () => attempt(load));
  const counted = h("p", { role: "status" });
  const table = new Table({
    label: "Customers, the newest first",
    kind: "customers",
    columns: ["Name", "Address", "Since"],
    cells: (customer) => [
      h("a", { href: `#customer/${customer.id}`, title: customer.name }, data(customer.name)),
      h("span", { title: customer.address ?? "" }, data(customer.address ?? "")),
      time(customer.created_on),
    ],
    key: (customer) => customer.id,
    load: (last, reading) => page(PATH, { name: name() }, last?.id, reading),
    empty: () => (name() ? "No customer has this in its name." : "There is no customer yet."),
    signal,
  });
  const file = () => withQuery(`${PATH}.csv`, { name: name(), order: "desc" });
  const creates = caller.canWrite && button("New customer", create, { className: "main" });
  const tools = h("div", { className: "tools" }, search, creates, downloadLink(file));
  await table.reload();
  fill(main, h("h1", { tabIndex: -1 }, "Customers"), tools, counted, table.element);
  table.draw();
  recount();
  const refresh = oneAtATime(() => attempt(load));
  return (rows) => rows?.every((row) => row.purchase_id) || refresh();

  async function load() {
    await table.reload();
    await recount();
  }

  async function recount() {
    const query = { name: name() };
    const total = await countRows(PATH, query, signal).catch(() => null); // it may take too long
    if (query.name !== name()) return;
    counted.textContent = total === null ? "" : count(total, "customer");
    table.setTotal(total ?? 0);
  }

  function create() {
    openForm("New customer", (close) => {
      const save = async (body, keys) => {
        const { data: customer, change } = await call("POST", "api/v1/customer", { body, keys });
        close();
        notify(["Created customer ", data(customer.name), "."], change);
        location.hash = `#customer/${customer.id}`;
      };
      return new Form({ fields: CUSTOMER, label: "Create", save, cancel: close });
    });
  }
}

/** Return the newest rows of a list, or those after one. */
export async function page(path, filters, after, signal) {
  const query = { ...filters, order: "desc", limit: after ? 1000 : 100, after };
  const { data: items, next } = await call("GET", withQuery(path, query), { signal });
  return { items, next };
}

/** Return a link to a file of the API, whose path a function returns. */
export function downloadLink(path) {
  const link = h("a", { className: "button", href: path(), download: "" }, "Download");
  link.addEventListener("click", (event) => {
    link.href = path();
    if (!hasToken()) return;
    event.preventDefault();
    attempt(() => download(path()));
  });
  return link;
}
