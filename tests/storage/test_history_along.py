"""The history goes along with a copy and a backup, and comes to an older database."""

import asyncio
import importlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from checks.support.server_process import Reply, Server, call, serving
from storage import sqlite_backup
from tests.support import DESCRIBED, JOHN, PHONE, run_sql

WRITES = (
    ("POST /api/v1/customer", JOHN),
    ("POST /api/v1/customer", JOHN),
    ("POST /api/v1/purchase/1", PHONE),
    ("POST /api/v1/purchase/1", PHONE),
    ("POST /api/v1/purchase/2", PHONE),
    ("PATCH /api/v1/purchase/1", {"quantity": 5}),
    ("DELETE /api/v1/purchase/1?purchase_id=1", None),
    ("DELETE /api/v1/purchase/1?delete_all=true", None),
    ("DELETE /api/v1/customer/2", None),
)
FEED, LIST = "/api/v1/changes", "/api/v1/customer"


def data(server: Server, path: str) -> Any:
    """Return the data of a reply."""
    body: Any = call(server, "GET", path).json()
    return body["data"]


def write(server: Server, line: str, body: object) -> Reply:
    """Send a write."""
    method, _, path = line.partition(" ")
    return call(server, method, path, body)


def copied(source: Path, place: Path, cluster: Any) -> dict[str, str]:
    """Copy into PostgreSQL; return the settings of a server on the copy."""
    transfer = importlib.import_module("storage.transfer")
    url: str = cluster.new_schema()
    asyncio.run(transfer.copy(f"sqlite:///{source}", url))
    return {"DATABASE_URL": url}


def backed_up(source: Path, place: Path, cluster: Any) -> dict[str, str]:
    """Back up into another folder; return the settings of a server on that."""
    sqlite_backup.backup(source, place / "db.sqlite3")
    return {}


@pytest.mark.parametrize("take", [copied, backed_up])
def test_history_goes_along(
    sqlite_path: Path, tmp_path: Path, postgresql_cluster: Any, take: Any
) -> None:
    """The same feed, which goes on, and what could be undone still can be."""
    place = tmp_path / "place"
    place.mkdir()
    with ExitStack() as stack:
        source = stack.enter_context(serving(sqlite_path.parent))
        states, changes = [], []
        for line, body in WRITES:
            states.append(data(source, LIST))
            reply = write(source, line, body)
            changes.append(reply.headers["Change"])
        feed = data(source, FEED)
        env = take(sqlite_path, place, postgresql_cluster)
        other = stack.enter_context(serving(place, env))
        assert data(other, FEED) == feed
        number = max(map(int, changes))
        for change, state in zip(changes[:1:-1], states[:1:-1], strict=True):
            reply = call(other, "POST", f"/api/v1/changes/{change}/undo")
            assert reply.status == 201, reply
            assert int(reply.headers["Change"]) > number
            number = int(reply.headers["Change"])
            assert data(other, LIST) == state
        assert data(source, FEED) == feed


def test_described_database(sqlite_path: Path) -> None:
    """Its history begins with the first change, which can be undone as any."""
    run_sql(sqlite_path, DESCRIBED)
    with serving(sqlite_path.parent) as server:
        before = data(server, "/api/v1/purchase/4")
        assert data(server, FEED) == []
        number = before[0]["purchase_id"]
        for line, body in (
            (f"PATCH /api/v1/purchase/{number}", {"quantity": 7}),
            (f"DELETE /api/v1/purchase/4?purchase_id={number}", None),
            ("DELETE /api/v1/purchase/4?delete_all=true", None),
            ("DELETE /api/v1/customer/4", None),
        ):
            reply = write(server, line, body)
            change = reply.headers["Change"]
            reply = call(server, "POST", f"/api/v1/changes/{change}/undo")
            assert reply.status == 201, reply
            assert data(server, "/api/v1/purchase/4") == before
