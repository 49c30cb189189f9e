/** What was done, with "Undo" in sight, and what went wrong. */

import { call, caller } from "./api.js";
import { button, count, fill, h } from "./dom.js";

const MOST = 3; // notices in sight, and faults that one of them names
const undone = new Set(); // changes that this page has undone

/** Show what was done, and for a change the button that undoes it. */
export function notify(text, change) {
  const notice = put(h("div", { className: "notice" }, h("p", {}, text)));
  if (change) notice.lastChild.before(undoButton(change, () => notice.remove()));
}

function put(notice) {
  const region = document.getElementById("notices");
  fill(
    notice,
    button("×", () => notice.remove(), { "aria-label": "Close this notice" }),
  );
  region.prepend(notice);
  [...region.children].slice(MOST).forEach((old) => old.remove());
  return notice;
}

/** Take the problems away, which are those of a screen that is left; "Undo" stays. */
export function forgetFaults() {
  document.querySelectorAll(".notice.fault").forEach((notice) => notice.remove());
}

/** Return the button that undoes a change, or that this page has done so. */
export function undoButton(change, done = () => {}) {
  if (undone.has(change)) return "Undone";
  if (!caller.canWrite || caller.undoDays === 0) return "";
  const keys = new Map();
  const undo = button("Undo", () => press(undo, run), {
    className: "undo",
    "aria-label": `Undo change ${change}`,
  });
  return undo;

  async function run() {
    const { data } = await call("POST", `api/v1/changes/${change}/undo`, { keys });
    undone.add(change);
    notify(`Undone: change ${change} (${count(data.rows, "row")}).`, data.change);
    undo.replaceWith("Undone");
    done();
  }
}

/** Run a function while its button cannot be pressed; show the problem that it meets. */
export async function press(pressed, run, show) {
  pressed.disabled = true;
  try {
    await attempt(run, show);
  } finally {
    pressed.disabled = false;
  }
}

/** Run a function; show the problem that it meets, by a notice or by `show`. */
export async function attempt(run, show = fault) {
  try {
    await run();
  } catch (error) {
    if (error.name === "AbortError") return; // the screen was left
    if (error.status === 401) location.reload(); // which asks for another token
    if (error.status === undefined) throw error; // a fault of this page
    show(error);
  }
}

/** Show a problem by a notice. */
export function fault(error) {
  put(h("div", { className: "notice fault", role: "alert" }, sentences(error)));
}

/** Return what a problem says: a sentence, what it names, and the id to ask by. */
export function sentences({ message, errors = [], requestId }) {
  const named = errors
    .slice(0, MOST)
    .map(({ pointer, detail }) => h("li", {}, place(pointer), detail));
  const rest = errors.length - named.length;
  if (rest > 0) named.push(h("li", {}, `and ${count(rest, "other")}`));
  return h(
    "div",
    {},
    message && h("p", {}, message),
    named.length > 0 && h("ul", {}, named),
    requestId && h("p", { className: "id" }, `Request id ${requestId}`),
  );
}

/** Return the place that a JSON pointer names: /purchases/5 is "purchase 5". */
function place(pointer) {
  const [noun, id] = pointer.slice(1).split("/");
  const name = id ? `${noun.replace(/s$/, "")} ${id}` : noun.replaceAll("_", " ");
  return name && `${name}: `;
}
