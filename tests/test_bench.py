"""The parts of the benchmark that could make its figures wrong without a sign."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench.peers import targets
from bench.peers.loads import Figure
from bench.peers.programs import OURS
from bench.peers.rows import fill
from bench.peers.targets import Place, Target
from bench.report import document, judge
from bench.sections import Run, count_lost
from checks.support.server_process import Reply, Server
from storage import sqlite_file, sqlite_verify

GROUPS = "SELECT customer_id, count(*) FROM purchases GROUP BY 1"
BLOCKS = "SELECT block FROM purchase_blocks"
HISTORY = """
SELECT count(*) FROM history AS h
JOIN purchases AS p ON p.id = h.purchase_id AND p.customer_id = h.customer_id"""
FOLDED = "SELECT DISTINCT name_folded = lower(name) FROM customer"


@pytest.fixture
def run() -> Run:
    """Return a run that has measured nothing yet."""
    place = Place(Path(), "0")
    return Run(1, 1, "1", place, place)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Return a database of the server's with the purchases of four customers."""
    path = tmp_path / "db.sqlite3"
    sqlite_file.create_or_migrate(path)
    fill(path, [2, 0, 5000, 3])
    return path


def ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_fill(filled: Path) -> None:
    assert ask(filled, GROUPS) == [(1, 2), (3, 5000), (4, 3)]
    first = "SELECT customer_id FROM purchases ORDER BY id LIMIT 7"
    in_turn = [customer for (customer,) in ask(filled, first)]
    assert [sorted(in_turn[:3]), sorted(in_turn[3:6])] == [[1, 3, 4]] * 2
    assert in_turn[6] in {3, 4}


def test_fill_leaves_nothing_for_the_server_to_do(filled: Path) -> None:
    assert "whole" in sqlite_verify.verify(filled)
    assert ask(filled, BLOCKS) == [(0,)]  # of 5005 ids; more are still added to block 1
    assert ask(filled, HISTORY) == [(5005,)]
    assert ask(filled, FOLDED) == [(1,)]


def test_fill_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE customer (id INTEGER PRIMARY KEY, name, address,"
            " date_created); CREATE TABLE purchases (id INTEGER PRIMARY KEY,"
            " purchase_name, quantity, customer_id, date_created);"
        )
    fill(path, [1, 2])
    assert ask(path, GROUPS) == [(1, 1), (2, 2)]


def test_lost_adds_are_counted(run: Run, filled: Path) -> None:
    server = Server(filled.parent)
    # Customers 3 and 4 were added to, and had all but 7 of what they have.
    first, second = (
        Target(name, server, listed=2, added=2, before=4996, acknowledged=4)
        for name in ("one", "two")
    )
    count_lost(run, [first])
    assert run.goals[-1].seen == 0
    count_lost(run, [first, second])  # they share the database, which has 7 of their 8
    assert [goal.seen for goal in run.goals[1:]] == [1, 1]


def reply(status: int, body: object) -> Reply:
    """Return a reply with a JSON body."""
    return Reply(status, body=json.dumps(body).encode())


LISTED = reply(200, {"status": "ok", "data": []})
ADDED = reply(201, {"status": "ok", "data": {"id": 1, "customer_id": "7"}})


@pytest.mark.parametrize(
    "seen",
    [
        {"list": reply(200, {"status": "ok", "data": [{}]}), "add": ADDED},
        {"list": LISTED, "add": reply(200, ADDED.json())},
        {"list": LISTED, "add": reply(201, {"status": "ok", "data": {"id": 1}})},
        {"list": LISTED, "add": reply(201, {"data": {"id": 1, "customer_id": 7}})},
    ],
)
def test_a_peer_that_answers_otherwise_is_refused(seen: Mapping[str, Reply]) -> None:
    expected = {"list": LISTED, "add": ADDED}
    targets.compare("same", expected, expected)
    with pytest.raises(SystemExit):
        targets.compare("peer", seen, expected)


@pytest.mark.parametrize(
    ("invalid", "unknown", "refused"),
    [(422, 404, False), (400, 404, False), (201, 404, True), (422, 201, True)],
)
def test_a_peer_that_validates_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    invalid: int,
    unknown: int,
    refused: bool,
) -> None:
    nobody = targets.path_of(len(targets.SHORT_LISTS) + 1)

    def call(server: Server, method: str, path: str, value: object = None) -> Reply:
        return Reply(unknown if path == nobody else invalid)

    monkeypatch.setattr(targets, "call", call)
    try:
        targets.refuse_careless("peer", Server(tmp_path))
    except SystemExit:
        assert refused
    else:
        assert not refused


def test_ratio_is_the_median_of_the_rounds(run: Run) -> None:
    for server, rates in ((OURS, (10, 90, 30)), ("limit", (20, 100, 10))):
        run.figures += [Figure("list", server, rate, 1, 1, 1, 0) for rate in rates]
    assert run.ratio("list", "rate", OURS, "limit") == 0.9


@pytest.mark.parametrize(
    ("seen", "short", "held"),
    [(0.8, False, True), (0.79, False, False), (0.79, True, True), (0.39, True, False)],
)
def test_goals(run: Run, seen: float, short: bool, held: bool) -> None:
    run.goal("a ratio", 0.8, seen, least=True)
    assert judge(run, short) == held


def test_document_tells_how_it_was_measured(run: Run) -> None:
    run.note("in turns")
    assert json.loads(json.dumps(document(run)))["notes"] == ["in turns"]
