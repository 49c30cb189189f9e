"""A disk that is full."""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checks.faults.trial import (
    CUSTOMERS,
    PURCHASES,
    Finding,
    NotRunError,
    Size,
    first_acknowledged,
    statuses_of,
    text_of,
)
from checks.support.server_process import Server, serving
from checks.support.write_log import WriteLog, writing


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
    log, result = WriteLog(), Finding()
    async with writing(server.url, log, 8, pause=0.002) as clients:
        async with asyncio.timeout(20):
            while log.statuses()[507] < 200:  # noqa: ASYNC110 - the clients count
                await asyncio.sleep(0.05)
        customer = clients[0].customers[0].id
        lists = [f"{CUSTOMERS}/{customer}", f"{PURCHASES}/{customer}"] * 10
        reads = [await asyncio.to_thread(server.status_of, path) for path in lists]
        full = len(log.sent)
        (disk / "filler").unlink()
        freed = time.monotonic()
        await asyncio.sleep(1)
    again = first_acknowledged(log.sent, freed)
    rows = result.audit(log, disk)
    result.figures = (
        f"writes {text_of(statuses_of(log.sent[:full]))}; reads {text_of(reads)};"
        f" writing again {again:.2f} s after there was space; {rows} rows"
    )
    result.expect(log.statuses().keys() <= {200, 201, 507}, "another answer")
    result.expect(set(reads) == {200}, "a read was not 200")
    result.expect(again < 1, "no write within 1 s after there was space")
    return result
