"""The filters and the order of lists, and the number of their rows."""

import csv
import io
import json
from typing import Any

import pytest

from tests.support import PHONE, ApiClient, list_ids, one_engine, walk

TIMES = (
    "2024-01-31T23:59:59.999999Z",
    "2024-02-01T00:00:00Z",
    "2024-02-01T01:00:00+02:00",
    "2024-02-29T12:00:00Z",
    "2023-12-31T23:30:00-01:00",
)
NAMES = ("Straße", "STRASSE 2", "Cafe\u0301 a\u0308", "Café", "Яблоко 100%_")
LISTS = ["/api/v1/customer", "/api/v1/purchase/1", "/api/v1/summary?by=day"]
FILES = ["/api/v1/purchases.csv", "/api/v1/purchases.jsonl"]


@pytest.fixture
async def dated(api: ApiClient, customer: int) -> ApiClient:
    """Return a client of a server with a purchase of each time and name, 1 to 5."""
    for time, name in zip(TIMES, NAMES, strict=True):
        body = {"purchase_name": name, "quantity": 2, "purchased_on": time}
        await api("POST /api/v1/purchase/1", body, 201)
    return api


def query(path: str, rest: str) -> str:
    """Return a path with something more in its query."""
    return f"{path}{'&' if '?' in path else '?'}{rest}"


async def find(api: ApiClient, rest: str, path: str = LISTS[0]) -> list[int]:
    """Return the ids of the purchases that a query lets through."""
    reply = await api(f"GET {query(path, rest)}")
    return [row["purchase_id"] for row in reply.data]


@pytest.mark.parametrize(
    ("rest", "ids"),
    [
        ("", [1, 2, 3, 4, 5]),
        ("order=asc", [1, 2, 3, 4, 5]),
        ("order=desc", [5, 4, 3, 2, 1]),
        ("order=desc&after=3", [2, 1]),
        ("order=desc&after=0", []),
        ("order=desc&limit=2", [5, 4]),
        ("purchased_from=2024-02-01", [2, 4]),
        ("purchased_before=2024-02-01", [1, 3, 5]),
        ("purchased_from=2024-02-01T00:00:00.000001Z", [4]),
        ("purchased_from=2024-02-01T02:00:00%2B02:00", [2, 4]),
        ("purchased_from=2024-01-31t21:00:00-03:00", [2, 4]),
        ("purchased_from=2024-01-01&purchased_before=2024-02-01", [1, 3, 5]),
        ("purchased_from=2024-01-01&purchased_before=2024-01-01T00:30:00Z", []),
        ("purchased_from=2024-01-01T00:30:00Z&purchased_before=2024-01-02", [5]),
        ("purchased_before=2024-02-01&order=desc&limit=2", [5, 3]),
        ("purchased_from=2024-03-01", []),
        ("purchased_from=2024-02-02&purchased_before=2024-02-01", []),
        ("purchased_from=0001-01-02&purchased_before=9999-12-30", [1, 2, 3, 4, 5]),
        ("purchase_name=", [1, 2, 3, 4, 5]),
        ("purchase_name=strasse", [1, 2]),
        ("purchase_name=STRA%C3%9FE", [1, 2]),
        ("purchase_name=%C3%89", [3, 4]),
        ("purchase_name=cafe%CC%81", [3, 4]),
        ("purchase_name=e", [1, 2]),
        ("purchase_name=%D1%8F", [5]),
        ("purchase_name=%25_", [5]),
        ("purchase_name=%25", [5]),
        ("purchase_name=_2", []),
        ("purchase_name=+2", [2]),
        ("purchase_name=x", []),
        ("purchase_name=caf&purchased_from=2024-02-01", [4]),
    ],
)
async def test_filters(dated: ApiClient, rest: str, ids: list[int]) -> None:
    for path in ("/api/v1/customer", "/api/v1/purchase/1"):
        assert await find(dated, rest, path) == ids
    assert await find(dated, f"{rest}&customer_id=1".lstrip("&")) == ids
    if "limit" not in rest:
        assert await walk(dated, query(LISTS[0], f"{rest}&limit=1".lstrip("&"))) == ids


async def test_pages_of_what_is_found(dated: ApiClient) -> None:
    """A link keeps the filters, whatever they hold, and there is none at the end."""
    for rest, ids in (
        ("purchase_name=%25_&limit=1", [5]),
        ("purchase_name=stra%C3%9Fe&order=desc&limit=1", [2, 1]),
        ("purchased_from=2024-02-01T02:00:00%2B02:00&limit=1", [2, 4]),
        ("customer_id=1&limit=2&order=desc", [5, 4, 3, 2, 1]),
    ):
        assert await walk(dated, query(LISTS[0], rest)) == ids
    reply = await dated("GET /api/v1/customer?purchased_from=2024-02-01&limit=2")
    assert "Link" not in reply.headers


async def test_pages_downwards(api: ApiClient, customer: int) -> None:
    """What is added meanwhile is above the place where they are."""
    for _ in range(5):
        await api("POST /api/v1/purchase/1", PHONE, 201)

    async def add() -> None:
        await api("POST /api/v1/purchase/1", PHONE, 201)

    path = "/api/v1/customer?order=desc&limit=2"
    assert await walk(api, path, add) == [5, 4, 3, 2, 1]


# What is refused


TIME_FAULTS = [
    ("", "Expected a time such as 2022-04-09T12:43:22Z, or a date such as 2022-04-09."),
    ("yesterday", "Expected a time such as 2022-04-09T12:43:22Z"),
    ("2024-02-30", "There is no such date"),
    ("2024-02-01T24:00:00Z", "There is no such date, or no such time of day."),
    ("2024-02-01T00:00:60Z", "A leap second cannot be stored"),
    ("2024-02-01T00:00:00", "It has no time zone"),
    ("2024-02-01T00:00:00+02:00", "Expected a time"),  # a + that is a space
    ("2024-02-01T00:00:00%2B24:00", "Expected an offset"),
    ("01.02.2024", "Such a date can be read in two ways"),
    ("0001-01-01", "Expected a time from 0001-01-02"),
    ("9999-12-31", "Expected a time from 0001-01-02 to 9999-12-30"),
    ("1706745600", "Expected a time"),
    ("2024-02-01%20", "Expected a time"),
]


@one_engine
@pytest.mark.parametrize("name", ["purchased_from", "purchased_before"])
@pytest.mark.parametrize(("text", "detail"), TIME_FAULTS)
async def test_times_refused(
    api: ApiClient, customer: int, name: str, text: str, detail: str
) -> None:
    for path in (*LISTS, *FILES):
        reply = await api(f"GET {query(path, f'{name}={text}')}", None, 422)
        [error] = reply.json["errors"]
        assert error["pointer"] == f"/{name}"
        assert error["detail"].startswith(detail)


@one_engine
@pytest.mark.parametrize("path", [*LISTS, *FILES])
@pytest.mark.parametrize(
    ("rest", "name"),
    [
        ("purchased_from=2024-01-01&purchased_from=2024-01-01", "purchased_from"),
        ("purchased_before=2024-01-01&purchased_before=", "purchased_before"),
        ("purchase_name=a&purchase_name=a", "purchase_name"),
        (f"purchase_name={'a' * 201}", "purchase_name"),
        ("purchase_name=%00", "purchase_name"),
        ("purchased_on=2024-01-01", "purchased_on"),
        ("Purchase_name=a", "Purchase_name"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=1&limit=1", "limit"),
    ],
)
async def test_values_refused(
    api: ApiClient, customer: int, path: str, rest: str, name: str
) -> None:
    assert (await api(f"GET {query(path, rest)}", None, 422)).pointers == [f"/{name}"]


@one_engine
@pytest.mark.parametrize(
    ("path", "name"),
    [
        *[
            (f"{path}?order={text}", "order")
            for path in (*LISTS[:2], *FILES)
            for text in ("", "up", "DESC", "desc&order=desc")
        ],
        ("/api/v1/customers?order=x", "order"),
        ("/api/v1/customers?purchase_name=x", "purchase_name"),
        ("/api/v1/purchase/1?customer_id=1", "customer_id"),
        ("/api/v1/customer?customer_id=0", "customer_id"),
        ("/api/v1/summary", "by"),
        ("/api/v1/summary?by=", "by"),
        ("/api/v1/summary?by=Day", "by"),
        ("/api/v1/summary?by=day&by=day", "by"),
        ("/api/v1/summary?by=day&order=desc", "order"),
        ("/api/v1/summary?by=day&after=1", "after"),
    ],
)
async def test_parameters_refused(
    api: ApiClient, customer: int, path: str, name: str
) -> None:
    assert (await api(f"GET {path}", None, 422)).pointers == [f"/{name}"]


async def test_customer_who_is_not_there(dated: ApiClient) -> None:
    """A list of nobody's is none, whatever the filters."""
    await dated("DELETE /api/v1/customer/1")
    for rest in ("customer_id=1", "customer_id=9&order=desc"):
        for more in ("", "&purchased_from=2024-01-01", "&purchase_name=x"):
            await dated(f"GET /api/v1/customer?{rest}{more}", None, 404)
            count = {"Prefer": "count=exact"}
            await dated(f"GET /api/v1/customer?{rest}{more}", None, 404, **count)
    await dated("GET /api/v1/purchase/1?order=desc", None, 404)
    await dated("GET /api/v1/summary?by=day&customer_id=1", None, 404)
    await dated("GET /api/v1/purchases.csv?customer_id=1", None, 404)
    assert await find(dated, "purchased_from=2024-01-01") == []
    assert (await dated("GET /api/v1/summary?by=customer")).data == []


# Downloads


async def test_filters_of_downloads(dated: ApiClient) -> None:
    rest = "purchase_name=stra%C3%9Fe&order=desc&purchased_before=2024-02-02"
    rows = (await dated(f"GET /api/v1/customer?{rest}")).data
    assert [row["purchase_id"] for row in rows] == [2, 1]
    reply = await dated(f"GET /api/v1/purchases.jsonl?{rest}")
    assert [json.loads(line) for line in reply.text.splitlines()] == rows
    reply = await dated(f"GET /api/v1/purchases.csv?{rest}")
    assert reply.headers["Content-Disposition"] == (
        'attachment; filename="purchases.csv"'
    )
    assert reply.text.startswith("\ufeffpurchase_id,")
    found = [*csv.DictReader(io.StringIO(reply.text[1:]))]
    assert [row["purchase_name"] for row in found] == ["STRASSE 2", "Straße"]
    page = await dated("GET /api/v1/purchases.jsonl?limit=2&order=desc")
    assert "/api/v1/purchases.jsonl?" in page.headers["Link"]
    lines = (await dated("GET /api/v1/customers.jsonl?name=JOHN")).text.splitlines()
    assert len(lines) == 1
    assert not (await dated("GET /api/v1/customers.jsonl?name=x")).text


# The number of rows


@pytest.mark.parametrize(
    ("path", "total"),
    [
        ("/api/v1/customer", 5),
        ("/api/v1/customer?limit=2", 5),
        ("/api/v1/customer?limit=2&after=3", 5),
        ("/api/v1/customer?order=desc", 5),
        ("/api/v1/customer?customer_id=1&limit=1", 5),
        ("/api/v1/purchase/1?limit=1", 5),
        ("/api/v1/customer?purchased_from=2024-02-01&limit=1", 2),
        ("/api/v1/purchase/1?purchase_name=%D1%8F", 1),
        ("/api/v1/customer?purchase_name=strasse&purchased_from=2024-02-01", 1),
        ("/api/v1/purchases.csv?purchase_name=e", 2),
        ("/api/v1/purchases.jsonl", 5),
        ("/api/v1/customers", 1),
        ("/api/v1/customers?name=x", 0),
        ("/api/v1/customers.csv?name=john", 1),
    ],
)
async def test_count(dated: ApiClient, path: str, total: int) -> None:
    plain = await dated(f"GET {path}")
    for method in ("GET", "HEAD"):
        reply = await dated(f"{method} {path}", None, 200, Prefer="count=exact")
        assert reply.headers["Total-Count"] == str(total)
        assert reply.headers["Preference-Applied"] == "count=exact"
        assert "Total-Count" not in plain.headers
        assert method == "HEAD" or reply.text == plain.text


async def test_count_of_what_is_hidden(dated: ApiClient) -> None:
    """Deleted purchases do not count, nor does what was deleted with its customer."""
    count = {"Prefer": "count=exact"}

    async def totals() -> list[str]:
        paths = ("", "?order=desc&purchased_from=2024-01-01", "?purchase_name=a")
        return [
            (await dated(f"GET /api/v1/customer{path}", None, 200, **count)).headers[
                "Total-Count"
            ]
            for path in paths
        ]

    await dated("POST /api/v1/customer", {"name": "Eve", "address": ""}, 201)
    await dated("POST /api/v1/purchase/2", PHONE, 201)
    assert await totals() == ["6", "6", "4"]
    cleared = await dated("DELETE /api/v1/purchase/1?delete_all=true")
    assert await totals() == ["1", "1", "0"]
    await dated("POST /api/v1/purchase/1", PHONE, 201)
    assert await totals() == ["2", "2", "0"]
    await dated(f"POST /api/v1/changes/{cleared.headers['Change']}/undo", None, 201)
    assert await totals() == ["7", "7", "4"]
    await dated("DELETE /api/v1/customer/1")
    assert await totals() == ["1", "1", "0"]


@one_engine
@pytest.mark.parametrize(
    ("lines", "counted"),
    [
        (["count=exact"], True),
        (["Count = EXACT"], True),
        (["COUNT=exact"], True),
        (['count="exact"'], True),
        (["count=exact; x=1"], True),
        (["respond-async, count=exact"], True),
        (["respond-async", "count=exact"], True),
        (["handling=lenient; a", "wait=1,count=exact"], True),
        (["count=none"], False),
        (["count=planned"], False),
        (["count"], False),
        (["count="], False),
        (["counter=exact"], False),
        (["x=count=exact"], False),
        (["counts, count=exact"], True),
        (["count=none", "count=exact"], False),
        (["count=exact, count=none"], True),
        (['x="a, count=exact"'], False),
        (["return=minimal"], False),
        ([""], False),
    ],
)
async def test_prefer(
    api: ApiClient, customer: int, lines: list[str], counted: bool
) -> None:
    """Of several of one name the first holds; what is not known is ignored."""
    head = "".join(f"Prefer: {line}\r\n" for line in lines)
    request = f"GET /api/v1/customers HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}"
    reply = await api.raw(f"{request}Connection: close\r\n\r\n".encode(), 200)
    assert (reply.headers.get("Total-Count") == "1") is counted
    assert ("Preference-Applied" in reply.headers) is counted


@one_engine
async def test_prefer_where_nothing_is_counted(api: ApiClient, purchase: int) -> None:
    """Preferences are no demands (RFC 7240, section 2)."""
    for line in ("GET /api/v1/customer/1", "GET /api/v1/changes", "GET /livez"):
        reply = await api(line, None, 200, Prefer="count=exact")
        assert "Preference-Applied" not in reply.headers


# Adding


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("2022-04-09T12:43:22Z", "2022-04-09 12:43:22.000000+00:00"),
        ("2022-04-09 12:43:22.1234567z", "2022-04-09 12:43:22.123456+00:00"),
        ("2022-04-09t00:00:00+02:00", "2022-04-08 22:00:00.000000+00:00"),
        ("0001-01-02T00:00:00Z", "0001-01-02 00:00:00.000000+00:00"),
    ],
)
async def test_purchase_of_a_time(
    api: ApiClient, customer: int, text: str, stored: str
) -> None:
    body = {**PHONE, "purchased_on": text}
    reply = await api("POST /api/v1/purchase/1", body, 201)
    month = {"04": "Apr", "01": "Jan"}[stored[5:7]]
    short = f"{month} {stored[8:10]} {stored[:4]} {stored[11:19]}"
    assert reply.data["purchased_on"] == short
    [row] = (await api("GET /api/v1/customer")).data
    assert row["purchased_on"] == stored
    assert row["last_updated_on"] is None
    changed = await api("PATCH /api/v1/purchase/1", {"quantity": 5})
    assert changed.data["purchased_on"] == stored


@one_engine
@pytest.mark.parametrize(
    "value",
    ["2022-04-09", "", "now", "2999-01-01T00:00:00Z", 5, None, True, ["2022"], {}],
)
async def test_time_refused(api: ApiClient, customer: int, value: Any) -> None:
    """A date alone is no time of a purchase, and it cannot be to come."""
    body = {**PHONE, "purchased_on": value}
    reply = await api("POST /api/v1/purchase/1", body, 422)
    assert reply.pointers == ["/purchased_on"]
    assert await list_ids(api) == []


@one_engine
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_time_does_not_change(api: ApiClient, purchase: int, method: str) -> None:
    body = {**PHONE, "purchased_on": "2022-04-09T12:43:22Z"}
    reply = await api(f"{method} /api/v1/purchase/1", body, 422)
    assert reply.pointers == ["/purchased_on"]
