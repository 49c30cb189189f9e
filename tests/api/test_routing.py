"""Paths and methods that match no route."""

import itertools
import re
from urllib.parse import quote

import pytest
from aiohttp.test_utils import make_mocked_request

import handlers
import server
from api.routing import PARAMETER, ROUTE_TABLE, PlainRoutes
from tests.support import ApiClient, one_engine


@one_engine
async def test_head_of_a_problem(api: ApiClient) -> None:
    reply = await api("HEAD /api/v1/customer/1", None, 404)
    assert reply.text == ""


@one_engine
@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/api/v1", "/api/v1/customer/", "/api/v1/customer%2F1", "/docs%2Fx"],
)
async def test_nowhere(api: ApiClient, path: str) -> None:
    for method in ("GET", "POST", "DELETE", "OPTIONS", "FOO"):
        await api(f"{method} {path}?some=query", None, 404)


def test_every_route_is_routed() -> None:
    """ROUTES and the router name the same methods and paths."""
    routed = {
        (route.method, re.sub(r"\{(\w+)[^/]*", r"{\1}", route.resource.canonical))
        for route in server.init_app().router.routes()
        if route.resource is not None and route.method != "*"
    }
    table = {(route.method, route.path) for route in handlers.ROUTES}
    assert len(table) == len(handlers.ROUTES)
    assert routed == table | {("HEAD", path) for way, path in table if way == "GET"}


TARGETS = [
    *("{}", "{}?a=b", "{}?a=b#c", "{}#c", "{}/", "/{}", "{}/1", "{}x", "{}%31"),
    *("/.{}", "{}/.", "{}/..", "{}?", "{}%3Fa", "{};a=b"),
]
"""What a path may come as, or with."""
NUMBERS = [
    "1",
    "9223372036854775807",
    "9" * 19,
    "9" * 20,
    "01",
    "0",
    "-1",
    chr(0x661),
    "",
]


@pytest.mark.parametrize("number", NUMBERS)
async def test_plain_routes(number: str) -> None:
    """They are those that the router finds; what they do not know, it may know."""
    app = server.init_app()
    plain = PlainRoutes(app, app[ROUTE_TABLE].added)
    found = set()
    paths = {route.path for route in handlers.ROUTES}
    for method, path, form in itertools.product(("GET", "POST", "FOO"), paths, TARGETS):
        target = form.format(PARAMETER.sub(number, path))
        request = make_mocked_request(method, quote(target, safe="/?#%;="))
        handler = plain.find(request)
        if handler is None:
            continue
        match = await app.router.resolve(request)
        assert (match.handler, {**match}) == (handler, {**request.match_info}), target
        assert request.app is app
        found.add((method, path))
    counted = {path for _, path in found if path.endswith("_id}")}
    assert bool(counted) == (number in NUMBERS[:3])
    assert found >= {("GET", "/livez"), ("POST", "/api/v1/customer")}


def test_plain_routes_and_expectations() -> None:
    app = server.init_app()
    plain = PlainRoutes(app, app[ROUTE_TABLE].added)
    sent = {"Expect": "100-continue"}
    assert plain.find(make_mocked_request("POST", "/api/v1/customer", sent)) is None
    assert plain.find(make_mocked_request("POST", "/api/v1/customer")) is not None
