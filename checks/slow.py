"""Keep the server waiting in every way, and look how others fare meanwhile.

    python checks/slow.py [--long]

Clients that send a byte a second, that send nothing, and that never read what they
ask for come from a second process, round by round. Each must be cut at the promised
time, and a reader that is slow but reads must get all of its list. An honest load
runs all the time, its requests going in turns to this server and to a second one that
no slow client comes to, so that what else the machine does is felt by both. Then many
idle clients come to a server that may open few files.
"""

import argparse
import asyncio
import multiprocessing
import select
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import aiohttp
from ledger import new_session
from serving import PROJECT, Server, call, print_table, read_reply

SLACK_SECONDS = 5.0
"""How much later than promised a cut may be: the server looks once a second."""
RATIO = 2.0
TICK = 0.005
"""Seconds between two honest requests; none waits for another's answer."""
SETTLE_SECONDS = 2.0
"""How long after the slow clients are there the measurement begins."""
TOGETHER_SECONDS = 15.0
"""How long after their coming the first of them are cut for silence."""
IDLE_SECONDS = 75.0
MEMORY_BASE, MEMORY_EACH = 16.0, 1 / 32
"""How many MiB slow clients may add to the resident memory: all of them, and each."""
LIST_ROWS = 100_000
SLOW_BYTES = 30_000
"""What the slow reader reads in a tenth of a second."""
FILES = 256


class Kind(NamedTuple):
    """A way to be slow: what is sent at once, then a byte a second; and the promise.

    A 408 comes at its time and the cut soon after; without one, the cut is at its time.
    """

    name: str
    start: bytes
    drip: bytes
    status: int
    seconds: float


class End(NamedTuple):
    """How a slow client fared: the first status, the seconds to it and to the cut."""

    name: str
    status: int
    answered: float
    cut: float


class Size(NamedTuple):
    """How many slow clients of each sort, how often, and how long to look."""

    dribblers: int
    starving: int
    idle: int
    rounds: int
    alone: float
    patience: float


SHORT = Size(40, 5, 200, 1, 4.0, 20.0)
LONG = Size(200, 20, 2000, 3, 12.0, IDLE_SECONDS + 2 * SLACK_SECONDS)

HEAD = (
    b"POST /api/v1/customer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
)
GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
LARGE_LIST = b"GET /api/v1/purchase/1 HTTP/1.1\r\nHost: a\r\n"
SIZED, CHUNKED = b"Content-Length: 999\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
DRIBBLERS = (
    Kind("a head", HEAD + b"X-A: ", b"a", 0, 15.0),
    Kind("a second head", GET + b"\r\n" + HEAD + b"X-A: ", b"a", 200, 15.0),
    Kind("a body", HEAD + SIZED, b" ", 408, 10.0),
    Kind("a chunked body", HEAD + CHUNKED, b"1\r\n \r\n", 408, 10.0),
    Kind("a body that nobody reads", GET + SIZED, b" ", 200, 2.0),
)
SILENT = Kind("nothing at all", b"", b"", 0, 15.0)
IDLE = Kind("nothing after a request", GET + b"\r\n", b"", 200, IDLE_SECONDS)
STARVING = Kind("requests for a large list, reading nothing", b"", b"", 0, 15.0)
READING = "a request for a large list, reading slowly"


# Slow clients, in a process of their own


def attack(port: int, size: Size) -> list[End]:
    """Let all slow clients come at once; return how each fared."""
    return asyncio.run(attack_together(port, size))


async def attack_together(port: int, size: Size) -> list[End]:
    """Run all slow clients on one loop."""
    kinds = [DRIBBLERS[n % len(DRIBBLERS)] for n in range(size.dribblers)]
    kinds += [(SILENT, IDLE)[n % 2] for n in range(size.idle)]
    return await asyncio.gather(
        *(dribble(port, kind, size.patience) for kind in kinds),
        *(starve(port, size.patience) for _ in range(size.starving)),
        read_slowly(port),
    )


async def dribble(port: int, kind: Kind, patience: float) -> End:
    """Send as a kind does until the connection ends, or patience does; seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began, drip, answered, status = time.monotonic(), cycle(kind.drip), 0.0, 0
    writer.write(kind.start)
    with suppress(OSError):
        while time.monotonic() - began < patience:
            try:
                piece = await asyncio.wait_for(reader.read(65536), 1.0)
            except TimeoutError:
                if kind.drip:
                    writer.write(bytes([next(drip)]))
                continue
            if not piece:
                break
            if not status:
                answered, status = time.monotonic() - began, int(piece[9:12])
    seconds = time.monotonic() - began
    writer.close()
    return End(kind.name, status, answered, seconds)


async def starve(port: int, patience: float) -> End:
    """Ask for a large list again and again and read nothing; seconds."""
    with closing(await narrow(port)) as peer, suppress(OSError):
        began = time.monotonic()
        hung_up = select.poll()
        hung_up.register(peer, select.POLLERR | select.POLLHUP)
        while time.monotonic() - began < patience and not hung_up.poll(0):
            with suppress(BlockingIOError):  # the server reads no more either
                peer.send((LARGE_LIST + b"\r\n") * 10)
            await asyncio.sleep(0.5)
    return End(STARVING.name, 0, 0.0, time.monotonic() - began)


async def narrow(port: int) -> socket.socket:
    """Return a connection whose receive buffer is small."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", port))
    return peer


async def read_slowly(port: int) -> End:
    """Read a list slowly past the time that stuck clients get, then the rest of it."""
    reader, writer = await asyncio.open_connection(sock=await narrow(port), limit=65536)
    writer.write(LARGE_LIST + b"Connection: close\r\n\r\n")
    began, end = time.monotonic(), b""
    with suppress(OSError):
        while piece := await reader.read(SLOW_BYTES):
            end = (end + piece)[-10:]
            if time.monotonic() - began < STARVING.seconds + SLACK_SECONDS:
                await asyncio.sleep(0.1)
    writer.close()
    status = 200 if end.endswith(b"]}\r\n0\r\n\r\n") else 0
    return End(READING, status, 0.0, time.monotonic() - began)


# The honest load


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


# What is found


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


def judge_load(report: Report, found: Rounds) -> None:
    """Compare the load's times beside the slow clients with those without them.

    Without them it is what it was before and after, or what it is at the same time on
    the other server, where the machine was slower then.
    """
    names = ("alone", "while slow clients come", "beside them")
    phases = (found.alone, found.coming, found.together)
    here, there = ([found.load.p99(n, part) for part in phases] for n in (0, 1))
    for name, ours, other in zip(names, here, there, strict=True):
        seen = f"{ours:.1f} ms; on the other server {other:.1f} ms"
        report.row(f"p99 of other clients, {name}", "", seen, True)
    ratio = here[2] / max(here[0], there[2])
    what = "p99 of other clients, with and without them"
    report.row(what, f"ratio at most {RATIO:.0f}", f"{ratio:.2f}", ratio <= RATIO)
    statuses = Counter(sample.status for sample in found.load.samples)
    seen = ", ".join(f"{count} x {status}" for status, count in statuses.items())
    held = statuses.keys() <= {200, 201, 503}
    report.row("answers to other clients", "2xx or 503", seen, held)


def judge_kind(report: Report, kind: Kind, ends: list[End], patience: float) -> None:
    """Hold the ends of the slow clients of a kind against the promise."""
    statuses = {end.status for end in ends}
    first, last = span(end.cut for end in ends)
    promised = f"status {kind.status or 'none'}, at {kind.seconds:.0f} s"
    held = statuses == {kind.status} and last < kind.seconds + SLACK_SECONDS
    seen = f"status {statuses}, cut after {first:.1f} to {last:.1f} s"
    if kind.status == 408:
        first, last = span(end.answered for end in ends)
        seen += f", answered after {first:.1f} to {last:.1f} s"
    held = held and first > kind.seconds - 0.5
    if kind.seconds > patience:
        promised = f"kept for {kind.seconds:.0f} s"
        held, seen = first >= patience, f"open after {first:.0f} s"
    what = f"{len(ends)} x {kind.name}" + (", a byte a second" if kind.drip else "")
    report.row(what, promised, seen, held)


def span(seconds: Iterable[float]) -> tuple[float, float]:
    """Return the least and the most of some times."""
    times = sorted(seconds)
    return times[0], times[-1]


def ends_of(found: Rounds, name: str) -> list[End]:
    """Return how the slow clients of a name fared."""
    return [end for end in found.ends if end.name == name]


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


def start_filled(server: Server) -> Server:
    """Start a server on a database that has rows."""
    server.folder.mkdir()
    server.start().stop()
    fill(server.folder / "db.sqlite3")
    return server.start()


def slow_clients(folder: Path, size: Size, report: Report) -> None:
    """Run the rounds on a server with a long list, and judge them."""
    server, control = Server(folder / "server"), Server(folder / "control")
    try:
        start_filled(control)
        files, memory = start_filled(server).descriptors(), server.memory()
        server.reset_peak()
        found = asyncio.run(run_rounds(server, control, size))
        grown = server.memory("VmHWM") - memory
        judge_load(report, found)
        for kind in (*DRIBBLERS, SILENT, IDLE, STARVING):
            judge_kind(report, kind, ends_of(found, kind.name), size.patience)
        slow = ends_of(found, READING)
        seen = ", ".join(f"{end.status or 'cut'} {end.cut:.0f} s" for end in slow)
        held = all(end.status == 200 for end in slow)
        report.row(f"{len(slow)} x {READING}", "all of the list", seen, held)
        seen = f"{memory:.0f} MiB before, {grown:.0f} more at most"
        most = MEMORY_BASE + MEMORY_EACH * max(found.most)
        report.row("memory", f"at most {most:.0f} MiB more", seen, grown <= most)
        report.descriptors(server, files, max(found.most), "")
        report.log(server, "")
    finally:
        server.stop(signal.SIGKILL)
        control.stop(signal.SIGKILL)


# Few file descriptors


def few_files(folder: Path, report: Report) -> None:
    """Let many idle clients come to a server that may open few files."""
    limited = ("sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh")
    server = Server(folder, {}, (*limited, sys.executable, str(PROJECT / "server.py")))
    name = f"{FILES} files: "
    try:
        server.start()
        call(server, "POST", "/api/v1/customer", {"name": "a", "address": "a"})
        files = server.descriptors()
        most = asyncio.run(crowd(server, report, name))
        report.descriptors(server, files, most, name)
        status = call(server, "GET", "/api/v1/purchase/1").status
        report.row(f"{name}the next request", "200", str(status), status == 200)
        report.log(server, name)
    finally:
        server.stop(signal.SIGKILL)


async def crowd(server: Server, report: Report, name: str) -> int:
    """Hold more connections than there are files; one that was there first writes."""
    path = f"{server.url}/api/v1/purchase/1"
    item = {"purchase_name": "honest", "quantity": 1}
    statuses: Counter[int] = Counter()
    async with new_session() as session:
        async with session.post(path, json=item) as reply:
            statuses[reply.status] += 1
        peers = [
            socket.create_connection(("127.0.0.1", server.port), 5)
            for _ in range(2 * FILES)
        ]
        await asyncio.sleep(1.0)
        files = server.descriptors()
        for _ in range(50):
            async with session.post(path, json=item) as reply:
                statuses[reply.status] += 1
    seen = ", ".join(f"{count} x {status}" for status, count in statuses.items())
    held = statuses.keys() == {201}
    report.row(f"{name}a client that was there first", "201", seen, held)
    judge_crowd(peers, report, name)
    report.row(f"{name}open at once", f"below {FILES}", f"{files}", files < FILES)
    return files


def judge_crowd(peers: list[socket.socket], report: Report, name: str) -> None:
    """See which of the idle clients are held and what the others were told."""
    told = [peer for peer in peers if select.select([peer], [], [], 0)[0]]
    answers = [read_reply(peer) for peer in told]
    faults = {fault for answer in answers for fault in answer.problem_faults()}
    statuses = Counter(answer.status for answer in answers)
    seen = f"{len(peers) - len(told)} held, statuses of the others {dict(statuses)}"
    held = statuses.keys() == {503} and not faults
    report.row(f"{name}{len(peers)} idle clients", "held, or 503", seen, held)
    report.breaches += faults
    for peer in peers:
        peer.close()


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="as many as promised")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        slow_clients(Path(folder), LONG if options.long else SHORT, report)
    with tempfile.TemporaryDirectory() as folder:
        few_files(Path(folder), report)
    print_table(("slow clients", "promised", "seen"), report.rows)
    for breach in report.breaches:
        print(f"\nbreach: {breach}")
    return 1 if report.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
