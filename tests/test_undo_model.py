"""Any sequence of writes and undos, against a model that keeps row by row.

    python -m tests.test_undo_model [--sequences 12000] [--steps 40] [--seed 0]

runs more of them than the suite does, on SQLite. The model knows nothing of hidden
ranges: a change is what it made of each row, and undoing it makes of each row what it
was. A sequence is told by its seed.
"""

import argparse
import asyncio
import importlib
import json
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import db
import server
from storage import sqlite_verify
from storage.batch_queue import run_unit
from storage.sqlite_connection import driver
from tests.support import author, by

Run = Callable[..., Any]
Key = tuple[str, int]
"""What a row is, and its id."""
REFUSALS = (db.ConflictError, db.ErasedError, db.NotFoundError)


class State(NamedTuple):
    """The values of a row, and the change that they come from: 0 for its creation."""

    values: tuple[Any, ...]
    content: int


class Row:
    """A row as it is now; no state where it is not there."""

    def __init__(self, owner: int, state: State) -> None:
        self.owner = owner
        self.state: State | None = state
        self.version = 1


class Change(NamedTuple):
    """What a write made of rows: each with its state before and after."""

    number: int
    rows: dict[Key, tuple[State | None, State | None]]
    brings_back: bool = False
    """Whether it undid a deletion of all of a customer's purchases."""
    root: int = 0
    """The first of a chain, each of which but that undid the one before it."""


class Model:
    """Rows and changes of one sequence, and the database that must agree."""

    def __init__(self, run: Run, seed: int) -> None:
        self.run = run
        self.chance = random.Random(seed)  # noqa: S311 - nothing is secret
        self.rows: dict[Key, Row] = {}
        self.changes: list[Change] = []
        self.undone: set[int] = set()
        self.erased: set[int] = set()
        self.contents: dict[tuple[Key, int], tuple[Any, ...]] = {}
        self.first = {
            "customer": self.last_id(db.find_customers, "", False),
            "purchase": self.last_id(db.list_purchases),
        }

    def last_id(self, query: Any, *args: Any) -> int:
        """Return the last id of a list, from which on rows are this sequence's."""
        after, page = 0, self.run(query, *args, 0, 1000)
        while page.size:
            rows = json.loads(page.json)
            after = rows[-1].get("id") or rows[-1]["purchase_id"]
            page = self.run(query, *args, after, 1000)
        return after

    # What the model holds

    def there(self, kind: str, owner: int | None = None) -> list[int]:
        """Return the ids of the rows that are there."""
        return [
            number
            for (noun, number), row in self.rows.items()
            if noun == kind and row.state and owner in (None, row.owner)
        ]

    def become(self, number: int, wishes: dict[Key, State | None], **more: Any) -> None:
        """Note what a change has made of rows."""
        rows = {key: (self.rows[key].state, state) for key, state in wishes.items()}
        for key, state in wishes.items():
            row = self.rows[key]
            if state and row.state:
                row.version += 1
            row.state = state
            if state:
                known = self.contents.setdefault((key, row.version), state.values)
                assert known == state.values, f"a tag for two contents of {key}"
        self.changes.append(Change(number, rows, **more))

    def refusal(self, change: Change) -> str:
        """Return why a change cannot be undone now: must, may or nothing."""
        if change.number in self.undone:
            return "must"
        for key, (_, after) in change.rows.items():
            if self.rows[key].state != after:
                return "must"
        wishes = {key: before for key, (before, _) in change.rows.items()}
        gone = {number for noun, number in wishes if not wishes[noun, number]}
        customers = {*self.there("customer")}
        for (noun, number), before in wishes.items():
            if noun == "customer":
                (customers.add if before else customers.discard)(number)
        for (noun, number), row in self.rows.items():
            state = wishes.get((noun, number), row.state)
            touched = (noun, number) in wishes or row.owner in gone
            alone = state and touched and row.owner not in customers
            if noun == "purchase" and alone:
                return "must"
        return "may" if change.brings_back and self.changed_since(change) else ""

    def changed_since(self, change: Change) -> bool:
        """Return whether purchases of its customer changed, but for additions."""
        owners = {self.rows[key].owner for key in change.rows}
        later = self.changes[self.changes.index(change) + 1 :]
        return any(
            noun == "purchase" and self.rows[noun, number].owner in owners
            for one in later
            for (noun, number), (before, _) in one.rows.items()
            if before or one.root
        )

    # Writes

    def step(self) -> None:
        """Write something, and compare what can be seen."""
        kinds: list[Callable[[], None]] = [
            *[self.add_purchase] * 6,
            *[self.update_purchase] * 4,
            *[self.delete_some] * 3,
            *[self.undo] * 12,
            *[self.delete_all, self.delete_customer] * 2,
            *[self.update_customer, self.add_customer],
        ]
        if self.chance.random() < 0.01:
            kinds = [self.purge]
        self.chance.choice(kinds)()
        self.compare()

    def any_of(self, kind: str) -> int:
        """Return the id of a row, which perhaps is not there; 0 without any."""
        numbers = [number for noun, number in self.rows if noun == kind]
        return self.chance.choice(numbers or [0])

    def add_customer(self) -> None:
        if len([1 for noun, _ in self.rows if noun == "customer"]) > 2:
            return
        row, change = self.run(db.add_customer, "n", "a", *by())
        self.add("customer", row.id, row.id, State(("n", "a"), 0), change)

    def add(
        self, noun: str, number: int, owner: int, state: State, change: int
    ) -> None:
        """Note a new row."""
        self.rows[noun, number] = Row(owner, state)
        self.contents[(noun, number), 1] = state.values
        self.changes.append(Change(change, {(noun, number): (None, state)}))

    def add_purchase(self) -> None:
        owner = self.any_of("customer")
        added = self.write(
            owner in self.there("customer"), db.add_purchase, owner, "p", 1, None
        )
        if added:
            row, change = added
            self.add("purchase", row.id, owner, State(("p", 1, None), 0), change)

    def write(self, known: bool, query: Any, *args: Any) -> Any:
        """Run a query, which must fail where the row is not there."""
        who = by() if query is db.add_purchase else (author(),)
        check = (None,) if "check" in query.__code__.co_varnames else ()
        if known:
            return self.run(query, *args, *who, *check)
        with pytest.raises(db.NotFoundError):
            self.run(query, *args, *who, *check)
        return None

    def update_purchase(self) -> None:
        number = self.any_of("purchase")
        quantity = self.chance.randint(1, 3)
        known = number in self.there("purchase")
        changed = self.write(known, db.update_purchase, None, number, None, quantity)
        if changed:
            row, change = changed
            values = (row.purchase_name, quantity, row.last_updated_on)
            self.become(change, {("purchase", number): State(values, change)})

    def update_customer(self) -> None:
        number = self.any_of("customer")
        known = number in self.there("customer")
        name = self.chance.choice("xyz")
        changed = self.write(known, db.update_customer, number, name, None)
        if changed:
            row, change = changed
            state = State((name, row.address), change)
            self.become(change, {("customer", number): state})

    def delete_some(self) -> None:
        owner = self.any_of("customer")
        numbers = [self.any_of("purchase") for _ in range(self.chance.randint(1, 3))]
        known = owner in self.there("customer")
        deleted = self.write(known, db.delete_purchases, owner, numbers)
        if deleted:
            mine = {*numbers} & {*self.there("purchase", owner)}
            assert deleted.result == len(mine)
            if mine:
                gone: dict[Key, State | None] = {
                    ("purchase", one): None for one in mine
                }
                self.become(deleted.change, gone)

    def delete_all(self) -> None:
        owner = self.any_of("customer")
        known = owner in self.there("customer")
        deleted = self.write(known, db.delete_all_purchases, owner)
        if deleted:
            mine = self.there("purchase", owner)
            assert deleted.result == len(mine)
            if mine:
                self.become(deleted.change, {("purchase", one): None for one in mine})

    def delete_customer(self) -> None:
        owner = self.any_of("customer")
        known = owner in self.there("customer")
        deleted = self.write(known, db.delete_customer, owner)
        if deleted:
            mine = self.there("purchase", owner)
            assert deleted.result == len(mine)
            gone: dict[Key, State | None] = {("purchase", one): None for one in mine}
            self.become(deleted.change, gone | {("customer", owner): None})

    def purge(self) -> None:
        owner = self.any_of("customer")
        known = owner > 0 and owner not in self.erased
        erased = self.write(known, db.purge_customer, owner)
        if erased:
            assert erased.result == len(self.there("purchase", owner))
            self.erased.add(owner)
            for row in self.rows.values():
                if row.owner == owner:
                    row.state = None
            if self.chance.random() < 0.5:
                while self.run(db.purge_step):
                    pass

    def undo(self) -> None:
        """Undo a change: of the last ones, as a rule."""
        if self.changes:
            latest = self.changes[-self.chance.choice([1, 2, 4, 8, 99]) :]
            self.undo_change(self.chance.choice(latest))

    def undo_change(self, change: Change) -> bool:
        """Undo a change if that can be; return whether it could."""
        owners = {self.rows[key].owner for key in change.rows}
        refusal = "must" if owners & self.erased else self.refusal(change)
        since = "2000-01-01 00:00:00.000000+00:00"
        refused = None
        try:
            written = self.run(db.undo_change, change.number, author(), since)
        except REFUSALS as exc:
            refused = exc
        if refused is not None:
            assert refusal, f"{change} was refused: {refused!r}"
            assert not owners & self.erased or isinstance(refused, db.ErasedError)
            return False
        assert refusal != "must", f"{change} was undone"
        self.undone.add(change.number)
        wishes = {key: before for key, (before, _) in change.rows.items()}
        back = len([1 for before in wishes.values() if before])
        more = {"brings_back": back > 0, "root": change.root or change.number}
        self.become(written.change, wishes, **more)
        return True

    def undo_all(self) -> None:
        """Undo all in reverse, undos too: in the end there is nothing."""
        for change in self.changes[::-1]:
            owners = {self.rows[key].owner for key in change.rows}
            if owners & self.erased:
                continue
            before = {key: self.rows[key].state for key in change.rows}
            assert before == {key: after for key, (_, after) in change.rows.items()}
            root = change.root or change.number
            chain = [one for one in self.changes if root in (one.root, one.number)]
            assert self.undo_change(chain[-1]), change
            self.compare()
        assert not self.there("customer") + self.there("purchase")

    # What can be seen

    def compare(self) -> None:
        """Hold lists and single rows against the model."""
        listed = self.pages(db.list_purchases, after=self.first["purchase"])
        bought = {row["purchase_id"]: row for row in listed}
        assert [*bought] == sorted(self.there("purchase"))
        people = self.pages(db.find_customers, "", False, after=self.first["customer"])
        assert [row["id"] for row in people] == sorted(self.there("customer"))
        for noun, number in self.rows:
            row = self.rows[noun, number]
            if noun == "customer":
                self.compare_customer(number, row, bought)
            elif row.state:
                found = self.run(db.read_purchase, row.owner, number)
                values = (found.purchase_name, found.quantity, found.last_updated_on)
                assert (values, found.version) == (row.state.values, row.version)
                assert bought[number]["quantity"] == found.quantity
                assert bought[number]["last_updated_on"] == found.last_updated_on

    def compare_customer(self, number: int, row: Row, bought: dict[int, Any]) -> None:
        """Hold a customer and its list against the model."""
        if row.state is None:
            for query, args in (
                (db.read_customer, ()),
                (db.list_customer_purchases, (0, 9)),
            ):
                with pytest.raises(db.NotFoundError):
                    self.run(query, number, *args)
            return
        found = self.run(db.read_customer, number)
        seen = (found.name, found.address), found.version
        assert seen == (row.state.values, row.version)
        mine = self.pages(db.list_customer_purchases, number)
        assert mine == [one for one in bought.values() if self.owns(number, one)]

    def owns(self, number: int, row: dict[str, Any]) -> bool:
        """Return whether a purchase of a list is a customer's."""
        return self.rows["purchase", row["purchase_id"]].owner == number

    def pages(self, query: Any, *args: Any, after: int = 0) -> list[dict[str, Any]]:
        """Return a list, in pages of some size."""
        rows: list[dict[str, Any]] = []
        limit = self.chance.choice([1, 2, 5, 1000])
        last: int | None = after
        while last is not None:
            page = self.run(query, *args, last, limit)
            rows += json.loads(page.json)
            last = page.after
        return rows


def run_sequence(run: Run, seed: int, steps: int) -> None:
    """Run one sequence; the seed is told where it fails."""
    model = Model(run, seed)
    try:
        model.add_customer()
        for _ in range(steps):
            model.step()
        model.undo_all()
    except BaseException as exc:
        exc.add_note(f"in the sequence of seed {seed}, of {steps} steps")
        raise


def runner_on_sqlite(raw: Any) -> Run:
    """Return what runs a query in a transaction of a SQLite connection."""

    def run(query: Any, *args: Any) -> Any:
        raw.execute("BEGIN")
        try:
            result = run_unit(raw, query(*args))
        except BaseException:
            raw.execute("ROLLBACK")
            raise
        raw.execute("COMMIT")
        return result

    return run


def run_many(path: Path, seeds: range, steps: int) -> None:
    """Run sequences in a SQLite file, made anew now and then to stay small."""
    server.try_make_db(f"sqlite:///{path}")
    with closing(driver.connect(path, isolation_level=None)) as raw:
        raw.executescript("PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON")
        for seed in seeds:
            run_sequence(runner_on_sqlite(raw), seed, steps)


def test_sequences_on_sqlite(sqlite_path: Path) -> None:
    run_many(sqlite_path, range(100), 40)
    assert ": whole, " in sqlite_verify.verify(sqlite_path)


def test_sequences_on_postgresql(postgresql_cluster: Any) -> None:
    url = postgresql_cluster.new_schema()
    server.try_make_db(url)
    module = importlib.import_module("storage.postgres_engine")
    with asyncio.Runner() as loop:
        engine = loop.run(module.PostgresEngine.open(url))

        async def write(query: Any, *args: Any) -> Any:
            return await engine.write(query, *args)

        try:
            for seed in range(10):
                run_sequence(lambda *unit: loop.run(write(*unit)), seed, 40)
        finally:
            loop.run(engine.close())


def main() -> None:
    """Run as many sequences as asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    done = 0
    while done < options.sequences:
        number = min(200, options.sequences - done)
        seeds = range(options.seed + done, options.seed + done + number)
        with tempfile.TemporaryDirectory() as folder:
            run_many(Path(folder) / "db.sqlite3", seeds, options.steps)
        done += number
    sys.stdout.write(f"{done} sequences of {options.steps} steps held\n")


if __name__ == "__main__":
    main()
