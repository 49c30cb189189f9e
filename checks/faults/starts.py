"""Starts on one file, and backs it up, while one call after the other fails.

    python -m checks.faults.starts DATABASE FAULTS ERROR KIND…

Runs with the libc of checks.powercut. Each start must succeed or be refused in one
line; the next must succeed, with every row there and nothing left behind. A backup over
an older copy must leave one or the other. The last line says how many were refused;
every other is a breach.
"""

import asyncio
import gc
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path

from checks.powercut.faults import Faults
from checks.powercut.ledger import faults_of, read_content
from checks.powercut.recording import Kind
from storage import sqlite_backup, sqlite_file
from storage.engine import StartupError
from storage.sqlite_connection import driver
from storage.sqlite_engine import SqliteEngine

MOST_CALLS = 400
"""More than a start makes of one kind."""


async def start(database: Path) -> None:
    """Do what a start does, and stop. StartupError."""
    sqlite_file.create_or_migrate(database)
    engine = await SqliteEngine.open(database)
    await engine.close()


def put(kept: Path, folder: Path) -> None:
    """Make a folder hold what another does."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder)


def breaches_after(database: Path, rows: bytes, beside: set[str]) -> list[str]:
    """Start without a fault; return what is not as it was before."""
    gc.collect()  # as the end of a process, it closes what a refused start had open
    asyncio.run(start(database))
    with closing(driver.connect(database)) as connection:
        found = faults_of(connection)
        if read_content(connection).digest != rows:
            found.append("other rows")
    left = {file.name for file in database.parent.iterdir()} - beside
    return found + [f"left behind: {name}" for name in left]


def try_kind(
    database: Path, kept: Path, faults: Faults, error: int, kind: Kind
) -> tuple[int, list[str]]:
    """Let each call of a kind fail once; return the starts that were refused."""
    refused, breaches = 0, []
    put(kept, database.parent)
    asyncio.run(start(database))
    with closing(driver.connect(database)) as connection:
        rows = read_content(connection).digest
    beside = {database.name}
    for number in range(MOST_CALLS):
        put(kept, database.parent)
        faults.make([kind], "", error, skip=number, count=1)
        try:
            asyncio.run(start(database))
        except StartupError as exc:
            refused += 1
            if "\n" in str(exc) or str(database) not in str(exc):
                breaches.append(f"{kind.name} {number}: {exc}")
        except Exception as exc:
            breaches.append(f"{kind.name} {number}: {type(exc).__name__}: {exc}")
        spoiled = faults.spoiled()
        faults.clear()
        if spoiled == 0:
            return refused, breaches
        after = breaches_after(database, rows, beside)
        breaches += [f"{kind.name} {number}: {breach}" for breach in after]
    return refused, [*breaches, f"{kind.name}: more calls than expected"]


def digest_of(database: Path) -> bytes | str:
    """Return the digest of a whole database, or what is wrong with it."""
    try:
        with closing(
            driver.connect(f"{database.as_uri()}?immutable=1", uri=True)
        ) as file:
            found = faults_of(file)
            return str(found) if found else read_content(file).digest
    except driver.Error as exc:
        return str(exc)


def try_backups(
    database: Path, kept: Path, nothing: Path, faults: Faults, error: int, kind: Kind
) -> tuple[int, list[str]]:
    """Let each call of a kind fail once while a copy replaces an older one."""
    refused, breaches, copy = 0, [], database.parent.with_name("copies") / "copy"
    put(nothing, database.parent)
    asyncio.run(start(database))
    older = database.read_bytes()
    put(kept, database.parent)
    asyncio.run(start(database))
    good = {digest_of(database)}
    for number in range(MOST_CALLS):
        put(nothing, copy.parent)
        copy.write_bytes(older)
        good.add(digest_of(copy))
        faults.make([kind], "", error, skip=number, count=1)
        try:
            sqlite_backup.backup(database, copy, replace=True)
        except StartupError as exc:
            refused += 1
            if "\n" in str(exc):
                breaches.append(f"backup, {kind.name} {number}: {exc}")
        except Exception as exc:
            breaches.append(f"backup, {kind.name} {number}: {exc!r}")
        spoiled = faults.spoiled()
        faults.clear()
        if digest_of(copy) not in good:
            breaches.append(f"backup, {kind.name} {number}: {digest_of(copy)!r}")
        if spoiled == 0:
            return refused, breaches
        sqlite_backup.backup(database, copy, replace=True)
        left = {file.name for file in copy.parent.iterdir()} - {copy.name}
        breaches += [f"backup, {kind.name} {number}: left {name}" for name in left]
    return refused, [*breaches, f"{kind.name}: more calls than expected"]


def main() -> None:
    """Try every kind on a file that is there, and on none."""
    database, table, error, *names = sys.argv[1:]
    faults, path = Faults(Path(table)), Path(database)
    kept, nothing = path.parent.with_name("kept"), path.parent.with_name("nothing")
    nothing.mkdir()
    refused = 0
    for before in (kept, nothing):
        for name in names:
            some, breaches = try_kind(path, before, faults, int(error), Kind[name])
            refused += some
            for breach in breaches:
                print(f"{os.strerror(int(error))}, {before.name}: {breach}")
    for name in names:
        kind = Kind[name]
        some, breaches = try_backups(path, kept, nothing, faults, int(error), kind)
        refused += some
        for breach in breaches:
            print(f"{os.strerror(int(error))}: {breach}")
    print(refused)


if __name__ == "__main__":
    main()
