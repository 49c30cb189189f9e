"""The load of ordinary clients, measured in rounds."""

import asyncio
import multiprocessing
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp

from checks.slow.clients import TICK, TOGETHER_SECONDS, End, Size, attack
from checks.support.server_process import Server
from checks.support.write_log import new_session

SETTLE_SECONDS = 2.0
"""How long after the slow clients are there the measurement begins."""


LIST_ROWS = 100_000


class Sample(NamedTuple):
    """One honest request: to which server, when it began, how long it took, status."""

    server: int
    began: float
    seconds: float
    status: int


class Load:
    """Lists of ten purchases and purchases added, at a steady rate, on two servers."""

    def __init__(self, *servers: Server) -> None:
        self.urls = [f"{server.url}/api/v1/purchase" for server in servers]
        self.samples: list[Sample] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Send requests until told to stop."""
        pending: set[asyncio.Task[None]] = set()
        async with new_session() as session:
            due, turn = time.monotonic(), 0
            while not stop.is_set():
                task = asyncio.create_task(self.send(session, turn % 2, turn % 4 > 1))
                pending.add(task)
                task.add_done_callback(pending.discard)
                due, turn = due + TICK, turn + 1
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*pending)

    async def send(
        self, session: aiohttp.ClientSession, server: int, add: bool
    ) -> None:
        """Send one request and keep its time."""
        began, status = time.monotonic(), 0
        url = self.urls[server]
        item = {"purchase_name": "honest", "quantity": 1}
        with suppress(aiohttp.ClientError, TimeoutError):
            async with (
                session.post(f"{url}/3", json=item) if add else session.get(f"{url}/2")
            ) as reply:
                await reply.read()
                status = reply.status
        self.samples.append(Sample(server, began, time.monotonic() - began, status))

    def p99(self, server: int, phases: list[tuple[float, float]]) -> float:
        """Return the 99th percentile of a server's times in some phases, in ms."""
        times = sorted(
            sample.seconds
            for sample in self.samples
            if sample.server == server
            and any(begin <= sample.began < end for begin, end in phases)
        )
        return times[int(len(times) * 0.99)] * 1000


class Report:
    """The rows of the table, and the breaches."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []
        self.breaches: list[str] = []

    def row(self, what: str, promised: str, seen: str, held: bool) -> None:
        """Add a row; a breach unless the promise held."""
        self.rows.append((what, promised, seen if held else f"BREACH: {seen}"))
        if not held:
            self.breaches.append(f"{what}: {seen}, promised: {promised}")

    def descriptors(self, server: Server, before: int, most: int, files: str) -> None:
        """Wait for the descriptors of a server to be closed; add a row."""
        began = time.monotonic()
        while server.descriptors() > before and time.monotonic() - began < 10:
            time.sleep(0.1)
        after, seconds = server.descriptors(), time.monotonic() - began
        seen = f"{before} before, {most} at most, {after} {seconds:.1f} s after"
        self.row(f"{files}descriptors", "back again", seen, after <= before)

    def log(self, server: Server, files: str) -> None:
        """Look for tracebacks and for floods in what a server wrote to stderr."""
        log = server.err.read_text(errors="replace")
        lines, traces = log.count("\n"), log.count("Traceback")
        seen = f"{traces} tracebacks, {lines} lines"
        held = not traces and lines < 50
        self.row(f"{files}log", "no traceback, below 50 lines", seen, held)


class Rounds(NamedTuple):
    """What all rounds came to, and when the load was alone, joined, beside others."""

    load: Load
    alone: list[tuple[float, float]]
    coming: list[tuple[float, float]]
    together: list[tuple[float, float]]
    ends: list[End]
    most: list[int]


async def run_rounds(server: Server, control: Server, size: Size) -> Rounds:
    """Run the load, now alone, now beside slow clients."""
    found, stop = Rounds(Load(server, control), [], [], [], [], []), asyncio.Event()
    running = asyncio.create_task(found.load.run(stop))
    await asyncio.sleep(1.0)  # connections are made, caches are warm
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for _ in range(size.rounds):
            found.alone.append(await phase(size.alone))
            await one_round(server, size, pool, found)
        found.alone.append(await phase(size.alone))
    stop.set()
    await running
    return found


async def one_round(
    server: Server, size: Size, pool: ProcessPoolExecutor, found: Rounds
) -> None:
    """Let the slow clients come, and wait until each of them is gone."""
    goal = server.descriptors() + size.dribblers + size.idle + size.starving
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    attacking = loop.run_in_executor(pool, attack, server.port, size)
    while server.descriptors() < goal and time.monotonic() < began + 10:  # noqa: ASYNC110 - another process opens them
        await asyncio.sleep(0.1)
    there = time.monotonic()
    found.most.append(server.descriptors())
    found.coming.append((began, there + SETTLE_SECONDS))
    found.together.append((there + SETTLE_SECONDS, there + TOGETHER_SECONDS))
    found.ends.extend(await attacking)


async def phase(seconds: float) -> tuple[float, float]:
    """Wait some seconds; return when that began and ended."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    return began, time.monotonic()


def fill(database: Path) -> None:
    """Add three customers: one with a long list, one with ten, one with nothing."""
    with closing(sqlite3.connect(database)) as file:
        file.executescript("""
            INSERT INTO customer (id, name, address, date_created)
            VALUES (1, 'a', 'a', 't'), (2, 'b', 'b', 't'), (3, 'c', 'c', 't');
        """)
        file.execute(
            """
            WITH RECURSIVE n (i) AS
                (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1 + 10)
            INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)
            SELECT 'something bought', i, 1 + (i > ?1),
                '2022-04-09 12:43:22.237526+00:00' FROM n
            """,
            (LIST_ROWS,),
        )
        file.commit()
