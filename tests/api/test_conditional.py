"""Idempotency keys and entity tags, in races and over time."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import db
from api.auth import Authenticator, read_tokens
from queries import idempotency
from storage.schema import microseconds
from tests.support import (
    GUARDED,
    JOHN,
    PHONE,
    ApiClient,
    Opener,
    count,
    digest,
    list_ids,
    list_names,
    one_engine,
)


async def test_same_key_at_once(api: ApiClient, customer: int) -> None:
    for line, body in (
        ("POST /api/v1/purchase/1", PHONE),
        ("POST /api/v1/customer", JOHN),
    ):
        asked = (api(line, body, 201, Idempotency_Key="once") for _ in range(64))
        replies = await asyncio.gather(*asked)
        replayed = [reply.headers.get("Idempotency-Replayed") for reply in replies]
        assert sorted(map(str, replayed)) == ["None"] + ["true"] * 63
        assert len({(reply.text, reply.headers["ETag"]) for reply in replies}) == 1
    assert (await list_ids(api), len(await list_names(api))) == ([1], 2)


async def test_scope_of_a_key(opened: Opener, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"ann {digest('a')} write\nbob {digest('b')} write\n")
    api = await opened(Authenticator(read_tokens(file)))
    for who in ("a", "b"):
        for line, body in (
            ("POST /api/v1/customer", JOHN),
            ("POST /api/v1/purchase/1", PHONE),
            ("POST /api/v1/purchase/2", PHONE),
        ):
            if who == "b" or not line.endswith("2"):
                headers = {"Authorization": f"Bearer {who}", "Idempotency_Key": "k"}
                await api(line, body, 201, **headers)
    reply = await api("GET /api/v1/customer", Authorization="Bearer a")
    assert [row["customer_id"] for row in reply.data] == ["1", "1", "2"]


async def test_key_expires(
    api: ApiClient, engine: Any, customer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, today = "POST /api/v1/purchase/1", microseconds

    def later(hours: float) -> None:
        def time(ago: float = 0) -> int:
            return today(ago - hours * 3600)

        monkeypatch.setattr(idempotency, "microseconds", time)

    await api(line, PHONE, 201, Idempotency_Key="k")
    await api(line, PHONE, 201, Idempotency_Key="other")
    later(hours=23.9)
    assert await engine.write(db.forget_keys, 1000) == 0
    reply = await api(line, PHONE, 201, Idempotency_Key="k")
    assert reply.data["id"] == 1
    later(hours=24.1)
    more = {**PHONE, "quantity": 5}
    reply = await api(line, more, 201, Idempotency_Key="k")
    assert (reply.data["id"], reply.data["quantity"]) == (3, 5)
    reply = await api(line, more, 201, Idempotency_Key="k")
    assert (reply.data["id"], reply.headers["Idempotency-Replayed"]) == (3, "true")
    assert await engine.write(db.forget_keys, 1000) == 1
    assert await engine.read(count, "idempotency") == 1


async def test_old_keys_are_forgotten(
    api: ApiClient, engine: Any, opened: Opener, customer: int
) -> None:
    """A server that starts deletes them, in units of a bounded size."""

    def fill() -> db.Unit[None]:
        for turn in range(1100):
            values = microseconds(25 * 3600), str(turn).encode(), b"", 201, b"", None, 1
            yield idempotency.SAVE_RESPONSE, values

    await engine.write(fill)
    await api("POST /api/v1/customer", JOHN, 201, Idempotency_Key="fresh")
    again = await opened()
    for _ in range(100):
        await asyncio.sleep(0.05)
        if await engine.read(count, "idempotency") == 1:
            break
    assert await engine.read(count, "idempotency") == 1
    reply = await again("POST /api/v1/customer", JOHN, 201, Idempotency_Key="fresh")
    assert reply.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    "key",
    [
        *("k", '"k"', "x" * 255, '"' + "x" * 255 + '"', "a b", r'"a\"b"', 'a"b', "\\"),
        "~!#$%&'()*,/:;<=>?@[]^_`{|}",
    ],
)
async def test_good_key(api: ApiClient, key: str) -> None:
    for _ in range(2):
        reply = await api("POST /api/v1/customer", JOHN, 201, Idempotency_Key=key)
    assert reply.headers["Idempotency-Replayed"] == "true"


@one_engine
@pytest.mark.parametrize(
    "key", ["", '""', "x" * 256, '"' + "x" * 256 + '"', "é", "a\tb", '"k']
)
async def test_bad_key(api: ApiClient, customer: int, key: str) -> None:
    for line, body in (
        ("POST /api/v1/customer", JOHN),
        ("POST /api/v1/purchase/1", PHONE),
    ):
        await api(line, body, 422, Idempotency_Key=key)
    assert (await list_ids(api), await list_names(api)) == ([], ["John Doe"])


@pytest.mark.parametrize(("method", "path", "body"), GUARDED[:4])
async def test_race_with_one_tag(
    api: ApiClient, purchase: int, method: str, path: str, body: object
) -> None:
    full = path.replace("v1/purchase", "v1/customer/1/purchase")
    tag = (await api(f"GET {full}")).headers["ETag"]

    async def update() -> int:
        url = api.client.make_url(path)
        headers = {"If-Match": tag}
        async with api.client.session.request(
            method, url, json=body, headers=headers
        ) as reply:
            return reply.status

    statuses = await asyncio.gather(*(update() for _ in range(32)))
    assert sorted(statuses) == [200] + [412] * 31
