"""What every request passes through: its id, its log line, its limits, its errors."""

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter  # noqa: F401

import db
from handlers import ROUTES, Route
from replies import REQUEST_ID, Problem, Reply, invalid

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOG = logging.getLogger("server")

ROUTE_OF = {route.handler: route for route in ROUTES}

CALLERS_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
OUR_IDS = map(f"{secrets.token_hex(5)}-{{:x}}".format, count(1))

HEAD_SECONDS = 15.0
IDLE_SECONDS = 75.0
WRITE_SECONDS = 15.0


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give a request its id, answer its errors as problems."""
    given = request.headers.get("X-Request-Id")
    request_id = given if given and CALLERS_ID.fullmatch(given) else next(OUR_IDS)
    request[REQUEST_ID] = request_id
    try:
        if "?" in request.raw_path:
            _check_query(request, ROUTE_OF.get(handler))
        return await handler(request)
    except Exception as exc:
        return answer(exc, request, request_id)


def _check_query(request: web.Request, route: Route | None) -> None:
    known = route.query if route is not None else frozenset(request.query)
    unknown = sorted(set(request.query) - known)
    if unknown:
        raise invalid(
            *((f"/{name[:200]}", "There is no such parameter.") for name in unknown)
        )


def answer(exc: Exception, request: web.BaseRequest, request_id: str) -> Reply:
    """Return the problem that an exception is to the client; log what nobody knows."""
    if request.writer.output_size > 0:  # the head of a streamed list is out: cut it
        LOG.error("a list broke off", exc_info=exc, extra={"request_id": request_id})
        request.protocol.force_close()
        raise ConnectionResetError("the list broke off") from exc
    if request.method == "OPTIONS" and isinstance(exc, web.HTTPMethodNotAllowed):
        return Reply(204, headers={"Allow": _allow(exc)})
    problem = problem_of(exc)
    if problem is None:
        LOG.error("unknown fault", exc_info=exc, extra={"request_id": request_id})
        problem = Problem(500, "Something went wrong here; the log has it whole.")
    reply = problem.reply(request_id)
    if problem.status in (400, 408, 413):
        reply.force_close()
    return reply


def _allow(exc: web.HTTPMethodNotAllowed) -> str:
    return ", ".join(sorted(exc.allowed_methods | {"OPTIONS"}))


def problem_of(exc: Exception) -> Problem | None:
    """Return what an exception that is known means, None for any other."""
    match exc:
        case Problem():
            return exc
        case db.NotFoundError():
            return Problem(404, f"There is no such {exc.args[0]}.")
        case db.PreconditionFailedError():
            return Problem(412, "It has changed since.")
        case db.OverloadedError():
            return Problem(503, "Too busy.", headers={"Retry-After": str(exc.args[1])})
        case db.UnavailableError():
            return Problem(503, f"Not now: {exc}.", headers={"Retry-After": "1"})
        case db.DiskFullError():
            return Problem(507, "There is no space left to store it.")
        case web.HTTPMethodNotAllowed():
            return Problem(405, "Not with this method.", headers={"Allow": _allow(exc)})
        case web.HTTPNotFound():
            return Problem(404, "There is nothing at this address.")
        case web.HTTPException():
            return Problem(exc.status, exc.reason)
    return None


# Connections


class Connection(web.RequestHandler):
    """A client's connection, with the limits that aiohttp 3.14 has no settings for."""

    __slots__ = ("head_since", "pipe", "unsent_since")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the head of the first request."""
        self.head_since: float | None = self._loop.time()
        self.unsent_since: float | None = None
        self.pipe = transport
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and note when the head of a request began."""
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.head_since = None
        elif self.head_since is None:
            self.head_since = self._loop.time()

    def cut_if_slow(self, time: float) -> None:
        """Close a connection that keeps us waiting; called about once a second."""
        transport = self.pipe
        if self.head_since is not None and time - self.head_since > HEAD_SECONDS:
            self.force_close()
        idle = self._waiter is not None
        stuck = self._paused or transport.is_closing() or idle
        if not stuck or not transport.get_write_buffer_size():
            self.unsent_since = None
        elif self.unsent_since is None:
            self.unsent_since = time
        elif time - self.unsent_since > WRITE_SECONDS:
            transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached the application, without an echo of it."""
        request_id = next(OUR_IDS)
        if status == 400:
            reply = Problem(400, "This is not HTTP as this server speaks it.").reply(
                request_id
            )
        else:
            fault = exc if isinstance(exc, Exception) else RuntimeError(message)
            reply = answer(fault, request, request_id)
        reply.force_close()
        return reply
