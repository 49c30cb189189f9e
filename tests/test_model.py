"""The API against dictionaries: imports, their undo, filters, counts and sums."""

from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, Phase, settings as bounds, strategies as st
from hypothesis.stateful import multiple, precondition, rule, run_state_machine_as_test

import db
from queries import lists, purchase_search
from storage.schema import fold_name
from tests.model import (
    Line,
    Pair,
    Shop,
    Time,
    in_thread,
    keys,
    lines,
    midnight,
    names,
    times,
    write_file,
)
from tests.support import LONG, SHORT, ClientReply

SPREAD = 5000
"""Farther from each other than the ids of one block of dates."""


class Change(NamedTuple):
    """What a change has added or removed: rows by ids, and how often they changed."""

    people: dict[int, dict[str, Any]]
    bought: dict[int, dict[str, Any]]
    adds: bool
    updates: dict[str, int]


class ImportingShop(Shop):
    """Holds imports, their undo, and what is asked of lists, against dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: dict[int, Change] = {}
        self.undone: set[int] = set()
        self.files: dict[str, tuple[bytes, ClientReply]] = {}

    # Imports

    @rule(
        target=Shop.customers,
        owners=st.lists(Shop.customers, min_size=1, max_size=3),
        bought=st.lists(lines, min_size=1, max_size=5),
        ids=st.sampled_from([None, None, "small", "spread", "down"]),
        form=st.sampled_from([",", ";", "jsonl"]),
        fault=st.none() | st.integers(0, 9),
        dry_run=st.booleans(),
        key=keys,
    )
    def import_by_id(
        self, owners: list[int], bought: list[Line], ids: str | None, **how: Any
    ) -> Any:
        """Import purchases of customers who are there, or were."""
        rows: list[dict[str, Any]] = []
        for line in bought:
            owner = owners[line.place % len(owners)]
            rows.append({"customer_id": owner, **self.columns(line)})
        missing = [place for place, row in enumerate(rows) if self.lacks(row)]
        self.number(rows, ids)
        return self.import_rows(rows, missing, ids in ("spread", "down"), **how)

    @rule(
        target=Shop.customers,
        owners=st.lists(Shop.customers, max_size=2),
        others=st.lists(st.builds(Pair, names, st.just("") | names), max_size=3),
        bought=st.none() | st.lists(lines, min_size=1, max_size=5),
        form=st.sampled_from([",", ";", "jsonl"]),
        fault=st.none() | st.integers(0, 9),
        dry_run=st.booleans(),
        key=keys,
    )
    def import_by_pair(
        self,
        owners: list[int],
        others: list[Pair],
        bought: list[Line] | None,
        **how: Any,
    ) -> Any:
        """Import customers by name and address, with or without purchases."""
        known = [self.pair(self.people[one]) for one in owners if one in self.people]
        pairs = [*known, *others, *known] or [Pair("n", "a")]
        if bought is None:
            return self.import_rows([pair._asdict() for pair in pairs], [], **how)
        rows = [
            pairs[line.place % len(pairs)]._asdict() | self.columns(line)
            for line in bought
        ]
        return self.import_rows(rows, [], **how)

    def columns(self, line: Line) -> dict[str, Any]:
        """Return the cells of a purchase."""
        on = line.purchased_on.text if line.purchased_on else None
        return line._asdict() | {"purchased_on": on, "place": line}

    def lacks(self, row: dict[str, Any]) -> bool:
        """Return whether the customer of a row is not there."""
        return row["customer_id"] not in self.people

    def pair(self, person: dict[str, Any]) -> Pair:
        """Return by what a file names a customer."""
        return Pair(person["name"], person["address"])

    def number(self, rows: list[dict[str, Any]], ids: str | None) -> None:
        """Give ids to the rows of a file: those that cannot be kept, or can."""
        last = max(max(self.bought, default=0), self.run_ids())
        for place, row in enumerate(rows, 1):
            if ids == "small":
                row["purchase_id"] = place
            elif ids == "spread":
                row["purchase_id"] = last + 1 + place * SPREAD
            elif ids == "down":
                row["purchase_id"] = last + 1 + (len(rows) - place) * SPREAD

    def run_ids(self) -> int:
        """Return an id that is larger than any that was given."""
        reply = self.send("GET /api/v1/changes?order=desc&limit=1000")
        given = [int(row["purchase_id"] or 0) for row in reply.data]
        ImportingShop.greatest = max(self.greatest, *given, 0)
        return self.greatest

    greatest = 0

    def import_rows(
        self,
        rows: list[dict[str, Any]],
        missing: list[int],
        keeps: bool = False,
        *,
        form: str,
        fault: int | None,
        dry_run: bool,
        key: str | None,
    ) -> Any:
        """Send a file; return the ids of the customers that it has created."""
        given = [row.pop("place", None) for row in rows]
        content, wrong = self.write(rows, missing, form, fault)
        kind = "application/jsonl" if form == "jsonl" else "text/csv; charset=utf-8"
        headers = {"Content_Type": kind, "Idempotency_Key": None if dry_run else key}
        if key in self.files and not dry_run:
            self.repeat(content, key, **headers)
            return multiple()
        line = "POST /api/v1/imports" + "?dry_run=true" * dry_run
        if wrong:
            reply = self.send(line, 422, content, **headers)
            found = [(e["line"], e["pointer"]) for e in reply.json["errors"]]
            assert found == wrong, str(reply)
            return multiple()
        pairs = self.new_pairs(rows)
        bought = len(rows) if "quantity" in rows[0] else 0
        status = 201 if (pairs or bought) and not dry_run else 200
        reply = self.send(line, status, content, **headers)
        change = reply.headers.get("Change")
        numbers = {"customers": len(pairs), "purchases": bought}
        assert reply.data == {"change": change, **numbers}
        assert (change is not None) is (status == 201)
        if key is not None and not dry_run:
            self.files[key] = content, reply
        if change is None:
            return multiple()
        return self.note(int(change), rows, given, pairs, keeps)

    def write(
        self, rows: list[dict[str, Any]], missing: list[int], form: str, fault: Any
    ) -> tuple[bytes, list[tuple[int, str]]]:
        """Return a file, perhaps with a fault, and the line and pointer of each."""
        faulty = None
        if fault is not None and fault < len(rows) and "quantity" in rows[0]:
            rows[fault]["quantity"], faulty = "four", fault
        content, begins = write_file(rows, form)
        wrong = [(begins[one], "/customer_id") for one in missing if one != faulty]
        if faulty is not None:
            wrong.append((begins[faulty], "/quantity"))
        return content, sorted(wrong)

    def repeat(self, content: bytes, key: str | None, **headers: str | None) -> None:
        """Send a file with a key that was used."""
        before, first = self.files[key or ""]
        status = first.status if before == content else 422
        reply = self.send("POST /api/v1/imports", status, content, **headers)
        if status != 422:
            assert reply.text == first.text
            assert reply.headers["Idempotency-Replayed"] == "true"
            for name in ("Change", "Location"):
                assert reply.headers.get(name) == first.headers.get(name)

    def new_pairs(self, rows: list[dict[str, Any]]) -> list[Pair]:
        """Return the customers of a file who are not there, each once."""
        if "customer_id" in rows[0]:
            return []
        there = {self.pair(person) for person in self.people.values()}
        pairs = [Pair(row["customer_name"], row["customer_address"]) for row in rows]
        return [pair for pair in dict.fromkeys(pairs) if pair not in there]

    def note(
        self,
        number: int,
        rows: list[dict[str, Any]],
        given: list[Line],
        pairs: list[Pair],
        keeps: bool,
    ) -> Any:
        """Compare the rows of a change with its file, and keep them."""
        feed = self.send(f"GET /api/v1/changes/{number}?limit=1000").data
        created = [int(row["customer_id"]) for row in feed[: len(pairs)]]
        for customer, pair in zip(created, pairs, strict=True):
            assert customer > max(self.people, default=0)
            shown = self.send(f"GET /api/v1/customer/{customer}")
            values = {"id": customer, "name": pair[0], "address": pair[1]}
            assert shown.data == values | {"created_on": SHORT}
            self.people[customer] = shown.data
            self.tags[f"/api/v1/customer/{customer}"] = shown.headers["ETag"]
        added = [int(row["purchase_id"]) for row in feed[len(pairs) :]]
        if keeps:
            assert sorted(added) == sorted(row["purchase_id"] for row in rows)
            added = [row["purchase_id"] for row in rows]
        elif added:
            assert added == sorted(added)
            assert added[0] > max(self.bought, default=0)
        owners = {
            self.pair(one): number for number, one in [*self.people.items()][::-1]
        }
        lines = [(row, one) for row, one in zip(rows, given, strict=True) if one]
        for bought, (row, line) in zip(added, lines, strict=True):
            owner = row.get("customer_id") or owners[Pair(*[*row.values()][:2])]
            self.note_purchase(bought, owner, line)
        self.bought = dict(sorted(self.bought.items()))
        self.keep_change(number, {*created}, {*added}, adds=True)
        return multiple(*created)

    def note_purchase(self, number: int, owner: int, line: Line) -> None:
        """Compare a purchase with its line, and keep it."""
        path = f"/api/v1/customer/{owner}/purchase/{number}"
        shown = self.send(f"GET {path}")
        time = line.purchased_on.stored if line.purchased_on else LONG
        values = {"purchase_name": line.purchase_name, "quantity": line.quantity}
        values |= {"purchased_on": time, "last_updated_on": None}
        assert shown.data == {"id": str(number), **values}
        values["purchased_on"] = shown.data["purchased_on"]
        row = {"purchase_id": number, **values, "customer_id": str(owner)}
        self.bought[number] = row
        self.tags[path] = shown.headers["ETag"]

    @rule(target=Shop.purchases, place=st.integers(0, 99))
    def choose_purchase(self, place: int) -> Any:
        """Let any purchase be chosen, those of files too."""
        numbers = [*self.bought]
        return numbers[place % len(numbers)] if numbers else multiple()

    # Undo

    def paths(self, people: set[int], bought: set[int]) -> list[str]:
        """Return the paths of rows that are there."""
        owners = {one: self.bought[one]["customer_id"] for one in bought}
        return [f"/api/v1/customer/{one}" for one in people] + [
            f"/api/v1/customer/{owner}/purchase/{one}" for one, owner in owners.items()
        ]

    def keep_change(
        self, number: int, people: set[int], bought: set[int], adds: bool
    ) -> None:
        """Keep what a change has added, or is about to remove."""
        self.changes[number] = Change(
            {one: self.people[one] for one in people},
            {one: self.bought[one] for one in bought},
            adds,
            {path: self.updates[path] for path in self.paths(people, bought)},
        )

    def can_undo(self, number: int) -> bool:
        """Return whether a change can be undone now."""
        change = self.changes[number]
        if number in self.undone:
            return False
        if not change.adds:
            owners = {int(row["customer_id"]) for row in change.bought.values()}
            return owners <= {*self.people, *change.people}
        there = change.people.keys() <= self.people.keys()
        if not there or not change.bought.keys() <= self.bought.keys():
            return False
        others = (self.bought[one] for one in self.bought.keys() - change.bought.keys())
        alone = all(int(row["customer_id"]) not in change.people for row in others)
        updates = {path: self.updates[path] for path in change.updates}
        return alone and updates == change.updates

    @precondition(lambda self: self.changes)
    @rule(back=st.integers(0, 3))
    def undo(self, back: int) -> None:
        """Undo one of the last imports, or one of their undos."""
        number = [*self.changes][-1 - back % len(self.changes)]
        path = f"POST /api/v1/changes/{number}/undo"
        if not self.can_undo(number):
            self.send(path, 409)
            return
        change = self.changes[number]
        reply = self.send(path, 201)
        new, size = reply.headers["Change"], len(change.people) + len(change.bought)
        assert reply.data == {"change": new, "undoes": str(number), "rows": size}
        self.undone.add(number)
        people, bought = {*change.people}, {*change.bought}
        if change.adds:
            self.keep_change(int(new), people, bought, adds=False)
            for one in people:
                del self.people[one]
            for one in bought:
                del self.bought[one]
            return
        self.people = dict(sorted((self.people | change.people).items()))
        self.bought = dict(sorted((self.bought | change.bought).items()))
        self.keep_change(int(new), people, bought, adds=True)
        for path in self.paths(people, bought):
            self.tags[path] = self.send(f"GET {path}").headers["ETag"]

    # What is asked of lists

    @rule()
    def fill(self) -> None:
        """Fill in blocks of dates, and the copy that customers are listed from."""
        for query in (db.fill_blocks, db.copy_purchases):
            while self.served.write(query):
                pass

    def choose(
        self,
        owner: int | None,
        part: str | None,
        since: Time | int | None,
        before: Time | int | None,
    ) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """Return the query of some filters, and the rows that they let through.

        A number stands for the time of one of the rows.
        """
        rows = [*self.bought.values()]
        stored = [row["purchased_on"] for row in rows] or [midnight("2000-01-01")]
        since, before = (
            Time(one.replace(" ", "T"), one)
            if isinstance(limit, int) and (one := stored[limit % len(stored)])
            else limit
            for limit in (since, before)
        )
        query: dict[str, str] = {}
        if owner is not None:
            query["customer_id"] = str(owner)
            rows = [row for row in rows if row["customer_id"] == str(owner)]
        if isinstance(since, Time):
            query["purchased_from"] = since.text
            rows = [row for row in rows if row["purchased_on"] >= since.stored]
        if isinstance(before, Time):
            query["purchased_before"] = before.text
            rows = [row for row in rows if row["purchased_on"] < before.stored]
        if part is not None:
            query["purchase_name"] = part
            folded = fold_name(part)
            rows = [row for row in rows if folded in fold_name(row["purchase_name"])]
        return query, rows

    limits = st.none() | times | st.integers(0, 9)
    filters = st.fixed_dictionaries(
        {
            "owner": st.none() | Shop.customers,
            "part": st.none() | names,
            "since": limits,
            "before": limits,
        }
    )

    @rule(
        filters=filters,
        order=st.sampled_from([None, "asc", "desc"]),
        limit=st.none() | st.integers(1, 4),
        counted=st.booleans(),
    )
    def search(
        self, filters: Any, order: str | None, limit: int | None, counted: bool
    ) -> None:
        """Walk the pages of the purchases that filters let through."""
        query, rows = self.choose(**filters)
        query |= {"order": order} if order else {}
        query |= {"limit": str(limit)} if limit else {}
        prefer = "count=exact" if counted else None
        path = f"/api/v1/customer?{urlencode(query)}"
        if filters["owner"] not in (None, *self.people):
            self.send(f"GET {path}", 404, Prefer=prefer)
            return
        found = []
        for reply in self.pages(path, prefer):
            found += reply.data
            assert len(reply.data) <= (limit or len(rows))
            total = reply.headers.get("Total-Count")
            assert total == (str(len(rows)) if counted else None)
            applied = reply.headers.get("Preference-Applied")
            assert applied == ("count=exact" if counted else None)
        assert found == (rows[::-1] if order == "desc" else rows)

    def pages(self, path: str, prefer: str | None) -> Iterator[ClientReply]:
        """Yield the pages of a list; only the last one may be empty."""
        while path:
            reply = self.send(f"GET {path}", Prefer=prefer)
            yield reply
            link = reply.headers.get("Link", "")
            assert reply.data or not link, "an empty page, and more"
            path = link.partition(">")[0].lstrip("<")

    @rule(part=names, limit=st.integers(1, 3), order=st.sampled_from(["asc", "desc"]))
    def search_customers(self, part: str, limit: int, order: str) -> None:
        """Walk the pages of the customers whose names contain a text."""
        folded = fold_name(part)
        everyone = self.people.values()
        people = [one for one in everyone if folded in fold_name(one["name"])]
        query = urlencode({"name": part, "limit": limit, "order": order})
        found = []
        for reply in self.pages(f"/api/v1/customers?{query}", "count=exact"):
            found += reply.data
            assert reply.headers["Total-Count"] == str(len(people))
        assert found == (people[::-1] if order == "desc" else people)

    @rule(
        filters=filters,
        by=st.sampled_from(["day", "customer", "purchase_name"]),
        limit=st.none() | st.integers(1, 3),
    )
    def summarize(self, filters: Any, by: str, limit: int | None) -> None:
        """Sum up the purchases that filters let through."""
        query, rows = self.choose(**filters)
        query |= {"by": by} | ({"limit": str(limit)} if limit else {})
        path = f"/api/v1/summary?{urlencode(query)}"
        if filters["owner"] not in (None, *self.people):
            self.send(f"GET {path}", 404)
            return
        self.add_up(query, by, rows)

    def add_up(self, query: dict[str, str], by: str, rows: Iterable[Any]) -> None:
        """Compare the sums of some purchases."""
        path = f"/api/v1/summary?{urlencode(query | {'by': by})}"
        sums: dict[Any, list[int]] = {}
        for row in rows:
            key: Any = {
                "day": row["purchased_on"][:10],
                "customer": int(row["customer_id"]),
                "purchase_name": row["purchase_name"],
            }[by]
            found = sums.setdefault(key, [0, 0])
            found[0] += 1
            found[1] += row["quantity"]
        items = sorted(sums.items(), key=itemgetter(0))
        if by != "day":
            items.sort(key=lambda item: -item[1][1])
        wanted = [
            {
                "key": str(key),
                "label": self.people[key]["name"] if by == "customer" else key,
                "purchases": number,
                "quantity": quantity,
            }
            for key, (number, quantity) in items
        ]
        limit = int(query.get("limit", len(wanted)))
        assert self.send(f"GET {path}").data == wanted[:limit]

    def teardown(self) -> None:
        """Compare all sums too."""
        for by in ("day", "customer", "purchase_name"):
            self.add_up({}, by, self.bought.values())
        super().teardown()


def test_api_against_dictionaries(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows take several steps of a search, and lie in several blocks of dates."""
    monkeypatch.setattr(purchase_search, "SCAN_ROWS", 3)
    monkeypatch.setattr(lists, "SCAN_ROWS", 3)
    monkeypatch.setattr(db.copy_purchases, "__defaults__", (1, 2))
    bounded = bounds(
        max_examples=25,
        stateful_step_count=50,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    with in_thread(database_url) as ImportingShop.served:
        ImportingShop.greatest = 0
        run_state_machine_as_test(ImportingShop, settings=bounded)
