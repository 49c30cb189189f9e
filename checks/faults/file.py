"""A database file that is gone, foreign, damaged or read-only."""

import asyncio
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from checks.faults.trial import (
    CUSTOMERS,
    GONE_SECONDS,
    PURCHASES,
    Finding,
    NotRunError,
    Size,
    detail_of,
    fill,
    new_database,
    rows_of,
    statuses_of,
    text_of,
)
from checks.support.server_process import Reply, Server, call
from checks.support.write_log import Sent, WriteLog, writing

ABANDONED = """
import os, sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.executescript("PRAGMA journal_mode = WAL; CREATE TABLE notes (text)")
file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
file.execute("INSERT INTO notes VALUES ('only in the WAL')")
os._exit(0)
"""


def delete(server: Server) -> None:
    """Delete the database of a server."""
    (server.folder / "db.sqlite3").unlink()


def replace(server: Server) -> None:
    """Put another good database in the place of a server's own."""
    other = server.folder / "other"
    fill(other, 1000)
    other.replace(server.folder / "db.sqlite3")


async def file_gone(
    server: Server, size: Size, take: Callable[[Server], None]
) -> Finding:
    """Write before, while and after the file is taken away."""
    log, result = WriteLog(), Finding()
    new_database()  # made now, it takes no time later
    async with writing(server.url, log, 8, pause=0.005):
        await asyncio.sleep(0.5)
        await asyncio.to_thread(take, server)
        gone, before = time.monotonic(), snapshot(server.folder).get("db.sqlite3")
        await asyncio.sleep(GONE_SECONDS)
        ready = await asyncio.to_thread(call, server, "GET", "/readyz")
        await asyncio.sleep(1.0)
    changed = snapshot(server.folder).get("db.sqlite3") != before
    result.expect(not changed, "the file in its place was written to")
    judge_gone(result, log.sent, gone, ready)
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


def damaged(folder: Path, size: Size, running: bool) -> Finding:
    """Damage a page that no connection has read yet, before or after the start."""
    database = folder / "db.sqlite3"
    log = fill(database, 20_000)
    server = Server(folder)
    try:
        if running:
            server.start()
        damage(database, log.entries[10_500].names[0])
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
