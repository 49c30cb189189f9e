"""Backups under load, and restored."""

import asyncio
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from checks.faults.trial import CUSTOMERS, Finding, Size, fill, rows_of
from checks.support.server_process import Server, call, serving
from checks.support.write_log import CHANCE, Entry, WriteLog, audit, writing

KEPT = 3
"""How many dated copies are kept."""


def backup_under_load(folder: Path, size: Size) -> Finding:
    """Copy the database of a server under load, cut some copies off, restore one."""
    early = fill(folder / "db.sqlite3", size.purchases)
    with serving(folder) as server:
        return asyncio.run(copy_under_load(server, early, size.cut_backups))


async def copy_under_load(server: Server, early: WriteLog, cuts: int) -> Finding:
    """Write for a while, then copy while other clients write."""
    late, result = WriteLog(), Finding()
    async with writing(server.url, early, 8):
        await asyncio.sleep(1.0)
    async with writing(server.url, late, 8, pause=0.005):
        copies = [await copy(server, f"copy{number}") for number in range(3)]
        cut = [
            await copy(server, f"cut{number}", CHANCE.uniform(0.1, 1.0))
            for number in range(cuts)
        ]
        dated = await copy_by_date(server, cuts, result)
    for entry in late.entries:  # it may have come before, between or after
        entry.may_be |= {None, *entry.names}
    for file in copies:
        mode = file.stat().st_mode & 0o777 if file.exists() else 0
        result.expect(mode == 0o600, f"{file.name} has mode {mode:o}; 0 is no file")
    made, whole = ([file for file in some if file.exists()] for some in (copies, cut))
    for file in (*made, *whole, *dated):
        result.breaches += copy_faults(file, early, late)
    rows = restore(made[0], server.folder / "restored", result) if made else 0
    result.figures = (
        f"{len(made)} copies beside {len(late.sent)} writes; {cuts} more killed:"
        f" {len(whole)} whole, {cuts - len(whole)} absent; as many killed that keep"
        f" {KEPT}: never fewer; one of {rows} rows restored"
    )
    return result


async def copy_by_date(server: Server, cuts: int, result: Finding) -> list[Path]:
    """Make dated copies, then let some runs be killed; return those that are left."""
    folder = server.folder / "dated"
    folder.mkdir()
    keep = "--keep", str(KEPT)
    for _ in range(KEPT):
        await copy(server, folder.name, options=keep)
    kept = sorted(folder.glob("db-*"))
    result.expect(len(kept) == KEPT, f"{len(kept)} dated copies")
    for _ in range(cuts):
        await copy(server, folder.name, CHANCE.uniform(0.1, 1.5), keep)
        before, kept = kept, sorted(folder.glob("db-*"))
        # One killed between the two has its copy, and has not removed the oldest.
        result.expect(len(kept) >= KEPT, f"{len(kept)} dated copies")
        result.expect(set(before[-KEPT + 1 :]) <= set(kept), "a newer copy is gone")
    return kept


async def copy(
    server: Server, name: str, kill_after: float = 60.0, options: Sequence[str] = ()
) -> Path:
    """Make a backup, killed after some seconds; return the file it was to make."""
    destination = server.folder / name
    command = [*server.command, "backup", str(destination), *options]
    process = await asyncio.create_subprocess_exec(
        *command, env=server.env, cwd=server.folder, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await asyncio.wait_for(process.wait(), kill_after)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return destination


def copy_faults(file: Path, early: WriteLog, late: WriteLog) -> list[str]:
    """Hold a copy against the writes from before it, and let those beside it be."""
    both = WriteLog([
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
