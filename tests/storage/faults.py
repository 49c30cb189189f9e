"""Faults to inject into the connections of SQLite."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import db
from storage.engine import Statement
from storage.sqlite_connection import SqliteConnection, driver
from storage.sqlite_engine import SqliteEngine
from tests.support import wait_until


class Faulty:
    """A connection of the driver, one kind of statement of which fails."""

    def __init__(self, connection: Any, begins: str, code: int) -> None:
        self.connection = connection
        self.begins = begins
        self.code = code

    def execute(self, sql: str, *parameters: object) -> Any:
        """Fail as the driver does, or run the statement."""
        if sql.lstrip().startswith(self.begins):
            raise fault(self.code)
        return self.connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        """Return what the connection has by a name."""
        return getattr(self.connection, name)


def fault(code: int) -> Exception:
    """Return an error of the driver, with a result code of SQLite."""
    error: Exception = driver.OperationalError("injected")
    vars(error)["sqlite_errorcode"] = code
    return error


@contextmanager
def failing(connection: SqliteConnection, begins: str, code: int) -> Iterator[None]:
    """Let one kind of statement fail on a connection."""
    raw = connection.raw
    faulty = connection.raw = Faulty(raw, begins, code)
    yield
    if connection.raw is faulty:
        connection.raw = raw


async def wait_for_error(engine: SqliteEngine, error: str | None) -> None:
    """Wait until the engine knows of an error, or with None of none any more."""
    assert await asyncio.to_thread(wait_until, lambda: engine.health.error == error)


async def wait_for_check(engine: SqliteEngine) -> None:
    """Wait until the engine has checked its database."""
    await wait_for_error(engine, None)


def move_away(path: Path) -> None:
    """Take a file from its place."""
    path.rename(path.with_name("elsewhere"))


@contextmanager
def holding_writes(engine: SqliteEngine) -> Iterator[list[asyncio.Future[None]]]:
    """Keep the write connection busy for the length of a with block."""
    release = threading.Event()

    def hold() -> db.Unit[None]:
        yield Statement("SELECT 1"), ()
        release.wait(20)

    futures = [engine.write(hold)]
    try:
        yield futures
    finally:
        release.set()
