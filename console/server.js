/** The state of the server: what runs, where the data is, what waits. */

import { call, caller, send } from "./api.js";
import { count, h, number, time } from "./dom.js";

const AGAIN = 2000; // milliseconds

/** Show the screen, and keep it fresh. */
export async function show(main, _, signal) {
  const list = h("dl", { className: "state" });
  main.append(h("h1", { tabIndex: -1 }, "Server"), list);
  await refresh();
  const timer = setInterval(() => document.hidden || refresh().catch(() => {}), AGAIN);
  signal.addEventListener("abort", () => clearInterval(timer));

  async function refresh() {
    const [info, ready, text] = await Promise.all([
      send("GET", "./", { signal }).then((response) => response.json()),
      call("GET", "readyz", { signal }).catch((error) => error),
      send("GET", "metrics", { headers: { Accept: "*/*" }, signal }).then((response) =>
        response.text(),
      ),
    ]);
    const rows = describe(info, ready, read(text));
    list.replaceChildren(
      ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    );
  }
}

function describe(info, ready, metrics) {
  const sum = (name) => (metrics.get(name) ?? []).reduce((total, value) => total + value, 0);
  const backup = sum("database_last_backup_timestamp_seconds");
  const access = caller.canWrite ? "may read and write" : "may only read";
  return [
    ["Server", `${info.name} ${info.version}`],
    ["Database", ready.database ?? ready.message],
    ["Size", `${number(Math.ceil(sum("database_size_bytes") / 1024))} KiB`],
    ["Waiting for the database", count(sum("database_units_waiting"), "request")],
    ["Being answered", count(sum("http_server_active_requests"), "request")],
    ["Following the feed", count(sum("feed_listeners"), "client")],
    ["Last backup", backup ? time(new Date(backup * 1000).toISOString()) : "None is known of."],
    ["You", `${caller.name ?? "anybody"}, who ${access}`],
    ["For programs", h("a", { href: "docs" }, "the description of the API")],
  ];
}

/** Return the values of metrics by their names (the text format of Prometheus). */
function read(text) {
  const values = new Map();
  for (const [, name, value] of text.matchAll(/^(\w+)(?:\{.*\})? (\S+)$/gm)) {
    values.set(name, [...(values.get(name) ?? []), Number(value)]);
  }
  return values;
}
