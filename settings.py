"""Settings: from flags, else from the environment, else their defaults."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

import db
import sqlite


class Settings(NamedTuple):
    """How the server runs."""

    host: str = "127.0.0.1"
    port: int = 8080
    database_url: str = "sqlite:///db.sqlite3"
    workers: int = 1
    api_tokens_file: Path | None = None
    allow_anonymous: bool = False
    cors_origins: tuple[str, ...] = ()
    log_level: str = "info"
    access_log: bool = True


DEFAULTS = Settings()
COMMANDS = "backup DEST; token NAME [--read]; copy SOURCE_URL DEST_URL"


class Parser(argparse.ArgumentParser):
    """Refuses a bad setting in one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, by the name that a setting has, and exit with status 2."""
        found = re.match(r"argument --([a-z-]+)", message)
        if found and found[1].replace("-", "_") in Settings._fields:
            name = found[1].upper().replace("-", "_")
            message = name + message.removeprefix(found[0])
        self.exit(2, f"{self.prog}: {message}\n")


def _port(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text[:6]) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")


def _workers(text: str) -> int:
    if text.isascii() and text.isdecimal() and 1 <= int(text[:4]) <= 256:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes, 1 to 256")


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 0 nor 1")
    return text == "1"


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a level")
    return text.lower()


ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")
"""A scheme, a host and perhaps a port, as browsers send them (RFC 6454, 6.2)."""


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(text.replace(",", " ").split())
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise argparse.ArgumentTypeError(
                f"{origin!r} is not an origin: https://shop.example is one"
            )
    return origins


PLACE = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
"""One host of a PostgreSQL URL, which may name several, and perhaps its port."""


def _is_place(text: str) -> bool:
    found = PLACE.fullmatch(text)
    return found is not None and int(found[1] or 0) < 65536


def _url(text: str) -> str:
    try:
        text.encode()  # a name that is not UTF-8 comes as lone surrogates
        if db.is_postgres(text):
            places = urlsplit(text).netloc.rpartition("@")[2].split(",")
            if not all(map(_is_place, places)):
                raise db.RefusedError(
                    "it names a host or a port that is none; "
                    "what is special in a password is percent-encoded"
                )
        elif not sqlite.path_of(text).parent.is_dir():
            raise db.RefusedError(f"{text}: there is no such folder")
    except db.RefusedError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    except OSError as exc:
        raise argparse.ArgumentTypeError(f"{text}: {exc.strerror}") from None
    except ValueError:  # its text may hold a password
        raise argparse.ArgumentTypeError("it is no URL") from None
    return text


def parser() -> Parser:
    """Return what reads the settings: flags, over the environment, over defaults."""
    reader = Parser(
        prog="server.py",
        description="The customer purchase server.",
        epilog=f"Commands: none serves; {COMMANDS}. Every setting can come from the "
        "environment, under its name in capitals.",
    )
    reader.add_argument("command", nargs="*", help="see below")
    reader.add_argument("--read", action="store_true", help="token: it may only read")
    settings: tuple[tuple[str, str | None, Callable[[str], Any], str], ...] = (
        ("HOST", "127.0.0.1", str, "address to listen on"),
        ("PORT", "8080", _port, "port to listen on"),
        (
            "DATABASE_URL",
            "sqlite:///db.sqlite3",
            _url,
            "sqlite:///relative, sqlite:////absolute or postgresql://...",
        ),
        ("WORKERS", "1", _workers, "processes that share the port"),
        (
            "API_TOKENS_FILE",
            None,
            Path,
            "who may come in: `name sha256-hex read|write`",
        ),
        ("ALLOW_ANONYMOUS", "0", _switch, "1: let anybody in beyond loopback"),
        ("CORS_ORIGINS", "", _origins, "origins whose pages may call"),
        ("LOG_LEVEL", "info", _level, "debug, info, warning or error"),
        ("ACCESS_LOG", "1", _switch, "0: no line a request on stdout"),
    )
    for name, default, kind, meaning in settings:
        alone: dict[str, Any] = {"nargs": "?", "const": "1"} if kind is _switch else {}
        reader.add_argument(
            "--" + name.lower().replace("_", "-"),
            default=os.environ.get(name) or default,
            type=kind,
            metavar=name,
            help=f"{meaning} (default: {default or 'unset'})",
            **alone,
        )
    return reader
