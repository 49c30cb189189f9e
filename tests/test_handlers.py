"""Handlers beyond the documented examples."""

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import db
from api import schemas
from api.auth import Authenticator, read_tokens
from api.database import DATABASE
from queries import idempotency
from storage import schema
from tests.support import (
    ALL,
    IDS,
    JOHN,
    MAX_ID,
    MONTHS,
    NAME,
    PHONE,
    QUANTITY,
    ApiClient,
    Opener,
    count,
    digest,
    list_ids,
    one_engine,
)


async def test_find_renamed_customer(api: ApiClient, customer: int) -> None:
    await api(f"PATCH /api/v1/customer/{customer}", {"name": "Ζωή"})
    assert (await api(f"GET /api/v1/customers?name={quote('ΖΩ')}")).data
    assert not (await api("GET /api/v1/customers?name=john")).data


async def test_find_in_bounded_steps(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit looks at few rows; the answer is whole all the same."""
    monkeypatch.setattr("queries.lists.SCAN_ROWS", 3)
    for number in range(12):
        name = "rare" if number in (5, 10) else "frequent"
        await api("POST /api/v1/customer", {"name": name, "address": ""}, 201)
    everyone = [row["id"] for row in (await api("GET /api/v1/customers")).data]
    for line in ("GET /api/v1/customers?name=RARE", "GET /api/v1/customers?name=ra"):
        reply = await api(line)
        assert [row["id"] for row in reply.data] == [everyone[5], everyone[10]]
    reply = await api("GET /api/v1/customers?name=rare&limit=1")
    assert [row["id"] for row in reply.data] == [everyone[5]]
    assert 'rel="next"' in reply.headers["Link"]


async def test_erase_customer(api: ApiClient, engine: Any, purchase: int) -> None:
    await api("POST /api/v1/customer", {"name": "Eve", "address": "x"}, 201)
    for path, body in (("purchase/1", PHONE), ("purchase/2", PHONE)):
        await api(f"POST /api/v1/{path}", body, 201, Idempotency_Key="k")
    reply = await api("DELETE /api/v1/customer/1")
    assert reply.json == {"status": "ok", "deleted_count": 2}
    assert await engine.read(count, "idempotency") == 2
    await api("POST /api/v1/purchase/1", PHONE, 410, Idempotency_Key="k")
    assert await list_ids(api) == [3]
    for line in ("GET /api/v1/customer/1", "GET /api/v1/purchase/1"):
        await api(line, None, 404)
    await api("DELETE /api/v1/customer/1", None, 404)
    reply = await api("POST /api/v1/customer", JOHN, 201)
    assert reply.data["id"] == 3, "an id was used again"


@one_engine
@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns"])
async def test_times_are_utc(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        created = (await api("POST /api/v1/customer", JOHN, 201)).data["created_on"]
        await api("POST /api/v1/purchase/1", PHONE, 201)
        listed = (await api("GET /api/v1/customer")).data[0]["purchased_on"]
    finally:
        monkeypatch.undo()
        time.tzset()
    short = datetime.strptime(created, "%b %d %Y %H:%M:%S").replace(tzinfo=UTC)
    for moment in (short, datetime.fromisoformat(listed)):
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)


@pytest.mark.parametrize(("number", "month"), [*enumerate(MONTHS.split("|"), 1)])
def test_months_are_english(number: int, month: str) -> None:
    """The text is put together without strftime, which would ask the locale."""
    stored = f"2022-{number:02}-09 12:43:17.237526+00:00"
    assert schemas.short_time(stored) == f"{month} 09 2022 12:43:17"


@pytest.mark.parametrize(
    ("query", "body", "pointers"),
    [
        ("", None, [""]),
        ("", {}, [""]),
        ("", {"delete_all": False}, [""]),
        ("?delete_all=false", None, [""]),
        ("", {"delete_all": "true"}, [ALL]),
        ("", {"delete_all": None, "purchase_ids": [1]}, [ALL]),
        ("", {"delete_all": 1}, [ALL]),
        ("", {"purchase_ids": None}, [IDS]),
        ("", {"purchase_ids": 1}, [IDS]),
        ("", {"purchase_ids": [1] * 10_001}, [IDS]),
        *(
            ("", {"purchase_ids": [1, wrong]}, [f"{IDS}/1"])
            for wrong in (0, -1, "1", 1.5, 0.0, True, None, 2**63, 10**4000)
        ),
        ("", {"delete_all": "x", "purchase_ids": [0]}, [ALL, f"{IDS}/0"]),
        ("", {"purchase_ids": [0, 1, "a", True]}, [f"{IDS}/{n}" for n in (0, 2, 3)]),
        ("", {"purchase_ids": ["a", [1]]}, [f"{IDS}/0", f"{IDS}/1"]),
        ("", {"delete_all": False, "purchase_ids": [1], "x": 1}, ["/x"]),
        ("?delete_all=1", None, [ALL]),
        ("?delete_all=true&delete_all=true", None, [ALL]),
        ("?purchase_id=x", None, ["/purchase_id"]),
        ("?purchase_id=", None, ["/purchase_id"]),
        ("?purchase_id=0", None, ["/purchase_id"]),
        (f"?purchase_id={MAX_ID + 1}", None, ["/purchase_id"]),
        ("?purchase_id=00000000000000000003", None, ["/purchase_id"]),
        ("?purchase_id=1&purchase_id=x", None, ["/purchase_id"]),
        ("?purchase_ids=1", None, [IDS]),
        ("?delete_all=true", {"purchase_ids": [1]}, [""]),
        # neither a deletion nor the documented update
        ("", {**PHONE, "delete_all": True}, [NAME, QUANTITY]),
        ("", {**PHONE, "purchase_ids": [1]}, [NAME, QUANTITY]),
        ("", {"purchase_name": "x", "delete_all": True}, [NAME]),
        ("", {"quantity": 1, "purchase_ids": []}, [QUANTITY]),
        (
            "",
            {"quantity": 1, "purchase_ids": [0], "x": 1},
            [f"{IDS}/0", QUANTITY, "/x"],
        ),
        ("", {"purchase_name": "x"}, [QUANTITY]),
        ("", {"quantity": 0}, [NAME, QUANTITY]),
        ("", {**PHONE, "x": 1}, ["/x"]),
        ("?purchase_id=1", PHONE, [""]),
    ],
)
async def test_delete_refused(
    api: ApiClient,
    four_purchases: list[int],
    query: str,
    body: object,
    pointers: list[str],
) -> None:
    before = await api("GET /api/v1/customer")
    reply = await api(f"DELETE /api/v1/purchase/1{query}", body, 422)
    assert reply.pointers == pointers
    assert (await api("GET /api/v1/customer")).json == before.json


async def test_delete_with_many_faults(
    api: ApiClient, four_purchases: list[int]
) -> None:
    """The first hundred are named, those of known fields before others."""
    unknown = dict.fromkeys(map(str, range(2000)))
    body = {**unknown, "purchase_ids": [0] * 50}
    reply = await api("DELETE /api/v1/purchase/1", body, 422)
    named = [
        *(f"{IDS}/{number}" for number in range(50)),
        *map("/{}".format, range(50)),
    ]
    assert reply.pointers == sorted(named)
    assert "more than 100 faults" in reply.json["detail"]
    body = {**dict.fromkeys(map(str, range(50))), "purchase_ids": [0] * 50}
    reply = await api("DELETE /api/v1/purchase/1", body, 422)
    assert reply.pointers == sorted(named)
    assert reply.json["detail"].endswith(": 100 faults.")
    reply = await api("DELETE /api/v1/purchase/1", {"a": 1, "delete_all": True}, 422)
    assert reply.json["detail"].endswith(": 1 fault.")


@one_engine
@pytest.mark.parametrize(("query", "status"), [("", 422), ("?delete_all=true", 200)])
@pytest.mark.parametrize("pause", [0, 0.1])
async def test_delete_with_an_empty_body(
    api: ApiClient, four_purchases: list[int], query: str, status: int, pause: float
) -> None:
    """It is no body, also where that turns out after the head has come."""
    head = f"DELETE /api/v1/purchase/1{query} HTTP/1.1\r\nHost: x\r\n"
    pieces = [head.encode() + b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n"]
    await api.raw(pieces, status, pause=pause)


async def test_update_at_the_path_of_the_customer(
    api: ApiClient, four_purchases: list[int]
) -> None:
    """It is that of the purchase; at another customer's path there is none such."""
    before = (await api("GET /api/v1/customer")).data
    for owner in (2, 3):
        await api(f"PATCH /api/v1/customer/{owner}/purchase/1", {"quantity": 9}, 404)
        await api(f"PUT /api/v1/customer/{owner}/purchase/1", PHONE, 404)
    assert (await api("GET /api/v1/customer")).data == before
    path = "/api/v1/customer/1/purchase/1"
    changed = await api(f"PATCH {path}", {"quantity": 9})
    assert changed.data == {**changed.data, **PHONE, "quantity": 9}
    replaced = await api(f"PUT {path}", {"purchase_name": "x", "quantity": 1})
    read = await api(f"GET {path}")
    assert replaced.json == read.json
    for name in ("ETag", "Content-Location"):
        wanted = path if name == "Content-Location" else read.headers[name]
        assert replaced.headers[name] == wanted
    await api("DELETE /api/v1/customer/1")
    await api(f"PATCH {path}", {"quantity": 9}, 404)


async def test_largest_id(api: ApiClient) -> None:
    await api(f"GET /api/v1/customer/{MAX_ID}", None, 404)
    await api(f"PATCH /api/v1/purchase/{MAX_ID}", PHONE, 404)


async def test_health(api: ApiClient) -> None:
    """Being alive says nothing of the database; being ready names it."""
    assert (await api("GET /livez")).text == '{"status":"ok"}'
    ready = (await api("GET /readyz")).json
    assert sorted(ready) == ["database", "status"]
    assert re.match("(SQLite|PostgreSQL) ", ready["database"])


async def test_times_are_those_of_the_clock(api: ApiClient, purchase: int) -> None:
    """To the second, in UTC: of creation, of an update, and in every form."""
    before = datetime.now(UTC)
    shown = (await api("POST /api/v1/customer", JOHN, 201)).data["created_on"]
    added = (await api("POST /api/v1/purchase/1", PHONE, 201)).data
    changed = (await api("PATCH /api/v1/purchase/1", {"quantity": 2})).data
    after = datetime.now(UTC)
    listed = (await api("GET /api/v1/purchase/1")).data[-1]
    moments = [
        datetime.fromisoformat(changed["last_updated_on"]),
        datetime.fromisoformat(listed["purchased_on"]),
    ]
    for moment in moments:
        assert before <= moment <= after
    for text in (shown, added["purchased_on"]):
        moment = datetime.strptime(text, "%b %d %Y %H:%M:%S").replace(tzinfo=UTC)
        assert before.replace(microsecond=0) <= moment <= after


async def test_expired_key_of_another(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes alone: the same key of another caller, path or method stays."""
    file = tmp_path / "tokens"
    file.write_text(f"ann {digest('a')} write\nbob {digest('b')} write\n")
    file.chmod(0o600)
    api = await opened(Authenticator(read_tokens(file)))
    served: Any = api.client.server
    engine = served.app[DATABASE]
    ann = {"Authorization": "Bearer a", "Idempotency_Key": "k"}
    bob = {"Authorization": "Bearer b", "Idempotency_Key": "k"}
    today = schema.microseconds
    monkeypatch.setattr(
        idempotency, "microseconds", lambda ago=0: today(ago + 25 * 3600)
    )
    await api("POST /api/v1/customer", JOHN, 201, **ann)
    monkeypatch.undo()
    first = await api("POST /api/v1/customer", JOHN, 201, **bob)
    await api("POST /api/v1/purchase/1", PHONE, 201, **bob)
    assert await engine.write(db.forget_keys, 1000) == 1
    again = await api("POST /api/v1/customer", JOHN, 201, **bob)
    assert again.text == first.text
    purchase = await api("POST /api/v1/purchase/1", PHONE, 201, **bob)
    assert purchase.headers["Idempotency-Replayed"] == "true"
    fresh = await api("POST /api/v1/customer", JOHN, 201, **ann)
    assert "Idempotency-Replayed" not in fresh.headers
