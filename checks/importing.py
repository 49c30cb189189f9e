"""Import files beside other clients, kill the server over that, and copy by files.

    python -m checks.importing [--rows 50000] [--kills 5]

On SQLite and on PostgreSQL: files of so many purchases are imported while four clients
add others, and are undone; how long those wait is held against a bound, and what is
left against what was there. With all of that in the database one client asks for
reports, and others must not notice. The server is killed during imports: all of the
file or nothing is there, and a retry adds it once. Databases with texts that are hard
to write down are exported and imported into empty ones, which export the same bytes.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from checks.deleting import ADDERS, Adders
from checks.support.beside_report import sum_of_report, try_report
from checks.support.import_database import (
    Engine,
    by_id,
    by_pair,
    count,
    customers_file,
    engines,
    imported,
    look,
    read,
    upload,
)
from checks.support.import_kills import KillTrial
from checks.support.import_round_trip import try_round_trips
from checks.support.report import print_table
from checks.support.server_process import Reply, Server, call

BOUND, FACTOR = 1.0, 300.0
"""The most seconds that an add may take beside an import; on a slow machine, so many
times what it takes alone."""
UNDO_TIMES = 2.0
"""How many times longer it may take beside an undo."""
CUSTOMERS, PAIRS, ROUNDS = 1000, 5000, 3
ALONE_SECONDS, STALLED_SECONDS = 0.5, 30.0
"""How long adds are measured without an import, and after what time they have ended."""


@dataclass
class Trial:
    """What was seen of imports into one database."""

    server: Server
    adders: Adders
    wrong: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    waited: dict[str, list[float]] = field(default_factory=dict)
    changes: list[tuple[str, int]] = field(default_factory=list)
    """The changes of the imports, and how many rows each has."""
    alone: float = 0.0
    """The median of an add without an import."""

    def wait_for_adds(self, more: int) -> None:
        """Wait until so many more adds were answered. RuntimeError."""
        wanted, end = len(self.adders.took) + more, time.monotonic() + STALLED_SECONDS
        while len(self.adders.took) < wanted:
            if time.monotonic() > end:
                raise RuntimeError("the adds of others are no longer answered")
            time.sleep(0.005)

    def time(self, what: str, send: Callable[[], Reply]) -> Reply:
        """Send a write, and keep how long it took and how long others waited."""
        mark, began = len(self.adders.took), time.monotonic()
        reply = send()
        self.seconds.setdefault(what, []).append(time.monotonic() - began)
        self.wait_for_adds(2 * ADDERS)  # those that were waiting are among them
        waited = max(self.adders.took[mark:])
        self.waited.setdefault(what, []).append(waited)
        times = UNDO_TIMES if what == "undo" else 1.0
        if waited > times * max(BOUND, FACTOR * self.alone):
            self.wrong.append(f"{what}: an add of others took {waited:.2f} s")
        return reply

    def run(self, rows: int) -> None:
        """Import all files; their customers have the first ids."""
        time.sleep(ALONE_SECONDS)
        self.alone = median(self.adders.took)
        pairs = min(PAIRS, rows)
        persons = customers_file([f"person {number}" for number in range(rows)])
        files = {
            "by id": (by_id(1, CUSTOMERS, rows), 0, rows),
            "by name and address": (by_pair("pair", pairs, rows), pairs, rows),
            "customers alone": (persons, rows, 0),
        }
        for what, (content, new, purchases) in files.items():
            for customers in (new, 0, 0)[: ROUNDS if purchases else 1]:
                reply = self.time(what, partial(upload, self.server, content))
                if imported(reply) != (customers, purchases):
                    shown = f"{reply.status} {reply.body[:300]!r}"
                    self.wrong.append(f"{what}: {shown}")
                    continue
                added = customers + purchases
                self.changes.append((reply.headers["Change"], added))

    def undo(self) -> None:
        """Undo the imports, the last one first."""
        while self.changes:
            change, rows = self.changes.pop()
            path = f"/api/v1/changes/{change}/undo"
            reply = self.time("undo", partial(call, self.server, "POST", path))
            found: Any = reply.json()
            if reply.status != 201 or found["data"]["rows"] != rows:
                shown = f"{reply.status} {reply.body[:300]!r}"
                self.wrong.append(f"undo of {rows} rows: {shown}")


def digest(server: Server, besides: int) -> tuple[int, int, str]:
    """Return the numbers of rows, and a checksum of all but what one bought."""
    customers = read(server, "/api/v1/customers.csv").body.splitlines(keepends=True)
    purchases = read(server, "/api/v1/purchases.csv").body.splitlines(keepends=True)
    end = f",{besides}\r\n".encode()
    kept = [line for line in purchases if not line.endswith(end)]
    checksum = hashlib.sha256(b"".join(customers + kept)).hexdigest()
    return len(customers), len(kept), checksum


def check_counts(trial: Trial, customer: int, rows: int) -> None:
    """Hold the exact counts against what was sent, and against lists and reports."""
    server, adds = trial.server, len(trial.adders.took)
    total = CUSTOMERS + adds + 2 * ROUNDS * rows
    of_one = read(server, "/api/v1/purchases.jsonl?customer_id=7").body.count(b"\n")
    customers = read(server, "/api/v1/customers.jsonl").body.count(b"\n")
    for what, found, expected in (
        ("customers", count(server, "customers"), customers),
        ("purchases", count(server, "purchases"), total),
        ("purchases of one", count(server, "purchases", "&customer_id=7"), of_one),
        ("added", count(server, "purchases", f"&customer_id={customer}"), adds),
        ("purchases in the report", sum_of_report(server), total),
    ):
        if found != expected:
            trial.wrong.append(f"{what}: {found:,} counted, not {expected:,}")


Figures = dict[str, object]


def try_imports(engine: Engine, rows: int) -> tuple[Figures, list[str]]:
    """Return the figures of imports, reports and undos, and what was wrong."""
    with engine.serving() as server:
        names = [f"customer {number}" for number in range(CUSTOMERS + 1)]
        upload(server, customers_file(names))
        upload(server, by_id(1, CUSTOMERS, CUSTOMERS))
        others = CUSTOMERS + 1
        before = digest(server, others)
        with Adders(server, others) as adders:
            trial = Trial(server, adders)
            trial.run(rows)
            figures, faults = try_report(server, adders)
        check_counts(trial, others, rows)
        earlier = adders.took
        with Adders(server, others) as trial.adders:
            trial.undo()
        trial.wrong += faults
        if (after := digest(server, others)) != before:
            trial.wrong.append(f"after the undos: {after}, not {before}")
        if refused := adders.refused + trial.adders.refused:
            trial.wrong.append(f"{refused} adds of others were refused")
        added = len(earlier) + len(trial.adders.took)
        if (found := look(server)) != (CUSTOMERS + 1, CUSTOMERS + added, found.cursor):
            trial.wrong.append(f"after the undos: {found}")
    return figures_of(trial) | figures, trial.wrong


def figures_of(trial: Trial) -> Figures:
    """Return the lines of a table on the imports and the undos."""
    figures: Figures = {"an add alone, median, ms": f"{1000 * trial.alone:.1f}"}
    for what, seconds in trial.seconds.items():
        each = ", ".join(f"{one:.2f}" for one in seconds)
        waited = f"{1000 * max(trial.waited[what]):.0f}"
        figures[f"{what}: each, s"] = each
        figures[f"{what}: median, in adds alone"] = round(median(seconds) / trial.alone)
        figures[f"{what}: adds of others at most, ms"] = waited
    return figures


def try_crashes(engine: Engine, rows: int, kills: int) -> tuple[Figures, list[str]]:
    """Return the figures of the kills, and what was wrong."""
    trial = KillTrial(engine, max(rows // 4, 1))  # each is read from the feed, twice
    trial.run(kills)
    found = trial.found
    figures: Figures = {
        "kills during an import, and after its answer": f"{kills}, 2",
        "an import that is not killed, s": f"{trial.seconds:.2f}",
        "answered before the kill": found["answered"],
        "found whole, and not at all": f"{found['whole']}, {found['nothing']}",
    }
    return figures, trial.wrong


def main() -> int:
    """Run the check; 1 on a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    wrong: list[str] = []
    columns: list[Figures] = []
    with engines() as both:
        for engine in both:
            figures, faults = try_imports(engine, options.rows)
            more, others = try_crashes(engine, options.rows, options.kills)
            columns.append(figures | more)
            wrong += [f"{engine.name}: {fault}" for fault in (*faults, *others)]
        copies, faults = try_round_trips(both)
        wrong += faults
        headings = (f"{options.rows:,} purchases", *(engine.name for engine in both))
    names = {name: None for figures in columns for name in figures}
    print_table(
        headings, [(name, *(c.get(name, "") for c in columns)) for name in names]
    )
    print()
    print_table(("exported and imported", "exported again"), copies)
    for fault in wrong:
        print(f"\nfault: {fault}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
