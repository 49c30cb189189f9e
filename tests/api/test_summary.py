"""Sums of purchases, and the number and the order of customers."""

import pytest

from queries import purchase_search
from tests.support import CSV, ApiClient, one_engine, walk

BOUGHT = [
    ("Cup", 2, "2022-04-09T00:00:00Z"),
    ("STRASSE", 1, "2022-04-10T01:00:00+02:00"),
    ("Straße", 3, "2022-04-10T00:00:00Z"),
    ("cup é", 4, "2022-05-01T12:00:00.5Z"),
]


@pytest.fixture
async def bought(
    api: ApiClient, customer: int, monkeypatch: pytest.MonkeyPatch
) -> ApiClient:
    """Return a client of a server where two customers have bought something."""
    monkeypatch.setattr(purchase_search, "SCAN_ROWS", 2)
    await api("POST /api/v1/customer", {"name": "Ada", "address": ""}, 201)
    for owner in (customer, 2):
        for name, quantity, time in BOUGHT:
            body = {"purchase_name": name, "quantity": quantity, "purchased_on": time}
            await api(f"POST /api/v1/purchase/{owner}", body, 201)
    return api


CASES = [
    ("", [1, 2, 3, 4]),
    ("purchased_from=2022-04-10", [3, 4]),
    ("purchased_from=2022-04-10T01:00:00%2B02:00", [2, 3, 4]),
    ("purchased_before=2022-04-10", [1, 2]),
    ("purchased_from=2022-04-09&purchased_before=2022-04-11", [1, 2, 3]),
    ("purchase_name=CUP", [1, 4]),
    ("purchase_name=stra%C3%9Fe", [2, 3]),
    ("purchase_name=e%CC%81", [4]),
    ("purchase_name=cup&purchased_from=2022-05-01", [4]),
    ("purchased_from=2023-01-01", []),
]


@pytest.mark.parametrize(("query", "found"), CASES)
async def test_sums(bought: ApiClient, query: str, found: list[int]) -> None:
    rows = [BOUGHT[number - 1] for number in found]
    quantity = sum(row[1] for row in rows)
    path = f"GET /api/v1/summary?{query}&by="
    by_customer = (await bought(f"{path}customer")).data
    assert by_customer == [
        {"key": key, "label": label, "purchases": len(rows), "quantity": quantity}
        for key, label in (("1", "John Doe"), ("2", "Ada"))
        if rows
    ]
    by_day = (await bought(f"{path}day&customer_id=2")).data
    assert [day["key"] for day in by_day] == sorted({day["key"] for day in by_day})
    assert sum(day["quantity"] for day in by_day) == quantity
    by_name = (await bought(f"{path}purchase_name")).data
    assert {(one["key"], one["quantity"]) for one in by_name} == {
        (row[0], 2 * row[1]) for row in rows
    }
    quantities = [one["quantity"] for one in by_name]
    assert quantities == sorted(quantities, reverse=True)


async def test_hidden_rows_do_not_count(bought: ApiClient) -> None:
    await bought("DELETE /api/v1/purchase/1?delete_all=true")
    for query, number in (("", 4), ("?purchase_name=cup", 2), ("?customer_id=1", 0)):
        path = f"GET /api/v1/customer{query}"
        reply = await bought(path, None, 200, Prefer='foo, Count="exact";x=1')
        assert reply.headers["Total-Count"] == str(number) == str(len(reply.data))
    sums = (await bought("GET /api/v1/summary?by=day&limit=2")).data
    assert [(one["key"], one["purchases"]) for one in sums] == [
        *(("2022-04-09", 2), ("2022-04-10", 1))
    ]


@one_engine
async def test_customers(bought: ApiClient) -> None:
    path = "GET /api/v1/customers"
    reply = await bought(f"{path}?order=desc", None, 200, Prefer="count=exact")
    assert [row["id"] for row in reply.data] == [2, 1]
    assert reply.headers["Total-Count"] == "2"
    some = await bought(f"{path}?name=ada&limit=1", None, 200, Prefer="count=exact")
    assert some.headers["Total-Count"] == "1"
    without = await bought(path, None, 200, Prefer="count=none, count=exact")
    assert "Total-Count" not in without.headers
    assert await walk(bought, "/api/v1/customers?order=desc&limit=1") == [2, 1]


@one_engine
async def test_other_formats(bought: ApiClient) -> None:
    reply = await bought("GET /api/v1/summary?by=day&limit=1", None, 200, Accept=CSV)
    assert reply.text.splitlines() == [
        *("key,label,purchases,quantity", "2022-04-09,2022-04-09,4,6")
    ]
    reply = await bought("GET /api/v1/purchases.jsonl?purchase_name=cup&order=desc")
    assert reply.text.count("\n") == 4
    assert reply.text.startswith('{"purchase_id":8,')


@one_engine
@pytest.mark.parametrize(
    ("path", "pointers"),
    [
        ("summary", ["/by"]),
        ("summary?by=year", ["/by"]),
        ("summary?by=day&after=1", ["/after"]),
        ("summary?by=day&limit=0", ["/limit"]),
    ],
)
async def test_refused(api: ApiClient, path: str, pointers: list[str]) -> None:
    reply = await api(f"GET /api/v1/{path}", None, 422)
    assert reply.pointers == pointers
