"""Fixtures of all tests."""

import asyncio
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

import server
import storage.engine
from api.auth import Authenticator
from api.database import DATABASE
from runtime.settings import Settings
from storage.engine import StartupError
from tests.support import (
    ENGINES,
    JOHN,
    PHONE,
    SETTINGS,
    ApiClient,
    LimitedServer,
    Main,
    Opener,
    list_ids,
)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let units wait longer than usual: a slow machine is no overload."""
    monkeypatch.setattr(storage.engine, "QUEUE_SECONDS", 4.0)


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    """Return the path for a database file."""
    return tmp_path / "db.sqlite3"


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[Any]:
    """Run a PostgreSQL server of our own, for the session."""
    postgresql = importlib.import_module("checks.support.postgres_cluster")
    with postgresql.cluster(postgresql.NO_FSYNC) as cluster:
        yield cluster


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names a PostgreSQL database for the tests."""
    text = "an empty PostgreSQL database for the tests of both engines, emptied by each"
    parser.addoption("--database-url", metavar="URL", help=text)


@pytest.fixture(scope="session")
def given_database(pytestconfig: pytest.Config) -> Any:
    """Return the database that --database-url names, None without."""
    if not (url := pytestconfig.getoption("database_url")):
        return None
    given = importlib.import_module("tests.given_database")
    try:
        return given.GivenDatabase(url)
    except (ValueError, StartupError) as exc:
        return pytest.exit(str(exc), pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(params=ENGINES)
def database_url(
    request: pytest.FixtureRequest, sqlite_path: Path, given_database: Any
) -> Iterator[str]:
    """Yield the URL of a database of the test's own, not created yet or empty."""
    if request.param == "sqlite":
        yield f"sqlite:///{sqlite_path}"
    elif given_database is None:
        yield request.getfixturevalue("postgresql_cluster").new_schema()
    else:
        yield given_database.url
        given_database.clear()


@pytest.fixture
def opened(database_url: str, aiohttp_client: AiohttpClient) -> Opener:
    """Return a function that serves the database and returns a client of it."""

    async def serve(
        authenticator: Authenticator | None = None,
        max_connections: int = 1000,
        **settings: Any,
    ) -> ApiClient:
        await asyncio.to_thread(server.try_make_db, database_url)
        chosen = Settings(
            database_url=database_url, **{"access_log": False, **settings}
        )
        app = server.init_app(chosen, authenticator)
        test_server = LimitedServer(app)
        test_server.max_connections = max_connections
        return ApiClient(await aiohttp_client(test_server))

    return serve


@pytest.fixture
async def api(opened: Opener) -> ApiClient:
    """Return a client of a server that has an empty database."""
    return await opened()


@pytest.fixture
def engine(api: ApiClient) -> Any:
    """Return the engine under the server."""
    served = api.client.server
    assert isinstance(served, LimitedServer)
    return served.app[DATABASE]


@pytest.fixture
async def customer(api: ApiClient) -> int:
    """Return the id of a customer."""
    number: int = (await api("POST /api/v1/customer", JOHN, 201)).data["id"]
    return number


@pytest.fixture
async def purchase(api: ApiClient, customer: int) -> int:
    """Return the id of a purchase of the customer."""
    added = await api(f"POST /api/v1/purchase/{customer}", PHONE, 201)
    number: int = added.data["id"]
    return number


@pytest.fixture
async def four_purchases(api: ApiClient) -> list[int]:
    """Return the ids of purchases: three of customer 1, one of customer 2."""
    for owner, number in ((1, 3), (2, 1)):
        await api("POST /api/v1/customer", JOHN, 201)
        for _ in range(number):
            await api(f"POST /api/v1/purchase/{owner}", PHONE, 201)
    return await list_ids(api)


@pytest.fixture
def main(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Main:
    """Return a function that runs `python server.py` here, in an empty folder.

    It returns the exit status, stdout and stderr.
    """
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, **environment: str) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["server.py", *arguments])
        for name, text in environment.items():
            monkeypatch.setenv(name, text)
        status: int | str | None = 0
        # One that serves, and should not, must end too.
        end = threading.Timer(30, os.kill, (os.getpid(), signal.SIGTERM))
        end.start()
        try:
            server.main()
        except SystemExit as exc:
            status = exc.code
        finally:
            end.cancel()
        return status, *capfd.readouterr()

    return run
