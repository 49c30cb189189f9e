/** A table of however many rows, of which the document holds those in sight. */

import { h } from "./dom.js";
import { attempt } from "./notices.js";

const SPARE = 12; // rows above and below those in sight, for the keyboard to reach
const TALLEST = 8_000_000; // pixels: browsers draw nothing that is much taller

export class Table {
  /**
   * `columns` are the titles; `cells(item)` are the contents of a row; `key(item)` is
   * its id; `load(last, signal)` returns `{ items, next }`, the rows after one, and
   * whether more follow.
   */
  constructor({ label, kind, columns, cells, key, load, empty, signal }) {
    Object.assign(this, { cells, key, load, empty, signal });
    this.items = [];
    this.total = 0;
    this.hasMore = false;
    this.nodes = new WeakMap(); // the rows of items, kept so that the focus stays
    const titles = columns.map((title) => h("div", { role: "columnheader" }, title));
    this.body = h("div", { role: "rowgroup", className: "body" });
    this.note = h("p", { className: "empty", hidden: true });
    const table = { role: "table", className: `table ${kind}`, "aria-label": label };
    const head = h(
      "div",
      { role: "rowgroup" },
      h("div", { role: "row", className: "head" }, titles),
    );
    this.grid = h("div", table, head, this.body);
    this.element = h("div", {}, this.grid, this.note);
    const draw = () => requestAnimationFrame(() => this.draw());
    addEventListener("scroll", draw, { signal, passive: true });
    addEventListener("resize", draw, { signal });
  }

  /** Read the list from its start, and keep the rows that are as they were. AbortError. */
  async reload() {
    this.turn?.abort(); // what was asked before is of no use any more
    const turn = (this.turn = new AbortController());
    this.reading = AbortSignal.any([this.signal, turn.signal]);
    this.isReloading = true;
    const { items, next } = await this.load(undefined, this.reading).finally(() => {
      if (turn === this.turn) this.isReloading = false;
    });
    turn.signal.throwIfAborted();
    const known = new Map(this.items.map((item) => [this.key(item), item]));
    this.items = items.map((item) => {
      const old = known.get(this.key(item));
      return old && JSON.stringify(old) === JSON.stringify(item) ? old : item;
    });
    this.hasMore = next;
    this.draw();
  }

  async more() {
    const { turn } = this;
    if (this.isReloading || this.loading === turn) return;
    this.loading = turn;
    try {
      const { items, next } = await this.load(this.items.at(-1), this.reading);
      turn.signal.throwIfAborted();
      this.items.push(...items);
      this.hasMore = next;
    } finally {
      if (this.loading === turn) this.loading = null;
    }
    this.draw();
  }

  /** Put a row in its place: that of the one with its key, else in falling order. */
  put(item) {
    const key = this.key(item);
    const at = this.items.findIndex((other) => this.key(other) <= key);
    const place = at < 0 ? this.items.length : at;
    const isThere = at >= 0 && this.key(this.items[at]) === key;
    if (at >= 0 || !this.hasMore) this.items.splice(place, isThere ? 1 : 0, item);
    this.changed();
  }

  /** Take the row with a key out. */
  remove(key) {
    this.items = this.items.filter((item) => this.key(item) !== key);
    this.changed();
  }

  /** Draw rows that came by the feed; a list that is being read may not have them. */
  changed() {
    if (this.isReloading) attempt(() => this.reload());
    this.draw();
  }

  /** Say how many rows there are, also of those that were not read yet. */
  setTotal(total) {
    this.total = total;
    this.draw();
  }

  /** Draw the rows in sight; read on where they come near the end of what was read. */
  draw() {
    if (!this.element.isConnected) return;
    this.note.hidden = this.items.length > 0 || this.hasMore;
    this.note.textContent = this.empty();
    this.grid.hidden = !this.note.hidden;
    const height = this.measure();
    const all = this.hasMore ? Math.max(this.total, this.items.length + 1) : 0;
    const tallest = Math.floor(TALLEST / height);
    const rows = Math.max(this.items.length, Math.min(all, this.items.length + tallest));
    this.body.style.height = `${rows * height}px`;
    this.grid.setAttribute("aria-rowcount", Math.max(all, this.items.length) + 1);
    const above = -this.body.getBoundingClientRect().top;
    const from = Math.max(0, Math.floor(above / height) - SPARE);
    const to = Math.ceil((above + innerHeight) / height) + SPARE;
    this.place(this.items.slice(from, to), from, height);
    if (this.hasMore && to > this.items.length) attempt(() => this.more());
  }

  /** Bring the rows of some items into the document, and take all others out. */
  place(items, from, height) {
    const wanted = items.map((item) => this.row(item));
    const keep = new Set(wanted);
    const focused = [...this.body.children].find((node) => node.contains(document.activeElement));
    const at = controls(focused).indexOf(document.activeElement);
    for (const node of [...this.body.children]) if (!keep.has(node)) node.remove();
    wanted.forEach((node, index) => {
      node.style.top = `${(from + index) * height}px`;
      node.setAttribute("aria-rowindex", from + index + 2);
      const there = this.body.children[index];
      if (there !== node) this.body.insertBefore(node, there ?? null);
    });
    if (!focused || focused.isConnected) return;
    const again = wanted.find((node) => node.dataset.key === focused.dataset.key);
    controls(again)[at]?.focus({ preventScroll: true }); // of the row as it is now
  }

  row(item) {
    if (!this.nodes.has(item)) {
      const contents = this.cells(item).map((cell) => h("div", { role: "cell" }, cell));
      const node = h("div", { role: "row", "data-key": this.key(item) }, contents);
      this.nodes.set(item, node);
    }
    return this.nodes.get(item);
  }

  /** Return the height of a row in pixels, which the style sheet says. */
  measure() {
    const rems = getComputedStyle(this.body).getPropertyValue("--row");
    return parseFloat(rems) * parseFloat(getComputedStyle(document.documentElement).fontSize);
  }
}

/** Return what can have the focus in a row. */
function controls(row) {
  return [...(row?.querySelectorAll("a, button, input") ?? [])];
}
