"""`python server.py import FILE`."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import db
import server
from api import imports
from tests.support import Main, count, one_engine

HEAD = "customer_name,customer_address,purchase_name,quantity,purchased_on\n"
ROWS = "Ada,Delft,Cup,2,2022-04-09\nBob,,Pen,1,\nAda,Delft,Cup,3,2022-04-10\n"


def counts(url: str) -> list[int]:
    """Return the numbers of customers, of purchases, and of rows of the history."""

    async def ask() -> list[int]:
        engine = await db.connect(url)
        tables = ("customer", "purchases", "history")
        found = [await engine.read(count, table) for table in tables]
        await engine.close()
        return found

    return asyncio.run(ask())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file to import."""
    path = tmp_path / "Old.CSV"
    path.write_text(HEAD + ROWS)
    return path


def run(main: Main, url: str, *arguments: Any) -> tuple[int | str | None, str, str]:
    """Run the command on a database."""
    return main("import", *map(str, arguments), "--database-url", url)


def test_import(main: Main, database_url: str, file: Path) -> None:
    """The database is made where it is not there; a dry run stores nothing."""
    status, out, err = run(main, database_url, file, "--dry-run")
    assert (status, out) == (0, "it would add 2 customers and 3 purchases\n"), err
    assert counts(database_url) == [0, 0, 0]
    status, out, err = run(main, database_url, file)
    told = "added 2 customers and 3 purchases, by change 1\n"
    assert (status, out) == (0, told), err
    assert counts(database_url) == [2, 3, 5]


def test_nothing_to_add(main: Main, database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "people.jsonl"
    path.write_text('{"name": "Ada", "address": "Delft"}\n')
    assert run(main, database_url, path)[1].startswith("added 1 customers")
    again = run(main, database_url, path)
    assert again[:2] == (0, "added 0 customers and 0 purchases\n")


@one_engine
def test_faults(main: Main, database_url: str, file: Path) -> None:
    """They are told by their lines, and nothing is stored."""
    file.write_text(HEAD + ROWS + "Eve,,Cup,0,09/04/2022\n")
    status, out, err = run(main, database_url, file)
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        "server.py: The file is not valid, see errors: 2 faults.",
        "line 5: quantity: Expected int >= 1.",
        "line 5: purchased_on: "
        "Such a date can be read in two ways: write it as 2022-04-09.",
    ]
    assert counts(database_url) == [0, 0, 0]


@one_engine
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none.csv", "none.csv: No such file or directory"),
        ("old.txt", "old.txt: import takes files named .csv or .jsonl"),
    ],
)
def test_no_file(main: Main, database_url: str, name: str, text: str) -> None:
    status, out, err = run(main, database_url, name)
    assert (status, out, err) == (1, "", f"server.py: {text}\n")


@one_engine
def test_locked_database(
    main: Main, database_url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps the database from it is told in one line."""

    async def refuse(*_: object) -> None:
        raise db.UnavailableError("the database is locked by another process")

    server.try_make_db(database_url)
    monkeypatch.setattr(imports, "write_rows", refuse)
    status, _, err = run(main, database_url, file)
    assert (status, err) == (
        1,
        "server.py: the database is locked by another process\n",
    )
