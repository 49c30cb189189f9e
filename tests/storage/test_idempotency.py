"""Idempotency keys as the database keeps them."""

import asyncio
import importlib
from collections.abc import Awaitable
from contextlib import closing
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import db
import server
from queries import idempotency
from queries.packed_responses import PLAIN, pack, unpack
from storage import schema, sqlite_file
from storage.batch_queue import run_unit
from storage.engine import Statement
from storage.schema import key_digest, microseconds
from storage.sqlite_connection import driver
from tests.support import (
    JOHN,
    MAX_ID,
    PHONE,
    ApiClient,
    ClientReply,
    author,
    by,
    count,
    list_ids,
    run_sql,
)

WHOLE = sha256(b"body of the request").digest()
KEY = db.IdempotencyKey("Zoë", "POST", "/api/v1/purchase/1", "a|b", WHOLE[:16])
BODY = '{"status":"ok","data":{"purchase_name":"Käse\n"}}'
COMPACT = 7
"""The version from which on keys are found by a digest."""
INSERT_CUSTOMER = f"""
INSERT INTO customer (name, address, date_created, name_folded)
VALUES ('x', 'y', '{schema.now()}', 'x')"""
INSERT_KEY = """
INSERT INTO idempotency (caller, method, path, key, fingerprint, created, status,
    location, etag, body, customer_id, change)
VALUES ('Zoë', 'POST', '/api/v1/purchase/1', '{key}', '{fingerprint}', '{created}',
    {status}, '{location}', '{etag}', '{body}', 1, 5)"""


def insert_key(key: str, created: str, **values: Any) -> str:
    """Return SQL that inserts a key as the sixth version of the schema has it."""
    given = {"fingerprint": WHOLE.hex(), "status": 201, "location": "/1", "etag": '"1"'}
    given |= {"key": key, "created": created, "body": BODY, **values}
    return INSERT_KEY.format(**given)


BLANK = {"fingerprint": "", "location": "", "etag": "", "body": ""}


def keep_version_6(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create a database as the version before the digests has it."""
    postgres_schema = importlib.import_module("storage.postgres_schema")
    before = COMPACT - 1
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", schema.MIGRATIONS[:before])
    earlier = schema.POSTGRES_MIGRATIONS[:before]
    monkeypatch.setattr(postgres_schema, "POSTGRES_MIGRATIONS", earlier)
    server.try_make_db(url)
    monkeypatch.undo()


async def run_all(url: str, statements: list[str]) -> None:
    """Run SQL on a database that nobody serves."""
    if url.startswith("sqlite"):
        run_sql(Path(url.removeprefix("sqlite:///")), ";".join(statements))
        return
    hosts = importlib.import_module("storage.postgres_hosts").HostList(url)
    raw = await hosts.connect()
    for statement in statements:
        await raw.execute(statement)
    await raw.close()


async def test_keys_of_version_6(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are answered as before, and forgotten when they would have been."""
    await asyncio.to_thread(keep_version_6, database_url, monkeypatch)
    at = schema.now()
    rows = [
        insert_key("old", schema.now(25 * 3600)),
        insert_key("a|b", at),
        insert_key("same time", at),
        insert_key("blank", at, **BLANK),
        insert_key("strange", at, fingerprint="x"),
        insert_key("created", at).replace("/purchase/1'", "/customer'"),
        insert_key("far", at).replace("/purchase/1'", f"/purchase/{MAX_ID}'"),
    ]
    await run_all(database_url, [INSERT_CUSTOMER, *rows])
    await asyncio.to_thread(server.try_make_db, database_url)
    engine = await db.connect(database_url)
    try:
        first = db.StoredResponse(201, "/1", '"1"', BODY.encode(), 1, 5, replayed=True)
        for key in ("a|b", "same time"):
            wanted = KEY._replace(key=key)
            assert await engine.read(db.find_response, wanted) == first
        others = ("created", "/customer"), ("far", f"/purchase/{MAX_ID}")
        for key, path in others:
            wanted = KEY._replace(key=key, path=f"/api/v1{path}")
            assert await engine.read(db.find_response, wanted) == first
        for key in ("blank", "strange"):
            with pytest.raises(db.KeyReusedError):
                await engine.read(db.find_response, KEY._replace(key=key))
        for key in ("old", "none"):
            assert await engine.read(db.find_response, KEY._replace(key=key)) is None
        assert await engine.write(db.forget_keys, 9) == 1
        await engine.write(db.purge_customer, 1, author(), None)
        while await engine.write(db.purge_step):
            pass
        assert await engine.read(select_responses) == [(b"", b"")] * 6
        with pytest.raises(db.ErasedError):
            await engine.read(db.find_response, KEY)
    finally:
        await engine.close()


def select_responses() -> db.Unit[list[Any]]:
    """Return what is kept of requests and their answers."""
    return (yield Statement("SELECT fingerprint, response FROM idempotency"), ())


def test_scopes() -> None:
    """No two are found by the same digest."""
    texts = ("", "a", "b", "ab", "a|b", "|", "1:", "1:1", "1:1:1:a")
    scopes = [
        (caller, "POST", path, key)
        for caller in texts
        for path in texts
        for key in texts
    ]
    scopes += [("a", "PUT", "b", "c"), ("a", "P", "OSTb", "c"), ("aP", "OST", "b", "c")]
    digests = {key_digest(*scope) for scope in scopes}
    assert len(digests) == len(scopes)
    assert {len(digest) for digest in digests} == {24}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *combinations(
            [
                KEY,
                KEY._replace(caller=""),
                KEY._replace(method="PUT"),
                KEY._replace(path="/api/v1/purchase/12"),
                KEY._replace(caller="Zo", method="ëPOST"),
                KEY._replace(path="/api/v1/purchase/1a", key="|b"),
            ],
            2,
        )
    ],
)
def test_scope_of_a_key(
    sqlite_path: Path, one: db.IdempotencyKey, other: db.IdempotencyKey
) -> None:
    sqlite_file.create_or_migrate(sqlite_path)
    with closing(driver.connect(sqlite_path, isolation_level=None)) as raw:
        add_customer(raw, one)
        assert run_unit(raw, db.find_response(other)) is None
        assert run_unit(raw, db.find_response(one)) is not None


def add_customer(raw: Any, key: db.IdempotencyKey) -> db.StoredResponse:
    """Add a customer under a key."""

    def render(written: db.Written[db.Customer]) -> db.StoredResponse:
        row, change = written
        return db.StoredResponse(201, "/1", "", b"%d" % row.id, row.id, change)

    unit = db.run_idempotent(key, render, db.add_customer, *("x", "", *by()))
    response: db.StoredResponse = run_unit(raw, unit)
    return response


def test_keys_of_one_time(sqlite_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the clock stands still, or is set back, each has a row of its own."""
    sqlite_file.create_or_migrate(sqlite_path)
    start = microseconds()
    with closing(driver.connect(sqlite_path, isolation_level=None)) as raw:
        for number, ahead in enumerate((0, 0, 5, 0, 0, 4, 0, 3)):
            time = start + ahead
            monkeypatch.setattr(
                idempotency, "microseconds", lambda ago=0, t=time: t - ago * 1_000_000
            )
            add_customer(raw, KEY._replace(key=str(number)))
        select = "SELECT created FROM idempotency ORDER BY created"
        times = [time - start for (time,) in raw.execute(select)]
        assert times == [*range(8)]
        for number in range(8):
            again = add_customer(raw, KEY._replace(key=str(number)))
            assert (again.body, again.replayed) == (b"%d" % (number + 1), True)


PACKED = """
31c3748f11c241c626a666e61696049d055587e938f7a2d4d43c8592d4441d05
430303857414c79a1860b8d608d3b9a0546164010d44732b234b2b1333a0bb01
"""
RESPONSES = [
    ("", "", b""),
    ("/api/v1/changes/1", "", b"{}\n\n"),
    ("/api/v1/customer/7/purchase/8", '"1"', BODY.encode() * 200),
]


@pytest.mark.parametrize("response", RESPONSES)
def test_packed_response(response: tuple[str, str, bytes]) -> None:
    location, etag, body = response
    assert unpack(pack(*response)) == response
    plain = f"{location}\n{etag}\n".encode() + body
    assert unpack(PLAIN + plain) == response


def test_response_of_an_earlier_version() -> None:
    """What a released version has packed is read by all that follow."""
    packed = bytes.fromhex(PACKED)
    location, etag, body = unpack(packed)
    assert (location, etag) == ("/api/v1/customer/12/purchase/3456789", '"1"')
    assert body == (
        b'{"status":"ok","data":{"id":3456789,"purchase_name":"Green tea, 100 g",'
        b'"quantity":40,"customer_id":"12","purchased_on":"Nov 28 2026 07:29:46"}}'
    )


async def test_keys_in_one_batch(api: ApiClient, customer: int) -> None:
    """Each is looked at by itself, though those that are new are stored together."""
    line, more = "POST /api/v1/purchase/1", {**PHONE, "quantity": 9}
    await api(line, PHONE, 201, Idempotency_Key="before")
    asked: list[tuple[str, object, int, str | None]] = [
        *((line, PHONE, 201, f"new {number}") for number in range(20)),
        *((line, PHONE, 201, None) for _ in range(20)),
        *((line, PHONE, 201, "twice") for _ in range(2)),
        (line, PHONE, 201, "before"),
        (line, more, 422, "before"),
        ("POST /api/v1/purchase/2", PHONE, 404, "nobody"),
        ("POST /api/v1/customer", JOHN, 201, "twice"),
        ("POST /api/v1/changes/99/undo", None, 404, "undo"),
    ]

    def ask(number: int) -> Awaitable[ClientReply]:
        line, body, status, key = asked[number]
        headers = {"Idempotency_Key": key} if key else {}
        return api(line, body, status, **headers)

    replies = await asyncio.gather(*map(ask, range(len(asked))))
    replayed = [asked[n][3] for n, one in enumerate(replies) if is_replayed(one)]
    assert sorted(map(str, replayed)) == ["before", "twice"]
    assert len(await list_ids(api)) == 1 + 20 + 20 + 1
    for number, reply in enumerate(replies):
        if asked[number][3] and reply.status == 201:
            again = await ask(number)
            assert is_replayed(again)
            assert again.text == reply.text
            assert again.headers["Location"] == reply.headers["Location"]
    assert len(await list_ids(api)) == 1 + 20 + 20 + 1


def is_replayed(reply: ClientReply) -> bool:
    """Return whether a reply is said to be one that was stored."""
    return "Idempotency-Replayed" in reply.headers


async def test_fault_in_one_of_a_batch(engine: Any, customer: int) -> None:
    """It is undone alone, with the key."""

    def fail(written: db.Written[db.Purchase]) -> db.StoredResponse:
        raise ValueError(written.result.quantity)

    def render(written: db.Written[db.Purchase]) -> db.StoredResponse:
        return db.StoredResponse(201, "/1", "", b"x", 1, written.change)

    keys = [KEY._replace(key=str(number)) for number in range(9)]
    units = [
        engine.write(
            *(db.run_idempotent, key, fail if quantity == 4 else render),
            *(db.add_purchase, 1, "x", quantity, None, *by()),
        )
        for quantity, key in enumerate(keys)
    ]
    outcomes = await asyncio.gather(*units, return_exceptions=True)
    assert [one for one in range(9) if isinstance(outcomes[one], Exception)] == [4]
    assert str(outcomes[4]) == "4"
    assert await engine.read(count, "purchases") == 8
    assert await engine.read(count, "idempotency") == 8
    for key in keys:
        found = await engine.read(db.find_response, key)
        assert (found is None) is (key is keys[4])
