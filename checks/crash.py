"""Kill the server under load, again and again, and look for what was lost.

    python -m checks.crash [--kills 5] [--clients 24] [--no-keys]

Concurrent clients write to one SQLite file, delete and undo; at a random moment the
server gets SIGKILL; it is started again and must be ready within two seconds; then the
file is held against the clients' write log. With keys, each POST whose end is unknown
is sent again under its Idempotency-Key: some at once, some under the load that ends in
the next kill. Some that were answered are sent again too: their first answers must
come. Two readers follow the feed all the while, in pages and as events; what they have
is held against the file, against the log, and against itself.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from checks.support.feed_audit import FeedAudit
from checks.support.report import print_breaches, print_table
from checks.support.server_process import Server
from checks.support.undoing_client import UndoingClient
from checks.support.write_log import (
    CHANCE,
    Audit,
    Client,
    Entry,
    Outcome,
    WriteLog,
    audit,
    new_session,
    writing,
)

READY_SECONDS = 2.0
"""How soon it must be ready again; on a slow machine, three times a clean start."""
LOAD_SECONDS = (0.02, 1.0)
"""The earliest and the latest moment of a kill, from the start of the load."""
REPLAYED = 20
"""How many answered POSTs are sent again after each kill."""
EXPECTED = {0, 200, 201, 409, 503}
"""What a write may come to here; 0 is no answer, 409 that an undo cannot be."""


@dataclass
class Figures:
    """What all rounds together came to."""

    ready: list[float] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)
    feed: FeedAudit | None = None

    def judge(self, when: str, found: Audit) -> None:
        """Keep an audit and its breaches."""
        self.audits.append(found)
        self.breaches += [f"{when}: {breach}" for breach in found.breaches()]


def start(server: Server, figures: Figures) -> None:
    """Start the server and keep how long it took to be ready; a clean start first."""
    began = time.monotonic()
    server.start(ready_within=30.0)
    figures.ready.append(time.monotonic() - began)
    if figures.ready[-1] > max(READY_SECONDS, 3 * figures.ready[0]):
        figures.breaches.append(f"ready after {figures.ready[-1]:.2f} s")


def kill_while_starting(server: Server, figures: Figures) -> None:
    """Kill the server once more before it is ready: recovery may be cut off too."""
    server.launch()
    time.sleep(CHANCE.uniform(0.0, 0.5))
    server.stop(signal.SIGKILL)
    figures.counts["killed while starting"] += 1


async def load_and_kill(
    server: Server,
    log: WriteLog,
    feed: FeedAudit,
    clients: int,
    keys: bool,
    late: list[Entry],
) -> None:
    """Let clients write, and send open POSTs again, until the server is killed."""
    async with (
        feed.following(),
        writing(server.url, log, clients, keys=keys, kind=UndoingClient) as writers,
    ):
        again = asyncio.create_task(post_again(writers[0], late))
        await asyncio.sleep(CHANCE.uniform(*LOAD_SECONDS))
        server.stop(signal.SIGKILL)
        await again


async def post_again(client: Client, entries: list[Entry]) -> None:
    """Send POSTs again until one is not answered."""
    for entry in entries:
        if await client.post(entry) is Outcome.UNKNOWN:
            return


async def retry(
    server: Server, log: WriteLog, unknown: list[Entry], figures: Figures
) -> None:
    """Send open POSTs again under their keys, and some answered ones."""
    answered = [entry for entry in log.entries if entry.first and entry.key]
    async with new_session() as session:
        client = Client(session, server.url, log, keys=True)
        for entry in unknown:
            there = entry.there()
            outcome = await client.post(entry)
            figures.counts["retried"] += 1
            figures.counts["retried, was there"] += there
            if outcome is not Outcome.ACKNOWLEDGED or entry.first is None:
                status = log.sent[-1].status
                figures.breaches.append(f"retry of {entry.names[0]}: {status}")
            elif ("Idempotency-Replayed" in entry.first.headers) != there:
                figures.breaches.append(f"{entry.names[0]} replayed: {not there}")
        for entry in CHANCE.sample(answered, min(REPLAYED, len(answered))):
            await replay(client, entry, figures)


async def replay(client: Client, entry: Entry, figures: Figures) -> None:
    """Send an answered POST again: the answer must be the first one.

    410 if its customer has been deleted.
    """
    first, may_be = entry.first, entry.may_be
    assert first is not None
    entry.first = None
    await client.post(entry)
    again, entry.first, entry.may_be = entry.first, first, may_be
    if not (entry.customer or entry).there():
        figures.counts["replayed, customer gone"] += 1
        if client.log.sent.pop().status != 410:
            figures.breaches.append(f"replay of {entry.names[0]}, whose customer went")
        return
    figures.counts["replayed"] += 1
    if again is None:
        status = client.log.sent[-1].status
        figures.breaches.append(f"replay of {entry.names[0]}: {status}")
        return
    same = (again.status, again.body) == (first.status, first.body) and all(
        again.headers.get(name) == first.headers.get(name)
        for name in ("Location", "ETag")
    )
    if not same or again.headers.get("Idempotency-Replayed") != "true":
        figures.breaches.append(f"replay of {entry.names[0]} differs: {again}")


def open_posts(log: WriteLog) -> list[Entry]:
    """Return the entries whose POST nobody knows the end of."""
    return [
        entry
        for entry in log.entries
        if entry.id == 0 and entry.may_be == {None, entry.names[0]}
    ]


async def one_round(
    server: Server,
    log: WriteLog,
    feed: FeedAudit,
    figures: Figures,
    keys: bool,
    last: bool,
) -> list[Entry]:
    """Start the server, audit, retry, audit; return what to retry under load."""
    start(server, figures)
    database, unknown = server.folder / "db.sqlite3", open_posts(log)
    figures.judge("after the kill", audit(log, database))
    await feed.judge(log, database)
    if not keys:
        return []
    later = 0 if last else len(unknown) // 2
    figures.counts["retried under load"] += later
    await retry(server, log, unknown[later:], figures)
    figures.judge("after the retries", audit(log, database))
    await feed.judge(log, database)
    return unknown[:later]


async def run(folder: Path, kills: int, clients: int, keys: bool) -> Figures:
    """Kill the server `kills` times and return the figures."""
    figures, log, server = Figures(), WriteLog(), Server(folder)
    feed = figures.feed = FeedAudit(server.url)
    late: list[Entry] = []
    start(server, figures)
    try:
        for number in range(1, kills + 1):
            await load_and_kill(server, log, feed, clients, keys, late)
            if CHANCE.random() < 0.25:
                kill_while_starting(server, figures)
            late = await one_round(server, log, feed, figures, keys, number == kills)
    finally:
        server.stop(signal.SIGKILL)
    for outcome, count in log.outcomes().items():
        figures.counts[outcome.value] = count
    figures.breaches += (
        feed.faults
        + log.wrong
        + [
            f"{count} answers of {status}"
            for status, count in log.statuses().items()
            if status not in EXPECTED
        ]
    )
    return figures


def report(figures: Figures, kills: int) -> None:
    """Print the figures and the breaches."""
    counts, audits = figures.counts, figures.audits
    rows: list[tuple[str, object]] = [
        ("kills under load", kills),
        ("more kills while starting", counts["killed while starting"]),
        ("writes acknowledged", counts["acknowledged"]),
        ("writes refused", counts["refused"]),
        ("writes of unknown end", counts["unknown"]),
        ("of them found whole", sum(found.unknown_there for found in audits)),
        ("acknowledged, lost", sum(len(found.lost) for found in audits)),
        ("there twice", sum(len(found.twice) for found in audits)),
        ("half, orphaned or damaged", sum(len(found.half) for found in audits)),
        ("refused or deleted, there", sum(len(found.refused) for found in audits)),
        ("of nobody", sum(len(found.stray) for found in audits)),
        ("unknown POSTs retried with their key", counts["retried"]),
        ("of them there before", counts["retried, was there"]),
        ("retried under the load of the next kill", counts["retried under load"]),
        ("answered POSTs replayed", counts["replayed"]),
        ("of customers who are gone, answered 410", counts["replayed, customer gone"]),
        *(figures.feed.figures() if figures.feed else ()),
        ("rows at the end", audits[-1].rows),
        ("clean start, s", f"{figures.ready[0]:.2f}"),
        ("ready again, median and slowest, s", two_of(figures.ready[1:])),
    ]
    print_table(("SIGKILL under load", "figure"), rows)


def two_of(seconds: list[float]) -> str:
    """Return the median and the most of some times."""
    return f"{sorted(seconds)[len(seconds) // 2]:.2f}, {max(seconds):.2f}"


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--keys", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(
            run(Path(folder), options.kills, options.clients, options.keys)
        )
    report(figures, options.kills)
    return print_breaches(figures.breaches)


if __name__ == "__main__":
    sys.exit(main())
