"""Start-up: settings, try_make_db(), init_app(), main()."""

import asyncio
import gc
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

import db
import handlers
import openapi
import sqlite
import sqlite_file
import sqlite_lane
import workers
from access import Door, new_token, read_tokens
from connections import Runner
from middlewares import TELEMETRY, expectation, observed
from settings import COMMANDS, DEFAULTS, Parser, Settings
from settings import parser as settings_parser
from telemetry import JSONLines, Telemetry
from workers import Worker

try:
    import uvloop
except ImportError:  # no wheel for this platform: asyncio's own loop serves
    uvloop = None  # type: ignore[assignment]

LOG = logging.getLogger("server")

STOP_SECONDS = 3.0
"""How long a stop waits: for bodies, for handlers, and for those that it cancels."""
CLEANUP_SECONDS = 9.0
"""How long all of a stop may take before it is forced."""
SPARE_FILES = 64
"""File descriptors that connections leave to the database and the logs."""


def try_make_db(url: str = DEFAULTS.database_url) -> None:
    """Look for the database; create it, or bring it up to date. db.RefusedError."""
    if db.is_postgres(url):
        import postgres

        asyncio.run(postgres.make(url))
    else:
        sqlite_file.make(sqlite.path_of(url))


def init_app(
    settings: Settings = DEFAULTS, door: Door | None = None
) -> web.Application:
    """Return the application, on a database that `try_make_db` has made."""
    door = door or Door()
    telemetry = Telemetry(handlers.VERSION, settings.access_log)
    app = web.Application()
    app[TELEMETRY] = telemetry
    app[handlers.METRICS] = telemetry.text
    app[handlers.PAGES] = openapi.pages(door.tokens is not None)
    for route in handlers.ROUTES:
        path = route.path.replace("_id}", f"_id:{handlers.ID}}}")
        handler = observed(route, door, telemetry)
        if route.method == "GET":
            app.router.add_get(path, handler, expect_handler=expectation)  # and HEAD
        else:
            app.router.add_route(
                route.method, path, handler, expect_handler=expectation
            )
    for path, access in handlers.UNMATCHED.items():
        nowhere = observed(handlers.NOWHERE._replace(access=access), door, telemetry)
        app.router.add_route("*", path, nowhere, expect_handler=expectation)

    async def database(app: web.Application) -> AsyncIterator[None]:
        telemetry.engine = app[handlers.DATABASE] = await db.connect(
            settings.database_url
        )
        forgetting = asyncio.create_task(_forget_keys(telemetry.engine))
        telemetry.start()
        try:
            yield
            forgetting.cancel()
            telemetry.close()
        finally:
            await telemetry.engine.close()

    async def finish_head(request: web.Request, stream: web.StreamResponse) -> None:
        stream.headers.extend(door.cross_origin(request))
        del stream.headers["Server"]  # no other answer has it

    app.cleanup_ctx.append(database)
    app.on_response_prepare.append(finish_head)
    return app


async def _forget_keys(engine: db.Engine) -> None:
    """Delete old idempotency keys, little by little, off the path of requests."""
    while True:
        try:
            while await engine.write(db.forget_keys, 1000) == 1000:
                pass
        except (db.UnavailableError, db.DiskFullError):
            pass  # every request says so already
        except Exception:
            LOG.exception("old idempotency keys are kept")
        await asyncio.sleep(60)


async def serve(settings: Settings, door: Door, worker: Worker | None = None) -> None:
    """Serve until SIGTERM or SIGINT, and finish what was begun."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _read_tokens_again, settings, door)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    app = init_app(settings, door)
    runner = Runner(app, max(files - SPARE_FILES, 16), shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    if worker is not None:
        app[TELEMETRY].join(worker)
        worker.attend(stop.set)
    try:
        site = web.TCPSite(
            runner,
            settings.host,
            settings.port,
            backlog=1024,
            reuse_port=settings.workers > 1 or None,
        )
        await site.start()
        host, port = runner.addresses[0][:2]
        where = f"[{host}]" if ":" in host else host
        LOG.log(
            logging.INFO if worker is None or worker.first else logging.DEBUG,
            "serving http://%s:%s on %s, %s",
            where,
            port,
            db.without_password(settings.database_url),
            app[handlers.DATABASE].name,
        )
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the process
        gc.set_threshold(20_000, 20, 50)  # requests leave few cycles behind
        await stop.wait()
        if worker is None:
            LOG.info("stopping")
    finally:
        try:
            async with asyncio.timeout(CLEANUP_SECONDS):
                await runner.cleanup()
        except TimeoutError:  # a thread waits for a disk, and would keep the process
            LOG.error("the database does not let go: ended without it")
            os._exit(1)


def _read_tokens_again(settings: Settings, door: Door) -> None:
    if settings.api_tokens_file is None:
        return
    try:
        door.tokens = read_tokens(settings.api_tokens_file)
        LOG.info("%s tokens read", len(door.tokens))
    except db.RefusedError as exc:
        LOG.error("tokens kept as they were: %s", exc)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _door(settings: Settings) -> Door:
    """Return who may come in. RefusedError for a start that lets anybody in."""
    tokens = None
    if settings.api_tokens_file is not None:
        tokens = read_tokens(settings.api_tokens_file)
    elif not settings.allow_anonymous and not _is_loopback(settings.host):
        raise db.RefusedError(
            f"HOST {settings.host} is not loopback and anybody could come in: "
            "name API_TOKENS_FILE, or set ALLOW_ANONYMOUS=1"
        )
    return Door(tokens, settings.cors_origins)


def main() -> None:
    """Run the command that the arguments and the environment ask for."""
    parser = settings_parser()
    arguments = vars(parser.parse_intermixed_args())
    command, read = arguments.pop("command"), arguments.pop("read")
    settings = Settings(**arguments)
    output = logging.StreamHandler()
    output.setFormatter(JSONLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[output])
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    try:
        match command:
            case []:
                run(settings, parser)
            case ["backup", destination]:
                sqlite_file.backup(
                    sqlite.path_of(settings.database_url), Path(destination)
                )
            case ["token", name]:
                token, line = new_token(name, "read" if read else "write")
                sys.stdout.write(f"{token}\n{line}\n")
            case ["copy", source, destination]:
                import transfer

                asyncio.run(transfer.copy(source, destination))
            case _:
                parser.error(f"not a command: {' '.join(command)} ({COMMANDS})")
    except ValueError as exc:
        parser.error(str(exc))
    except KeyboardInterrupt:
        parser.exit(1, f"{parser.prog}: interrupted\n")
    except (db.RefusedError, OSError) as exc:
        parser.exit(1, f"{parser.prog}: {exc}\n")


def _check_workers(url: str) -> None:
    """Say where several processes cannot share a port or a database. RefusedError."""
    if not workers.AVAILABLE:
        raise db.RefusedError("WORKERS must be 1: this system shares no port")
    if not db.is_postgres(url) and not sqlite_lane.WAL_RESET_FIXED:
        version = ".".join(map(str, sqlite_lane.VERSION))
        raise db.RefusedError(
            f"WORKERS must be 1: SQLite {version} can damage a database that several "
            "processes write (sqlite.org/wal.html#walresetbug)"
        )


def run(settings: Settings, parser: Parser) -> None:
    """Make the database and serve it."""
    try:
        door = _door(settings)
        socket.getaddrinfo(settings.host, settings.port)
        if settings.workers > 1:
            _check_workers(settings.database_url)
    except (socket.gaierror, UnicodeError):
        parser.error(f"HOST: {settings.host!r} is no address or name of one")
    except db.RefusedError as exc:
        parser.error(str(exc))
    if not db.is_postgres(settings.database_url) and not sqlite_lane.WAL_RESET_FIXED:
        LOG.warning(
            "SQLite %s is older than a fix that matters where several processes write "
            "one file: let none but this one do so (sqlite.org/wal.html#walresetbug)",
            sqlite_lane.driver.sqlite_version,
        )
    try_make_db(settings.database_url)
    worker = None
    if settings.workers > 1:
        port = workers.free_port(settings.host, settings.port)
        settings = settings._replace(port=port)
        # The parent stays in there.
        worker = workers.start(
            settings.workers, lambda: _read_tokens_again(settings, door)
        )
    loop_factory: Any = uvloop.new_event_loop if uvloop else None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(settings, door, worker))


if __name__ == "__main__":
    main()
