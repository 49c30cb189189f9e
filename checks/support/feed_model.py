"""What the rows of the feed say, one after the other, held together with itself.

Each row tells what was there before its change; that must be what the rows before it
have left. What a row leaves is known from the answer to its write, or, for an undo,
from the rows of the change that it undid.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = dict[str, Any]


class FeedRow(NamedTuple):
    """A row of the feed, as a reader saw it."""

    cursor: str
    change: str
    at: str
    caller: str | None
    action: str
    customer_id: str
    purchase_id: str | None
    before: Json | None
    purchases: int | None
    now: Json | None

    @classmethod
    def of(cls, data: Json) -> "FeedRow":
        """Return the row of a decoded reply. TypeError, where a field is missing."""
        return cls(**{"purchases": None, **data})

    def lasting(self) -> tuple[Any, ...]:
        """Return what every reader sees the same: all but `now`."""
        return self[:-1]


def agree(known: Json, image: Json) -> bool:
    """Return whether an image has what is known of it."""
    return all(image[name] == known[name] for name in known.keys() & image.keys())


Moment = tuple[int, Json | None]
"""The number of a row, and what can be seen of a thing after it; None for nothing."""


@dataclass(eq=False)
class Thing:
    """A customer or a purchase."""

    customer_id: str
    content: Json | None = None
    """What is known of it, None when it was deleted alone."""
    hidden_by: str | None = None
    """The change that hid it."""
    moments: list[Moment] = field(default_factory=list)

    def visible(self) -> Json | None:
        """Return what is known of what can be seen."""
        return None if self.hidden_by else self.content

    def since(self, row: int) -> Iterator[Json | None]:
        """Yield what could be seen from just before a row on."""
        earlier = [seen for number, seen in self.moments if number < row]
        yield earlier[-1] if earlier else None
        yield from (seen for number, seen in self.moments if number >= row)


class Replay:
    """Customers and purchases as the rows of the feed say, and what they contradict."""

    def __init__(self) -> None:
        self.customers: dict[str, Thing] = {}
        self.purchases: dict[str, Thing] = {}
        self.owned: dict[str, list[Thing]] = {}
        """Each customer's purchases."""
        self.rows = 0
        self.faults: list[str] = []
        self._before: dict[tuple[str, Thing], Json] = {}
        """By change and thing, what was there before."""
        self._shown: dict[str, list[Thing]] = {}
        """By change, the purchases that it showed again."""

    def apply(self, row: FeedRow, undone: str | None, content: Json | None) -> None:
        """Take in the next row: which change it undid, and what its write left."""
        noun, _, verb = row.action.partition(".")
        if noun == "purchases":
            self._hide_or_show(row, undone)
        elif noun == "customer":
            self._write_one(self.customers, row.customer_id, row, undone, content)
            if verb in ("deleted", "restored"):
                self._hide_or_show(row, undone)
        else:
            assert row.purchase_id is not None
            self._write_one(self.purchases, row.purchase_id, row, undone, content)
        self.rows += 1

    def _blame(self, row: FeedRow, why: str) -> None:
        of = f"customer {row.customer_id}, purchase {row.purchase_id}"
        self.faults.append(f"row {row.cursor}, {row.action} of {of}: {why}")

    def _write_one(
        self,
        things: dict[str, Thing],
        number: str,
        row: FeedRow,
        undone: str | None,
        content: Json | None,
    ) -> None:
        verb = row.action.partition(".")[2]
        thing = things.get(number)
        if thing is None:
            thing = things[number] = Thing(row.customer_id)
            if things is self.purchases:
                self.owned.setdefault(row.customer_id, []).append(thing)
            if verb not in ("added", "created"):
                self._blame(row, "of nothing that there was")
        elif verb in ("added", "created"):
            self._blame(row, "it was there already")
        owner = self.customers.get(row.customer_id)
        if things is self.purchases and (owner is None or owner.visible() is None):
            self._blame(row, "its customer was not there")
        if verb in ("updated", "deleted"):
            self._compare(row, thing)
        elif row.before is not None or thing.visible() is not None:
            self._blame(row, f"it was {thing.visible()}, before {row.before}")
        if verb == "deleted" and things is self.customers:
            thing.hidden_by = row.change
        elif verb == "deleted":
            thing.content = None
        elif verb == "restored" and things is self.customers:
            if thing.hidden_by != undone:
                self._blame(row, f"{thing.hidden_by} hid it, not {undone}")
            thing.hidden_by = None
        else:
            before = self._before.get((undone, thing)) if undone else None
            thing.content = {**(before or content or {})}
            thing.hidden_by = None
        thing.moments.append((self.rows, thing.visible()))

    def _compare(self, row: FeedRow, thing: Thing) -> None:
        """Hold what a row says of before against what the rows before it have left."""
        known = thing.visible()
        if known is None or row.before is None:
            self._blame(row, f"it was {known}, before {row.before}")
            return
        if not agree(known, row.before):
            self._blame(row, f"it was {known}, before {row.before}")
        known |= row.before  # the times, for one
        self._before[row.change, thing] = row.before

    def _hide_or_show(self, row: FeedRow, undone: str | None) -> None:
        """Take in a row that tells of however many purchases of a customer."""
        things = self.owned.get(row.customer_id, [])
        visible = [thing for thing in things if thing.visible() is not None]
        hides = row.action in ("purchases.cleared", "customer.deleted")
        chosen = visible
        if not hides:
            chosen = [thing for thing in things if thing.hidden_by == undone]
            self._shown[row.change] = chosen
        elif undone in self._shown:
            chosen = self._shown[undone]
            if not {*chosen} <= {*visible}:
                self._blame(row, "not all were there that it hid")
            if row.action == "customer.deleted" and len(chosen) < len(visible):
                self._blame(row, "it left purchases of nobody")
        if row.purchases != len(chosen):
            self._blame(row, f"{row.purchases} purchases, but {len(chosen)}")
        owner = self.customers.get(row.customer_id)
        is_there = owner is not None and owner.visible() is not None
        if not is_there and row.action != "customer.deleted":
            self._blame(row, "the customer was not there")
        for thing in chosen:
            thing.hidden_by = row.change if hides else None
            thing.moments.append((self.rows, thing.visible()))

    def differences(
        self,
        kind: str,
        found: Mapping[str, Json],
        since: int | None = None,
        of_customer: str | None = None,
    ) -> list[str]:
        """Return what differs from a list: as all is now, or was at any time since.

        `since` is the number of a row. Each thing may be as it was just before that
        row, or after any later one.
        """
        things = self.customers if kind == "customer" else self.purchases
        faults = [f"{kind} {number} of nobody" for number in found.keys() - things]
        for number, thing in things.items():
            if of_customer not in (None, thing.customer_id):
                continue
            seen = found.get(number)
            states = [thing.visible()] if since is None else [*thing.since(since)]
            if not any(
                state is seen is None
                or (state is not None and seen is not None and agree(state, seen))
                for state in states
            ):
                faults.append(f"{kind} {number} is {seen}, by the feed {states[-1]}")
        return faults
