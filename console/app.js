/** The frame of the page: who is here, which screen is shown, whether the server is. */

import { call, caller, endOfFeed, follow, hasToken, setToken, wantsToken } from "./api.js";
import * as customer from "./customer.js";
import * as customers from "./customers.js";
import { button, data, field, fill, h } from "./dom.js";
import * as history from "./history.js";
import * as importing from "./import.js";
import { forgetFaults, sentences } from "./notices.js";
import * as server from "./server.js";

const SCREENS = { customers, customer, history, import: importing, server };
const main = document.getElementById("main");
const header = document.querySelector("header");
let shown = new AbortController(); // aborted when the screen is left
let take = () => {}; // what the screen does with rows of the feed
let isFaulty = false; // whether the screen could not be shown

addEventListener("hashchange", show);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
start();

/** Ask who calls, and show the first screen; or ask for a token. */
async function start() {
  try {
    if (!hasToken() && (await wantsToken())) return askForToken();
    const { data: found } = await call("GET", "api/v1/caller");
    const { name, access, undo_days: undoDays } = found;
    Object.assign(caller, { name, canWrite: access === "write", undoDays });
    const cursor = await endOfFeed();
    follow(cursor, (rows) => take(rows), connected).catch(() => location.reload());
  } catch (error) {
    return fail(error, start);
  }
  document.body.classList.toggle("readonly", !caller.canWrite);
  header.hidden = false;
  if (caller.name) {
    const access = !caller.canWrite && ", may only read";
    const forget = button("Sign out", () => {
      setToken(null);
      location.reload();
    });
    fill(document.getElementById("caller"), data(caller.name), access, " ", forget);
  }
  return show();
}

/** Show the screen that the address names. */
async function show() {
  const [, name, place] = location.hash.match(/^#(\w+)\/?(.*)$/) ?? [];
  const screen = SCREENS[name] ?? customers;
  shown.abort();
  const { signal } = (shown = new AbortController());
  const early = []; // rows that come while the screen is read
  take = (rows) => early.push(rows);
  isFaulty = false;
  main.replaceChildren();
  forgetFaults();
  document.querySelectorAll("dialog").forEach((dialog) => dialog.remove());
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.hash === `#${SCREENS[name] ? name : "customers"}`;
    link.setAttribute("aria-current", isHere ? "page" : "false");
  }
  try {
    const taking = await screen.show(main, place, signal);
    if (signal.aborted) return;
    take = taking ?? (() => {});
    early.forEach(take);
    const heading = main.querySelector("h1");
    document.title = `${heading.textContent} – Customers and purchases`;
    heading.focus();
  } catch (error) {
    if (!signal.aborted) fail(error, show);
  }
}

/** Show a problem in the place of a screen, and a button to try again. */
function fail(error, again) {
  if (error.status === 401) return askForToken(error);
  isFaulty = true;
  const heading = h("h1", { tabIndex: -1 }, "This cannot be shown");
  main.replaceChildren(heading, sentences(error), button("Try again", again));
  if (error.status === undefined) throw error; // a fault of this page
  return null;
}

/** Say whether the server answers; show again what could not be shown. */
function connected(isThere) {
  document.getElementById("away").hidden = isThere;
  if (isThere && isFaulty) show();
}

/** Ask for a token; the page begins anew with it. */
function askForToken(error) {
  setToken(null);
  header.hidden = true;
  const looks = { type: "password", autocomplete: "off", required: true };
  const input = h("input", {
    ...looks,
    pattern: "\\s*[!-~]+\\s*",
    title: "Letters and signs of ASCII",
  });
  const onsubmit = (event) => {
    event.preventDefault();
    setToken(input.value.trim());
    location.reload();
  };
  const text = "The server knows its clients by tokens. Yours is kept until this tab is closed.";
  const wrong = error && h("p", { className: "fault" }, "The server does not know this token.");
  const alert = h("div", { role: "alert" }, wrong, error && sentences(error));
  const buttons = h("div", { className: "buttons" }, h("button", { className: "main" }, "Sign in"));
  const form = h("form", { onsubmit }, field("Token", input), alert, buttons);
  main.replaceChildren(h("h1", { tabIndex: -1 }, "Sign in"), h("p", {}, text), form);
  input.focus();
  return null;
}
