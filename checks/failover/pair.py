"""A primary, its standby, and the faults that befall them."""

import asyncio
import signal
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import aiohttp

from checks.support.postgres_cluster import Cluster
from checks.support.report import Figures
from checks.support.server_process import Server
from checks.support.write_log import (
    CHANCE,
    Answer,
    Client,
    Entry,
    Json,
    Outcome,
    WriteLog,
)

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


class PersistentClient(Client):
    """A client that repeats an addition under its key until it is acknowledged."""

    def __init__(
        self, session: aiohttp.ClientSession, servers: list[Server], log: WriteLog
    ) -> None:
        super().__init__(session, servers[0].url, log, keys=True)
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
        entry = self.log.new_entry(customer)
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


async def until_acknowledged(log: WriteLog, since: float, within: float) -> None:
    """Return once a write that began later was acknowledged, or after some seconds."""
    while time.monotonic() < since + within:
        if any(
            sent.began > since and sent.status in (200, 201) for sent in log.sent[-200:]
        ):
            return
        await asyncio.sleep(0.01)


class Load:
    """Clients that write and watchers that read, until told to stop."""

    def __init__(
        self, session: aiohttp.ClientSession, servers: list[Server], seconds: float
    ) -> None:
        self.seconds = seconds
        self.log = WriteLog()
        self.stop = asyncio.Event()
        self.clients = [
            PersistentClient(session, servers, self.log) for _ in range(CLIENTS)
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
        await until_acknowledged(self.log, since, LOST_SECONDS)

    async def finish(self) -> None:
        """Let everybody come to an end."""
        self.stop.set()
        await asyncio.gather(*self.runs)
        self.seen = sum(await asyncio.gather(*self.watchers), self.seen)
