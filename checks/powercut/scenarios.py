"""What is done to a server and its folder before the power is cut."""

import asyncio
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from checks.powercut.changed_server import change
from checks.powercut.judge import Judge, Verdict
from checks.powercut.ledger import write_files
from checks.powercut.recording import Kind
from checks.powercut.session import Session, import_file, load, until_stored
from checks.support.server_process import Reply, Server, exchange, request_bytes
from checks.support.write_log import CHANCE
from storage import schema
from storage.sqlite_connection import driver
from storage.sqlite_migration import run_scripts

VISITOR = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("BEGIN")
file.execute("SELECT count(*) FROM customer").fetchall()
print("holds it", flush=True)
sys.stdin.read()
"""
"""A program that reads one state of a database, until its stdin ends."""
CUSTOMERS = "/api/v1/customer"
CHECKED_SECONDS = 0.3
"""After which an eager server has checked its database."""
VERSION_1_0 = 2
"""The `user_version` of databases of 1.0.0."""


class Size(NamedTuple):
    """How much is recorded, and how many disks are tried."""

    clients: int
    steps: int
    cuts: int
    plans: int

    @property
    def few(self) -> int:
        """The steps of a client where the load is not what is looked at."""
        return max(2, self.steps // 4)


Scenario = Callable[[Session, Size], None]


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server for the length of a block, and stop it in order."""
    try:
        yield server.start()
        server.stop()
    finally:
        server.stop(signal.SIGKILL)


def under_load(session: Session, size: Size) -> None:
    """Create, write, back up twice to one name, SIGKILL under load, restart, stop."""
    session.begin()
    copy = session.root / "copy1.sqlite3"
    server = session.server()
    try:
        server.start()
        asyncio.run(load(server, size.clients, size.steps))
        session.run("backup", str(copy))
        session.mark(copy.name)
        asyncio.run(_load_and(session, server, size, copy))
    finally:
        server.stop(signal.SIGKILL)
    with running(server):
        asyncio.run(load(server, size.clients, size.steps // 3))


async def _load_and(session: Session, server: Server, size: Size, copy: Path) -> None:
    """Write while the copy is replaced; then SIGKILL while somebody writes."""
    command = "backup", str(copy), "--replace"
    await asyncio.gather(
        load(server, size.clients, size.steps // 2),
        asyncio.to_thread(session.run, *command),
    )
    writing = asyncio.create_task(load(server, size.clients, 1000))
    await asyncio.sleep(0.2)
    server.stop(signal.SIGKILL)
    await writing


def restored(session: Session, size: Size, by_backup: bool) -> None:
    """Put a copy in the place of the database, as `cp` does; one write; a cut."""
    with running(session.server()) as server:
        asyncio.run(load(server, size.clients, size.steps))
    kept = session.root / "kept.sqlite3"
    if by_backup:
        session.run("backup", str(kept))
        session.database.unlink()
    else:  # a file in WAL mode, of which a start need not change a byte
        session.database.rename(kept)
    session.begin()
    session.copy(kept, session.database)
    session.mark()
    session.after_answer = True  # a cut before is the operator's to see
    server = session.server().start()
    asyncio.run(load(server, 2, size.steps))
    server.stop(signal.SIGKILL)


def replayed(session: Session, size: Size, workers: int) -> None:
    """Kill between the write of the WAL and its fsync, and send the POST again.

    Its rows are in the cache of the system alone. A program that has opened the file
    meanwhile, or another worker, keeps them from being checkpointed at the next start.
    """
    session.begin()
    session.changes[:2] = ["never"]
    server = session.server({"WORKERS": str(workers)}).start()
    try:
        asyncio.run(load(server, size.clients, size.few))
        headers = [("Idempotency-Key", str(uuid.uuid4()))]
        post = partial(_post, server, headers)
        session.faults.make([Kind.SYNC], "-wal", error=0, count=1, kill=True)
        post()
        if workers > 1:
            session.faults.clear()
            _kill_workers(server)
            post_again(post)
        else:
            server.stop(signal.SIGKILL)
            with visiting(session):
                server.start()
                post_again(post)
    finally:
        server.stop(signal.SIGKILL)


def _post(server: Server, headers: list[tuple[str, str]]) -> Reply:
    body = b'{"name": "John", "address": "Delft"}'
    request = request_bytes("POST", CUSTOMERS, body, headers)
    try:
        return exchange(server.port, request, "POST")
    except OSError:
        return Reply(0)


def post_again(post: Callable[[], Reply]) -> None:
    """Send a POST until it is answered. RuntimeError where it was done anew."""
    if "Idempotency-Replayed" not in until_stored(post).headers:
        raise RuntimeError("the commit before its fsync was not found again")


@contextmanager
def visiting(session: Session) -> Iterator[None]:
    """Let another program have the database open for the length of a block."""
    command = [sys.executable, "-c", VISITOR, str(session.database)]
    pipe = subprocess.PIPE
    env = {**os.environ, **session.env}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env) as visitor:
        assert visitor.stdout is not None
        visitor.stdout.readline()
        try:
            yield
        finally:
            visitor.kill()


def _kill_workers(server: Server) -> None:
    """Kill all workers that are left, and not their supervisor."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    for child in children.split():
        with suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)


def without_links(session: Session, size: Size) -> None:
    """Create and back up where there are no hard links; SIGKILL in between too."""
    session.begin()
    session.faults.make([Kind.LINK], "", error=errno.EPERM)
    for name in ("", "copy1.sqlite3"):
        session.faults.make([Kind.RENAME], "", count=1, error=0, kill=True, slot=1)
        command = ["backup", str(session.root / name)] if name else []
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            if name:
                session.run(*command)
            else:
                session.server().start()
        if session.faults.spoiled(1) != 1:
            raise RuntimeError("it was not killed")
        if name:
            session.run(*command)
            session.mark(name)
        else:
            with running(session.server()) as server:
                asyncio.run(load(server, size.clients, size.few))


def two_workers(session: Session, size: Size) -> None:
    """Write through two processes on one file."""
    session.begin()
    with running(session.server({"WORKERS": "2"})) as server:
        asyncio.run(load(server, size.clients, size.steps))


def _import(server: Server) -> None:
    """Add rows on pages that little of the rest will touch. RuntimeError."""
    kind = [("Content-Type", "text/csv")]
    request = request_bytes("POST", "/api/v1/imports", import_file(200), kind)
    until_stored(lambda: exchange(server.port, request, "POST"))


def failed_fsync(session: Session, size: Size) -> None:
    """Let an fsync of the database fail after a checkpoint; the next one succeeds.

    What the first was to bring to the disk may be lost, and no later one tells. A
    program that reads an old state keeps the checkpoint from being a whole one.
    """
    session.begin()
    session.changes[:2] = ["small", "eager"]
    write = partial(load, clients=size.clients, steps=size.few)
    with running(session.server()) as server:
        for _ in range(3):
            asyncio.run(write(server))
            time.sleep(CHECKED_SECONDS)
            _import(server)
            with visiting(session):
                session.faults.make([Kind.SYNC], session.database.name, count=1)
                asyncio.run(write(server))
                time.sleep(CHECKED_SECONDS)
            asyncio.run(write(server))


def adopted(session: Session, size: Size) -> None:
    """Take over the database of the described server."""
    with closing(sqlite3.connect(session.database)) as file:
        file.executescript("""
            CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, address TEXT,
                date_created TEXT);
            CREATE TABLE purchases (id INTEGER PRIMARY KEY, purchase_name TEXT,
                quantity INTEGER, customer_id TEXT, date_created TEXT,
                last_updated TEXT);""")
        _fill(file, size)
    _write_on(session, size)


def migrated(session: Session, size: Size) -> None:
    """Migrate a database of 1.0.0."""
    with closing(driver.connect(session.database, isolation_level=None)) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("BEGIN")
        run_scripts(file, schema.MIGRATIONS[:VERSION_1_0])
        file.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        file.execute(f"PRAGMA user_version = {VERSION_1_0}")
        file.execute("COMMIT")
        file.execute("BEGIN")
        _fill(file, size)
    _write_on(session, size)


def _fill(file: sqlite3.Connection, size: Size) -> None:
    at = "2022-04-09 12:43:22.237526+00:00"
    for number in range(1, 4):
        row = number, f"customer {number}", "Delft", at
        file.execute(
            "INSERT INTO customer (id, name, address, date_created)"
            " VALUES (?, ?, ?, ?)",
            row,
        )
        rows = [(f"thing {n}", n, number, at) for n in range(size.steps)]
        file.executemany(
            "INSERT INTO purchases (purchase_name, quantity, customer_id, date_created)"
            " VALUES (?, ?, ?, ?)",
            rows,
        )
    file.commit()


def _write_on(session: Session, size: Size) -> None:
    session.begin()
    with running(session.server()) as server:
        asyncio.run(load(server, size.clients, size.few))


def cut_again(session: Session, size: Size) -> None:
    """Cut the power while a server recovers from a cut, and from that again."""
    with running(session.server()) as server:
        asyncio.run(load(server, size.clients, size.steps))
    with closing(Judge(session.root, session.start, session.log, Verdict())) as judge:
        place = CHANCE.randrange(judge.calls[-1].began // 2, judge.calls[-1].began)
        files = judge.one_disk(place, CHANCE.getrandbits(32))
    write_files(session.root, str(judge.root), files)
    session.begin()
    session.floor = judge.required(place)
    with running(session.server()) as server:
        asyncio.run(load(server, size.clients, size.few))


SCENARIOS: dict[str, Scenario] = {
    "load, backups, SIGKILL, restart": under_load,
    "a backup put in place by cp": partial(restored, by_backup=True),
    "a stopped server's file put in place by cp": partial(restored, by_backup=False),
    "a retry after SIGKILL, the file held": partial(replayed, workers=1),
    "a retry after SIGKILL, workers replaced": partial(replayed, workers=2),
    "no hard links": without_links,
    "two workers": two_workers,
    "an fsync of the database fails": failed_fsync,
    "the described server's file taken over": adopted,
    "a file of 1.0.0 migrated": migrated,
    "a cut while it recovers": cut_again,
}


def try_scenario(name: str, changes: tuple[str, ...], size: Size) -> Verdict:
    """Record a scenario with a changed server, and cut its power at many places.

    In a process of its own, since to recover the judge runs the changed code too.
    """
    change(changes)
    with TemporaryDirectory() as folder:
        session, verdict = Session(Path(folder), changes), Verdict()
        try:
            SCENARIOS[name](session, size)
        except RuntimeError as exc:
            verdict.add("not as it should go on", str(exc))
            return verdict
        judge = Judge(session.root, session.start, session.log, verdict, session.floor)
        judge.syncs = "lying_disk" not in changes
        with closing(judge):
            judge.check_model()
            judge.read_commits()
            first = judge.told[0].place if session.after_answer else 0
            places = judge.places(first, size.cuts)
            judge.try_cuts(places, size.plans, CHANCE.getrandbits(32))
    return verdict
