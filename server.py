"""Start-up: settings, try_make_db(), init_app(), main()."""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from aiohttp import web

import db
import sqlite
from handlers import DATABASE, ROUTES
from middlewares import IDLE_SECONDS, Connection, observe

DEFAULT_URL = "sqlite:///db.sqlite3"


def try_make_db(url: str = DEFAULT_URL) -> None:
    """Look for the database; create or migrate it. db.RefusedError."""
    sqlite.make(sqlite.path_of(url))


def init_app(url: str = DEFAULT_URL) -> web.Application:
    """Return the application on a database that `try_make_db` has made."""
    app = web.Application(middlewares=[observe])

    async def database(app: web.Application) -> AsyncIterator[None]:
        app[DATABASE] = await db.connect(url)
        yield
        await app[DATABASE].close()

    app.cleanup_ctx.append(database)
    for route in ROUTES:
        path = route.path.replace("_id}", "_id:[1-9][0-9]{0,18}}")
        if route.method == "GET":
            app.router.add_get(path, route.handler)
        else:
            app.router.add_route(route.method, path, route.handler)
    return app


class Server(web.Server):
    """aiohttp's server, with our connections."""

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """aiohttp's runner, with our server."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return Server(
            server.request_handler,
            request_factory=server.request_factory,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_SECONDS,
            auto_decompress=False,
            access_log=None,
        )


async def serve(url: str, host: str, port: int) -> None:
    import signal

    runner = Runner(init_app(url), shutdown_timeout=4)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=1024).start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for s in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(s, stop.set)

    async def sweep() -> None:
        while True:
            await asyncio.sleep(1)
            for c in runner.server.connections:
                c.cut_if_slow(loop.time())

    task = loop.create_task(sweep())
    print("serving", host, port, flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    import uvloop

    url = os.environ.get("DATABASE_URL", DEFAULT_URL)
    try_make_db(url)
    uvloop.run(
        serve(
            url,
            os.environ.get("HOST", "127.0.0.1"),
            int(os.environ.get("PORT", "8080")),
        )
    )


if __name__ == "__main__":
    main()
