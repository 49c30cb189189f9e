"""Runs the migration scripts of SQLite, with the functions that they call."""

import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from sqlite3 import complete_statement
from typing import Any

from storage.schema import fold_name, key_digest

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HEX_DIGEST = re.compile("[0-9a-f]{64}")


def run_scripts(connection: Any, scripts: Iterable[str]) -> None:
    """Run scripts in the transaction of a connection."""
    connection.create_function("canonical_time", 1, canonical_time)
    connection.create_function("canonical_text", 1, canonical_text)
    connection.create_function("casefold", 1, str.casefold)
    connection.create_function("fold_name", 1, fold_name)
    connection.create_function("key_digest", 4, key_digest)
    connection.create_function("half_digest", 1, half_digest)
    connection.create_function("microseconds", 1, microseconds)
    for script in scripts:
        statement = ""
        for piece in script.split(";"):
            statement += f"{piece};"
            if complete_statement(statement):  # all but a part of a trigger
                connection.execute(statement)
                statement = ""


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


def half_digest(text: str) -> bytes:
    """Return the first 16 bytes of a digest in hexadecimal digits, if it is one."""
    return bytes.fromhex(text[:32]) if HEX_DIGEST.fullmatch(text) else b""


def microseconds(text: str) -> int:
    """Return a time as this server writes it in microseconds since 1970."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)
