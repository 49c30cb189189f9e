"""Other programs that lock or read the database."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from checks.faults.trial import (
    BUSY_SECONDS,
    CUSTOMERS,
    SLACK_SECONDS,
    Finding,
    Size,
    first_acknowledged,
    statuses_of,
    text_of,
)
from checks.support.server_process import Server, visitor_of
from checks.support.write_log import Client, Sent, WriteLog, writing

LOCKER = """
import sqlite3, sys, time
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("BEGIN IMMEDIATE")
print(time.monotonic(), flush=True)
time.sleep(float(sys.argv[2]))
print(time.monotonic(), flush=True)
file.execute("ROLLBACK")
"""


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


async def database_locked(server: Server, size: Size) -> Finding:
    """Hold the database from another process: 503 in time, reads go on, recovery."""
    log, result, stop = WriteLog(), Finding(), asyncio.Event()
    reads: list[tuple[int, float]] = []
    async with writing(server.url, log, 16, pause=0.01) as clients:
        url = f"{server.url}{CUSTOMERS}/{clients[0].customers[0].id}"
        async with locked(server.folder / "db.sqlite3", size.lock_seconds) as times:
            readers = [
                asyncio.create_task(read(clients[0], url, reads, stop))
                for _ in range(4)
            ]
        await asyncio.sleep(1)
        stop.set()
        await asyncio.gather(*readers)
    result.audit(log, server.folder)
    judge_lock(result, log.sent, reads, times)
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


async def looked_at(server: Server, size: Size) -> Finding:
    """Write while others look into the file, then kill the server.

    Were it to lose its locks, the first to leave would take the WAL with it.
    """
    log, result = WriteLog(), Finding()
    command = visitor_of(server.folder / "db.sqlite3")
    async with writing(server.url, log, 24):
        for _ in range(size.visitors):
            visitor = await asyncio.create_subprocess_exec(*command)
            failed = await visitor.wait()
            result.expect(not failed, "a visitor could not read the file")
    await asyncio.to_thread(server.stop, signal.SIGKILL)
    statuses = statuses_of(log.sent)
    refused = set(statuses) - {200, 201}
    result.expect(not refused, f"writes answered {refused}")
    rows = result.audit(log, server.folder)
    result.figures = f"{size.visitors} visitors; {text_of(statuses)}; {rows} rows"
    return result
