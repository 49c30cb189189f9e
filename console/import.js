/** An import: choose a file, see what it would do or what is wrong, then do it. */

import { call } from "./api.js";
import { button, count, field, fill, grid, h } from "./dom.js";
import { fault, notify, press, sentences } from "./notices.js";

const PATH = "api/v1/imports";
const INTRO = [
  "A file of customers and what they bought: CSV as spreadsheets save it, or JSON Lines.",
  "It is checked first, and imported when you say so: all of it, or nothing.",
];
const COLUMNS = [
  ["customer_name, customer_address", "who bought; a new pair becomes a customer"],
  ["customer_id", "instead of these, for customers that are there"],
  ["purchase_name, quantity", "what was bought, unless the file holds customers alone"],
  ["purchased_on", "when, if not now: 2022-04-09, or 2022-04-09T12:43:22Z"],
];

/** Show the screen. */
export async function show(main, _, signal) {
  const input = h("input", { type: "file", accept: ".csv,.jsonl,text/csv,application/jsonl" });
  input.addEventListener("change", () => input.files[0] && check(input.files[0]));
  const result = h("div", { "aria-live": "polite" });
  const rows = COLUMNS.map(([name, text]) => [h("dt", {}, h("code", {}, name)), h("dd", {}, text)]);
  const summary = h("summary", {}, "What the first line of the file may name");
  const columns = h("details", {}, summary, h("dl", {}, rows));
  fill(
    main,
    h("h1", { tabIndex: -1 }, "Import"),
    INTRO.map((text) => h("p", {}, text)),
  );
  fill(main, field("File", input), result, columns);

  async function check(file) {
    // The bytes that were checked are those that are sent later.
    const content = await file.arrayBuffer();
    input.value = ""; // or the same file could not be chosen again
    const options = { body: content, signal };
    const answer = await wait(`Checking ${file.name}`, `${PATH}?dry_run=true`, options);
    if (!answer) return;
    const { customers, purchases } = answer.data;
    const what = `${count(customers, "new customer")} and ${count(purchases, "purchase")}`;
    const nothing = h("p", {}, `There is nothing new in ${file.name}.`);
    const found = h("p", {}, `${file.name} is in order. It would add ${what}.`);
    const keys = new Map();
    const runs = button(`Import ${what}`, () => run(content, file.name, keys), {
      className: "main",
    });
    result.replaceChildren(...(customers + purchases === 0 ? [nothing] : [found, runs]));
    runs.focus();
  }

  // It goes on where the screen is left meanwhile; then a notice tells how it ended.
  async function run(content, name, keys) {
    const again = button("Try again", () => run(content, name, keys));
    const answer = await wait(`Importing ${name}`, PATH, { body: content, keys }, again);
    if (!answer) return;
    const { customers, purchases } = answer.data;
    const what = `${count(customers, "customer")}, ${count(purchases, "purchase")}`;
    result.replaceChildren();
    notify(`Imported ${name}: ${what}.`, answer.change);
  }

  /** Return the answer to a file; null where there are faults, which are then shown. */
  async function wait(doing, path, options, again = "") {
    let answer = null;
    result.replaceChildren(h("p", {}, `${doing} …`), h("progress", { "aria-label": doing }));
    const ask = async () => {
      answer = await call("POST", path, options);
    };
    await press(input, ask, (error) => {
      if (!result.isConnected) return fault(error);
      const hasLines = error.errors.some(({ line }) => line);
      return result.replaceChildren(hasLines ? faults(error) : sentences(error), again);
    });
    return answer;
  }
}

/** Return the faults of a file, with the lines that they stand in. */
function faults({ errors, message, requestId }) {
  const rows = errors.map(({ line, pointer, detail }) => [line ?? "", pointer.slice(1), detail]);
  const region = { className: "faults", role: "group", "aria-label": "Faults", tabIndex: 0 };
  const table = grid(["Line", "Column", "Fault"], rows);
  return h("div", region, sentences({ message, requestId }), table);
}
