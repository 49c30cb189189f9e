"""Routes, and the one place that decides between 404 and 405."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, cast

from aiohttp import web

from api.responses import ProblemError, RawResponse, header_lines
from api.schemas import ID_PATTERN, MAX_BODY, MAX_ID, Body
from api.targets import ASTERISK

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MatchType = Callable[[dict[str, str]], web.UrlMappingMatchInfo]

PARAMETER = re.compile(r"{(\w+)}")
ENDS_IN_ID = re.compile(r"([^{]*)/{(\w+_id)}")
ID = re.compile(ID_PATTERN)
JSON_ONLY = ("application/json",)
FILE_SUFFIXES = ("csv", "jsonl")
"""The forms in which a list can be downloaded."""


class SecondBody(NamedTuple):
    """A body that a route accepts beside its own, and the reply to it."""

    body: type[Body]
    reply: Any


class Route(NamedTuple):
    """One row of the contract's table; `access` is public, read or write."""

    method: str
    path: str
    handler: Handler
    body: type[Body] | None
    reply: Any
    status: int
    access: str
    query: frozenset[str] = frozenset()
    media_types: tuple[str, ...] = JSON_ONLY
    is_file: bool = False
    """Whether the reply is a file that has an entity tag."""
    second_body: SecondBody | None = None
    is_probe: bool = False
    """Whether it tells a machine whether the server works, under any name."""
    is_quiet: bool = False
    """Whether the access log leaves out successes, which would fill it."""
    file_type: str = ""
    """The media type of a body that is a file, and no JSON."""
    max_body: int = MAX_BODY
    """The most bytes of a body."""
    has_page: bool = False
    """Whether a client that prefers HTML is sent to a page instead."""
    operation: str = ""
    """The name in the description, where it is not that of the handler."""

    @property
    def name(self) -> str:
        """Return the name of the route in the description."""
        return self.operation or self.handler.__name__


def not_found() -> ProblemError:
    """Return the 404 of an address that does not exist."""
    return ProblemError(404, "There is nothing at this address.")


def path_id(request: web.Request, name: str) -> int:
    """Return an id of the path. ProblemError 404 for one that no row can have."""
    number = int(request.match_info[name])
    if number > MAX_ID:
        raise not_found()
    return number


def purchase_ids(request: web.Request) -> tuple[int | None, int]:
    """Return the customer of a path, None where it names none, and the purchase."""
    has_customer = "customer_id" in request.match_info
    customer_id = path_id(request, "customer_id") if has_customer else None
    return customer_id, path_id(request, "purchase_id")


ALL_METHODS = {"Allow": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"}
SERVER_WIDE = ProblemError(405, "Not with this method.", headers=ALL_METHODS)
"""What the server itself answers, which only OPTIONS can name."""
PATCH_TYPES = "application/json, application/merge-patch+json"


class RouteTable:
    """The routes of the application, for a request that matches one or none."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = routes
        self.added: list[tuple[str, Route, web.AbstractRoute]] = []
        """The routes as they were added to the router, each with a method."""
        self._methods = [(_pattern(route.path), route.method) for route in routes]
        self.unmatched = Route("*", "unmatched", self.answer, None, None, 404, "read")
        """Stands for every request that matches no route, in log and metrics."""

    def add_to(
        self,
        router: web.UrlDispatcher,
        wrap: Callable[[Route], Handler],
        expects: Callable[[Route], Any],
    ) -> None:
        """Add all routes to a router, each handler wrapped, and those for no match.

        `expects` returns what a route does where a request has the header Expect.
        """
        for route in self.routes:
            path = PARAMETER.sub(_with_shape, route.path)
            expect = expects(route)
            handler = wrap(route)
            for method in ("HEAD", "GET") if route.method == "GET" else (route.method,):
                added = router.add_route(method, path, handler, expect_handler=expect)
                self.added.append((method, route, added))
        expect = expects(self.unmatched)
        # Other methods of a public path are no secret either.
        public = [route.path for route in self.routes if route.access == "public"]
        for path in dict.fromkeys(public):
            handler = wrap(self.unmatched._replace(access="public"))
            router.add_route("*", path, handler, expect_handler=expect)
        handler = wrap(self.unmatched)
        router.add_route("*", "/{anything:.*}", handler, expect_handler=expect)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request that matches no route; OPTIONS with the methods."""
        server_wide = request.rel_url.raw_path == ASTERISK
        path = request.rel_url.path_safe  # as the router sees it
        problem = SERVER_WIDE if server_wide else self.problem(path)
        if request.method == "OPTIONS" and problem.headers:
            lines = header_lines(problem.headers)
            if "PATCH" in problem.headers["Allow"] and not server_wide:
                lines += header_lines({"Accept-Patch": PATCH_TYPES})  # RFC 5789, 3.1
            return RawResponse(204, lines=lines)
        raise problem

    def problem(self, path: str) -> ProblemError:
        """Return the 404, or the 405 with the methods that the path has."""
        methods = self.methods_of(path)
        if not methods:
            return not_found()
        allow = {"Allow": ", ".join(methods)}
        return ProblemError(405, "Not with this method.", headers=allow)

    def methods_of(self, path: str) -> list[str]:
        """Return the methods that a path has, none for one that does not exist."""
        methods = {
            method
            for pattern, method in self._methods
            if (found := pattern.fullmatch(path))
            and all(
                int(text) <= MAX_ID
                for name, text in found.groupdict().items()
                if name.endswith("_id")
            )
        }
        if "GET" in methods:
            methods.add("HEAD")
        return sorted(methods | {"OPTIONS"}) if methods else []


class PlainRoutes:
    """The routes that need no router: at a fixed path, or at one that ends in an id.

    aiohttp's router takes several times as long to find them.
    """

    def __init__(
        self,
        app: web.Application,
        routes: Sequence[tuple[str, Route, web.AbstractRoute]],
    ) -> None:
        self._fixed: dict[str, dict[str, tuple[MatchType, Handler]]] = {}
        self._numbered: dict[str, dict[str, tuple[str, MatchType, Handler]]] = {}
        """By method and by what comes before the id; with the name of that."""
        for method, route, added in routes:
            fixed = self._fixed.setdefault(method, {})
            numbered = self._numbered.setdefault(method, {})
            plain = match_type(app, added), added.handler
            if "{" not in route.path:
                fixed[route.path] = plain
            elif found := ENDS_IN_ID.fullmatch(route.path):
                numbered[found[1]] = found[2], *plain

    def find(self, request: web.Request) -> Handler | None:
        """Return the handler of a request, and let that find what matched.

        None where only the router knows it.
        """
        method, path = request.method, request.raw_path
        if method not in self._fixed or "Expect" in request.headers:
            return None
        if "?" in path:
            path = path.partition("?")[0]
        prefix, _, last = path.rpartition("/")
        numbered = self._numbered[method].get(prefix)
        if numbered is not None and ID.fullmatch(last):
            name, match, handler = numbered
            request._match_info = match({name: last})
        elif (fixed := self._fixed[method].get(path)) is not None:
            match, handler = fixed
            request._match_info = match({})
        else:
            return None
        return handler


def match_type(app: web.Application, matched: web.AbstractRoute) -> MatchType:
    """Return the type of what a request has matched: all but the ids is the same."""

    class Match(web.UrlMappingMatchInfo):
        __slots__ = ()
        __init__ = dict.__init__
        current_app = app
        _apps, _current_app, _frozen, _route = [app], app, True, matched

    return cast(MatchType, Match)


def _shape_of(parameter: str) -> str:
    """Return the regular expression of a parameter of a path."""
    if parameter.endswith("_id"):
        return ID_PATTERN
    return "|".join(FILE_SUFFIXES) if parameter == "format" else "[^/]+"


def _with_shape(parameter: re.Match[str]) -> str:
    return f"{{{parameter[1]}:{_shape_of(parameter[1])}}}"


def _pattern(path: str) -> re.Pattern[str]:
    pieces = PARAMETER.split(path)  # text and names of parameters, in turn
    pieces[::2] = map(re.escape, pieces[::2])
    pieces[1::2] = [f"(?P<{name}>{_shape_of(name)})" for name in pieces[1::2]]
    return re.compile("".join(pieces))


ROUTE_TABLE: web.AppKey[RouteTable] = web.AppKey("route_table", RouteTable)
