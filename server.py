"""Start-up: settings, try_make_db(), init_app(), main()."""

import signal

if __name__ == "__main__":  # SIGHUP waits until the tokens can be read again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

import asyncio
import gc
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from aiohttp import web
from tqdm import tqdm

import db
import handlers
from api import imports, openapi, pages, upkeep
from api.auth import AUTHENTICATOR, Authenticator, new_token, read_tokens
from api.connections import Runner
from api.cors import Cors
from api.database import DATABASE, HISTORY_DAYS
from api.event_stream import BROADCAST, Broadcast
from api.middleware import CORS, METRICS, Frame, expects, instrument
from api.responses import ProblemError
from api.routing import ROUTE_TABLE, Handler, Route, RouteTable
from api.shares import SHARES, Shares
from api.staleness import age_header, instrument_read
from api.targets import HostCheck
from runtime import limits, workers
from runtime.access_log import STDERR, AccessLog, LogHandler, format_for
from runtime.metrics import Metrics
from runtime.settings import COMMANDS, DEFAULTS, Parser, Settings, make_parser
from runtime.workers import Worker
from storage import sqlite_backup, sqlite_connection, sqlite_file, sqlite_verify
from storage.engine import is_postgres, sqlite_path, without_password

try:
    import uvloop
except ImportError:  # no wheel for this platform: asyncio's own loop serves
    uvloop = None  # type: ignore[assignment]

LOG = logging.getLogger("server")

STOP_SECONDS = 3.0
"""How long a stop waits: for bodies, for handlers, and for those that it cancels."""
CLEANUP_SECONDS = 9.0
"""How long all of a stop may take before it is forced."""


def try_make_db(url: str = DEFAULTS.database_url) -> None:
    """Look for the database; create it, or migrate it to this version. StartupError."""
    if is_postgres(url):
        from storage import postgres_schema

        asyncio.run(postgres_schema.create_or_migrate(url))
    else:
        sqlite_file.create_or_migrate(sqlite_path(url))


@cache
def _static_files(secured: bool) -> Mapping[str, pages.StaticFile]:
    description = openapi.describe(handlers.ROUTES, handlers.VERSION, secured)
    return pages.static_files(description)


def _make_metrics(settings: Settings) -> Metrics:
    quiet = frozenset(route.path for route in handlers.ROUTES if route.is_quiet)
    log_format = format_for(sys.stdout, settings.log_format)
    access_log = AccessLog(settings.access_log, log_format, quiet)
    return Metrics(handlers.VERSION, access_log)


def _instrument(settings: Settings, frame: Frame, route: Route) -> Handler:
    """Return the handler of a route, with what every request needs around it."""
    if settings.read_database_url is not None and route.method == "GET":
        return instrument_read(route, frame)
    return instrument(route, frame)


def init_app(
    settings: Settings = DEFAULTS, authenticator: Authenticator | None = None
) -> web.Application:
    """Return the application, on a database that `try_make_db` has made."""
    authenticator = authenticator or Authenticator()
    cors = Cors(settings.cors_origins)
    metrics, broadcast = _make_metrics(settings), Broadcast()
    app, urls = web.Application(), (settings.database_url, settings.read_database_url)
    hosts = HostCheck(settings.allowed_hosts, authenticator.tokens is not None)
    frame = Frame(authenticator, hosts, cors, metrics)
    app[METRICS], app[CORS], app[SHARES] = metrics, cors, Shares()
    app[AUTHENTICATOR] = authenticator
    app[BROADCAST], app[imports.IMPORTS] = broadcast, imports.Imports()
    app[HISTORY_DAYS] = settings.history_days
    app[pages.STATIC_FILES] = _static_files(authenticator.tokens is not None)
    app[ROUTE_TABLE] = RouteTable(handlers.ROUTES)
    app[ROUTE_TABLE].add_to(app.router, partial(_instrument, settings, frame), expects)

    async def database(app: web.Application) -> AsyncIterator[None]:
        engine = await db.connect(*urls, settings.cache_mib)
        metrics.engine = app[DATABASE] = engine
        background = upkeep.start(engine, settings.history_days)
        metrics.start()
        try:
            yield
            for task in background:
                task.cancel()
            metrics.close()
        finally:
            await engine.close()

    async def finish_head(request: web.Request, stream: web.StreamResponse) -> None:
        stream.headers.extend(cors.headers(request.headers, request.method))
        stream.headers.extend(age_header())
        del stream.headers["Server"]  # no other response has it

    app.cleanup_ctx.append(database)
    app.on_response_prepare.append(finish_head)
    app.on_shutdown.append(broadcast.close)
    return app


async def serve(
    settings: Settings, authenticator: Authenticator, worker: Worker | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, and finish the requests that have begun."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = init_app(settings, authenticator)
    loop.add_signal_handler(signal.SIGHUP, _reload_tokens, settings, authenticator, app)
    if worker is None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    STDERR.start()
    connections = limits.max_connections(settings.workers)
    runner = Runner(app, connections, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    if worker is not None:
        app[METRICS].join(worker)
        worker.handle_signals(stop.set)
    try:
        url = await _listen(runner, settings)
        level = logging.INFO if worker is None or worker.first else logging.DEBUG
        database = without_password(settings.database_url), app[DATABASE].name
        LOG.log(level, "serving %s on %s, %s", url, *database)
        gc.collect()
        gc.freeze()  # the objects of start-up live as long as the process
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
            STDERR.close()
            os._exit(1)
        STDERR.close()


async def _listen(runner: Runner, settings: Settings) -> str:
    """Accept connections from now on; return the URL."""
    port, shared = settings.port, settings.workers > 1 or None
    site = web.TCPSite(runner, settings.host, port, backlog=1024, reuse_port=shared)
    try:
        await site.start()
    except OSError as exc:
        raise _not_free(settings, exc) from exc
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _not_free(settings: Settings, exc: OSError) -> db.StartupError:
    reason = os.strerror(exc.errno) if exc.errno else str(exc)
    return db.StartupError(f"HOST {settings.host}, PORT {settings.port}: {reason}")


def _reload_tokens(
    settings: Settings, authenticator: Authenticator, app: web.Application | None = None
) -> None:
    if app is not None:
        app[BROADCAST].end_all()  # whoever listens is authenticated anew
    if settings.api_tokens_file is None:
        return
    try:
        authenticator.tokens = read_tokens(settings.api_tokens_file)
        LOG.info("%s tokens read", len(authenticator.tokens))
    except db.StartupError as exc:
        LOG.error("tokens kept as they were: %s", exc)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _make_authenticator(settings: Settings) -> Authenticator:
    """Return the authenticator. StartupError for a server open to the network."""
    if settings.api_tokens_file is not None:
        return Authenticator(read_tokens(settings.api_tokens_file))
    if not settings.allow_anonymous and not _is_loopback(settings.host):
        raise db.StartupError(
            f"HOST {settings.host} is not loopback and anybody could come in: "
            "name API_TOKENS_FILE, or set ALLOW_ANONYMOUS=1"
        )
    return Authenticator()


def main() -> None:
    """Run the command that the arguments and the environment ask for."""
    parser = make_parser(handlers.VERSION)
    arguments = vars(parser.parse_intermixed_args())
    command, read = arguments.pop("command"), arguments.pop("read")
    replace, dry_run = arguments.pop("replace"), arguments.pop("dry_run")
    keep = arguments.pop("keep")
    if command:  # only a server has something to do on SIGHUP
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    settings = Settings(**arguments)
    output = LogHandler(format_for(sys.stderr, settings.log_format))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[output])
    logging.getLogger("aiosqlite").setLevel(logging.INFO)
    try:
        run_command(command, parser, settings, read, replace, keep, dry_run)
    except ProblemError as exc:  # of the file of an import
        parser.exit(1, f"{parser.prog}: {imports.explain(exc)}\n")
    except ValueError as exc:
        parser.error(str(exc))
    except KeyboardInterrupt:
        parser.exit(1, f"{parser.prog}: interrupted\n")
    except (db.StartupError, db.UnavailableError, db.DiskFullError, OSError) as exc:
        parser.exit(1, f"{parser.prog}: {exc}\n")


def run_command(
    command: list[str],
    parser: Parser,
    settings: Settings,
    read: bool,
    replace: bool,
    keep: int | None,
    dry_run: bool,
) -> None:
    """Serve, or run one of COMMANDS. StartupError, ValueError, errors of an import."""
    match command:
        case []:
            run(settings, parser)
        case ["backup", destination]:
            if replace and keep:
                parser.error("--keep never replaces a copy: leave --replace out")
            path = sqlite_path(settings.database_url)
            _tell(sqlite_backup.backup(path, Path(destination), replace, keep))
        case ["verify", file]:
            _tell(sqlite_verify.verify(Path(file)))
        case ["token", name]:
            token, line = new_token(name, "read" if read else "write")
            sys.stdout.write(f"{token}\n{line}\n")
        case ["copy", source, destination]:
            from storage import transfer

            asyncio.run(transfer.copy(source, destination))
        case ["import", file]:
            content, is_csv = imports.read_named(file)
            try_make_db(settings.database_url)
            importing = import_file(settings, content, is_csv, dry_run)
            sys.stdout.write(asyncio.run(importing))
        case [name, *_] if name in COMMANDS:
            parser.error(f"usage: {COMMANDS[name]}")
        case _:
            known = "; ".join(COMMANDS.values())
            parser.error(f"not a command: {' '.join(command)} ({known})")


def _tell(line: str) -> None:
    """Print a line with the name of a file, which may be no text, as it is."""
    sys.stdout.buffer.write(os.fsencode(f"{line}\n"))


async def import_file(
    settings: Settings, content: bytes, is_csv: bool, dry_run: bool
) -> str:
    """Import a file, also into a database that is being served; say what that did.

    Into the database and not through a server: so it needs neither a token nor a
    server, and takes files of any size. ProblemError with the faults, UnavailableError.
    """
    engine = await db.connect(settings.database_url)
    by = db.Author("", db.now(), settings.history_days > 0)
    bar = partial(tqdm, unit=" rows", disable=None, leave=False)
    try:
        with bar(desc="read") as progress:
            reader = await imports.check_file(content, is_csv, progress.update)
        if dry_run:
            rows = await imports.look(engine, engine.report, reader)
            new = rows.customers.size
            return f"it would add {new} customers and {len(rows.owners)} purchases\n"
        with bar(desc="write", total=len(reader.rows.customers)) as progress:
            written = await imports.write_rows(
                engine,
                engine.report,
                imports.Imports(),
                reader,
                lambda rows: engine.write_alone(db.import_rows, rows, by),
                progress.update,
            )
    finally:
        await engine.close()
    change, new, bought = written.result
    by_change = f", by change {change}" if change else ""
    return f"added {new} customers and {bought} purchases{by_change}\n"


def _check_workers(url: str) -> None:
    """Raise StartupError where processes cannot share a port or a database."""
    if not workers.AVAILABLE:
        raise db.StartupError("WORKERS must be 1: this system shares no port")
    if not is_postgres(url) and not sqlite_connection.WAL_RESET_FIXED:
        version = ".".join(map(str, sqlite_connection.VERSION))
        raise db.StartupError(
            f"WORKERS must be 1: SQLite {version} can damage a database that several "
            "processes write (sqlite.org/wal.html#walresetbug)"
        )


def run(settings: Settings, parser: Parser) -> None:
    """Make the database and serve it."""
    faults = []
    try:
        socket.getaddrinfo(settings.host, settings.port)
    except (socket.gaierror, UnicodeError):
        faults.append(f"HOST: {settings.host!r} is no address or name of one")
    try:
        authenticator = _make_authenticator(settings)
        if settings.workers > 1:
            _check_workers(settings.database_url)
        db.check_replica(settings.database_url, settings.read_database_url)
    except db.StartupError as exc:
        faults.append(str(exc))
    if faults:
        parser.error("; ".join(faults))
    if not is_postgres(settings.database_url) and not sqlite_connection.WAL_RESET_FIXED:
        LOG.warning(
            "SQLite %s is older than a fix that matters where several processes write "
            "one file: let none but this one do so (sqlite.org/wal.html#walresetbug)",
            sqlite_connection.driver.sqlite_version,
        )
    try_make_db(settings.database_url)
    worker = None
    if settings.workers > 1:
        try:
            port = workers.free_port(settings.host, settings.port)
        except OSError as exc:
            raise _not_free(settings, exc) from exc
        settings = settings._replace(port=port)
        # The supervisor stays in there.
        worker = workers.start(
            settings.workers, lambda: _reload_tokens(settings, authenticator)
        )
    loop_factory: Any = uvloop.new_event_loop if uvloop else None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(settings, authenticator, worker))


if __name__ == "__main__":
    main()
