"""Runs the migration scripts of SQLite, with the functions that they call."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from storage.schema import fold_name


def run_scripts(connection: Any, scripts: Iterable[str]) -> None:
    """Run scripts in the transaction of a connection."""
    connection.create_function("canonical_time", 1, canonical_time)
    connection.create_function("canonical_text", 1, canonical_text)
    connection.create_function("casefold", 1, str.casefold)
    connection.create_function("fold_name", 1, fold_name)
    for script in scripts:
        for statement in script.split(";"):
            connection.execute(statement)


def canonical_time(text: object) -> str:
    """Return a time of the described server as this server writes it, if it is one."""
    if not text:
        return "1970-01-01 00:00:00.000000+00:00"
    try:
        time = _parsed(str(text))
        time = time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return str(text)
    return time.isoformat(" ", "microseconds")


def _parsed(text: str) -> datetime:
    with suppress(ValueError):
        return datetime.fromisoformat(text)
    return datetime.strptime(text, "%b %d %Y %H:%M:%S")  # as its replies show it


def canonical_text(text: bytes | None) -> bytes | None:
    """Return a text of the described server, with U+FFFD for what is not UTF-8."""
    # As bytes, for a driver may cut the text that a function returns at U+0000.
    return None if text is None else text.decode("utf-8", "replace").encode()
