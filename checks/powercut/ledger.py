"""What clients were told, what each commit held, and what a disk holds after a cut."""

import hashlib
import json
import re
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from checks.powercut.recording import Call, Kind
from queries.packed_responses import unpack
from storage import sqlite_file
from storage.engine import StartupError
from storage.search_index import NAME as INDEX
from storage.sqlite_connection import driver

DATABASE = "db.sqlite3"
TELLS = re.compile(
    rb'\r\nChange: (\d+)\r|\r\nFeed-Cursor: (\d+)\r|"cursor":"(\d+)"|\nid: ?(\d+)\n'
)
"""A row of the history that a client is told of."""
RESPONSE = re.compile(
    rb"HTTP/1.1 (20[01]) [^\r]*(?:\r\n[^\r]+)*?\r\nChange: (\d+)(?:\r\n[^\r]+)*?"
    rb"\r\nContent-Length: (\d+)(?:\r\n[^\r]+)*?\r\n\r\n"
)
SELECT_TABLES = """
SELECT name FROM sqlite_master WHERE type = 'table'
AND name NOT LIKE 'sqlite_stat%' ORDER BY name"""
SELECT_KEY = "SELECT status, response FROM idempotency WHERE change = ?"
ROWS = {
    ("name", "address"): "SELECT change, name, address FROM customer WHERE id = ?",
    ("purchase_name", "quantity"): (
        "SELECT change, purchase_name, quantity FROM purchases WHERE id = ?"
    ),
}
"""Fields of an answer, and the row with its last change, None since it was created."""


class Told(NamedTuple):
    """A row of the history that a client may know of from a place in the log on."""

    place: int
    row: int


class Response(NamedTuple):
    """An answer to a write: when it was sent, its status, its change and its body."""

    place: int
    status: int
    change: int
    body: bytes


class Content(NamedTuple):
    """What a database holds."""

    newest: int
    """The last row of its history."""
    digest: bytes
    """That of every row of every table."""


class Streams:
    """What was sent over each connection, and when."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.sent: dict[int, list[tuple[int, bytes]]] = {}
        for call in calls:
            if call.kind is Kind.SEND and call.file:
                size = len(call.data) if call.result is None else max(call.result, 0)
                piece = call.began, call.data[:size]
                self.sent.setdefault(call.file, []).append(piece)

    def told(self) -> list[Told]:
        """Return what clients were told, in the order of the log."""
        found = []
        for pieces in self.sent.values():
            ends = [*accumulate(len(data) for _, data in pieces)]
            for match in TELLS.finditer(b"".join(data for _, data in pieces)):
                row = next(int(group) for group in match.groups() if group)
                place = pieces[bisect_right(ends, match.start())][0]
                found.append(Told(place, row))
        return sorted(found)

    def responses(self) -> Iterator[Response]:
        """Yield the answers to writes."""
        for pieces in self.sent.values():
            ends = [*accumulate(len(data) for _, data in pieces)]
            stream = b"".join(data for _, data in pieces)
            for match in RESPONSE.finditer(stream):
                body = stream[match.end() : match.end() + int(match[3])]
                place = pieces[bisect_right(ends, match.start())][0]
                yield Response(place, int(match[1]), int(match[2]), body)


def write_files(folder: Path, root: str, files: Mapping[str, bytes]) -> None:
    """Make a folder hold what a disk holds, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        path = folder / name.removeprefix(f"{root}/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def read_content(connection: Any) -> Content:
    """Return what an open database holds."""
    digest, newest = hashlib.sha256(), 0
    for (table,) in connection.execute(SELECT_TABLES).fetchall():
        if table.startswith(INDEX):  # made anew where it is not whole
            continue
        rows = connection.execute(f'SELECT * FROM "{table}"').fetchall()  # noqa: S608
        digest.update(repr((table, sorted(rows, key=repr))).encode())
        if table == "sqlite_sequence":
            newest = dict(rows).get("history", 0)
    return Content(newest, digest.digest())


def recover(folder: Path) -> tuple[Content | None, list[str]]:
    """Start on what a folder holds; return its content and what is wrong.

    None where the start was refused.
    """
    path = folder / DATABASE
    try:
        sqlite_file.create_or_migrate(path)
    except StartupError as exc:
        return None, [f"refused: {str(exc).replace(str(folder), '')}"]
    with closing(driver.connect(path)) as connection:
        try:
            faults = faults_of(connection)
            return read_content(connection), faults
        except driver.Error as exc:
            return None, [f"{type(exc).__name__}: {exc}"]


def faults_of(connection: Any) -> list[str]:
    """Return what SQLite finds wrong with a database."""
    found = connection.execute("PRAGMA integrity_check(3)").fetchall()
    faults = [] if found == [("ok",)] else [f"integrity_check: {found}"]
    orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
    return faults + [f"foreign_key_check: {row}" for row in orphans[:3]]


def compare(connection: Any, responses: Sequence[Response]) -> tuple[int, list[str]]:
    """Compare answers with the rows and the keys of their commit.

    Return how many of those there were, and where they differ.
    """
    pairs: list[tuple[object, object]] = []
    for response in responses:
        for status, packed in connection.execute(SELECT_KEY, (response.change,)):
            told = response.status, response.body
            pairs.append((told, (status, unpack(packed)[2])))
        data = json.loads(response.body).get("data", {})
        for names, select in ROWS.items():
            if names[0] not in data:
                continue
            row = connection.execute(select, (int(data["id"]),)).fetchone()
            # Another write may have changed it in the same commit, or before a replay.
            unchanged = (
                {response.change, None} if response.status == 201 else {response.change}
            )
            if row is not None and row[0] in unchanged:
                pairs.append((tuple(data[name] for name in names), row[1:]))
    faults = [
        f"{told!r} was answered, {stored!r} is stored"
        for told, stored in pairs
        if told != stored
    ]
    return len(pairs), faults
