"""A stop under load, and a log that nobody reads."""

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from checks.faults.locks import locked
from checks.faults.trial import (
    CUSTOMERS,
    STOP_SECONDS,
    Finding,
    Size,
    statuses_of,
    text_of,
)
from checks.support.server_process import Server, request_bytes
from checks.support.write_log import Sent, WriteLog, writing


async def terminate(server: Server, size: Size, lock_seconds: float) -> Finding:
    """Stop a server that has writers, a dribbling client and an idle one."""
    log, result = WriteLog(), Finding()
    async with writing(server.url, log, 32):
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
    rows = result.audit(log, server.folder)
    judge_stop(result, log.sent, asked, seconds)
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
