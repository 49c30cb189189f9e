"""The reply to each request that the clients send, as each client shows it."""

import re

SHORT_TIME = re.compile(r"[A-Z][a-z]{2} \d\d \d{4} \d\d:\d\d:\d\d")
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
LONG_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00:00")
TEXT = re.compile(".+")

TEN = {"purchase_name": "Iphone 10 Pro", "quantity": 4}
TWELVE = {"purchase_name": "Iphone 12", "quantity": 4}
TWELVE_PRO = {"purchase_name": "Iphone 12 Pro", "quantity": 40}
NEVER_UPDATED = {"purchased_on": LONG_TIME, "last_updated_on": None}
UPDATED = {"id": "2", "purchased_on": LONG_TIME, "last_updated_on": LONG_TIME}


def _ok(data: object) -> dict[str, object]:
    return {"status": "ok", "data": data}


def _deleted(count: int) -> dict[str, object]:
    return {"status": "ok", "deleted_count": count}


def _problem(status: int, title: str, detail: str) -> dict[str, object]:
    head = {"type": "about:blank", "title": title, "status": status}
    return {**head, "detail": detail, "request_id": TEXT}


def _customer(address: str) -> dict[str, object]:
    return {"id": 1, "name": "John Doe", "address": address, "created_on": SHORT_TIME}


FIRST, SECOND = (
    {"purchase_id": number, **phone, **NEVER_UPDATED, "customer_id": "1"}
    for number, phone in ((1, TEN), (2, TWELVE))
)
AMSTERDAM, DELFT = (
    {"id": "1", "name": "John Doe", "address": address, "created_on": RFC_3339}
    for address in ("Amsterdam, NL", "Delft, NL")
)
PRO_STATE = {**TWELVE_PRO, "id": "2", "customer_id": "1"}
PRO_STATE |= {"purchased_on": RFC_3339, "last_updated_on": RFC_3339}


def _change(number: str, action: str, before: object, now: object) -> object:
    row = {"cursor": number, "change": number, "at": RFC_3339, "caller": "fuzz"}
    row |= {"action": action, "customer_id": "1", "purchase_id": None}
    if action.startswith("purchase."):
        row["purchase_id"] = "2"
    return {**row, "before": before, "now": now}


CREATED = _change("1", "customer.created", None, DELFT)
REPLACED = _change("6", "purchase.updated", {**PRO_STATE, "quantity": 5}, PRO_STATE)
MOVED = _change("7", "customer.updated", AMSTERDAM, DELFT)
ADDED = _ok({"id": 2, **TWELVE, "customer_id": "1", "purchased_on": SHORT_TIME})

EXPECTED: dict[str, object] = {
    "create customer": _ok(_customer("Amsterdam, NL")),
    "add purchase": ADDED,
    "add purchase again, same Idempotency-Key": ADDED,
    "list purchases": _ok([FIRST, SECOND]),
    "list the first purchase of a customer": _ok([FIRST]),
    "list purchases, at the customer's path": _ok([FIRST, SECOND]),
    "update purchase, by DELETE": _ok({**TWELVE_PRO, **UPDATED}),
    "update purchase, by PATCH": _ok({**TWELVE_PRO, "quantity": 5, **UPDATED}),
    "update purchase, by PUT": _ok({**TWELVE_PRO, **UPDATED}),
    "read purchase": _ok({**TWELVE_PRO, **UPDATED}),
    "read customer": _ok(_customer("Amsterdam, NL")),
    "change customer with an ETag": _ok(_customer("Delft, NL")),
    "change customer with an ETag that is old": _problem(
        412, "Precondition Failed", "The customer has changed since."
    ),
    "find customers": _ok([_customer("Delft, NL")]),
    "download customers as CSV": re.compile(
        '\ufeff?id,name,address,created_on\\r\\n1,John Doe,"Delft, NL",.+\\r\\n'
    ),
    "download purchases as JSON Lines": re.compile(r'\{"purchase_id":1,.+\}\n'),
    "follow the feed from a list": _ok([MOVED]),
    "find the last update of a purchase": _ok([REPLACED]),
    "read a change": _ok([CREATED]),
    "undo a change": _ok({"change": "8", "undoes": "7", "rows": 1}),
    "undo a change again": _problem(
        409, "Conflict", "It was undone already, by change 8."
    ),
    "update a customer's purchase, by PATCH": _ok(
        {**TWELVE_PRO, "quantity": 5, **UPDATED}
    ),
    "update a customer's purchase, by PUT": _ok({**TWELVE_PRO, **UPDATED}),
    "delete purchases 1 and 9": _deleted(1),
    "delete purchases 2, 3 and 6": _deleted(1),
    "delete all purchases": _deleted(0),
    "read a purchase that is gone": _problem(
        404, "Not Found", "There is no such purchase."
    ),
    "delete customer": _deleted(0),
    "undo the deletion of a customer": _ok({"change": "15", "undoes": "14", "rows": 1}),
    "erase customer": _deleted(0),
    "undo a change of a customer who was erased": _problem(
        410, "Gone", "What this was about was deleted or erased since."
    ),
    "import a file, dry": _ok({"change": None, "customers": 1, "purchases": 1}),
    "import a file": _ok({"change": "17", "customers": 1, "purchases": 1}),
    "sum up by day": _ok(
        [{"key": "2019-11-30", "label": "2019-11-30", "purchases": 1, "quantity": 2}]
    ),
    "count": "1",
    "welcome": {
        "name": "customer purchase server",
        "version": TEXT,
        "healthy": True,
        "docs": "/docs",
    },
    "livez": {"status": "ok"},
    "readyz": {"status": "ok", "database": re.compile("SQLite .+")},
    "metrics": re.compile("# HELP .+", re.DOTALL),
    "docs": re.compile("<!DOCTYPE html>.+", re.DOTALL),
    "description": re.compile(r"3\.1\.\d"),
    "style of the page": re.compile(r".+\{.+", re.DOTALL),
    "console": re.compile("<!doctype html>.+", re.DOTALL),
    "script of the console": re.compile(r"/\*\* The frame of the page.+", re.DOTALL),
    "caller": _ok({"name": "fuzz", "access": "write", "undo_days": 30}),
}
"""A pattern stands for any text that it matches."""


def matches(expected: object, seen: object) -> bool:
    """Return whether a value is the expected one, of the same type."""
    if isinstance(expected, re.Pattern):
        return isinstance(seen, str) and expected.fullmatch(seen) is not None
    if isinstance(expected, dict) and isinstance(seen, dict):
        return expected.keys() == seen.keys() and all(
            matches(value, seen[name]) for name, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(seen, list):
        return len(expected) == len(seen) and all(map(matches, expected, seen))
    return type(expected) is type(seen) and expected == seen
