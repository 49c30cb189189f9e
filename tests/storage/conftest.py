"""Fixtures of tests of the engines."""

import asyncio
import importlib
from collections.abc import Iterator

import pytest
from pytest_aiohttp import AiohttpClient

import server
from runtime.settings import Settings
from tests.storage.replicas import READS, Pair, Serve, new_pair
from tests.support import ApiClient, LimitedServer


@pytest.fixture(scope="module")
def running_pair() -> Iterator[Pair]:
    """Run a pair for all tests that leave its roles as they are."""
    yield from new_pair()


@pytest.fixture
def pair(running_pair: Pair) -> Iterator[Pair]:
    """Return a pair that runs again after the test."""
    yield running_pair
    for cluster in running_pair:
        if cluster.process.poll() is not None:
            cluster.start()
    running_pair.resume()


@pytest.fixture
def own_pair() -> Iterator[Pair]:
    """Run a pair for one test."""
    yield from new_pair()


@pytest.fixture
def serve(aiohttp_client: AiohttpClient, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Return a function that serves a database and its replica."""
    # A replica that a slow machine holds up is asked again at once.
    monkeypatch.setattr(importlib.import_module(READS), "REST_SECONDS", 0.0)

    async def start(url: str, replica_url: str) -> ApiClient:
        await asyncio.to_thread(server.try_make_db, url)
        settings = Settings(database_url=url, access_log=False)
        app = server.init_app(settings._replace(read_database_url=replica_url))
        return ApiClient(await aiohttp_client(LimitedServer(app)))

    return start
