"""The database that --database-url names."""

import asyncio
from typing import Any

import pytest

import db
from storage.engine import StartupError
from tests.given_database import GivenDatabase
from tests.support import JOHN, author, by, count


async def fill(url: str) -> tuple[int, int]:
    """Add, change and delete something; return the ids of customer and change."""
    engine = await db.connect(url)
    try:
        john = JOHN["name"], JOHN["address"]
        customer, _ = await engine.write(db.add_customer, *john, *by())
        number = customer.id
        await engine.write(db.add_purchase, number, "phone", 1, None, *by())
        cleared = await engine.write(db.delete_all_purchases, number, author())
        for table in ("customer", "purchases", "hidden", "history"):
            assert await engine.read(count, table)
        assert cleared.change is not None
        return number, cleared.change
    finally:
        await engine.close()


def test_given_database(postgresql_cluster: Any) -> None:
    """It is refused with rows, and as new after each test."""
    url = postgresql_cluster.new_schema()
    given = GivenDatabase(url)
    first = asyncio.run(fill(url))
    with pytest.raises(ValueError, match="has rows"):
        GivenDatabase(url)
    given.clear()
    assert asyncio.run(fill(url)) == first == (1, 3)


def test_none_to_be_emptied() -> None:
    with pytest.raises(ValueError, match="PostgreSQL"):
        GivenDatabase("sqlite:///db.sqlite3")
    with pytest.raises(StartupError):
        GivenDatabase("postgresql://127.0.0.1:1/none")
