/** Requests to the public API of the server that the page comes from. */

/** Who calls, as the server sees it. */
export const caller = { name: null, canWrite: true, undoDays: 0 };

const KEPT = "token"; // in sessionStorage, which ends with the tab
const SILENCE = 40_000; // milliseconds without a comment of the feed: it is dead

/** An error as its reader should see it; `status` is 0 where no answer came. */
export class Problem extends Error {
  constructor(status, detail, errors = [], requestId = "") {
    super(detail);
    Object.assign(this, { status, errors, requestId });
  }
}

/** Keep the token for as long as the tab is open; without one, forget it. */
export function setToken(token) {
  if (token) sessionStorage.setItem(KEPT, token);
  else sessionStorage.removeItem(KEPT);
}

/** Return whether requests are sent with a token. */
export function hasToken() {
  return sessionStorage.getItem(KEPT) !== null;
}

/** Return whether the server wants a token, as its description says. */
export async function wantsToken() {
  const description = await (await send("GET", "openapi.json")).json();
  return description.paths["/api/v1/caller"].get.security.every((way) => "bearer" in way);
}

/**
 * Return the response to a request. Problem, AbortError.
 *
 * `keys` is a Map that makes a POST safe to send again: it holds an Idempotency-Key for
 * each body that was sent from one form.
 */
export async function send(method, path, { body, headers = {}, keys, signal } = {}) {
  const all = { Accept: "application/json", ...headers };
  if (hasToken()) all.Authorization = `Bearer ${sessionStorage.getItem(KEPT)}`;
  const isFile = body instanceof ArrayBuffer;
  if (body) all["Content-Type"] = isFile ? "application/octet-stream" : "application/json";
  const content = body && !isFile ? JSON.stringify(body) : body;
  if (keys && !keys.has(content)) keys.set(content, newKey());
  if (keys) all["Idempotency-Key"] = keys.get(content);
  let response;
  try {
    response = await fetch(path, { method, headers: all, body: content, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const doubt = " Whether it was saved is not known; to try again is safe.";
    const isWrite = method !== "GET" && method !== "HEAD";
    throw new Problem(0, `The server does not answer.${isWrite ? doubt : ""}`);
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response) {
  const body = await response.json().catch(() => ({}));
  const detail = body.detail ?? `The answer is ${response.status}.`;
  const id = body.request_id ?? response.headers.get("X-Request-Id") ?? "";
  return new Problem(response.status, detail, body.errors, id);
}

// crypto.randomUUID is missing where the page comes by HTTP from another machine.
function newKey() {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}

/** Return the answer to a request, its body's fields, and what its headers tell. */
export async function call(method, path, options) {
  const response = await send(method, path, options);
  const { headers } = response;
  const body = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The answer broke off.");
  });
  const told = { change: headers.get("Change"), tag: headers.get("ETag") };
  const total = Number(headers.get("Total-Count"));
  return { ...body, ...told, total, next: headers.has("Link") };
}

/** Return a path with a query of the values that are not empty. */
export function withQuery(path, values) {
  const given = Object.entries(values).filter(([, value]) => value);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** Return the number of rows of a list. */
export async function countRows(path, values, signal) {
  const headers = { Prefer: "count=exact" };
  const query = withQuery(path, { ...values, limit: 1 });
  return (await call("GET", query, { headers, signal })).total;
}

/** Save a file of the API, also where that wants a token, which no link can send. */
export async function download(path) {
  const response = await send("GET", path, { headers: { Accept: "*/*" } });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = path.match(/[^/?]+(?=\?|$)/)[0];
  link.click();
  setTimeout(URL.revokeObjectURL, 60_000, link.href);
}

/** Return where the feed ends now. */
export async function endOfFeed() {
  const list = await send("HEAD", "api/v1/customers?limit=1");
  return list.headers.get("Feed-Cursor");
}

/**
 * Follow the feed for ever: give each piece of rows to `take`, null where some may have
 * been missed, and tell `connected` whether the server answers. Problem 401.
 *
 * Not by EventSource, which cannot send a token. A hidden tab lets its connection go: a
 * browser has but six to a server.
 */
export async function follow(start, take, connected) {
  let cursor = start;
  for (;;) {
    await visible();
    const controller = new AbortController();
    let isOpen = false;
    const leave = () => document.hidden && controller.abort();
    document.addEventListener("visibilitychange", leave);
    try {
      if (cursor === null) {
        cursor = await endOfFeed();
        take(null);
      }
      const headers = { Accept: "text/event-stream" };
      const { signal } = controller;
      const path = `api/v1/changes?after=${cursor}`;
      const { body } = await send("GET", path, { headers, signal });
      isOpen = true;
      connected(true);
      for await (const rows of events(body, controller)) {
        cursor = rows.at(-1).cursor;
        queueMicrotask(() => take(rows)); // its faults are none of the connection
      }
    } catch (error) {
      if (error.status === 401) throw error;
      if (error.status === 410) cursor = null; // the history no longer reaches back
      // The server cuts who reads too slowly, and goes on when asked again.
      if (!isOpen && !document.hidden) connected(false);
    } finally {
      document.removeEventListener("visibilitychange", leave);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function visible() {
  while (document.hidden) {
    await new Promise((resolve) => {
      document.addEventListener("visibilitychange", resolve, { once: true });
    });
  }
}

/** Yield the rows of each piece of a stream of events (WHATWG HTML, 9.2.6). */
async function* events(body, controller) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const timer = setTimeout(() => controller.abort(), SILENCE);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer));
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    const rows = parts.flatMap((part) => part.match(/(?<=^data: ).*$/gm) ?? []);
    if (rows.length) yield rows.map((row) => JSON.parse(row));
  }
}
