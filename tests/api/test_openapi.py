"""The description and its page."""

import re
from urllib.parse import quote

import openapi_spec_validator
from yarl import URL

import handlers
from tests.support import ApiClient, one_engine


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
