"""The description and its page."""

import json
import re
from typing import Any
from urllib.parse import quote, urljoin

import openapi_spec_validator
import pytest
from openapi_schema_validator import OAS31Validator
from yarl import URL

import handlers
from api import openapi
from tests.support import CSV, JOHN, JSON, PHONE, ApiClient, one_engine


@one_engine
async def test_openapi(api: ApiClient) -> None:
    """The description is a valid one, and of the routes that there are."""
    description = (await api("GET /openapi.json")).json
    openapi_spec_validator.validate(description)
    assert description["openapi"].startswith("3.1")
    described = {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path))
        for path, methods in description["paths"].items()
        for method in methods.keys() & {"get", "post", "put", "patch", "delete"}
    }
    assert described == {
        (route.method, re.sub(r"\{\w+\}", "{}", route.path))
        for route in handlers.ROUTES
    }


@one_engine
async def test_query_is_described(api: ApiClient) -> None:
    """What the query of a search may hold is described as it is checked."""
    operation = (await api("GET /openapi.json")).json["paths"]["/api/v1/customers"]
    schemas = {part["name"]: part["schema"] for part in operation["get"]["parameters"]}
    for text, status in (("x" * 200, 200), ("x" * 201, 422), ("a\0b", 422)):
        fits = len(text) <= schemas["name"]["maxLength"]
        fits = fits and re.search(schemas["name"]["pattern"], text) is not None
        assert fits == (status == 200)
        await api(f"GET /api/v1/customers?name={quote(text)}", None, status)


@one_engine
async def test_types_are_described(api: ApiClient) -> None:
    """Parameters and words to choose from have a type, which no tool need guess."""
    found: list[dict[str, Any]] = []

    def keep(part: dict[str, Any]) -> dict[str, Any]:
        found.append(part)
        return part

    json.loads((await api("GET /openapi.json")).text, object_hook=keep)
    choices = [part for part in found if isinstance(part.get("enum"), list)]
    parameters = [part["schema"] for part in found if {"in", "schema"} <= {*part}]
    assert len(choices) > 10
    assert len(parameters) > 50
    assert not [part for part in choices + parameters if "type" not in part]


@one_engine
async def test_docs_page(api: ApiClient) -> None:
    page = await api("GET /docs")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) >= 2
    for asset in assets:
        url = api.client.make_url("/docs").join(URL(asset))
        async with api.client.session.get(url) as reply:
            assert reply.status == 200, asset
            tag = reply.headers["ETag"]
        async with api.client.session.get(url, headers={"If-None-Match": tag}) as reply:
            assert reply.status == 304, asset
    await api("GET /docs/nothing.js", None, 404)


Operation = dict[str, Any]


@pytest.fixture
async def operations(api: ApiClient) -> dict[str, Operation]:
    """The described operations, by the names of their handlers."""
    paths = (await api("GET /openapi.json")).json["paths"]
    return {
        operation["operationId"]: operation
        for methods in paths.values()
        for operation in methods.values()
    }


def names_of(operation: Operation, place: str) -> set[str]:
    return {part["name"] for part in operation["parameters"] if part["in"] == place}


@one_engine
async def test_every_operation_is_described(operations: dict[str, Operation]) -> None:
    for name, operation in operations.items():
        assert operation["summary"], name
        assert operation["description"], name


@one_engine
async def test_every_text_is_used(operations: dict[str, Operation]) -> None:
    """None is left behind by a handler that has another name now."""
    shown = [operation["description"] for operation in operations.values()]
    for name, text in list(openapi.TEXTS.items())[1:]:  # the first is the title
        assert any(text in description for description in shown), name


@pytest.mark.parametrize("secured", [True, False])
def test_security_is_described(secured: bool) -> None:
    """Public operations say that they need no token; so must no reader guess."""
    text = openapi.describe(handlers.ROUTES, handlers.VERSION, secured)
    needed = '[{"bearer": []}]' if secured else '[{"bearer": []}, {}]'
    operations = {
        operation["operationId"]: operation["security"]
        for methods in json.loads(text)["paths"].values()
        for operation in methods.values()
    }
    for route in handlers.ROUTES:
        expected = "[]" if route.access == "public" else needed
        assert json.dumps(operations[route.name]) == expected, route.path


@one_engine
async def test_bodies_are_described(operations: dict[str, Operation]) -> None:
    """A list is JSON, so that `data` has one type; a file is no base64."""
    for name in ("list_purchases", "list_customer_purchases", "find_customers"):
        content = operations[name]["responses"]["200"]["content"]
        assert list(content) == ["application/json"]
        assert "text/csv" in operations[name]["description"]
    content = operations["docs_asset"]["responses"]["200"]["content"]
    text, image = {"type": "string"}, {"type": "string", "format": "binary"}
    assert content == {
        "text/css": {"schema": text},
        "text/javascript": {"schema": text},
        "image/png": {"schema": image},
    }


@one_engine
async def test_conditions_are_described(
    api: ApiClient, operations: dict[str, Operation]
) -> None:
    """If-Match stands where a row's tag can hold, and whose tag it is in the reply."""
    await api("POST /api/v1/customer", JOHN, 201)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    for name, target, body in (
        ("change_customer", "PATCH /api/v1/customer/1", {"name": "Jane"}),
        ("change_purchase", "PATCH /api/v1/purchase/1", {"quantity": 5}),
        ("replace_purchase", "PUT /api/v1/purchase/1", PHONE),
    ):
        assert names_of(operations[name], "header") == {"If-Match"}
        await api(target, body, 412, **{"If-Match": '"999"'})
        reply = await api(target, body, **{"If-Match": "*"})
        described = operations[name]["responses"]["200"]["headers"]
        for header in ("ETag", "Content-Location"):
            assert (header in reply.headers) == (header in described), (name, header)
    assert names_of(operations["delete_purchases"], "header") == set()
    assert names_of(operations["erase_customer"], "header") == {"If-Match"}
    assert names_of(operations["create_customer"], "header") == {"Idempotency-Key"}


@one_engine
async def test_deletions_are_told_apart(api: ApiClient) -> None:
    """Each body of the deletion fits one schema, so that generators make a union."""
    description = (await api("GET /openapi.json")).json
    paths, schemas = description["paths"], description["components"]["schemas"]
    body = paths["/api/v1/purchase/{id}"]["delete"]["requestBody"]["content"]
    choices = [
        part["$ref"].rpartition("/")[2]
        for part in body["application/json"]["schema"]["oneOf"]
    ]
    for choice in ("Deletion", "DeletionOfAll"):  # of a constant some make an enum
        assert schemas[choice]["properties"]["delete_all"] == {"type": "boolean"}
    for value, name in (
        ({"delete_all": False, "purchase_ids": [1]}, "Deletion"),
        ({"purchase_ids": []}, "Deletion"),
        ({"delete_all": True, "purchase_ids": [1]}, "DeletionOfAll"),
        (PHONE, "PurchaseValues"),
    ):
        fitting = [
            choice
            for choice in choices
            if OAS31Validator(schemas[choice]).is_valid(value)
        ]
        assert fitting == [name], value


def headers_of(operation: Operation, status: int) -> set[str]:
    return set(operation["responses"][str(status)]["headers"])


FILE = b"customer_id,purchase_name,quantity\n1,Iphone 12,4\n"
ONE_PURCHASE = "/api/v1/customer/1/purchase/1"
WRITES: list[tuple[str, str, object, int]] = [
    ("create_customer", "POST /api/v1/customer", JOHN, 201),
    ("add_purchase", "POST /api/v1/purchase/1", PHONE, 201),
    ("change_customer", "PATCH /api/v1/customer/1", {"name": "Jane"}, 200),
    ("change_purchase", "PATCH /api/v1/purchase/1", {"quantity": 5}, 200),
    ("replace_purchase", "PUT /api/v1/purchase/1", PHONE, 200),
    ("change_customer_purchase", f"PATCH {ONE_PURCHASE}", {"quantity": 5}, 200),
    ("replace_customer_purchase", f"PUT {ONE_PURCHASE}", PHONE, 200),
    ("delete_purchases", "DELETE /api/v1/purchase/1", {"delete_all": True}, 200),
    ("undo_change", "POST /api/v1/changes/8/undo", None, 201),
    ("import_file", "POST /api/v1/imports", FILE, 201),
    ("erase_customer", "DELETE /api/v1/customer/1?purge=true", None, 200),
]


@one_engine
async def test_changes_are_described(
    api: ApiClient, operations: dict[str, Operation]
) -> None:
    """Every write has the number of its change, and links to it."""
    for number, (name, target, body, status) in enumerate(WRITES, start=1):
        kind = CSV if body is FILE else JSON
        headers = {"Content_Type": kind} if body else {}
        reply = await api(target, body, status, **headers)
        assert reply.headers["Change"] == str(number), name
        described = operations[name]["responses"][str(status)]
        assert headers_of(operations[name], status) >= {"Change", "X-Request-Id"}
        for link in ("read_change", "undo_change"):
            assert described["links"][link] == {
                "operationId": link,
                "parameters": {"change_id": "$response.header.Change"},
            }
    written = {name for name, *_ in WRITES}
    assert written == {
        route.name for route in handlers.ROUTES if route.access == "write"
    }
    reading = [operations[name] for name in operations.keys() - written]
    assert not any("Change" in headers_of(operation, 200) for operation in reading)


@one_engine
async def test_cursors_are_described(
    api: ApiClient, operations: dict[str, Operation]
) -> None:
    """A list says from where to follow the feed, which itself has cursors in rows."""
    await api("POST /api/v1/customer", JOHN, 201)
    for name, path in (
        ("list_purchases", "/api/v1/customer"),
        ("list_customer_purchases", "/api/v1/purchase/1"),
        ("find_customers", "/api/v1/customers"),
        ("download_customers", "/api/v1/customers.csv"),
        ("download_purchases", "/api/v1/purchases.jsonl"),
        ("read_changes", "/api/v1/changes"),
        ("read_change", "/api/v1/changes/1"),
    ):
        reply = await api(f"GET {path}")
        has_cursor = name not in ("read_changes", "read_change")
        assert ("Feed-Cursor" in reply.headers) == has_cursor, str(reply)
        assert ("Feed-Cursor" in headers_of(operations[name], 200)) == has_cursor


@one_engine
async def test_undo_is_described(
    api: ApiClient, operations: dict[str, Operation]
) -> None:
    """The link of its 201 leads to the change; its problems are listed."""
    await api("POST /api/v1/customer", JOHN, 201)
    undone = await api("POST /api/v1/changes/1/undo", None, 201)
    described = operations["undo_change"]["responses"]
    assert {"403", "404", "409", "410", "412", "413", "415", "422"} <= described.keys()
    assert headers_of(operations["undo_change"], 201) == {
        *("Change", "Location", "Idempotency-Replayed", "X-Request-Id")
    }
    link = described["201"]["links"]["read_change"]["parameters"]["change_id"]
    number = undone.headers[link.removeprefix("$response.header.")]
    assert undone.headers["Location"] == f"/api/v1/changes/{number}"
    (row,) = (await api(f"GET /api/v1/changes/{number}")).data
    assert row["change"] == undone.data["change"] == number
    assert "requestBody" not in operations["undo_change"]
    assert names_of(operations["undo_change"], "header") == {"Idempotency-Key"}
    for name in ("read_changes", "read_change"):
        assert "410" in operations[name]["responses"]
        assert "409" not in operations[name]["responses"]
    assert names_of(operations["erase_customer"], "query") == {"purge"}


@one_engine
async def test_states_are_described(api: ApiClient) -> None:
    """Each row of the history fits its schema; its states fit one schema each."""
    await api("POST /api/v1/customer", JOHN, 201)
    await api("POST /api/v1/purchase/1", PHONE, 201)
    await api("PATCH /api/v1/customer/1", {"name": "Jane"})
    await api("PATCH /api/v1/purchase/1", {"quantity": 5})
    await api("DELETE /api/v1/purchase/1", {"delete_all": True})
    await api("DELETE /api/v1/customer/1")
    description = (await api("GET /openapi.json")).json
    validator = OAS31Validator(
        {"$ref": "#/components/schemas/ChangeReply", **description}
    )
    rows = (await api("GET /api/v1/changes")).data
    for row in rows:
        validator.validate(row)
    for name in ("before", "now"):  # of no kind, or of a mixture
        for state in ({}, {**rows[2]["before"], **rows[3]["before"]}):
            assert not validator.is_valid({**rows[0], name: state})


def test_server_is_where_the_description_is() -> None:
    """Behind a proxy under a path, too: neither page nor generator leaves it."""
    text = openapi.describe(handlers.ROUTES, handlers.VERSION)
    (server,) = json.loads(text)["servers"]
    for base in ("http://127.0.0.1:8080/", "https://example.com/shop/"):
        assert urljoin(f"{base}openapi.json", server["url"]) == base
