"""What Litestream costs the server beside it, and what it changes for it."""

import asyncio
import json
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from checks.replica.pair import Pair
from checks.support.server_process import call, request_bytes, serving
from checks.support.undoing_client import UndoingClient
from checks.support.write_log import CHANCE, WriteLog, writing

CLIENTS = 24
CONNECTIONS = 64
WAL_MIB = 128
"""How long the WAL may become: as README says, which is more than it does alone."""
LEAST_SHARE = 0.5
"""The least share of the adds without Litestream that there may be with it."""
EXPECTED = {200, 201, 409}
"""What a write may come to here; 409 that an undo cannot be."""
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
LISTS = ("/api/v1/customers.csv", "/api/v1/purchases.csv")


class Adder(asyncio.Protocol):
    """A connection that adds a purchase as soon as the one before it is answered.

    It does no more than that: the server, not its client, is to be measured.
    """

    def __init__(self, request: bytes, answers: list[tuple[int, float]]) -> None:
        self.request = request
        self.answers = answers
        self.seen = b""
        self.began = 0.0
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        """Send a request."""
        assert self.transport is not None
        self.seen, self.began = b"", time.monotonic()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Note an answer that is complete, and send the next request."""
        self.seen += data
        head, end, body = self.seen.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if end and length is not None and len(body) >= int(length[1]):
            self.answers.append((int(head[9:12]), time.monotonic() - self.began))
            self.send()


@dataclass
class Run:
    """One run of a load."""

    rate: float
    p99: float
    slowest: float
    statuses: Counter[int]
    wal: float
    """The most that the WAL came to, in MiB."""


@dataclass
class Beside:
    """Runs without Litestream and with it, in turns, and a long one with it."""

    without: list[Run] = field(default_factory=list)
    beside: list[Run] = field(default_factory=list)
    long: Run | None = None

    def share(self) -> float:
        """Return the median share of the adds that there are beside Litestream."""
        pairs = zip(self.beside, self.without, strict=True)
        return median(one.rate / other.rate for one, other in pairs)

    def runs(self) -> list[Run]:
        """Return the runs beside Litestream."""
        return [*self.beside, *([self.long] if self.long else [])]

    def statuses(self) -> Counter[int]:
        """Return how many writes beside Litestream had which status."""
        return sum((run.statuses for run in self.runs()), start=Counter())

    def breaches(self) -> list[str]:
        """Return what was not as promised."""
        found = [
            f"{count} answers of {status} beside Litestream"
            for status, count in self.statuses().items()
            if status not in EXPECTED
        ]
        longest = max(run.wal for run in self.runs())
        if longest > WAL_MIB:
            found.append(f"a WAL of {longest:.0f} MiB")
        if self.share() < LEAST_SHARE:
            found.append(f"beside Litestream {self.share():.2f} of the adds")
        return found


@contextmanager
def paired(beside: bool) -> Iterator[Pair]:
    """Run a server on a new database, with Litestream beside it or without."""
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder))
        try:
            pair.server.start(ready_within=30.0)
            if beside:
                pair.start_litestream()
                pair.wait_for_copy("")
            yield pair
        finally:
            pair.kill()


async def add(pair: Pair, seconds: float) -> Run:
    """Let clients add purchases for some seconds."""
    customer = {"name": "a", "address": "a"}
    made = json.loads(call(pair.server, "POST", "/api/v1/customer", customer).body)
    target = f"/api/v1/purchase/{made['data']['id']}"
    body = b'{"purchase_name": "Green tea, 100 g", "quantity": 4}'
    keep = [("Connection", "keep-alive")]
    answers: list[tuple[int, float]] = []
    request = request_bytes("POST", target, body, keep)
    loop, address = asyncio.get_running_loop(), ("127.0.0.1", pair.server.port)
    opened = [
        await loop.create_connection(lambda: Adder(request, answers), *address)
        for _ in range(CONNECTIONS)
    ]
    longest = await watch_wal(pair, seconds)
    for transport, _ in opened:
        transport.abort()
    return to_run(answers, seconds, longest)


async def write(pair: Pair, seconds: float) -> Run:
    """Let clients write all kinds of writes for some seconds."""
    log = WriteLog()
    url = pair.server.url
    async with writing(url, log, CLIENTS, keys=True, kind=UndoingClient):
        longest = await watch_wal(pair, seconds)
    answers = [(one.status, one.ended - one.began) for one in log.sent]
    return to_run(answers, seconds, longest)


async def watch_wal(pair: Pair, seconds: float) -> int:
    """Return the most that the WAL comes to within some seconds, in bytes."""
    wal = pair.database.with_name(f"{pair.database.name}-wal")
    ends, longest = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        await asyncio.sleep(0.1)
        longest = max(longest, wal.stat().st_size)
    return longest


def to_run(answers: list[tuple[int, float]], seconds: float, wal: int) -> Run:
    """Return the figures of some answers."""
    took = sorted(one for _, one in answers)
    statuses = Counter(status for status, _ in answers)
    p99 = took[len(took) * 99 // 100]
    return Run(len(took) / seconds, p99, took[-1], statuses, wal / 2**20)


async def measure(rounds: int, seconds: float, long_seconds: float) -> Beside:
    """Add without Litestream and with it, in turns; then write all kinds for long."""
    found = Beside()
    for _ in range(rounds):
        for beside in CHANCE.sample((False, True), 2):
            with paired(beside) as pair:
                run = await add(pair, seconds)
            (found.beside if beside else found.without).append(run)
    with paired(beside=True) as pair:
        found.long = await write(pair, long_seconds)
    return found


def copy_beside(pair: Pair) -> list[str]:
    """Take a copy with `backup`, serve it, and return how it differs."""
    folder = pair.data.with_name("copy")
    folder.mkdir()
    copy = folder / pair.database.name
    command = (*pair.server.command, "backup", str(copy))
    ended = subprocess.run(
        command, cwd=pair.data, env=pair.server.env, capture_output=True, text=True
    )
    if ended.returncode:
        return [f"backup: {ended.stderr}"]
    with serving(folder) as server:
        return [
            f"{path} of a copy differs"
            for path in LISTS
            if call(server, "GET", path).body != call(pair.server, "GET", path).body
        ]
