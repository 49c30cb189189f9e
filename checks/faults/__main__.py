"""Break what the server stands on, and look whether it tells the truth about it.

    python -m checks.faults [--long] [--fault WORD]

Every fault of disk, file, process and client that one machine can make is made to a
real server on a SQLite file. What needs root or a tool that is not here is reported
as not run. The long form waits and repeats as long as the promises say.
"""

import argparse
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import aiohttp

from checks.faults.backup import backup_under_load
from checks.faults.clients import clients_leave, many_clients, requests_cancelled
from checks.faults.disk import disk_full
from checks.faults.file import (
    NOT_OURS,
    READ_ONLY,
    damaged,
    delete,
    file_gone,
    refused,
    replace,
)
from checks.faults.locks import database_locked, looked_at
from checks.faults.stop import log_unread, terminate
from checks.faults.system import SYSTEM
from checks.faults.trial import (
    LONG,
    SHORT,
    Fault,
    Finding,
    NotRunError,
    Size,
    on_server,
)
from checks.support.report import print_breaches, print_table

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
    **SYSTEM,
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
    return print_breaches([breach for _, some in found for breach in some])


if __name__ == "__main__":
    sys.exit(main())
