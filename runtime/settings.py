"""The table of settings, read from flags, else the environment, else the defaults."""

import os
import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, get_type_hints
from urllib.parse import urlsplit

from storage.engine import CACHE_MIB, StartupError, is_postgres, sqlite_path


def _integer(least: int, most: int, noun: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if re.fullmatch("[0-9]{1,9}", text) and least <= int(text) <= most:
            return int(text)
        raise ArgumentTypeError(f"{text!r} is not {noun}, {least} to {most}")

    return read


_port = _integer(0, 65535, "a port")
_days = _integer(0, 36500, "a number of days")
_workers = _integer(1, 256, "a number of processes")
_mebibytes = _integer(1, 65536, "a number of MiB")
_copies = _integer(1, 1_000_000, "a number of copies")


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ArgumentTypeError(f"{text!r} is neither 0 nor 1")
    return text == "1"


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ArgumentTypeError(f"{text!r} is not a level")
    return text.lower()


def _format(text: str) -> str:
    if text.lower() not in ("auto", "json", "text"):
        raise ArgumentTypeError(f"{text!r} is not one of auto, json, text")
    return text.lower()


ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?"
)
"""A scheme, a host and perhaps a port, as browsers send them (RFC 6454, 6.2): in lower
case, and without a default port."""
DEFAULT_PORTS = {("http", "80"), ("https", "443")}


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(text.replace(",", " ").split())
    for origin in origins:
        found = ORIGIN.fullmatch(origin)
        if not found or found.groups() in DEFAULT_PORTS or int(found[2] or 0) > 65535:
            raise ArgumentTypeError(
                f"{origin!r} is not an origin as browsers send it: small letters, no "
                "default port, no path; https://shop.example is one"
            )
    return origins


HOST_NAME = re.compile(r"\*|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")


def _host_names(text: str) -> tuple[str, ...]:
    names = tuple(text.lower().replace(",", " ").split())
    for name in names:
        if not HOST_NAME.fullmatch(name):
            raise ArgumentTypeError(
                f"{name!r} is not the name of a host, without a port, nor *"
            )
    return names


HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
"""One host of a PostgreSQL URL, which may name several, and perhaps its port."""


def _is_host(text: str) -> bool:
    found = HOST_AND_PORT.fullmatch(text)
    return found is not None and int(found[1] or 0) < 65536


def _url(text: str) -> str:
    try:
        text.encode()  # a name that is not UTF-8 comes as lone surrogates
        if is_postgres(text):
            parts = urlsplit(text)
            hosts = parts.netloc.rpartition("@")[2].split(",")
            if not all(map(_is_host, hosts)):
                raise StartupError(
                    "it names a host or a port that is none; "
                    "what is special in a password is percent-encoded"
                )
        elif not sqlite_path(text).parent.is_dir():
            raise StartupError(f"{text}: there is no such folder")
    except StartupError as exc:
        raise ArgumentTypeError(str(exc)) from None
    except OSError as exc:
        raise ArgumentTypeError(f"{text}: {exc.strerror}") from None
    except ValueError:  # its text may hold a password
        raise ArgumentTypeError("it is no URL") from None
    return text


class Setting(NamedTuple):
    """The meaning of a setting, and the function that reads its text."""

    meaning: str
    read: Callable[[str], Any] = str


class Settings(NamedTuple):
    """The settings, each with its type, its meaning and its default."""

    host: Annotated[str, Setting("address to listen on")] = "127.0.0.1"
    port: Annotated[int, Setting("port to listen on", _port)] = 8080
    database_url: Annotated[
        str,
        Setting(
            "`sqlite:///relative`, `sqlite:////absolute` or `postgresql://…`", _url
        ),
    ] = "sqlite:///db.sqlite3"
    read_database_url: Annotated[
        str | None,
        Setting("a replica of PostgreSQL that reads are from, `postgresql://…`", _url),
    ] = None
    cache_mib: Annotated[
        int,
        Setting(
            "memory that each connection to SQLite keeps pages in, in MiB; what is "
            "not in it comes from the system's cache",
            _mebibytes,
        ),
    ] = CACHE_MIB
    workers: Annotated[int, Setting("processes that share the port", _workers)] = 1
    api_tokens_file: Annotated[
        Path | None,
        Setting("file of tokens: lines `name sha256-hex read` or `write`", Path),
    ] = None
    allow_anonymous: Annotated[
        bool, Setting("`1` lets anybody in beyond loopback", _switch)
    ] = False
    cors_origins: Annotated[
        tuple[str, ...], Setting("origins whose pages may call", _origins)
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        Setting(
            "names of this server, `*` for any; unset and without tokens, names that "
            "no web page can have",
            _host_names,
        ),
    ] = ()
    history_days: Annotated[
        int, Setting("how long a change can be undone; `0` keeps no values", _days)
    ] = 30
    log_level: Annotated[
        str, Setting("`debug`, `info`, `warning` or `error`, on stderr", _level)
    ] = "info"
    access_log: Annotated[
        bool, Setting("`0` writes no line for each request on stdout", _switch)
    ] = True
    log_format: Annotated[
        str, Setting("`json`, `text`, or `auto`: text on a terminal only", _format)
    ] = "auto"


DEFAULTS = Settings()


def table() -> list[tuple[str, str, Setting]]:
    """Return name, default and Setting of each, for the parser and the README."""
    hints = get_type_hints(Settings, include_extras=True)
    return [
        (
            name.upper(),
            str(int(default) if isinstance(default, bool) else default or ""),
            hints[name].__metadata__[0],
        )
        for name, default in DEFAULTS._asdict().items()
    ]


COMMANDS = {
    "backup": "backup DEST [--replace | --keep N]",
    "verify": "verify FILE",
    "token": "token NAME [--read]",
    "copy": "copy SOURCE_URL DEST_URL",
    "import": "import FILE [--dry-run]",
}
"""The commands beside serving, and how each is used."""


class Parser(ArgumentParser):
    """Refuses a bad setting in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the fault, under the name of the setting, and exit with status 2."""
        found = re.match(r"argument --([a-z-]+)", message)
        if found and found[1].replace("-", "_") in Settings._fields:
            name = found[1].upper().replace("-", "_")
            message = name + message.removeprefix(found[0])
        self.exit(2, f"{self.prog}: {message}\n")


def make_parser(version: str) -> Parser:
    """Return the parser of settings and commands."""
    parser = Parser(
        prog="server.py",
        description="The customer purchase server.",
        epilog=f"Commands: none serves; {'; '.join(COMMANDS.values())}. Every setting "
        "can come from the environment, under its name in capitals.",
    )
    parser.add_argument("command", nargs="*", help="see below")
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("--read", action="store_true", help="token: it may only read")
    parser.add_argument(
        "--replace", action="store_true", help="backup: over an older copy"
    )
    parser.add_argument(
        "--keep",
        type=_copies,
        metavar="N",
        help="backup: under a dated name in the folder DEST, and leave the newest N",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="import: only say what it would do"
    )
    for name, default, setting in table():
        is_switch = setting.read is _switch
        alone: dict[str, Any] = {"nargs": "?", "const": "1"} if is_switch else {}
        parser.add_argument(
            "--" + name.lower().replace("_", "-"),
            default=os.environ.get(name) or default or getattr(DEFAULTS, name.lower()),
            type=setting.read,
            metavar=name,
            help=f"{setting.meaning.replace('`', '')} (default: {default or 'unset'})",
            **alone,
        )
    return parser
