/** The history: who did what when, as it happens, and how it is undone. */

import { call, withQuery } from "./api.js";
import { count, data, fill, h, number, time } from "./dom.js";
import { attempt, undoButton } from "./notices.js";
import { Table } from "./table.js";

const MOST = 10_000; // groups that are kept, however long others write
const WORDS = { updated: "changed", cleared: "deleted all" };

/**
 * Show all changes, one customer's, or the rows of one change (`change/7`); return what
 * takes the rows of the feed.
 */
export async function show(main, place, signal) {
  const [, change] = place.match(/^change\/(\d+)$/) ?? [];
  const customer = change ? "" : place;
  const path = change ? `api/v1/changes/${change}` : "api/v1/changes";
  const order = change ? {} : { order: "desc", customer_id: customer };
  const columns = ["When", "Who", "What"];
  const table = new Table({
    label: change ? `Rows of change ${change}` : "Changes, the newest first",
    kind: change ? "changes rows" : "changes",
    columns: change ? columns : [...columns, "Undo"],
    cells,
    key: (group) => group.key,
    load: read,
    empty: () => "Nothing has happened yet.",
    signal,
  });
  const title = change ? `Change ${change}` : "History";
  const only = customer && h("p", {}, "Only what was done to ", linkTo(customer), ".");
  const undo = change && undoButton(change);
  await table.reload();
  fill(main, h("h1", { tabIndex: -1 }, title), only, undo, table.element);
  table.draw();
  return change ? null : take;

  async function read(last, reading) {
    const query = { ...order, after: last?.row.cursor, limit: last ? 1000 : 100 };
    const { data: rows, next } = await call("GET", withQuery(path, query), { signal: reading });
    const groups = gather(rows);
    if (last?.change === groups[0]?.change && !change) {
      table.items[table.items.length - 1] = merge(last, groups.shift());
    }
    return { items: groups, next };
  }

  function take(rows) {
    if (rows === null) return attempt(() => table.reload());
    const mine = rows.filter((row) => !customer || row.customer_id === customer);
    const groups = gather(mine.reverse());
    const [top] = table.items;
    if (top && groups.at(-1)?.change === top.change) table.items[0] = merge(groups.pop(), top);
    table.items.unshift(...groups);
    if (table.items.length > MOST) table.hasMore = true; // to be read again, if wanted
    table.items.length = Math.min(table.items.length, MOST);
    return table.changed();
  }

  /** Return rows, the newest first, as groups: one for each change. */
  function gather(rows) {
    const groups = [];
    for (const row of rows) {
      const actions = new Map([[row.action, 1]]);
      const group = { key: row.cursor, change: row.change, row, actions };
      const newer = groups.at(-1);
      if (newer?.change === row.change && !change) groups.push(merge(groups.pop(), group));
      else groups.push(group);
    }
    return groups;
  }

  function cells({ row, actions, change: made }) {
    const isOne = actions.size === 1 && actions.get(row.action) === 1;
    const what = isOne ? [linkTo(row.customer_id), ": ", sentence(row)] : several(made, actions);
    const told = [time(row.at), data(row.caller ?? "anybody"), h("div", {}, what)];
    return change ? told : [...told, undoButton(made)];
  }
}

/** Return the group of the rows of two, which are of one change. */
function merge(newer, older) {
  const actions = new Map(newer.actions);
  for (const [action, rows] of older.actions) {
    actions.set(action, (actions.get(action) ?? 0) + rows);
  }
  return { ...older, key: newer.key, actions };
}

function linkTo(customer) {
  return h("a", { href: `#customer/${customer}` }, `customer ${customer}`);
}

/** Return what a change did to several rows: created 2 customers, added 5 purchases. */
function several(change, actions) {
  const parts = [...actions].reverse().map(([action, rows]) => {
    const [noun, verb] = action.split(".");
    return `${WORDS[verb] ?? verb} ${count(rows, noun.replace(/s$/, ""))}`;
  });
  return h("a", { href: `#history/change/${change}` }, parts.join(", "));
}

/** Return what happened to one row. */
function sentence({ action, before, now, purchases }) {
  const [noun, verb] = action.split(".");
  const many = purchases === undefined ? "" : count(purchases, "purchase");
  if (noun === "purchases") return `${WORDS[verb] ?? verb} ${many}`;
  const state = before ?? now;
  const was = state ? [": ", describe(state)] : "";
  const is = verb === "updated" && now ? [", now ", describe(now)] : "";
  return [`${WORDS[verb] ?? verb} ${noun}`, was, is, many && ` and ${many}`];
}

function describe({ name, address, quantity, purchase_name: bought }) {
  if (bought) return [`${number(quantity)} × `, h("q", {}, data(bought))];
  return [h("q", {}, data(name)), address && [", ", data(address)]];
}
