"""Paths and methods that match no route."""

import re

import pytest

import handlers
import server
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
