/** Forms and dialogs: to add, to correct, to confirm. */

import { call, caller } from "./api.js";
import { button, count, data, field, fill, grid, h, newId } from "./dom.js";
import { attempt, press, sentences } from "./notices.js";

export const CUSTOMER = {
  name: { label: "Name", required: true, maxLength: 200 },
  address: { label: "Address", maxLength: 500 },
};
export const PURCHASE = {
  purchase_name: { label: "What was bought", required: true, maxLength: 200 },
  quantity: { label: "Quantity", type: "number", required: true, min: 1 },
};
export const NEW_PURCHASE = {
  ...PURCHASE,
  purchased_on: { label: "When, if not now", type: "datetime-local", step: 1 },
};

/**
 * A form whose problems stand at the fields that they are about. `save` is given the
 * values, and the keys by which they are safe to send again.
 */
export class Form {
  constructor({ fields, values = {}, label, save, cancel }) {
    this.save = save;
    this.inputs = new Map();
    this.keys = new Map();
    this.problem = h("div", { role: "alert" });
    this.submits = h("button", { className: "main" }, label);
    const rows = Object.entries(fields).map(([name, one]) => this.row(name, one, values[name]));
    const buttons = h("div", { className: "buttons" }, this.submits, button("Cancel", cancel));
    const onsubmit = (event) => {
      event.preventDefault();
      this.submit();
    };
    this.element = h("form", { onsubmit }, rows, this.problem, buttons);
  }

  row(name, { label, ...properties }, value) {
    const fault = h("p", { id: newId(), className: "fault" });
    const fixed = { type: "text", dir: "auto", autocomplete: "off", "aria-describedby": fault.id };
    const input = h("input", { ...fixed, ...properties, value: value ?? "" });
    this.inputs.set(name, input);
    return field(label, input, fault);
  }

  focus() {
    this.inputs.values().next().value.focus();
  }

  /** Return what the fields hold, without a time that was left out. */
  values() {
    const values = {};
    for (const [name, { type, value }] of this.inputs) {
      if (type === "number") values[name] = Number(value);
      else if (type !== "datetime-local") values[name] = value;
      else if (value) values[name] = new Date(value).toISOString();
    }
    return values;
  }

  submit() {
    this.show();
    return press(
      this.submits,
      () => this.save(this.values(), this.keys),
      (error) => this.show(error),
    );
  }

  /** Show a problem: what is about a field at the field, and the rest above the buttons. */
  show(problem) {
    const faults = new Map(problem?.errors.map((error) => [error.pointer.slice(1), error.detail]));
    for (const [name, input] of [...this.inputs].reverse()) {
      input.setAttribute("aria-invalid", faults.has(name));
      input.nextSibling.textContent = faults.get(name) ?? "";
      if (faults.has(name)) input.focus();
    }
    const rest = problem?.errors.filter(({ pointer }) => !this.inputs.has(pointer.slice(1)));
    const message = faults.size && rest.length === 0 ? "" : problem?.message;
    const { requestId } = problem ?? {};
    this.problem.replaceChildren(problem ? sentences({ message, errors: rest, requestId }) : "");
  }
}

/**
 * Return a form that corrects a row and never overwrites what somebody else has written
 * since it was read: that is shown beside, and the person chooses.
 */
export async function correct({ fields, path, done, cancel }) {
  let stored = await call("GET", path);
  const form = new Form({ fields, values: stored.data, label: "Save", save, cancel });
  return form;

  async function save(values) {
    const names = Object.keys(fields).filter((name) => values[name] !== (stored.data[name] ?? ""));
    if (names.length === 0) return cancel();
    const body = Object.fromEntries(names.map((name) => [name, values[name]]));
    try {
      const { change } = await call("PATCH", path, { body, headers: { "If-Match": stored.tag } });
      return done(values, change);
    } catch (error) {
      if (error.status !== 412) throw error;
    }
    stored = await call("GET", path);
    if (names.every((name) => values[name] === stored.data[name])) return done(values, null);
    for (const [name, input] of form.inputs) {
      if (!names.includes(name)) input.value = stored.data[name] ?? "";
    }
    form.problem.replaceChildren(conflict(form.values()));
    form.problem.querySelector("button").focus();
    return null;
  }

  function conflict(mine) {
    const rows = Object.entries(fields).map(([name, { label }]) => [
      h("b", {}, label),
      data(mine[name]),
      data(stored.data[name] ?? ""),
    ]);
    const keep = button("Keep what is stored", cancel);
    const again = button("Save mine", () => form.submit());
    return h(
      "div",
      {},
      h("p", {}, "Somebody has changed this since you opened it. Nothing was saved."),
      grid(["", "Yours", "Stored now"], rows),
      h("div", { className: "buttons" }, keep, again),
    );
  }
}

/** Show a dialog with a title; return it. */
export function open(title, ...contents) {
  const id = newId();
  const heading = h("h2", { id, tabIndex: -1 }, title);
  const dialog = h("dialog", { "aria-labelledby": id }, heading, contents);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  heading.focus();
  return dialog;
}

/** Close a dialog and take it away at once: the next one may have the same fields. */
function shut(dialog) {
  dialog.close();
  dialog.remove();
}

/** Show a form in a dialog; `make` is given what closes the dialog. */
export function openForm(title, make) {
  return attempt(async () => {
    const holder = h("div", {});
    const form = await make(() => shut(holder.parentNode));
    open(title, fill(holder, form.element));
    form.focus();
  });
}

/** Ask before something is deleted by `run`. */
export function confirm(title, what, label, run) {
  const problem = h("div", { role: "alert" });
  const show = (error) => problem.replaceChildren(sentences(error));
  const deletes = button(label, () => press(deletes, once, show), { className: "danger" });
  const buttons = h(
    "div",
    { className: "buttons" },
    deletes,
    button("Cancel", () => shut(dialog)),
  );
  const days = caller.undoDays;
  const undo = days ? `This can be undone for ${count(days, "day")}.` : "This cannot be undone.";
  const dialog = open(title, what, h("p", {}, undo), problem, buttons);

  async function once() {
    await run();
    shut(dialog);
  }
}
