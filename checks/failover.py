"""Kill a PostgreSQL primary under load, promote its standby, and look for what is lost.

    python checks/failover.py [--rounds 1] [--fault kill|freeze] [--seconds 4]

A primary and a synchronous standby, and two servers on both of them by one URL.
Clients write through the servers all the time, and repeat what was not acknowledged
under its Idempotency-Key. Each round the primary fails, the standby is promoted, and
a new standby takes the place of the one that failed. Then the primary is stopped for
ten seconds while there is no standby. The servers are never started again. In the end
the database is held against the clients' ledger.
"""

import argparse
import asyncio
import signal
import sqlite3
import sys
import time
import uuid
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import aiohttp
import asyncpg
from ledger import (
    CHANCE,
    Answer,
    Client,
    Entry,
    Json,
    Ledger,
    Outcome,
    audit,
    new_session,
)
from postgresql import Cluster, folders
from serving import Server, print_table, serving

CLIENTS = 16
PAUSE_SECONDS = 0.05
"""How long a client waits after a write that was not acknowledged."""
DETECT_SECONDS = 1.0
"""How long it takes until whoever watches the primary promotes the standby."""
ANSWER_SECONDS = 12.0
"""The longest that any answer may take."""
RESUME_SECONDS = {"kill": 5.0, "freeze": 15.0}
"""The longest until writes go on, once there is a primary again.

A frozen machine closes no connection: a unit of work waits ten seconds for its answer.
"""
STOPPED_SECONDS = 10.0
LOST_SECONDS = 60.0
"""After this long nobody waits any more for writes to go on."""


class Seen(NamedTuple):
    """An answer; times of the monotonic clock."""

    what: str
    began: float
    ended: float
    status: int


@dataclass
class Figures:
    """What all rounds together came to."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)

    def judge(self, what: str, expected: object, seen: object, right: bool) -> None:
        """Keep a line of the table, and a breach when it is not right."""
        self.rows.append((what, str(expected), str(seen)))
        if not right:
            self.breaches.append(f"{what}: {seen}, expected {expected}")


# Clients


class PersistentClient(Client):
    """A client that repeats an addition under its key until it is acknowledged."""

    def __init__(
        self, session: aiohttp.ClientSession, servers: list[Server], ledger: Ledger
    ) -> None:
        super().__init__(session, servers[0].url, ledger, keys=True)
        self.servers = servers
        self.repeated = 0

    async def send(
        self, method: str, path: str, body: Json, name: str | None, key: str | None
    ) -> Answer | None:
        """Send one write; None when the answer says that nobody knows its end."""
        self.url = f"{CHANCE.choice(self.servers).url}/api/v1"
        answer = await super().send(method, path, body, name, key)
        if answer is not None and answer.status == 503:
            await asyncio.sleep(PAUSE_SECONDS)
            if b"not known" in answer.body:
                return None
        return answer

    async def add(self, customer: Entry | None) -> Outcome:
        """Add a customer, or a purchase of one, through whichever server does it."""
        entry = self.ledger.new_entry(customer)
        entry.new_name()
        entry.key = str(uuid.uuid4())
        while await self.post(entry) is not Outcome.ACKNOWLEDGED:
            self.repeated += 1
        (self.customers if customer is None else self.purchases).append(entry)
        return Outcome.ACKNOWLEDGED

    async def run(self, stop: asyncio.Event, pause: float = 0.0) -> None:
        """Send writes until told to stop; seconds."""
        while not stop.is_set():
            await self.step()
            await asyncio.sleep(pause)


async def watch(
    session: aiohttp.ClientSession, server: Server, stop: asyncio.Event
) -> list[Seen]:
    """Read from a server all the time, and ask whether it is ready."""
    seen: list[Seen] = []
    while not stop.is_set():
        for path in ("/readyz", "/api/v1/customer?limit=1"):
            began = time.monotonic()
            async with session.get(server.url + path) as reply:
                await reply.read()
            seen.append(Seen(f"GET {path}", began, time.monotonic(), reply.status))
        await asyncio.sleep(PAUSE_SECONDS)
    return seen


# Faults


class Pair:
    """A primary and its synchronous standby, in a folder for both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.generation = 0
        self.primary = Cluster(self._place())
        self.primary.create()
        self.primary.start()
        self.standby: Cluster | None = None
        self.gone: list[Cluster] = []
        self.renew()
        assert self.standby is not None
        hosts = f"{self.primary.host},{self.standby.host}"
        self.url: str = self.primary.url.replace(self.primary.host, hosts)

    def _place(self) -> Path:
        self.generation += 1
        place = self.folder / str(self.generation)
        place.mkdir()
        return place

    def renew(self) -> None:
        """Start a standby where the last primary failed, and wait for all it has."""
        port = self.gone[-1].port if self.gone else 0
        name = f"standby{self.generation}"
        self.standby = self.primary.new_standby(self._place(), name, port)
        self.primary.wait_for(name)

    def fail(self, fault: str) -> None:
        """Let the primary fail."""
        self.gone.append(self.primary)
        if fault == "kill":
            self.primary.kill()
        else:
            self.primary.freeze()

    def promote(self) -> None:
        """Make the standby the primary."""
        assert self.standby is not None
        self.standby.promote()
        self.primary, self.standby = self.standby, None

    def bury(self) -> None:
        """End the one that failed, as who promotes another must (fencing)."""
        self.gone[-1].kill()

    def end(self) -> None:
        """Kill what runs."""
        for server in (*self.gone, self.primary, self.standby):
            if server is not None:
                server.kill()


async def fail_over(pair: Pair, fault: str, load: "Load", figures: Figures) -> None:
    """Let the primary fail and the standby take over, under load."""
    await asyncio.sleep(CHANCE.uniform(0.5, 1.0) * load.seconds)
    failed = time.monotonic()
    await asyncio.to_thread(pair.fail, fault)
    await asyncio.sleep(DETECT_SECONDS)
    await asyncio.to_thread(pair.promote)
    promoted = time.monotonic()
    await load.until_acknowledged(promoted)
    resumed = time.monotonic()
    figures.judge(
        f"{fault}: writes again after the promotion",
        f"≤ {RESUME_SECONDS[fault]:.0f} s",
        f"{resumed - promoted:.2f} s ({resumed - failed:.2f} s after the fault)",
        resumed - promoted <= RESUME_SECONDS[fault],
    )
    await asyncio.to_thread(pair.bury)
    await asyncio.sleep(load.seconds / 2)


async def stop_for_a_while(pair: Pair, load: "Load", figures: Figures) -> None:
    """Stop the only database server, and start it again."""
    await asyncio.to_thread(pair.primary.stop, signal.SIGINT)
    stopped = time.monotonic()
    await asyncio.sleep(STOPPED_SECONDS)
    started = time.monotonic()
    await asyncio.to_thread(pair.primary.start)
    ready = time.monotonic()
    await load.until_acknowledged(ready)
    resumed = time.monotonic()
    load.outage = (stopped, started)
    await asyncio.sleep(load.seconds / 2)
    figures.judge(
        f"stopped {STOPPED_SECONDS:.0f} s: writes again after the start",
        f"≤ {RESUME_SECONDS['kill']:.0f} s",
        f"{resumed - ready:.2f} s",
        resumed - ready <= RESUME_SECONDS["kill"],
    )


# The load


class Load:
    """Clients that write and watchers that read, until told to stop."""

    def __init__(
        self, session: aiohttp.ClientSession, servers: list[Server], seconds: float
    ) -> None:
        self.seconds = seconds
        self.ledger = Ledger()
        self.stop = asyncio.Event()
        self.clients = [
            PersistentClient(session, servers, self.ledger) for _ in range(CLIENTS)
        ]
        self.runs = [
            asyncio.create_task(client.run(self.stop)) for client in self.clients
        ]
        self.watchers = [
            asyncio.create_task(watch(session, server, self.stop)) for server in servers
        ]
        self.seen: list[Seen] = []
        self.outage = (0.0, 0.0)

    async def until_acknowledged(self, since: float) -> None:
        """Return once a write that began after a time was acknowledged."""
        end = since + LOST_SECONDS
        while time.monotonic() < end:
            if any(
                sent.began > since and sent.status in (200, 201)
                for sent in self.ledger.sent[-200:]
            ):
                return
            await asyncio.sleep(0.01)

    async def finish(self) -> None:
        """Let everybody come to an end."""
        self.stop.set()
        await asyncio.gather(*self.runs)
        self.seen = sum(await asyncio.gather(*self.watchers), self.seen)


# The end


def judge_answers(load: Load, figures: Figures) -> None:
    """Look at what was answered, and when."""
    stopped, started = load.outage
    sent = load.ledger.sent
    answers = [Seen("writes", one.began, one.ended, one.status) for one in sent]
    answers += load.seen
    during: dict[str, Counter[int]] = {}
    for answer in answers:
        if stopped < answer.began and answer.ended < started:
            during.setdefault(answer.what, Counter())[answer.status] += 1
    for what, statuses in sorted(during.items()):
        seen = ", ".join(f"{count} of {status}" for status, count in statuses.items())
        figures.judge(f"stopped: {what}", "503 alone", seen, {*statuses} == {503})
    statuses = load.ledger.statuses()
    seen = ", ".join(f"{count:,} of {status}" for status, count in statuses.items())
    known = statuses.keys() <= {200, 201, 503}
    figures.judge("all writes", "200, 201, 503", seen, known)
    longest = max(answer.ended - answer.began for answer in answers)
    right = longest <= ANSWER_SECONDS
    most = f"≤ {ANSWER_SECONDS:.0f} s"
    figures.judge("longest answer", most, f"{longest:.2f} s", right)


async def export(url: str, file: Path) -> None:
    """Write what the database holds into a SQLite file, for the ledger's audit."""
    connection = await asyncpg.connect(url)
    try:
        customers = await connection.fetch("SELECT id, name, address FROM customer")
        purchases = await connection.fetch(
            "SELECT id, purchase_name, quantity, customer_id FROM purchases"
        )
    finally:
        await connection.close()
    with closing(sqlite3.connect(file)) as copy, copy:
        copy.execute("CREATE TABLE customer (id, name, address)")
        copy.execute(
            "CREATE TABLE purchases (id, purchase_name, quantity, customer_id)"
        )
        copy.executemany("INSERT INTO customer VALUES (?, ?, ?)", customers)
        copy.executemany("INSERT INTO purchases VALUES (?, ?, ?, ?)", purchases)


def judge_rows(load: Load, file: Path, figures: Figures) -> None:
    """Hold the rows against the ledger."""
    outcomes = load.ledger.outcomes()
    acknowledged = outcomes[Outcome.ACKNOWLEDGED]
    found = audit(load.ledger, file)
    figures.judge("writes acknowledged", "> 0", f"{acknowledged:,}", acknowledged > 0)
    repeated = sum(client.repeated for client in load.clients)
    figures.judge("additions repeated under their keys", "-", f"{repeated:,}", True)
    unknown = outcomes[Outcome.UNKNOWN]
    figures.judge("rows of updates nobody knew of", "-", found.unknown_there, True)
    figures.judge("writes without an answer", 0, unknown, unknown == 0)
    for what, rows in (
        ("acknowledged, lost", found.lost),
        ("there twice", found.twice),
        ("half or orphaned", found.half),
        ("refused or deleted, there", found.refused),
        ("of nobody", found.stray),
    ):
        figures.judge(what, 0, len(rows), not rows)
    figures.breaches += [*found.breaches(), *load.ledger.wrong]
    figures.judge("rows at the end", "-", f"{found.rows:,}", True)


def judge_servers(servers: list[Server], pids: list[int], figures: Figures) -> None:
    """See that the servers are the same processes still, and had no unknown fault."""
    same = sum(
        server.pid == pid and server.status_of("/readyz") == 200
        for server, pid in zip(servers, pids, strict=True)
    )
    right = same == len(servers)
    figures.judge("the same servers, ready", len(servers), same, right)
    faults = sum("traceback" in server.errors() for server in servers)
    figures.judge("servers with a traceback in the log", 0, faults, not faults)


async def run(folder: Path, rounds: int, fault: str, seconds: float) -> Figures:
    """Run all rounds and return the figures."""
    figures = Figures()
    pair = await asyncio.to_thread(Pair, folder)
    with ExitStack() as stack:
        stack.callback(pair.end)
        places = [folder / "one", folder / "two"]
        for place in places:
            place.mkdir()
        servers = [
            stack.enter_context(serving(place, {"DATABASE_URL": pair.url}))
            for place in places
        ]
        pids = [server.pid for server in servers]
        async with new_session() as session:
            load = Load(session, servers, seconds)
            for number in range(rounds):
                if number:
                    await asyncio.to_thread(pair.renew)
                await fail_over(pair, fault, load, figures)
            await stop_for_a_while(pair, load, figures)
            await load.finish()
        judge_answers(load, figures)
        await export(pair.primary.url, folder / "rows.sqlite3")
        judge_rows(load, folder / "rows.sqlite3", figures)
        judge_servers(servers, pids, figures)
    return figures


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--fault", choices=[*RESUME_SECONDS], default="kill")
    parser.add_argument("--seconds", type=float, default=4.0, help="load of a round")
    options = parser.parse_args()
    with folders() as folder:
        figures = asyncio.run(
            run(folder, options.rounds, options.fault, options.seconds)
        )
    print_table(("primary fails, standby promoted", "expected", "seen"), figures.rows)
    for breach in figures.breaches[:10]:
        print(f"breach: {breach}")
    return 1 if figures.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
