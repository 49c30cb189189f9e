"""What tables that are spread by the customer ask of the statements.

A statement asks one server alone where each table in it is filtered by the customer;
docs/sharding.md says which routes do.
"""

import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import db
from queries import undo
from storage.engine import Statement
from storage.schema import FOLDER
from tests.support import JOHN, PHONE, ApiClient

OWNER = 4711
"""The customer: no other parameter of a statement is that number."""
SPREAD = re.compile(r"\b(?:FROM|JOIN|UPDATE)\s+(?:customer|purchases|history|hidden)\b")
FILTER = re.compile(r"\b(?:customer_id|id) = \$(\d+)")

postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

Sent = list[tuple[str, tuple[Any, ...]]]


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Return a list to which each statement is added that requests send."""
    monkeypatch.setattr("api.upkeep.start", lambda *_: [])
    statements: Sent = []
    fetch = asyncpg.Connection.fetch

    async def record(self: Any, query: str, *args: Any, **options: Any) -> Any:
        statements.append((query, args))
        return await fetch(self, query, *args, **options)

    monkeypatch.setattr(asyncpg.Connection, "fetch", record)
    return statements


@pytest.fixture
async def owner(api: ApiClient, engine: Any, sent: Sent) -> None:
    """Create the customer, and what others have."""
    await api("POST /api/v1/customer", JOHN, 201)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    await engine.write(_set_last_id)
    await api("POST /api/v1/customer", JOHN, 201)
    for _ in range(9):
        await api(f"POST /api/v1/purchase/{OWNER}", PHONE, 201)
    sent.clear()


def _set_last_id() -> db.Unit[None]:
    yield Statement(f"SELECT setval('customer_id_seq', {OWNER - 1})"), ()


def unfiltered(sent: Sent) -> list[str]:
    """Return the statements that ask for more than what is of the customer."""
    found = []
    for sql, values in sent:
        filters = [n for n in FILTER.findall(sql) if values[int(n) - 1] == OWNER]
        if len(SPREAD.findall(sql)) > len(filters):
            found.append(sql)
    return found


READS = [
    f"GET /api/v1/customer/{OWNER}",
    f"GET /api/v1/customer/{OWNER}/purchase/3",
    f"GET /api/v1/purchase/{OWNER}",
    f"GET /api/v1/purchase/{OWNER}?limit=2",
    f"GET /api/v1/purchase/{OWNER}?order=desc",
    f"GET /api/v1/purchase/{OWNER}?purchased_from=2020-01-01&purchase_name=phone",
    f"GET /api/v1/customer?customer_id={OWNER}",
    f"GET /api/v1/purchases.csv?customer_id={OWNER}",
    f"GET /api/v1/summary?by=day&customer_id={OWNER}",
    f"GET /api/v1/summary?by=customer&customer_id={OWNER}&purchase_name=phone",
    f"GET /api/v1/summary?by=purchase_name&customer_id={OWNER}",
    f"GET /api/v1/changes?customer_id={OWNER}",
    f"GET /api/v1/changes?customer_id={OWNER}&order=desc&action=purchase.added",
]


@postgresql
@pytest.mark.parametrize("line", READS)
async def test_reads_of_one_customer(
    api: ApiClient, owner: None, sent: Sent, line: str
) -> None:
    await api(line, Prefer="count=exact")
    assert sent
    assert unfiltered(sent) == []


WRITES: list[tuple[str, object, int]] = [
    (f"POST /api/v1/purchase/{OWNER}", PHONE, 201),
    (f"PATCH /api/v1/customer/{OWNER}", {"name": "Ann"}, 200),
    (f"PATCH /api/v1/customer/{OWNER}/purchase/3", {"quantity": 9}, 200),
    (f"PUT /api/v1/customer/{OWNER}/purchase/3", {**PHONE, "quantity": 9}, 200),
    (f"DELETE /api/v1/purchase/{OWNER}", {"purchase_ids": [3, 4, 99]}, 200),
    (f"DELETE /api/v1/purchase/{OWNER}?delete_all=true", None, 200),
    (f"DELETE /api/v1/customer/{OWNER}", None, 200),
]


@postgresql
@pytest.mark.parametrize(("line", "body", "status"), WRITES)
async def test_writes_of_one_customer(
    api: ApiClient, owner: None, sent: Sent, line: str, body: object, status: int
) -> None:
    """Also where they are undone, and that is: by a number that any may have."""
    change = (await api(line, body, status)).headers["Change"]
    for _ in range(3):
        path = f"/api/v1/changes/{change}/undo"
        change = (await api(f"POST {path}", None, 201)).data["change"]
    anyones = undo.SELECT_ACTIONS.postgres
    assert set(unfiltered(sent)) == {anyones}


@postgresql
async def test_erasure_of_one_customer(api: ApiClient, owner: None, sent: Sent) -> None:
    """Idempotency keys are not spread by the customer."""
    await api(f"DELETE /api/v1/customer/{OWNER}?purge=true")
    assert unfiltered(sent) == []


def test_functions_filter_by_the_customer() -> None:
    [script] = [Path(path) for path in FOLDER.glob("postgres_6_*.sql")]
    text = script.read_text("utf-8")
    asked = re.findall(
        r"\b(?:FROM|UPDATE|JOIN) (?:customer|purchases|history)\b.*", text
    )
    assert asked
    assert all(re.search(r"WHERE (?:customer_id|id) = owner\b", one) for one in asked)
