/** Elements, and how values look: everything on the page is made of these. */

const SVG = "http://www.w3.org/2000/svg";
const numbers = new Intl.NumberFormat(navigator.languages);
const times = new Intl.DateTimeFormat(navigator.languages, {
  dateStyle: "medium",
  timeStyle: "short",
});
const days = new Intl.DateTimeFormat(navigator.languages, { dateStyle: "medium", timeZone: "UTC" });
const PAUSE = 500; // milliseconds
let lastId = 0;

/**
 * Return an element. `on…` adds a listener, a name with a dash and `role` an attribute,
 * any other name sets a property. Children are as those of `fill`.
 */
export function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  return fill(element, ...children);
}

/** Append nodes, texts, and lists of them, but nothing that is empty; return the element. */
export function fill(element, ...children) {
  element.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return element;
}

/** Return an element of a drawing, whose properties are all attributes. */
export function drawn(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return fill(element, ...children);
}

/** Return a button that runs a function. */
export function button(text, run, properties = {}) {
  return h("button", { type: "button", onclick: run, ...properties }, text);
}

/** Return a field for a person to fill in: a label, the input, and more below. */
export function field(label, input, ...below) {
  input.id ||= newId();
  return h("div", { className: "field" }, h("label", { htmlFor: input.id }, label), input, below);
}

/** Return a field to search by, which runs a function once nobody types for a while. */
export function searchField(label, run) {
  const input = h("input", { type: "search", dir: "auto", maxLength: 200 });
  let timer;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(run, 150);
  });
  return [field(label, input), () => input.value.trim()];
}

/** Return a function that runs another, but once at a time and not twice in PAUSE. */
export function oneAtATime(run) {
  let isRunning = false;
  let isAsked = false;
  return async () => {
    isAsked = true;
    if (isRunning) return;
    isRunning = true;
    try {
      while (isAsked) {
        isAsked = false;
        await run();
        await new Promise((resolve) => setTimeout(resolve, PAUSE));
      }
    } finally {
      isRunning = false;
    }
  };
}

/** Return rows of cells as a table. */
export function grid(heads, rows) {
  const head = heads.map((text) => h(text ? "th" : "td", text ? { scope: "col" } : {}, text));
  const body = rows.map((row) =>
    h(
      "tr",
      {},
      row.map((cell) => h("td", {}, cell)),
    ),
  );
  return h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
}

/** Return an id that no element has. */
export function newId() {
  lastId += 1;
  return `id-${lastId}`;
}

/** Return a text of somebody's, whose direction does not touch the words around it. */
export function data(text) {
  return h("bdi", {}, String(text));
}

/** Return a number as its reader writes it. */
export function number(value) {
  return numbers.format(value);
}

/** Return a number and its noun: 1 purchase, 2 purchases. */
export function count(value, noun) {
  return `${number(value)} ${noun}${Number(value) === 1 ? "" : "s"}`;
}

/** Return a day, `2022-04-09` or its milliseconds since 1970, as its reader writes it. */
export function day(value) {
  return days.format(new Date(value));
}

/** Return a time of the API in the reader's zone; what is no time comes as it is. */
export function time(text) {
  if (!text) return "";
  // Two forms are not RFC 3339: `Apr 09 2022 12:43:17`, which is UTC, and one with a
  // space for the T.
  const isShort = /^[A-Z][a-z]{2} \d\d \d{4} [\d:]{8}$/.test(text);
  const date = new Date(isShort ? `${text} UTC` : text.replace(" ", "T"));
  if (Number.isNaN(date.getTime())) return text;
  return h("time", { dateTime: date.toISOString() }, times.format(date));
}
