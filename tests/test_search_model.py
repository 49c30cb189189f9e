"""Search against Python's own, whatever was indexed, renamed, undone and erased."""

import json
import random
from collections.abc import Awaitable, Callable
from typing import Any
from unicodedata import normalize

import pytest

import db
from queries import customer_lists, names
from storage import sqlite_verify
from storage.engine import Row, Statement
from storage.schema import fold_name
from storage.sqlite_engine import SqliteEngine
from tests.support import MAX_ID, author, by

PIECES = [*'abAB ßéЯя%_\\"中😀\u0301', "e\u0301", "'", "ab", "*", "AND"]
"""What names are made of; few, so that many have something in common."""
REFUSALS = (db.ConflictError, db.ErasedError, db.NotFoundError)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search take several units, each of which looks at few rows."""
    monkeypatch.setattr(customer_lists, "SCAN_ROWS", 7)
    monkeypatch.setattr(customer_lists, "WINDOW_ROWS", 3)
    monkeypatch.setattr(customer_lists, "SPARE_ROWS", 2)
    monkeypatch.setattr(names, "INDEX_ROWS", 8)
    monkeypatch.setattr(names, "MAX_TERMS", 2)


class Model:
    """The names of all customers, and the database that must agree."""

    def __init__(self, engine: Any, seed: int) -> None:
        self.engine = engine
        self.chance = random.Random(seed)  # noqa: S311 - nothing is secret
        self.names: dict[int, str] = {}
        self.changes: list[tuple[int, int, str | None, str | None]] = []
        """Each with its number, the customer, and the name before and after."""

    def text(self, most: int) -> str:
        """Return a text of up to so many pieces."""
        return "".join(self.chance.choices(PIECES, k=self.chance.randint(1, most)))

    def someone(self) -> int:
        """Return the id of a customer, who may be gone."""
        return self.chance.choice([change[1] for change in self.changes] or [1])

    def note(self, change: int, number: int, name: str | None) -> None:
        """Note what a change has made of a name."""
        self.changes.append((change, number, self.names.pop(number, None), name))
        if name is not None:
            self.names[number] = name

    async def add(self) -> None:
        """Add a customer."""
        name = self.text(9)
        written = await self.engine.write(db.add_customer, name, "", *by())
        self.note(written.change, written.result.id, name)

    async def rename(self) -> None:
        """Give a customer another name."""
        number, name = self.someone(), self.text(9)
        if number in self.names:
            values = number, name, None, author(), None
            written = await self.engine.write(db.update_customer, *values)
            self.note(written.change, number, name)

    async def delete(self) -> None:
        """Delete a customer."""
        number = self.someone()
        if number in self.names:
            written = await self.engine.write(
                db.delete_customer, number, author(), None
            )
            self.note(written.change, number, None)

    async def undo(self) -> None:
        """Undo a change, if that can be."""
        change, number, before, _ = self.chance.choice(self.changes)
        try:
            written = await self.engine.write(db.undo_change, change, author(), "")
        except REFUSALS:
            return
        self.note(written.change, number, before)

    async def erase(self) -> None:
        """Erase a customer for good."""
        number = self.someone()
        try:
            await self.engine.write(db.purge_customer, number, author(), None)
        except db.NotFoundError:
            return
        self.names.pop(number, None)
        while self.chance.random() < 0.8:
            await self.engine.write(db.purge_step, number)

    async def index(self) -> None:
        """Index some names."""
        await self.engine.write(db.index_names)

    async def search(self) -> None:
        """Look for a text, in steps of some length and one of the orders."""
        whole = self.chance.choice([*self.names.values(), self.text(9)])
        start = self.chance.randint(0, len(whole) - 1)
        part = whole[start : start + self.chance.choice((1, 2, 3, 4, 9))]
        part = self.chance.choice([part, part.upper(), normalize("NFD", part)])
        limit, descending = self.chance.randint(1, 5), self.chance.random() < 0.5
        ids, after = [], MAX_ID if descending else 0
        while True:
            values = part, descending, after, limit
            page = await self.engine.scan(db.find_customers, *values)
            rows = json.loads(page.json)
            assert page.size == len(rows) <= limit
            assert all(row["name"] == self.names[row["id"]] for row in rows)
            ids += [row["id"] for row in rows]
            if page.after is None:
                break
            after = page.after
        wanted = sorted(
            number
            for number, name in self.names.items()
            if fold_name(part) in fold_name(name)
        )
        assert ids == (wanted[::-1] if descending else wanted), ascii(part)
        assert await self.engine.scan(db.count_customers, part) == len(ids)


STEPS: list[tuple[Callable[[Model], Awaitable[None]], int]] = [
    *((Model.add, 8), (Model.rename, 3), (Model.delete, 2), (Model.undo, 4)),
    *((Model.erase, 1), (Model.index, 2), (Model.search, 8)),
]


@pytest.mark.parametrize("seed", range(4))
async def test_any_sequence(engine: Any, seed: int) -> None:
    model = Model(engine, seed)
    for _ in range(6):
        await model.add()
    kinds, weights = zip(*STEPS, strict=True)
    for step in model.chance.choices(kinds, weights, k=250):
        await step(model)
    for _ in range(30):
        await model.index()
        await model.search()
    if isinstance(engine, SqliteEngine):
        assert await engine.read(misnamed) == [], "verify would call it wrong"


def misnamed() -> db.Unit[list[Row]]:
    """Return a customer about whom the index is wrong."""
    rows: list[Row] = yield Statement(sqlite=sqlite_verify.SELECT_MISNAMED), ()
    return rows
