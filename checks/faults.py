"""Break what the server stands on, and look whether it tells the truth about it.

    python checks/faults.py [--long] [--fault WORD]

Every fault of disk, file, process and client that one machine can make is made to a
real server on a SQLite file. What needs root or a tool that is not here is reported
as not run. The long form waits and repeats as long as the promises say.
"""

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from ledger import (
    CHANCE,
    Client,
    Entry,
    Ledger,
    Outcome,
    Sent,
    address_of,
    audit,
    new_session,
    quantity_of,
    writing,
)
from serving import (
    Reply,
    Server,
    call,
    print_table,
    request_bytes,
    serving,
    visitor_of,
)

BUSY_SECONDS = 2.0
"""The server's busy_timeout."""
SLACK_SECONDS = 0.5
GONE_SECONDS = 1.0
"""How soon a file that was deleted or replaced must be noticed."""
STOP_SECONDS = 10.0
CUSTOMERS = "/api/v1/customer"
PURCHASES = "/api/v1/purchase"

LOCKER = """
import sqlite3, sys, time
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("BEGIN IMMEDIATE")
print(time.monotonic(), flush=True)
time.sleep(float(sys.argv[2]))
print(time.monotonic(), flush=True)
file.execute("ROLLBACK")
"""

ABANDONED = """
import os, sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.executescript("PRAGMA journal_mode = WAL; CREATE TABLE notes (text)")
file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
file.execute("INSERT INTO notes VALUES ('only in the WAL')")
os._exit(0)
"""


class NotRunError(Exception):
    """This machine cannot make the fault; the text says why."""


class Size(NamedTuple):
    """How long and how often."""

    lock_seconds: float
    leavers: int
    cancelled: int
    clients: int
    purchases: int
    cut_backups: int
    visitors: int


SHORT = Size(5.0, 60, 300, 500, 20_000, 4, 60)
LONG = Size(30.0, 1000, 3000, 2000, 200_000, 40, 400)


@dataclass
class Finding:
    """What one fault led to."""

    figures: str = ""
    breaches: list[str] = field(default_factory=list)

    def expect(self, held: bool, breach: str) -> None:
        """Note a breach unless the promise held."""
        if not held:
            self.breaches.append(breach)

    def audit(self, ledger: Ledger, folder: Path) -> int:
        """Note what the database of a folder has against a ledger; return its rows."""
        found = audit(ledger, folder / "db.sqlite3")
        self.breaches += found.breaches() + ledger.wrong
        return found.rows


Fault = Callable[[Path, Size], Finding]


def on_server(fault: Callable[[Server, Size], Coroutine[Any, Any, Finding]]) -> Fault:
    """Return a fault that is made to a running server as one of its folder."""

    def make(folder: Path, size: Size) -> Finding:
        with serving(folder) as server:
            return asyncio.run(fault(server, size))

    return make


def rows_of(reply: Reply) -> int:
    """Return how many rows a list has, -1 when it is not a whole list."""
    body = reply.json() if reply.whole and reply.status == 200 else None
    data = body.get("data") if isinstance(body, dict) else None
    return len(data) if isinstance(data, list) else -1


def text_of(statuses: Iterable[int]) -> str:
    """Return statuses and how often each came; 0 is no answer."""
    counts = sorted(Counter(statuses).items())
    return ", ".join(f"{count} x {status}" for status, count in counts) or "none"


def statuses_of(sent: Iterable[Sent]) -> list[int]:
    """Return the statuses of some writes."""
    return [write.status for write in sent]


@cache
def new_database() -> bytes:
    """Return the file that a server made and closed."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        server.stop()
        return (server.folder / "db.sqlite3").read_bytes()


def fill(database: Path, purchases: int) -> Ledger:
    """Make a database of ours of customers with 1,000 purchases each."""
    database.write_bytes(new_database())
    ledger, at = Ledger(), "2022-04-09 12:43:22.237526+00:00"
    with closing(sqlite3.connect(database)) as file:
        for number in range(1, purchases // 1000 + 1):
            customer = ledger.new_entry(None)
            entries = [ledger.new_entry(customer) for _ in range(1000)]
            for entry in (customer, *entries):
                entry.may_be = {entry.new_name()}
            customer.id, name = number, customer.names[0]
            file.execute(
                "INSERT INTO customer (id, name, address, date_created)"
                " VALUES (?, ?, ?, ?)",
                (number, name, address_of(name), at),
            )
            file.executemany(
                "INSERT INTO purchases"
                " (purchase_name, quantity, customer_id, date_created)"
                " VALUES (?, ?, ?, ?)",
                [
                    (entry.names[0], quantity_of(entry.names[0]), number, at)
                    for entry in entries
                ],
            )
        file.commit()
    return ledger


@asynccontextmanager
async def locked(database: Path, seconds: float) -> AsyncIterator[list[float]]:
    """Let another process hold the database from before the block on; wait for it.

    The list gets the times between which it certainly held it.
    """
    lock = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOCKER, str(database), str(seconds),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert lock.stdout is not None
    times = [float(await lock.stdout.readline())]
    yield times
    times.append(float(await lock.stdout.readline()))
    await lock.wait()


# The disk


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a file system of 1 MiB. NotRunError without the right to."""
    if os.geteuid() != 0:
        raise NotRunError("mounting a tmpfs needs root")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        raise NotRunError(mounted.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disk_full(folder: Path, size: Size) -> Finding:
    """Fill a 1 MiB tmpfs: writes 507, reads 200, well again when there is space."""
    disk = folder / "small"
    url = {"DATABASE_URL": f"sqlite:///{disk / 'db.sqlite3'}"}
    with small_disk(disk):
        (disk / "filler").write_bytes(b"x" * 400_000)
        with serving(folder, url) as server:
            return asyncio.run(fill_disk(server, disk))


async def fill_disk(server: Server, disk: Path) -> Finding:
    """Write until the disk is full, go on, make space, write again."""
    ledger, result = Ledger(), Finding()
    async with writing(server.url, ledger, 8, pause=0.002) as clients:
        async with asyncio.timeout(20):
            while ledger.statuses()[507] < 200:  # noqa: ASYNC110 - the clients count
                await asyncio.sleep(0.05)
        customer = clients[0].customers[0].id
        lists = [f"{CUSTOMERS}/{customer}", f"{PURCHASES}/{customer}"] * 10
        reads = [await asyncio.to_thread(server.status_of, path) for path in lists]
        full = len(ledger.sent)
        (disk / "filler").unlink()
        freed = time.monotonic()
        await asyncio.sleep(1)
    again = first_acknowledged(ledger.sent, freed)
    rows = result.audit(ledger, disk)
    result.figures = (
        f"writes {text_of(statuses_of(ledger.sent[:full]))}; reads {text_of(reads)};"
        f" writing again {again:.2f} s after there was space; {rows} rows"
    )
    result.expect(ledger.statuses().keys() <= {200, 201, 507}, "another answer")
    result.expect(set(reads) == {200}, "a read was not 200")
    result.expect(again < 1, "no write within 1 s after there was space")
    return result


def first_acknowledged(sent: Iterable[Sent], since: float) -> float:
    """Return the seconds until the first write that was acknowledged, or infinity."""
    ends = [write.ended for write in sent if write.status in (200, 201)]
    return min((end - since for end in ends if end > since), default=float("inf"))


# The file


async def database_locked(server: Server, size: Size) -> Finding:
    """Hold the database from another process: 503 in time, reads go on, recovery."""
    ledger, result, stop = Ledger(), Finding(), asyncio.Event()
    reads: list[tuple[int, float]] = []
    async with writing(server.url, ledger, 16, pause=0.01) as clients:
        url = f"{server.url}{CUSTOMERS}/{clients[0].customers[0].id}"
        async with locked(server.folder / "db.sqlite3", size.lock_seconds) as times:
            readers = [
                asyncio.create_task(read(clients[0], url, reads, stop))
                for _ in range(4)
            ]
        await asyncio.sleep(1)
        stop.set()
        await asyncio.gather(*readers)
    result.audit(ledger, server.folder)
    judge_lock(result, ledger.sent, reads, times)
    return result


def judge_lock(
    result: Finding,
    sent: list[Sent],
    reads: list[tuple[int, float]],
    times: list[float],
) -> None:
    """Hold the writes and the reads during and after a lock against the promise."""
    began, ended = times
    during = [write for write in sent if write.began > began and write.ended < ended]
    slowest = max((write.ended - write.began for write in during), default=0.0)
    again = first_acknowledged(sent, ended)
    slow_read = max(wait for _, wait in reads)
    result.figures = (
        f"{ended - began:.0f} s: writes {text_of(statuses_of(during))}, slowest"
        f" {slowest:.2f} s; {len(reads)} reads, slowest {slow_read * 1000:.0f} ms;"
        f" writing again after {again:.2f} s"
    )
    in_time = slowest <= BUSY_SECONDS + SLACK_SECONDS
    result.expect(set(statuses_of(during)) == {503}, "a write was not 503")
    result.expect(in_time, f"a 503 took {slowest:.2f} s, not {BUSY_SECONDS} s")
    result.expect({status for status, _ in reads} == {200}, "a read was not 200")
    result.expect(slow_read < 1.0, f"a read took {slow_read:.2f} s")
    result.expect(again < 1, "no write within 1 s after the lock was gone")


async def read(
    client: Client, url: str, reads: list[tuple[int, float]], stop: asyncio.Event
) -> None:
    """Read until told to stop, and note statuses and seconds."""
    while not stop.is_set():
        began = time.monotonic()
        async with client.session.get(url) as reply:
            await reply.read()
            reads.append((reply.status, time.monotonic() - began))
        await asyncio.sleep(0.02)


def delete(server: Server) -> None:
    """Delete the database of a server."""
    (server.folder / "db.sqlite3").unlink()


def replace(server: Server) -> None:
    """Put another good database in the place of a server's own."""
    other = server.folder / "other"
    fill(other, 1000)
    other.replace(server.folder / "db.sqlite3")


async def looked_at(server: Server, size: Size) -> Finding:
    """Write while others look into the file, then kill the server.

    Were it to lose its locks, the first to leave would take the WAL with it.
    """
    ledger, result = Ledger(), Finding()
    command = visitor_of(server.folder / "db.sqlite3")
    async with writing(server.url, ledger, 24):
        for _ in range(size.visitors):
            visitor = await asyncio.create_subprocess_exec(*command)
            failed = await visitor.wait()
            result.expect(not failed, "a visitor could not read the file")
    await asyncio.to_thread(server.stop, signal.SIGKILL)
    statuses = statuses_of(ledger.sent)
    refused = set(statuses) - {200, 201}
    result.expect(not refused, f"writes answered {refused}")
    rows = result.audit(ledger, server.folder)
    result.figures = f"{size.visitors} visitors; {text_of(statuses)}; {rows} rows"
    return result


async def file_gone(
    server: Server, size: Size, take: Callable[[Server], None]
) -> Finding:
    """Write before, while and after the file is taken away."""
    ledger, result = Ledger(), Finding()
    new_database()  # made now, it takes no time later
    async with writing(server.url, ledger, 8, pause=0.005):
        await asyncio.sleep(0.5)
        await asyncio.to_thread(take, server)
        gone, before = time.monotonic(), snapshot(server.folder).get("db.sqlite3")
        await asyncio.sleep(GONE_SECONDS)
        ready = await asyncio.to_thread(call, server, "GET", "/readyz")
        await asyncio.sleep(1.0)
    changed = snapshot(server.folder).get("db.sqlite3") != before
    result.expect(not changed, "the file in its place was written to")
    judge_gone(result, ledger.sent, gone, ready)
    return result


def judge_gone(result: Finding, sent: list[Sent], gone: float, ready: Reply) -> None:
    """Hold the writes after the file was taken away against the promise."""
    later = [write for write in sent if write.began > gone]
    late = {write.status for write in later if write.began > gone + GONE_SECONDS}
    first = min(
        (write.ended - gone for write in later if write.status == 503), default=99.0
    )
    result.figures = (
        f"{len(sent) - len(later)} writes before, after it"
        f" {text_of(statuses_of(later))}, the first 503 after {first * 1000:.0f} ms;"
        f" readyz {ready.status}: {detail_of(ready)}"
    )
    false = {200, 201} & set(statuses_of(later))
    result.expect(not false, "a write sent after it got 2xx")
    result.expect(late == {503}, f"a second later: {late}")
    result.expect(ready.status == 503, f"readyz {ready.status}")


def detail_of(reply: Reply) -> str:
    """Return what a problem says."""
    body = reply.json()
    return str(body.get("detail")) if isinstance(body, dict) else repr(reply.body[:99])


# Files that must be refused

Maker = Callable[[Path], object]


def foreign(script: str) -> Maker:
    """Return what makes a database by a script of SQL."""

    def make(database: Path) -> None:
        with closing(sqlite3.connect(database)) as file:
            file.executescript(script)

    return make


def ours(change: Callable[[bytes], bytes] = bytes, script: str = "") -> Maker:
    """Return what makes a database of ours, changes it by SQL and then its bytes."""

    def make(database: Path) -> None:
        fill(database, 1000)
        foreign(script)(database)
        database.write_bytes(change(database.read_bytes()))

    return make


def read_only(folder_mode: int) -> Maker:
    """Return what makes a database that may not be written. NotRunError."""

    def make(database: Path) -> None:
        if os.geteuid() == 0 and not shutil.which("setpriv"):
            raise NotRunError("root ignores file modes, and there is no setpriv")
        fill(database, 1000)
        database.chmod(0o400)
        database.parent.chmod(folder_mode)

    return make


def abandoned(database: Path) -> None:
    """Make another program's database whose last rows are only in its WAL."""
    command = [sys.executable, "-c", ABANDONED, str(database)]
    subprocess.run(command, check=True)


TABLES = "CREATE TABLE customer (id INTEGER PRIMARY KEY, name, address, date_created);"
READ_ONLY: dict[str, Maker] = {
    "a read-only file": read_only(0o700),
    "a read-only file in a read-only folder": read_only(0o500),
}
NOT_OURS: dict[str, Maker] = {
    "garbage": lambda file: file.write_bytes(secrets.token_bytes(65536)),
    "zero bytes": lambda file: file.write_bytes(b""),
    "one byte": lambda file: file.write_bytes(b"S"),
    "a text": lambda file: file.write_text("name,address\n" * 1000),
    "a header and garbage": lambda file: file.write_bytes(
        b"SQLite format 3\0" + secrets.token_bytes(8176)
    ),
    "another program's": foreign("CREATE TABLE notes (text);"),
    "another program's, in WAL mode": foreign(
        "PRAGMA journal_mode = WAL; CREATE TABLE notes (text);"
    ),
    "another program's, its last rows in its WAL": abandoned,
    "another program's, by its application_id": foreign(
        "PRAGMA application_id = 7; CREATE TABLE customer (id);"
    ),
    "tables of our names with other columns": foreign(
        TABLES + "CREATE TABLE purchases (id INTEGER PRIMARY KEY, price);"
    ),
    "one of the two tables": foreign(TABLES),
    "an empty database": foreign("CREATE TABLE a (b); DROP TABLE a; VACUUM;"),
    "a newer version": ours(script="PRAGMA user_version = 999;"),
    "ours, the second half cut off": ours(
        lambda file: file[: len(file) // 8192 * 4096]
    ),
    "ours, the schema overwritten": ours(
        lambda file: file[:100] + secrets.token_bytes(3996) + file[4096:]
    ),
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
}


def refused(folder: Path, size: Size, makers: dict[str, Maker]) -> Finding:
    """Start on each file that must be refused and left as it is."""
    new_database()
    with ThreadPoolExecutor(4) as pool:
        faults = pool.map(
            partial(refusal_faults, folder), makers.keys(), makers.values()
        )
        breaches = [breach for found in faults for breach in found]
    return Finding(f"{len(makers)} files, each refused in a line, untouched", breaches)


def refusal_faults(folder: Path, name: str, make: Maker) -> list[str]:
    """Return what a start lacks of a refusal: a status, one line, the file as it was.

    The index of a WAL (-shm) that was there may change: every reader makes it anew.
    """
    data = folder / name
    data.mkdir()
    make(data / "db.sqlite3")
    before = snapshot(data)
    try:
        status, error = bound_server(folder, data / "db.sqlite3").refused(within=10)
    except subprocess.TimeoutExpired:
        return [f"{name}: it started"]
    finally:
        data.chmod(0o700)
    after = snapshot(data)
    changed = {
        file
        for file in before | after
        if before.get(file) != after.get(file)
        and not (file.endswith("-shm") and file in before)
    }
    result = Finding()
    result.expect(status > 0, f"{name}: exit status {status}")
    one_line = len(error.strip().splitlines()) == 1 and "Traceback" not in error
    result.expect(one_line, f"{name}: not one line: {error!r}")
    result.expect(not changed, f"{name}: changed {changed}")
    return result.breaches


def bound_server(folder: Path, database: Path) -> Server:
    """Return a server that file modes bind also when root starts it."""
    server = Server(folder, {"DATABASE_URL": f"sqlite:///{database}"})
    if os.geteuid() == 0 and shutil.which("setpriv"):
        bound = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
        server.command = [*bound, *server.command]
    return server


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with its content."""
    return {
        file.name: file.read_bytes() if file.is_file() else b"no file"
        for file in folder.iterdir()
    }


# A damaged page


def damaged(folder: Path, size: Size, running: bool) -> Finding:
    """Damage a page that no connection has read yet, before or after the start."""
    database = folder / "db.sqlite3"
    ledger = fill(database, 20_000)
    server = Server(folder)
    try:
        if running:
            server.start()
        damage(database, ledger.entries[10_500].names[0])
        if not running:
            server.start()
        return read_damaged(server)
    finally:
        server.stop(signal.SIGKILL)


def damage(database: Path, name: str) -> None:
    """Overwrite the page that a row is on."""
    page = database.read_bytes().index(name.encode()) // 4096 * 4096
    with database.open("r+b") as file:
        file.seek(page)
        file.write(b"\xa5" * 4096)


def read_damaged(server: Server) -> Finding:
    """Read what is on the damaged page and what is not."""
    lists = [call(server, "GET", f"{PURCHASES}/{number}") for number in range(1, 21)]
    everything = call(server, "GET", CUSTOMERS)
    ready = call(server, "GET", "/readyz")
    whole = sum(rows_of(reply) == 1000 for reply in lists)
    told = sum(reply.status in (500, 503) for reply in lists)
    cut = sum(reply.status == 200 and not reply.whole for reply in lists)
    result = Finding(
        f"of 20 lists {whole} whole, {told} refused, {cut} broken off; the list of all"
        f" {everything.status}, whole: {everything.whole}; readyz {ready.status}:"
        f" {detail_of(ready)}"
    )
    result.expect(whole + told + cut == 20, "another answer to a list")
    result.expect(told + cut > 0, "no read touched the damaged page")
    result.expect(whole >= 17, f"only {whole} of 20 lists could be read")
    result.expect(rows_of(everything) == -1, "the list of all seems whole")
    result.expect(ready.status == 503, f"readyz {ready.status}: {ready.body!r}")
    return result


# Clients that leave, and very many of them


async def clients_leave(server: Server, size: Size) -> Finding:
    """Leave in the middle of the body, or after it."""
    ledger, result = Ledger(), Finding()
    for number in range(size.leavers):
        entry = ledger.new_entry(None)
        name = entry.new_name()
        body = f'{{"name": "{name}", "address": "{address_of(name)}"}}'.encode()
        request = request_bytes("POST", CUSTOMERS, body)
        if number % 2:
            request = request[: -len(body) // 2]
        else:
            ledger.note(entry, name, Outcome.UNKNOWN)
        await asyncio.to_thread(leave, server.port, request, number % 4 > 1)
    await asyncio.sleep(0.5)
    rows, half = result.audit(ledger, server.folder), size.leavers // 2
    result.figures = f"{half} left in the body, {half} after it: {rows} rows, all whole"
    return result


def leave(port: int, request: bytes, reset: bool) -> None:
    """Send bytes and be gone, with FIN or with RST."""
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(request)
        if reset:
            linger = struct.pack("ii", 1, 0)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def requests_cancelled(server: Server, size: Size) -> Finding:
    """Reset writes and lists, 32 at once, before or after the answer."""
    ledger, result, gate = Ledger(), Finding(), asyncio.Semaphore(32)
    async with new_session() as session:
        client = Client(session, server.url, ledger, False)
        await client.add(None)
        for _ in range(50):
            await client.add(client.customers[0])

        async def one() -> None:
            async with gate:
                await abort(server.port, some_request(ledger, client))

        await asyncio.gather(*(one() for _ in range(size.cancelled)))
    await asyncio.sleep(0.5)
    result.breaches += open_transactions(server.folder / "db.sqlite3")
    rows = result.audit(ledger, server.folder)
    result.figures = f"{size.cancelled} cancelled: {rows} rows, none half, none locked"
    return result


def some_request(ledger: Ledger, client: Client) -> bytes:
    """Return a write of unknown end, noted, or a list."""
    kind, customer = CHANCE.random(), client.customers[0]
    path = f"{PURCHASES}/{customer.id}"
    if kind < 0.1:
        return request_bytes("GET", path)
    row = CHANCE.choice(client.purchases)
    if kind < 0.2:
        ledger.note(row, None, Outcome.UNKNOWN)
        return request_bytes("DELETE", path, b'{"purchase_ids": [%d]}' % row.id)
    entry = row if kind < 0.5 else ledger.new_entry(customer)
    name = entry.new_name()
    ledger.note(entry, name, Outcome.UNKNOWN)
    body = f'{{"purchase_name": "{name}", "quantity": {quantity_of(name)}}}'.encode()
    if entry is row:
        return request_bytes("PATCH", f"{PURCHASES}/{row.id}", body)
    return request_bytes("POST", path, body)


async def abort(port: int, request: bytes) -> None:
    """Send a request and reset the connection a moment later."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await asyncio.sleep(CHANCE.uniform(0.0, 0.02))
    writer.transport.abort()


def open_transactions(database: Path) -> list[str]:
    """Return what keeps another process from writing and from a full checkpoint."""
    with closing(sqlite3.connect(database, timeout=1, isolation_level=None)) as file:
        try:
            file.execute("BEGIN IMMEDIATE")
            file.execute("ROLLBACK")
        except sqlite3.OperationalError as exc:
            return [f"a transaction stayed open: {exc}"]
        busy = file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    return ["a reading transaction stayed open"] if busy else []


async def many_clients(server: Server, size: Size) -> Finding:
    """Let each of many clients add a customer and two purchases, all at once."""
    ledger, result = Ledger(), Finding()

    async def one(client: Client) -> None:
        await client.add(None)
        for customer in client.customers * 2:
            await client.add(customer)

    async with new_session(60.0) as session:
        clients = [
            Client(session, server.url, ledger, False) for _ in range(size.clients)
        ]
        began = time.monotonic()
        await asyncio.gather(*map(one, clients))
        seconds = time.monotonic() - began
    rows, statuses = result.audit(ledger, server.folder), ledger.statuses()
    result.figures = (
        f"{size.clients} at once, {seconds:.1f} s:"
        f" {text_of(statuses.elements())}; {rows} rows"
    )
    result.expect(statuses.keys() <= {201, 503}, "another answer than 2xx and 503")
    result.expect(rows == statuses[201], "acknowledged and stored differ")
    return result


# Backup


def backup_under_load(folder: Path, size: Size) -> Finding:
    """Copy the database of a server under load, cut some copies off, restore one."""
    early = fill(folder / "db.sqlite3", size.purchases)
    with serving(folder) as server:
        return asyncio.run(copy_under_load(server, early, size.cut_backups))


async def copy_under_load(server: Server, early: Ledger, cuts: int) -> Finding:
    """Write for a while, then copy while other clients write."""
    late, result = Ledger(), Finding()
    async with writing(server.url, early, 8):
        await asyncio.sleep(1.0)
    async with writing(server.url, late, 8, pause=0.005):
        copies = [await copy(server, f"copy{number}") for number in range(3)]
        cut = [
            await copy(server, f"cut{number}", CHANCE.uniform(0.1, 1.0))
            for number in range(cuts)
        ]
    for entry in late.entries:  # it may have come before, between or after
        entry.may_be |= {None, *entry.names}
    for file in copies:
        mode = file.stat().st_mode & 0o777 if file.exists() else 0
        result.expect(mode == 0o600, f"{file.name} has mode {mode:o}; 0 is no file")
    made, whole = ([file for file in some if file.exists()] for some in (copies, cut))
    for file in (*made, *whole):
        result.breaches += copy_faults(file, early, late)
    rows = restore(made[0], server.folder / "restored", result) if made else 0
    result.figures = (
        f"{len(made)} copies beside {len(late.sent)} writes; {cuts} more killed:"
        f" {len(whole)} whole, {cuts - len(whole)} absent; one of {rows} rows restored"
    )
    return result


async def copy(server: Server, name: str, kill_after: float = 60.0) -> Path:
    """Make a backup, killed after some seconds; return the file it was to make."""
    destination = server.folder / name
    process = await asyncio.create_subprocess_exec(
        *server.command, "backup", str(destination), env=server.env, cwd=server.folder
    )
    try:
        await asyncio.wait_for(process.wait(), kill_after)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return destination


def copy_faults(file: Path, early: Ledger, late: Ledger) -> list[str]:
    """Hold a copy against the writes from before it, and let those beside it be."""
    both = Ledger([
        Entry(entry.customer, entry.names, set(entry.may_be), entry.id)
        for entry in (*early.entries, *late.entries)
    ])  # fmt: skip
    try:
        return [f"{file.name}: {breach}" for breach in audit(both, file).breaches()]
    except sqlite3.Error as exc:
        return [f"{file.name}: {exc}"]


def restore(backup: Path, folder: Path, result: Finding) -> int:
    """Start a server on a copy of a backup; return how many purchases it has."""
    folder.mkdir()
    shutil.copy(backup, folder / "db.sqlite3")
    with serving(folder) as server:
        rows = rows_of(call(server, "GET", CUSTOMERS))
        added = call(server, "POST", CUSTOMERS, {"name": "a", "address": "b"})
    result.expect(rows > 0, "the restored server has no whole list")
    result.expect(added.status == 201, f"the restored server answers {added.status}")
    return rows


# Stopping


async def terminate(server: Server, size: Size, lock_seconds: float) -> Finding:
    """Stop a server that has writers, a dribbling client and an idle one."""
    ledger, result = Ledger(), Finding()
    async with writing(server.url, ledger, 32):
        dribbler = asyncio.create_task(dribble(server.port))
        _, idle = await asyncio.open_connection("127.0.0.1", server.port)
        async with locked(server.folder / "db.sqlite3", lock_seconds):
            await asyncio.sleep(0.3)
            asked = time.monotonic()
            stopping = asyncio.create_task(asyncio.to_thread(server.stop, within=20.0))
            await asyncio.sleep(0.5)
            result.expect(not stopping.done(), "it left the dribbler at once")
            result.expect(await is_refused(server.port), "it takes new connections")
            status = await stopping
            seconds = time.monotonic() - asked
        await dribbler
        idle.close()
    rows = result.audit(ledger, server.folder)
    judge_stop(result, ledger.sent, asked, seconds)
    result.figures = (
        f"exit {status} after {seconds:.2f} s; {result.figures}; {rows} rows"
    )
    result.expect(status == 0, f"exit {status}")
    return result


def judge_stop(result: Finding, sent: list[Sent], asked: float, seconds: float) -> None:
    """Hold the requests that were in flight when the server was to stop."""
    flight = [write for write in sent if write.began < asked < write.ended]
    # What was sent in the very moment of the signal may find the connection closing.
    dropped = sum(not write.status and asked - write.began > 0.05 for write in flight)
    result.figures = f"{len(flight)} in flight: {text_of(statuses_of(flight))}"
    result.expect(seconds <= STOP_SECONDS, f"{seconds:.1f} s to stop")
    result.expect(not dropped, f"{dropped} requests in flight were not answered")


async def is_refused(port: int) -> bool:
    """Return whether nobody takes a new connection."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def dribble(port: int) -> None:
    """Send one byte of a body every half second until the server has enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = [("Content-Length", "1000"), ("Content-Type", "application/json")]
    writer.write(request_bytes("POST", CUSTOMERS, headers=headers))
    with suppress(OSError):
        while not reader.at_eof():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.5)
    writer.close()


def log_unread(folder: Path, size: Size) -> Finding:
    """Answer on, and stop in time, when nobody reads the log from stdout."""
    server = Server(folder)
    os.mkfifo(server.out)
    reader = os.open(server.out, os.O_RDONLY | os.O_NONBLOCK)
    try:
        server.start()
        answers = text_of(server.status_of("/livez") for _ in range(1000))
        asked, status = time.monotonic(), -1
        with suppress(subprocess.TimeoutExpired):
            status = server.stop()
    finally:
        server.stop(signal.SIGKILL)
        os.close(reader)
    seconds = time.monotonic() - asked
    result = Finding(f"{answers}; exit {status} after {seconds:.2f} s")
    result.expect(answers == "1000 x 200", f"answers {answers}")
    in_time = status == 0 and seconds <= STOP_SECONDS
    result.expect(in_time, f"exit {status} after {seconds:.1f} s")
    return result


# All of them

FAULTS: dict[str, Fault] = {
    "SIGTERM under load": on_server(partial(terminate, lock_seconds=0.0)),
    "SIGTERM while every write waits": on_server(partial(terminate, lock_seconds=1.5)),
    "SIGTERM, nobody reads stdout": log_unread,
    "disk full (a 1 MiB tmpfs)": disk_full,
    "database locked by another process": on_server(database_locked),
    "database looked at by another program": on_server(looked_at),
    "database file deleted": on_server(partial(file_gone, take=delete)),
    "database file replaced": on_server(partial(file_gone, take=replace)),
    "database read-only": partial(refused, makers=READ_ONLY),
    "garbage, zero bytes, foreign or newer": partial(refused, makers=NOT_OURS),
    "a page damaged while running": partial(damaged, running=True),
    "a page damaged before the start": partial(damaged, running=False),
    "clients leave in and after the body": on_server(clients_leave),
    "requests cancelled at random moments": on_server(requests_cancelled),
    "very many clients at once": on_server(many_clients),
    "backup during load, restored": backup_under_load,
}


def try_fault(name: str, size: Size) -> tuple[Sequence[object], list[str]]:
    """Make one fault in a folder of its own; return its row and its breaches."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = FAULTS[name](Path(folder), size)
        except NotRunError as exc:
            return (name, f"not run: {exc}", "-", "-"), []
        except (aiohttp.ClientError, OSError, RuntimeError, sqlite3.Error) as exc:
            result = Finding("", [f"{type(exc).__name__}: {exc}"])
        for log in Path(folder).glob("server.err"):
            _, traceback, text = log.read_text(errors="replace").partition("Traceback")
            result.expect(not traceback, f"a traceback in the log: {text[:2000]}")
    took, held = f"{time.monotonic() - began:.0f} s", not result.breaches
    row = (name, result.figures, took, "held" if held else "BREACH")
    return row, [f"{name}: {breach}" for breach in result.breaches]


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="as long as promised")
    parser.add_argument("--fault", default="", help="only faults with this in the name")
    options = parser.parse_args()
    size, at_once = (LONG, 1) if options.long else (SHORT, 3)
    names = [name for name in FAULTS if options.fault in name]
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(partial(try_fault, size=size), names))
    headings = ("fault", "what happened", "took", "promise")
    print_table(headings, [row for row, _ in found])
    breaches = [breach for _, some in found for breach in some]
    for breach in breaches:
        print(f"\nbreach: {breach}")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
