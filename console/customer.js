/** One customer: its data, its purchases, and what happened to them. */

import { call, caller, countRows, withQuery } from "./api.js";
import { chart } from "./chart.js";
import { downloadLink, page } from "./customers.js";
import { button, count, data, fill, h, number, oneAtATime, searchField, time } from "./dom.js";
import { confirm, correct, CUSTOMER, Form, NEW_PURCHASE, openForm, PURCHASE } from "./forms.js";
import { attempt, fault, notify } from "./notices.js";
import { Table } from "./table.js";

const FEW = 100; // rows of the feed that are taken one by one; for more the list is read
const MAIN = { className: "main" };
const DANGER = { className: "danger" };
const GONE = new Set(["customer.deleted", "customer.erased"]);
const NAMED = 10; // purchases that a question before their deletion names

/** Show the screen of a customer; return what takes the rows of the feed. */
export async function show(main, id, signal) {
  const screen = new Customer(id, signal);
  await screen.reload();
  fill(main, screen.elements());
  screen.table.draw();
  return (rows) => screen.take(rows);
}

class Customer {
  constructor(id, signal) {
    Object.assign(this, { id, signal, selected: new Set() });
    this.path = `api/v1/customer/${id}`;
    this.purchases = `api/v1/purchase/${id}`;
    this.head = h("div", {});
    this.summary = h("div", { className: "summary" });
    this.deletes = button("", () => this.deleteSome(), DANGER);
    const shows = (error) => (error.status === 404 ? this.showGone() : fault(error));
    const reload = () => attempt(() => this.reload(), shows);
    [this.search, this.part] = searchField("Search by what was bought", reload);
    this.reloadOnce = oneAtATime(reload);
    this.loadOnce = oneAtATime(() => attempt(() => this.load(), shows));
    this.table = new Table({
      label: "Purchases, the newest first",
      kind: caller.canWrite ? "purchases" : "purchases readonly",
      columns: this.forWriting("Select", ["Bought", "Quantity", "When", "Changed"], "Correct"),
      cells: (purchase) => this.cells(purchase),
      key: (purchase) => purchase.purchase_id,
      load: (last, reading) => {
        const filters = { purchase_name: this.part() };
        return page(this.purchases, filters, last?.purchase_id, reading);
      },
      empty: () => (this.part() ? "No purchase has this in its name." : "No purchase yet."),
      signal,
    });
  }

  /** Return cells with those around them that only who may write sees. */
  forWriting(before, cells, after) {
    return caller.canWrite ? [before, ...cells, after] : cells;
  }

  elements() {
    const query = () => ({ customer_id: this.id, purchase_name: this.part(), order: "desc" });
    const writing = caller.canWrite && [
      button("Add purchase", () => this.add(), MAIN),
      this.deletes,
      button("Delete all", () => this.deleteAll(), DANGER),
    ];
    const download = downloadLink(() => withQuery("api/v1/purchases.csv", query()));
    const tools = h("div", { className: "tools" }, this.search, writing, download);
    return [this.head, this.summary, h("h2", {}, "Purchases"), tools, this.table.element];
  }

  /** Say that the customer was deleted, perhaps by somebody else, and where that is undone. */
  showGone() {
    this.isGone = true;
    const history = h("a", { className: "button", href: `#history/${this.id}` }, "History");
    const text = h("p", { role: "status" }, "This customer was deleted.");
    const main = this.head.parentNode;
    main?.replaceChildren(h("h1", { tabIndex: -1 }, data(this.customer.name)), text, history);
  }

  /** Take rows of the feed: those of a few purchases one by one, else read the list. */
  take(rows) {
    const mine = rows?.filter((row) => row.customer_id === this.id);
    if (mine?.length === 0) return null;
    if (this.isGone) return dispatchEvent(new Event("hashchange")); // it may be back
    if (mine?.some(({ action }) => GONE.has(action))) return this.showGone();
    const isOfOne = (row) => row.purchase_id || row.action === "customer.updated";
    const isSmall = mine?.length <= FEW && !this.part() && mine.every(isOfOne);
    if (!isSmall) return this.reloadOnce();
    for (const { purchase_id: id, now } of mine.filter((row) => row.purchase_id)) {
      if (now) this.table.put({ ...now, purchase_id: Number(id) });
      else this.table.remove(Number(id));
      if (!now) this.selected.delete(Number(id));
    }
    return this.loadOnce();
  }

  async reload() {
    await Promise.all([this.load(), this.table.reload()]);
  }

  async load() {
    const { id, signal } = this;
    const query = { by: "day", customer_id: id, purchase_name: this.part() };
    const [{ data: customer }, days] = await Promise.all([
      call("GET", this.path, { signal }),
      call("GET", withQuery("api/v1/summary", query), { signal }).catch((error) => error),
    ]);
    const isNew = JSON.stringify(customer) !== JSON.stringify(this.customer);
    this.customer = customer;
    if (isNew && !this.isCorrecting) this.showHead();
    this.showSummary(days.data ?? [], days.message);
    this.select();
  }

  showHead() {
    const { name, address, created_on } = this.customer;
    const history = h("a", { className: "button", href: `#history/${this.id}` }, "History");
    const correcting = button("Correct", () => this.correct());
    const deleting = button("Delete customer", () => this.deleteCustomer(), DANGER);
    const tools = this.forWriting(correcting, [history], deleting);
    this.head.replaceChildren(
      h("h1", { tabIndex: -1 }, data(name)),
      h("p", {}, address ? data(address) : "No address"),
      h("p", { className: "id" }, `Customer ${this.id} since `, time(created_on)),
      h("div", { className: "tools" }, tools),
    );
  }

  showSummary(days, problem) {
    const sum = (name) => days.reduce((total, one) => total + one[name], 0);
    const [purchases, quantity] = [sum("purchases"), sum("quantity")];
    const text = `${count(purchases, "purchase")}, ${count(quantity, "piece")} in all`;
    this.summary.replaceChildren(h("p", { role: "status" }, problem ?? text), chart(days));
    this.table.setTotal(purchases);
  }

  correct() {
    const leave = () => {
      this.isCorrecting = false;
      this.showHead();
      this.head.querySelector("button").focus();
    };
    const done = (values, change) => {
      if (change) notify(["Corrected: ", data(values.name), "."], change);
      Object.assign(this.customer, values);
      leave();
    };
    return attempt(async () => {
      const form = await correct({ fields: CUSTOMER, path: this.path, done, cancel: leave });
      this.isCorrecting = true;
      this.head.replaceChildren(h("h1", { tabIndex: -1 }, "Correct customer"), form.element);
      form.focus();
    });
  }

  deleteCustomer() {
    return this.ask(
      "Delete customer",
      (name, all) => [name, ` and ${all}`],
      async () => {
        const { name } = this.customer;
        const { deleted_count: deleted, change } = await call("DELETE", this.path);
        notify(["Deleted ", data(name), ` and ${count(deleted, "purchase")}.`], change);
        location.hash = "#customers";
      },
    );
  }

  /** Ask before all is deleted: `what` says that with the name and the number of purchases. */
  ask(title, what, run) {
    return attempt(async () => {
      const all = count(await countRows(this.purchases, {}, this.signal), "purchase");
      const sentence = h("p", {}, "This deletes ", what(data(this.customer.name), all), ".");
      confirm(title, sentence, title, run);
    });
  }

  // Purchases

  cells({ purchase_id: id, purchase_name: name, quantity, purchased_on, last_updated_on }) {
    const box = h("input", { type: "checkbox", "aria-label": `Select ${name}` });
    box.checked = this.selected.has(id);
    box.addEventListener("change", () => this.select(id, box.checked));
    const label = { "aria-label": `Correct ${name}` };
    const correcting = button("Correct", () => this.correctPurchase(id), label);
    const bought = h("span", { title: name }, data(name));
    const cells = [bought, number(quantity), time(purchased_on), time(last_updated_on)];
    return this.forWriting(box, cells, correcting);
  }

  select(id, isSelected) {
    if (isSelected) this.selected.add(id);
    else this.selected.delete(id);
    this.deletes.textContent = `Delete selected (${number(this.selected.size)})`;
    this.deletes.disabled = this.selected.size === 0;
  }

  add() {
    openForm("Add purchase", (close) => {
      const save = async (body, keys) => {
        const { change } = await call("POST", this.purchases, { body, keys });
        close();
        notify(["Added: ", data(body.purchase_name), "."], change);
      };
      return new Form({ fields: NEW_PURCHASE, label: "Add", save, cancel: close });
    });
  }

  correctPurchase(id) {
    openForm("Correct purchase", (close) => {
      const done = (values, change) => {
        close();
        if (change) notify(["Corrected: ", data(values.purchase_name), "."], change);
      };
      const path = `${this.path}/purchase/${id}`;
      return correct({ fields: PURCHASE, path, done, cancel: close });
    });
  }

  deleteSome() {
    const ids = [...this.selected];
    const chosen = this.table.items.filter((item) => this.selected.has(item.purchase_id));
    const named = chosen
      .slice(0, NAMED)
      .map((item) => h("li", {}, `${number(item.quantity)} × `, data(item.purchase_name)));
    const rest = ids.length - named.length;
    const what = h("ul", {}, named, rest > 0 && h("li", {}, `and ${count(rest, "other")}`));
    const body = { delete_all: false, purchase_ids: ids };
    confirm(`Delete ${count(ids.length, "purchase")}`, what, "Delete", () => this.delete(body));
  }

  deleteAll() {
    const what = (name, all) => [`all ${all} of `, name];
    return this.ask("Delete all purchases", what, () => this.delete({ delete_all: true }));
  }

  async delete(body) {
    const { deleted_count: deleted, change } = await call("DELETE", this.purchases, { body });
    this.selected.clear();
    notify([`Deleted ${count(deleted, "purchase")} of `, data(this.customer.name), "."], change);
  }
}
